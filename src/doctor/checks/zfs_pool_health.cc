// SPDX-License-Identifier: Apache-2.0
// zfs-pool-health: pools that have lost devices, are nearly full, or whose free space is in shreds.
#include <algorithm>

#include <fmt/format.h>

#include "base/units.h"
#include "doctor/checks/common.h"

namespace shale::doctor::checks {
namespace {

constexpr uint64_t full_warning_percent = 80, full_critical_percent = 95, fragmented_percent = 50;

std::vector<std::string> evidence_of(const probe::Facts &facts, const probe::ZfsPool &pool) {
    std::vector<std::string> out{fmt::format("{} of {} in use ({} %), free space fragmented to {} %",
                                             format_bytes(pool.allocated_bytes), format_bytes(pool.size_bytes),
                                             pool.capacity_percent, pool.fragmentation_percent)};
    for (const auto &store : facts.stores) {
        const auto *fs = file_system_of(facts, store);
        if (fs != nullptr && fs->type == "zfs" && (fs->source == pool.name || fs->source.starts_with(pool.name + "/")))
            out.push_back(fmt::format("the {} lies here", name_of(store)));
    }
    std::vector<const probe::ZfsDataset *> largest;
    for (const auto &dataset : facts.zfs_datasets)
        if (dataset.type != "snapshot" && dataset.name.starts_with(pool.name + "/")) largest.push_back(&dataset);
    std::ranges::stable_sort(largest, std::greater(), &probe::ZfsDataset::used_bytes);
    for (size_t i = 0; i < std::min<size_t>(largest.size(), 5); ++i)
        out.push_back(fmt::format("{}: {}", shown(largest[i]->name), format_bytes(largest[i]->used_bytes)));
    return limited(std::move(out));
}

void judge_health(const probe::Facts &facts, const probe::ZfsPool &pool, Outcome &out) {
    if (pool.health.empty() || pool.health == "ONLINE") return;
    Finding &finding = out.findings.emplace_back();
    finding.severity = pool.health == "DEGRADED" ? Severity::warning : Severity::critical;
    finding.subject = fmt::format("ZFS pool {}", shown(pool.name));
    finding.summary =
        pool.health == "DEGRADED"
            ? std::string("the pool is DEGRADED: it works with fewer devices than it has, and the next fault may "
                          "lose data")
            : fmt::format("the pool is {}: its datasets cannot be used, and commands on it may wait for ever",
                          shown(pool.health));
    finding.evidence = evidence_of(facts, pool);
    finding.commands = {
        fmt::format("zpool status -v {}", shell_quote(pool.name)),
        "# replace what is broken: zpool replace POOL OLD NEW; after a cable is back: zpool clear POOL"};
}

void judge_space(const probe::Facts &facts, const probe::ZfsPool &pool, Outcome &out) {
    const bool full = pool.capacity_percent >= full_warning_percent;
    if (!full && pool.fragmentation_percent < fragmented_percent) return;
    Finding &finding = out.findings.emplace_back();
    finding.subject = fmt::format("ZFS pool {}", shown(pool.name));
    finding.severity = pool.capacity_percent >= full_critical_percent ? Severity::critical
                       : full                                         ? Severity::warning
                                                                      : Severity::info;
    finding.summary =
        full ? fmt::format("{} % of the pool are in use: {} of {} are free{}", pool.capacity_percent,
                           format_bytes(pool.free_bytes), format_bytes(pool.size_bytes),
                           pool.fragmentation_percent >= fragmented_percent
                               ? fmt::format(", in shreds (fragmentation {} %)", pool.fragmentation_percent)
                               : "")
             : fmt::format("the free space of the pool is in shreds (fragmentation {} %)", pool.fragmentation_percent);
    finding.evidence = evidence_of(facts, pool);
    const std::string name = shell_quote(pool.name);
    finding.commands = {
        fmt::format("zfs list -r -t filesystem,volume -o name,used,usedbysnapshots,refer -S used {}", name)};
    for (const auto &store : facts.stores) {
        const auto *fs = file_system_of(facts, store);
        if (fs != nullptr && fs->type == "zfs" && (fs->source == pool.name || fs->source.starts_with(pool.name + "/")))
            std::ranges::move(prune_commands(store), std::back_inserter(finding.commands));
    }
    if (full)
        finding.commands.push_back(
            fmt::format("# more space: zpool add {} VDEV (cannot be taken back everywhere)", name));
}

Outcome run(const probe::Facts &facts) {
    Outcome out;
    for (const auto &pool : facts.zfs_pools) {
        judge_health(facts, pool, out);
        judge_space(facts, pool, out);
    }
    return out;
}

} // namespace

extern const Check zfs_pool_health;
const Check zfs_pool_health{
    .id = "zfs-pool-health",
    .title = "A ZFS pool is damaged, nearly full, or fragmented",
    .why = "A pool without a spare device loses data at the next fault. A pool that is nearly full looks longer and "
           "longer for "
           "each free block, so that everything on it slows down long before it is full, and at the end even a "
           "deletion needs "
           "space, for it is written, too.",
    .limits =
        "Health: DEGRADED is a warning, anything else but ONLINE critical (zpoolconcepts(7)). Capacity: warning from "
        "80 % "
        "on, critical from 95 %; OpenZFS advises to keep more than 10 % free, as metaslabs below 4 % are searched in "
        "another way (\"Workload Tuning\", Free Space), and keeps the last 3.2 % for itself (zfs(4), spa_slop_shift). "
        "Fragmentation, which is of the free space: information from 50 % on, a figure of this project.",
    .remedy = "Replace the broken device. Delete images, snapshots and volumes that nothing needs, or add devices; a "
              "quota on "
              "the container hosts' dataset keeps the pool from getting here.",
    .risk = "zpool add is easily done wrong (a single disk beside mirrors), and not every vdev can be removed again.",
    .undo = "zpool remove, where the pool's layout allows it.",
    .run = run,
};

} // namespace shale::doctor::checks
