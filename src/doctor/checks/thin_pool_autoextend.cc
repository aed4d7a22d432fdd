// SPDX-License-Identifier: Apache-2.0
// thin-pool-autoextend: pools of LVM that nothing makes larger in time.
#include <algorithm>

#include <fmt/format.h>

#include "base/units.h"
#include "doctor/checks/common.h"
#include "doctor/checks/thin_pools.h"

namespace shale::doctor::checks {
namespace {

constexpr double half_full_percent = 50; ///< LVM's least threshold: below it nothing would grow anyway
constexpr int never = 100;               ///< thin_pool_autoextend_threshold

double fullest(const probe::ThinPool &pool) {
    return std::max(percent(pool.used_data_blocks, pool.total_data_blocks),
                    percent(pool.used_metadata_blocks, pool.total_metadata_blocks));
}

std::vector<std::string> commands_for(const probe::ThinPool &pool, bool by_threshold) {
    std::vector<std::string> out;
    const std::string volume = logical_volume_of(pool.name);
    const std::string vg = shell_quote(volume.substr(0, volume.find('/')));
    if (!volume.empty()) {
        out.push_back(fmt::format("vgs -o vg_name,vg_size,vg_free {}", vg));
        out.push_back(fmt::format("lvs -o lv_name,lv_size,data_percent,metadata_percent,seg_monitor {}", vg));
    }
    if (by_threshold) {
        out.emplace_back("# in /etc/lvm/lvm.conf, section activation: thin_pool_autoextend_threshold = 80 and "
                         "thin_pool_autoextend_percent = 20");
        out.emplace_back("lvmconfig activation/thin_pool_autoextend_threshold");
    }
    if (!pool.monitored) {
        out.emplace_back("systemctl enable --now lvm2-monitor");
        if (!volume.empty()) out.push_back(fmt::format("lvchange --monitor y {}", shell_quote(volume)));
    }
    return out;
}

Outcome run(const probe::Facts &facts) {
    Outcome out;
    for (const auto &pool : facts.thin_pools) {
        if (!pool.lvm || !has_figures(pool)) continue;
        if (!pool.autoextend_percent) {
            out.unable.push_back(
                fmt::format("thin pool {}: LVM's thin_pool_autoextend_threshold is not known", shown(pool.name)));
            continue;
        }
        const bool off = *pool.autoextend_percent >= never;
        if (!off && (pool.monitored || !facts.live)) continue;
        Finding &finding = out.findings.emplace_back();
        finding.severity = fullest(pool) >= half_full_percent ? Severity::warning : Severity::info;
        finding.subject = fmt::format("thin pool {}", shown(pool.name));
        finding.summary =
            off ? "LVM never makes this pool larger: thin_pool_autoextend_threshold is 100"
                : fmt::format("LVM is to make this pool larger at {} %, but no dmeventd runs that would do it",
                              *pool.autoextend_percent);
        finding.evidence = {fmt::format("data: {} of {}", percent_text(pool.used_data_blocks, pool.total_data_blocks),
                                        format_bytes(pool.total_data_blocks * pool.data_block_bytes)),
                            fmt::format("metadata: {} of {}",
                                        percent_text(pool.used_metadata_blocks, pool.total_metadata_blocks),
                                        format_bytes(pool.total_metadata_blocks * thin_metadata_block_bytes)),
                            fmt::format("dmeventd: {}", !facts.live      ? "not known, the facts are of a disk"
                                                        : pool.monitored ? "runs"
                                                                         : "does not run")};
        for (const probe::Store *store : stores_on(facts, pool))
            finding.evidence.push_back(fmt::format("used by the {}", name_of(*store)));
        finding.evidence = limited(std::move(finding.evidence));
        finding.commands = commands_for(pool, off);
    }
    return out;
}

} // namespace

extern const Check thin_pool_autoextend;
const Check thin_pool_autoextend{
    .id = "thin-pool-autoextend",
    .title = "Nothing makes a thin pool of LVM larger before it is full",
    .why = "LVM can give a pool more space from its volume group when it crosses a threshold, data and metadata alike. "
           "The "
           "default threshold of 100 means never, and without dmeventd no threshold means anything: the pool runs full "
           "while the volume group has space to spare.",
    .limits =
        "Threshold 100 = never, least 50 (lvmthin(7), \"Automatically extend thin pool LV\"). Warning from 50 % of "
        "data or metadata on, information below.",
    .remedy =
        "Set a threshold and a step in lvm.conf or in a profile of the pool, have dmeventd run, and leave space in "
        "the volume group for it.",
    .risk = "A pool that grows takes what other volumes of the group might have wanted, and does not give it back.",
    .undo = "Set the threshold back to 100. Space that the pool has taken stays with it.",
    .run = run,
};

} // namespace shale::doctor::checks
