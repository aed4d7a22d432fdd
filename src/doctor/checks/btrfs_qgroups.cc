// SPDX-License-Identifier: Apache-2.0
// btrfs-qgroups: counters that are wrong, are left over, or cost more than they tell.
#include <algorithm>

#include <fmt/format.h>

#include "base/units.h"
#include "doctor/checks/common.h"

namespace shale::doctor::checks {
namespace {

constexpr uint64_t many_subvolumes = 100; ///< from which on full accounting is felt; our own figure

/// With simple quotas what a deleted subvolume wrote stays on its account while others share it (Linux 6.7,
/// fs/btrfs/qgroup.c): only an empty one is left over.
std::vector<const probe::BtrfsSpace::Qgroup *> leftovers(const probe::BtrfsSpace &space) {
    std::vector<const probe::BtrfsSpace::Qgroup *> out;
    for (const auto &group : space.qgroups)
        if (group.level == 0 && !group.has_subvolume && (space.quota != "simple" || group.referenced_bytes == 0))
            out.push_back(&group);
    return out;
}

void judge_inconsistent(const probe::FileSystem &fs, Outcome &out) {
    if (!fs.btrfs->quota_inconsistent) return;
    Finding &finding = out.findings.emplace_back();
    finding.severity = Severity::warning;
    finding.subject = fmt::format("{} (btrfs)", shown(fs.target));
    finding.summary =
        "the counters of its qgroups are wrong (the kernel marks them inconsistent): limits of containers do not "
        "hold until they have been counted again";
    finding.evidence = {counted(fs.btrfs->qgroups.size(), "qgroup"), counted(fs.btrfs->subvolumes, "subvolume")};
    finding.commands = {fmt::format("btrfs quota rescan -w {}", shell_quote(fs.target))};
}

void judge_leftovers(const probe::FileSystem &fs, Outcome &out) {
    const auto left = leftovers(*fs.btrfs);
    if (left.empty()) return;
    Finding &finding = out.findings.emplace_back();
    finding.severity = left.size() > fs.btrfs->subvolumes ? Severity::warning : Severity::info;
    finding.subject = fmt::format("{} (btrfs)", shown(fs.target));
    finding.summary = fmt::format("{} of {} are left over from subvolumes that are gone", format_count(left.size()),
                                  counted(fs.btrfs->qgroups.size(), "qgroup"));
    std::vector<std::string> lines;
    lines.reserve(left.size());
    for (const auto *group : left)
        lines.push_back(fmt::format("0/{}: {} referenced, {} exclusive", group->id,
                                    format_bytes(group->referenced_bytes), format_bytes(group->exclusive_bytes)));
    finding.evidence = limited(std::move(lines));
    const std::string target = shell_quote(fs.target);
    finding.commands = {fmt::format("btrfs qgroup clear-stale {}", target),
                        fmt::format("# older btrfs-progs have no clear-stale; one by one: btrfs qgroup destroy 0/{} {}",
                                    left[0]->id, target)};
}

void judge_cost(const probe::Facts &facts, const probe::FileSystem &fs, Outcome &out) {
    if (fs.btrfs->quota != "full") return;
    std::vector<std::string> lines;
    bool limits = false, limited_by_shared = false;
    for (const auto &group : fs.btrfs->qgroups) {
        limits = limits || group.limit_referenced_bytes != 0 || group.limit_exclusive_bytes != 0;
        limited_by_shared = limited_by_shared || group.limit_exclusive_bytes != 0;
    }
    const bool many = fs.btrfs->subvolumes >= many_subvolumes;
    const bool simple = kernel_at_least(facts, 6, 7);
    if (!many && !simple) return;
    Finding &finding = out.findings.emplace_back();
    finding.severity = many ? Severity::warning : Severity::info;
    finding.subject = fmt::format("{} (btrfs)", shown(fs.target));
    finding.summary =
        many ? fmt::format(
                   "full quota accounting on {}: each snapshot and each removal has to find all owners of what it "
                   "shares",
                   counted(fs.btrfs->subvolumes, "subvolume"))
             : fmt::format("full quota accounting, and this kernel ({}) has simple quotas, which cost next to nothing",
                           shown(facts.kernel.release));
    lines.push_back(fmt::format("{}, {}", counted(fs.btrfs->qgroups.size(), "qgroup"),
                                limits ? "some with a limit" : "none with a limit"));
    if (limited_by_shared)
        lines.emplace_back(
            "some limits are of exclusive bytes, which simple quotas do not tell: they count what each subvolume "
            "wrote");
    for (const auto &store : facts.stores)
        if (store.driver == "btrfs" && file_system_of(facts, store) == &fs)
            lines.push_back(fmt::format("the {} lies here", name_of(store)));
    finding.evidence = limited(std::move(lines));
    const std::string target = shell_quote(fs.target);
    if (limits && !simple)
        finding.commands = {"# without a limit that is needed: turn it off",
                            fmt::format("btrfs quota disable {}", target)};
    else if (simple)
        finding.commands = {fmt::format("btrfs quota disable {}", target),
                            fmt::format("btrfs quota enable --simple {}", target)};
    else
        finding.commands = {fmt::format("btrfs quota disable {}", target)};
}

Outcome run(const probe::Facts &facts) {
    Outcome out;
    for (const auto &fs : facts.file_systems) {
        if (!fs.btrfs || fs.btrfs->quota.empty() || fs.btrfs->quota == "off") continue;
        judge_inconsistent(fs, out);
        judge_leftovers(fs, out);
        judge_cost(facts, fs, out);
    }
    return out;
}

} // namespace

extern const Check btrfs_qgroups;
const Check btrfs_qgroups{
    .id = "btrfs-qgroups",
    .title = "Quota groups of btrfs are wrong, left over, or slow",
    .why =
        "Container limits on btrfs are qgroups. Counters that the kernel has marked inconsistent limit nothing. "
        "Qgroups of "
        "subvolumes that are gone stay behind, by the thousand on a busy host, and every commit carries them. Full "
        "accounting looks for all owners of each shared extent, so that removing an image with many containers stalls "
        "the whole file system (moby #29325, btrfs-progs #774).",
    .limits =
        "Inconsistent: warning. Left over: information, warning when there are more of them than subvolumes. Full "
        "accounting: information where the kernel has simple quotas (Linux 6.7), warning from 100 subvolumes on (a "
        "figure of this project; btrfs-quota(8) gives none, and says that activation \"is not recommended unless the "
        "user intends to actually use them\").",
    .remedy = "Count again, clear what is left over, use simple quotas where the kernel has them, or no quota where "
              "nothing is "
              "limited.",
    .risk = "A rescan reads all metadata. Turning quota off drops all limits; simple quotas start at zero for what is "
            "there "
            "and count only what is written from then on. Docker's btrfs driver turns full quota on again at its next "
            "start "
            "when btrfs.min_space is set.",
    .undo = "btrfs quota enable PATH turns full accounting on again, with a rescan; limits have to be set again.",
    .run = run,
};

} // namespace shale::doctor::checks
