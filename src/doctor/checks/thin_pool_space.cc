// SPDX-License-Identifier: Apache-2.0
// thin-pool-space: pools that are full, nearly full or broken, and metadata that will be full first.
#include <algorithm>

#include <fmt/format.h>

#include "base/units.h"
#include "doctor/checks/common.h"
#include "doctor/checks/thin_pools.h"

namespace shale::doctor::checks {
namespace {

constexpr uint64_t gib = uint64_t{1} << 30U;
constexpr uint64_t mib = uint64_t{1} << 20U;
constexpr double full_warning_percent = 80, full_critical_percent = 95;
constexpr double least_projected_percent = 10; ///< less data in use says nothing about what the rest will need

enum class Trouble : uint8_t { repair, data, metadata };
struct Problem {
    Severity severity;
    Trouble trouble;
    std::string text;
};

std::string data_text(const probe::ThinPool &pool) {
    return fmt::format("{} of {} ({})", format_bytes(pool.used_data_blocks * pool.data_block_bytes),
                       format_bytes(pool.total_data_blocks * pool.data_block_bytes),
                       percent_text(pool.used_data_blocks, pool.total_data_blocks));
}

std::string metadata_text(const probe::ThinPool &pool) {
    return fmt::format("{} of {} ({})", format_bytes(pool.used_metadata_blocks * thin_metadata_block_bytes),
                       format_bytes(pool.total_metadata_blocks * thin_metadata_block_bytes),
                       percent_text(pool.used_metadata_blocks, pool.total_metadata_blocks));
}

/// What the kernel's status means (Linux, Documentation/admin-guide/device-mapper/thin-provisioning.rst).
void judge_mode(const probe::ThinPool &pool, std::vector<Problem> &out) {
    if (pool.mode == "Fail")
        out.push_back({Severity::critical, Trouble::repair,
                       "the pool has failed: the kernel lets no I/O through to any of its volumes"});
    else if (pool.mode == "Error")
        out.push_back({Severity::critical, Trouble::repair, "the kernel cannot read the pool's own status"});
    else if (pool.mode == "ro")
        out.push_back(
            {Severity::critical, Trouble::repair,
             "the pool is read-only: its metadata is full or a change of it failed, and no write that needs a "
             "new block succeeds"});
    else if (pool.mode == "out_of_data_space")
        out.push_back(
            {Severity::critical, Trouble::data,
             pool.error_if_no_space
                 ? "the pool is out of data space: writes that need a new block fail at once"
                 : "the pool is out of data space: writes that need a new block wait, and fail after 60 seconds "
                   "(parameter no_space_timeout of dm_thin_pool)"});
    if (pool.needs_check)
        out.push_back(
            {Severity::critical, Trouble::repair,
             "the pool is marked \"needs_check\": a change of its metadata failed, and it stays crippled until "
             "the metadata has been checked while the pool is not active"});
}

void judge_use(const probe::ThinPool &pool, std::vector<Problem> &out) {
    const double data = percent(pool.used_data_blocks, pool.total_data_blocks);
    if (data >= full_warning_percent && pool.mode != "out_of_data_space")
        out.push_back({data >= full_critical_percent ? Severity::critical : Severity::warning, Trouble::data,
                       fmt::format("data space is nearly used up: {}", data_text(pool))});
    const double metadata = percent(pool.used_metadata_blocks, pool.total_metadata_blocks);
    if (metadata >= full_warning_percent)
        out.push_back({metadata >= full_critical_percent ? Severity::critical : Severity::warning, Trouble::metadata,
                       fmt::format("metadata space is nearly used up: {}", metadata_text(pool))});
}

/// Metadata that will be full before the data is: by the kernel's advice, or by how this pool was used so far.
void judge_ratio(const probe::ThinPool &pool, std::vector<Problem> &out) {
    const uint64_t has = pool.total_metadata_blocks * thin_metadata_block_bytes;
    const uint64_t wanted = metadata_wanted(pool);
    if (has == 0 || wanted == 0) return;
    const double data = percent(pool.used_data_blocks, pool.total_data_blocks);
    const double projected = data < least_projected_percent ? 0
                                                            : static_cast<double>(pool.used_metadata_blocks) * 100 /
                                                                  data * static_cast<double>(thin_metadata_block_bytes);
    if (projected > static_cast<double>(has))
        out.push_back(
            {Severity::warning, Trouble::metadata,
             fmt::format("metadata will be full first: at the present ratio full data needs {} of metadata, and "
                         "there is {}",
                         format_bytes(static_cast<uint64_t>(std::min(projected, 9e18))), format_bytes(has))});
    else if (has < wanted)
        out.push_back({Severity::warning, Trouble::metadata,
                       fmt::format("metadata is small for this pool: {}; {} of data in blocks of {} with {} want {}",
                                   format_bytes(has), format_bytes(pool.total_data_blocks * pool.data_block_bytes),
                                   format_bytes(pool.data_block_bytes), counted(pool.devices.size(), "volume"),
                                   format_bytes(wanted))});
}

std::vector<std::string> evidence_of(const probe::Facts &facts, const probe::ThinPool &pool,
                                     const std::vector<Problem> &problems) {
    std::vector<std::string> out;
    for (size_t i = 1; i < problems.size(); ++i)
        out.push_back(problems[i].text);
    if (has_figures(pool) && pool.total_data_blocks != 0) {
        out.push_back(fmt::format("data: {}, blocks of {}", data_text(pool), format_bytes(pool.data_block_bytes)));
        out.push_back(fmt::format("metadata: {}", metadata_text(pool)));
    }
    for (const probe::Store *store : stores_on(facts, pool))
        out.push_back(fmt::format("used by the {}", name_of(*store)));
    std::vector<const probe::ThinPool::Thin *> largest;
    largest.reserve(pool.devices.size());
    for (const auto &thin : pool.devices)
        largest.push_back(&thin);
    std::ranges::stable_sort(largest, std::greater(), &probe::ThinPool::Thin::mapped_bytes);
    for (size_t i = 0; i < std::min<size_t>(largest.size(), 5); ++i)
        out.push_back(fmt::format("volume {}: {} mapped of {}", shown(largest[i]->name),
                                  format_bytes(largest[i]->mapped_bytes), format_bytes(largest[i]->bytes)));
    return limited(std::move(out));
}

bool has(const std::vector<Problem> &problems, Trouble trouble) {
    return std::ranges::any_of(problems, [&](const Problem &one) { return one.trouble == trouble; });
}

void lvm_commands(const probe::ThinPool &pool, const std::vector<Problem> &problems, std::vector<std::string> &out) {
    const std::string volume = logical_volume_of(pool.name);
    if (volume.empty()) return;
    const std::string lv = shell_quote(volume);
    const std::string vg = shell_quote(volume.substr(0, volume.find('/')));
    out.push_back(fmt::format("lvs -a -o +data_percent,metadata_percent {}", vg));
    if (has(problems, Trouble::repair)) {
        out.emplace_back("# stop the daemons and unmount all that is on the pool, then check and mend its metadata");
        out.push_back(fmt::format("lvchange -an {}", lv));
        out.push_back(fmt::format("lvconvert --repair {}", lv));
        out.push_back(fmt::format("lvchange -ay {}", lv));
    }
    const uint64_t data_bytes = pool.total_data_blocks * pool.data_block_bytes;
    if (has(problems, Trouble::data))
        out.push_back(fmt::format("lvextend -L +{}G {}", std::max<uint64_t>((data_bytes / 5 + gib - 1) / gib, 1), lv));
    if (has(problems, Trouble::metadata)) {
        const uint64_t present = pool.total_metadata_blocks * thin_metadata_block_bytes;
        const uint64_t wanted = metadata_wanted(pool);
        const uint64_t more = wanted > present + present / 2 ? wanted - present : present;
        out.push_back(
            fmt::format("lvextend --poolmetadatasize +{}M {}", std::max<uint64_t>((more + mib - 1) / mib, 1), lv));
    }
}

void plain_commands(const probe::Facts &facts, const probe::ThinPool &pool, const std::vector<Problem> &problems,
                    std::vector<std::string> &out) {
    out.push_back(fmt::format("dmsetup status {}", shell_quote(pool.name)));
    if (has(problems, Trouble::repair)) {
        out.emplace_back(
            "# stop the daemons, unmount all that is on the pool, deactivate its volumes and the pool, then:");
        out.push_back(fmt::format("thin_check {}", shell_quote(device_path(facts, pool.metadata_device))));
    }
    if (std::ranges::any_of(stores_on(facts, pool), [](const auto *store) { return store->engine == "shale"; })) return;
    const std::string name = shell_quote(pool.name);
    if (has(problems, Trouble::metadata))
        out.push_back(fmt::format("# make {} (metadata) larger, then: dmsetup suspend {} && dmsetup resume {}",
                                  shown(device_path(facts, pool.metadata_device)), name, name));
    if (has(problems, Trouble::data))
        out.push_back(
            fmt::format("# make {} (data) larger, then: dmsetup table {}, dmsetup reload with the new length, dmsetup "
                        "resume",
                        shown(device_path(facts, pool.data_device)), name));
}

std::vector<std::string> commands_for(const probe::Facts &facts, const probe::ThinPool &pool,
                                      const std::vector<Problem> &problems) {
    std::vector<std::string> out;
    if (pool.lvm)
        lvm_commands(pool, problems, out);
    else
        plain_commands(facts, pool, problems, out);
    if (!has(problems, Trouble::data) && !has(problems, Trouble::metadata)) return out;
    for (const probe::Store *store : stores_on(facts, pool)) {
        if (store->engine == "shale" && !pool.lvm)
            out.emplace_back(
                "# raise data_size or metadata_size of [driver.devicemapper] in shale.toml; the next command "
                "on the store makes the pool grow");
        std::ranges::move(prune_commands(*store), std::back_inserter(out));
    }
    return out;
}

Outcome run(const probe::Facts &facts) {
    Outcome out;
    for (const auto &pool : facts.thin_pools) {
        std::vector<Problem> problems;
        judge_mode(pool, problems);
        if (has_figures(pool)) {
            judge_use(pool, problems);
            judge_ratio(pool, problems);
        }
        if (problems.empty()) continue;
        std::ranges::stable_sort(problems, std::greater(), &Problem::severity);
        Finding &finding = out.findings.emplace_back();
        finding.severity = problems[0].severity;
        finding.subject = fmt::format("thin pool {}", shown(pool.name));
        finding.summary = problems[0].text;
        finding.evidence = evidence_of(facts, pool, problems);
        finding.commands = commands_for(facts, pool, problems);
    }
    return out;
}

} // namespace

extern const Check thin_pool_space;
const Check thin_pool_space{
    .id = "thin-pool-space",
    .title = "A thin pool is full, nearly full, or broken",
    .why =
        "A thin pool promises more space than it has. When its data is used up, writes of every container on it hang "
        "or fail, and file systems inside its volumes lose what they had acknowledged. When its metadata is used up "
        "the kernel makes the pool read-only and marks it for a check; often only a repair off-line brings it back. "
        "The free space that df shows inside a container says nothing about either.",
    .limits =
        "Data and metadata: warning from 80 % on (dmeventd warns at 80, 85, 90 and 95 %: lvmthin(7)), critical from "
        "95 % on. Any mode but \"rw\", and \"needs_check\", is critical (Linux, Documentation/admin-guide/"
        "device-mapper/thin-provisioning.rst). Metadata is small when it has less than 48 bytes a block of data "
        "(same document) or less than thin_metadata_size(8) computes for the volumes that are there; it will be "
        "full first when what is in use, divided by the used part of the data, is more than there is (looked at "
        "from 10 % of data on).",
    .remedy = "Remove what is not needed, or give the pool more space, before it is full. A pool that is marked for a "
              "check or is read-only must be deactivated, checked, and given more metadata before it is used again.",
    .risk =
        "Growing is safe. A repair writes new metadata to other space; volumes whose mappings are damaged lose data, "
        "so copy the metadata device first.",
    .undo = "Neither data nor metadata of a pool can be made smaller. lvconvert --repair keeps the old metadata as a "
            "volume VG/POOL_meta0, which can be swapped back.",
    .run = run,
};

} // namespace shale::doctor::checks
