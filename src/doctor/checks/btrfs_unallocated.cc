// SPDX-License-Identifier: Apache-2.0
// btrfs-unallocated: metadata cannot grow, so that writes fail although there is free space.
#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "base/units.h"
#include "doctor/checks/common.h"

namespace shale::doctor::checks {
namespace {

constexpr uint64_t mib = uint64_t{1} << 20U, gib = uint64_t{1} << 30U;
constexpr double metadata_warning_percent = 75, metadata_critical_percent = 90;

/// What one more group of metadata takes: 256 MiB, 1 GiB on file systems of more than 50 GiB (Linux,
/// fs/btrfs/volumes.c, init_alloc_chunk_ctl_policy_regular), as many times as the profile has copies.
uint64_t next_group_bytes(const probe::BtrfsSpace &space, const probe::BtrfsSpace::Group &metadata) {
    uint64_t copies = 1;
    if (metadata.profile == "dup" || metadata.profile == "raid1" || metadata.profile == "raid10") copies = 2;
    if (metadata.profile == "raid1c3") copies = 3;
    if (metadata.profile == "raid1c4") copies = 4;
    return copies * (space.device_bytes > 50 * gib ? gib : 256 * mib);
}

struct Sums {
    uint64_t total_bytes = 0, used_bytes = 0;
};
Sums sum_of(const probe::BtrfsSpace &space, std::string_view kind) {
    Sums out;
    for (const auto &group : space.groups) {
        if (group.kind != kind) continue;
        out.total_bytes += group.total_bytes;
        out.used_bytes += group.used_bytes;
    }
    return out;
}

std::vector<std::string> commands_for(const probe::FileSystem &fs, uint64_t wanted) {
    const std::string target = shell_quote(fs.target);
    std::vector<std::string> out{fmt::format("btrfs filesystem usage {}", target)};
    for (const int percent : {0, 5, 10, 20, 50})
        out.push_back(fmt::format("btrfs balance start -dusage={} {}", percent, target));
    out.insert(
        out.begin() + 1,
        fmt::format("# groups of data that are that full at most are emptied into others; stop as soon as {} are "
                    "unallocated",
                    format_bytes(wanted)));
    out.emplace_back(
        "# \"No space left on device\" already at -dusage=0: delete something large that no snapshot has, or add a "
        "device for the time of the balance (btrfs device add, btrfs device remove)");
    return out;
}

Outcome run(const probe::Facts &facts) {
    Outcome out;
    for (const auto &fs : facts.file_systems) {
        if (!fs.btrfs || fs.read_only) continue;
        const auto metadata = std::ranges::find(fs.btrfs->groups, "metadata", &probe::BtrfsSpace::Group::kind);
        if (metadata == fs.btrfs->groups.end()) continue; // mixed: data and metadata share their groups
        const uint64_t wanted = next_group_bytes(*fs.btrfs, *metadata);
        const Sums meta = sum_of(*fs.btrfs, "metadata"), data = sum_of(*fs.btrfs, "data");
        const double full = percent(meta.used_bytes, meta.total_bytes);
        if (fs.btrfs->unallocated_bytes >= wanted || full < metadata_warning_percent) continue;
        Finding &finding = out.findings.emplace_back();
        finding.severity = full >= metadata_critical_percent ? Severity::critical : Severity::warning;
        finding.subject = fmt::format("{} (btrfs)", shown(fs.target));
        finding.summary = fmt::format("metadata is {} full and cannot grow: it would take {} of unallocated space, and "
                                      "there are {}; df still shows "
                                      "{} free",
                                      percent_text(meta.used_bytes, meta.total_bytes), format_bytes(wanted),
                                      format_bytes(fs.btrfs->unallocated_bytes), format_bytes(fs.available_bytes));
        finding.evidence = {fmt::format("devices: {}, unallocated: {}", format_bytes(fs.btrfs->device_bytes),
                                        format_bytes(fs.btrfs->unallocated_bytes)),
                            fmt::format("metadata ({}): {} of {}", shown(metadata->profile),
                                        format_bytes(meta.used_bytes), format_bytes(meta.total_bytes)),
                            fmt::format("data: {} of {}; {} lie in groups that are not full",
                                        format_bytes(data.used_bytes), format_bytes(data.total_bytes),
                                        format_bytes(data.total_bytes - std::min(data.used_bytes, data.total_bytes)))};
        for (const auto &store : facts.stores)
            if (file_system_of(facts, store) == &fs)
                finding.evidence.push_back(fmt::format("the {} lies here", name_of(store)));
        finding.evidence = limited(std::move(finding.evidence));
        finding.commands = commands_for(fs, wanted);
    }
    return out;
}

} // namespace

extern const Check btrfs_unallocated;
const Check btrfs_unallocated{
    .id = "btrfs-unallocated",
    .title = "A btrfs has no room for more metadata",
    .why = "btrfs gives its devices' space to data and metadata in groups. When all is given out and metadata is full, "
           "every "
           "change fails with \"no space left on device\", deletion included, however much df shows as free: that is "
           "room in "
           "groups of data. Image layers are many small files and snapshots, so container hosts get there early.",
    .limits =
        "Unallocated space is less than one more group of metadata takes (256 MiB, 1 GiB above 50 GiB, times the "
        "profile's copies: Linux, fs/btrfs/volumes.c), and metadata is 75 % full (warning) or 90 % (critical). The "
        "kernel keeps up to 512 MiB of metadata as its global reserve, which is why the last percent cannot be used.",
    .remedy =
        "Balance groups of data that are hardly used, in rising steps, until some unallocated space is back. Then keep "
        "an eye on it: what fills data again will take it again.",
    .risk = "A balance reads and writes what it moves, and slows the disk while it runs. With qgroups on it is slower "
            "still. "
            "Never balance metadata (-m) for this: it makes its groups fewer.",
    .undo = "None is needed; `btrfs balance cancel PATH` stops one that runs.",
    .run = run,
};

} // namespace shale::doctor::checks
