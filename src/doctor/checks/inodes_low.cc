// SPDX-License-Identifier: Apache-2.0
// inodes-low: a file system has hardly any inodes left, be there ever so many free bytes.
#include <algorithm>

#include <fmt/format.h>

#include "base/units.h"
#include "doctor/checks/common.h"
#include "doctor/checks/holders.h"

namespace shale::doctor::checks {
namespace {

constexpr double warning_percent = 90, critical_percent = 98;

bool is_ext(const probe::FileSystem &fs) {
    return fs.type == "ext4" || fs.type == "ext3" || fs.type == "ext2";
}

/// How more inodes are had, by the file system.
void add_growing(const probe::FileSystem &fs, std::vector<std::string> &commands) {
    const std::string target = shell_quote(fs.target);
    if (is_ext(fs)) {
        commands.emplace_back("# ext4 gets more inodes only with more bytes (as many a GiB as it was made with); "
                              "grow the device, then:");
        commands.push_back(fmt::format("resize2fs {}", shell_quote(fs.source)));
    } else if (fs.type == "xfs") {
        commands.emplace_back(
            "# XFS makes inodes as they are needed, up to imaxpct of its size; see it, then raise it:");
        commands.push_back(fmt::format("xfs_info {}", target));
        commands.push_back(fmt::format("xfs_growfs -m 50 {}", target));
    } else if (fs.type == "tmpfs") {
        commands.push_back(fmt::format("mount -o remount,nr_inodes={} {}", fs.total_inodes * 2, target));
    }
}

Finding finding_of(const probe::Facts &facts, const probe::FileSystem &fs, Outcome &outcome) {
    const uint64_t used = fs.total_inodes - fs.free_inodes;
    const uint64_t used_bytes = fs.total_bytes - std::min(fs.free_bytes, fs.total_bytes);
    Finding out;
    out.severity = percent(used, fs.total_inodes) >= critical_percent ? Severity::critical : Severity::warning;
    out.subject = fmt::format("{} ({})", shown(fs.target), shown(fs.type));
    out.summary = fmt::format("{} of {} are in use ({}), {} are left; of the bytes {} are in use", format_count(used),
                              counted(fs.total_inodes, "inode"), percent_text(used, fs.total_inodes),
                              format_count(fs.free_inodes), percent_text(used_bytes, fs.total_bytes));
    if (fs.type == "xfs" && percent(used_bytes, fs.total_bytes) >= warning_percent)
        out.evidence.emplace_back("XFS counts only inodes that its free bytes have room for: bytes are what it lacks");
    Holders holders = holders_on(facts, fs, Measure::inodes, used);
    out.evidence.insert(out.evidence.end(), holders.lines.begin(), holders.lines.end());
    out.evidence = limited(std::move(out.evidence));
    if (holders.largest != nullptr) out.commands = prune_commands(*holders.largest);
    add_growing(fs, out.commands);
    outcome.unable.insert(outcome.unable.end(), holders.not_measured.begin(), holders.not_measured.end());
    return out;
}

Outcome run(const probe::Facts &facts) {
    Outcome out;
    for (const auto &fs : facts.file_systems) {
        // ZFS reports what its free bytes have room for: it has no limit of its own, and bytes-low says the rest.
        if (fs.read_only || fs.type == "zfs" || fs.total_inodes == 0 || fs.free_inodes > fs.total_inodes) continue;
        if (percent(fs.total_inodes - fs.free_inodes, fs.total_inodes) < warning_percent) continue;
        out.findings.push_back(finding_of(facts, fs, out));
    }
    return out;
}

} // namespace

extern const Check inodes_low;
const Check inodes_low{
    .id = "inodes-low",
    .title = "A file system is running out of inodes",
    .why = "Every file and directory takes an inode, and images are many small files. When the last one is taken, "
           "pulls, builds and the start of containers fail with \"no space left on device\" while df shows free "
           "bytes. Image garbage collection by bytes (kubelet's imageGCHighThresholdPercent, BuildKit's) does not "
           "see it coming.",
    .limits = "Warning at 90 % in use, critical at 98 %. kubelet evicts pods at 95 % (nodefs.inodesFree<5 %, its "
              "default; kubernetes, pkg/kubelet/eviction/defaults_linux.go), so 90 % leaves time to act. A read-only "
              "file system, one that counts no inodes (btrfs: 0 in statfs) and ZFS (its figure follows the free "
              "bytes) are passed over.",
    .remedy = "Remove images, build cache and containers that nothing needs, the largest holders first; then give "
              "the file system more inodes: ext4 by growing it (or by mkfs.ext4 -i when it is made anew), XFS by "
              "imaxpct (mkfs.xfs(8): 25 % below 1 TiB, 5 % below 50 TiB, else 1 %).",
    .risk = "What is pruned has to be pulled or built again. Stopped containers lose what they wrote. Growing is "
            "safe online; a larger imaxpct only lets inodes take bytes from data.",
    .undo = "Pull or build again. `xfs_growfs -m` with the old figure (it cannot go below what is in use). A grown "
            "file system stays grown (XFS cannot shrink).",
    .run = run,
};

} // namespace shale::doctor::checks
