// SPDX-License-Identifier: Apache-2.0
// Mounting. Ladder: mount(2) where an overlay's options fit into its one page (one call instead of twenty; its refusals
// are without words, so after one the next rung tries and explains); fsopen/fsconfig(lowerdir+)/fsmount/move_mount
// (Linux 6.5+ for "lowerdir+", 5.2 for the rest); mount(2) with paths shortened by a chdir to the common parent in a
// child.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/fd.h"

namespace shale::sys {

/// One mount, in containerd's form (type, source, options). Options are "flag" or "key=value";
/// "ro", "rbind", "nosuid", ... are mount flags, the others go to the file system.
struct MountSpec {
    std::string type;   ///< "bind", "overlay", "ext4", ...
    std::string source; ///< for overlay: "overlay"
    std::vector<std::string> options;
};

enum class MountApi : uint8_t { best, fsconfig, legacy };

/// Mounts `spec` on the directory `target`. The kernel's own reason (the fs context's log, read from the fsopen
/// descriptor) is part of the error text. Nothing stays mounted after a failure.
Status mount_at(const MountSpec &spec, const std::string &target, MountApi api = MountApi::best);
/// The same as a detached mount (fsmount / open_tree descriptor), never visible in the name space; for
/// probes and for reading a merged tree. Ladder: fsconfig("lowerdir+") (Linux 6.5); fsconfig("lowerdir"), whose text
/// the kernel bounds to 255 bytes; mount(2) and open_tree in a mount name space of a thread's. Unimplemented where the
/// kernel lacks fsopen (5.2).
Result<UniqueFd> mount_detached(const MountSpec &spec);
/// umount2(target); flags MNT_DETACH, UMOUNT_NOFOLLOW is always added.
Status unmount(const std::string &target, int flags = 0);
inline constexpr int umount_detach = 2; ///< MNT_DETACH: <sys/mount.h> does not go together with the kernel's header

struct MountEntry {
    uint64_t id = 0, parent = 0;
    std::string device; ///< "major:minor"
    std::string root, target, options, type, source, super_options;
    std::vector<std::string> optional_fields; ///< "shared:1", ...
};
/// Parses the text of /proc/PID/mountinfo (octal escapes undone). A malformed line is InvalidArgument.
Result<std::vector<MountEntry>> parse_mountinfo(std::string_view text);
/// Of this process.
Result<std::vector<MountEntry>> mount_table();
/// Detaches every mount whose target begins with `prefix`, what was mounted last first.
Status unmount_all(std::string_view prefix);
/// True when `target` itself is the root of a mount.
Result<bool> is_mount_point(const std::string &target);
/// True when what is mounted on `target` (uppermost) is what `spec` mounts: an overlay with the same upperdir (or
/// lowerdir, when there is none), a bind of the same directory, a file system of the same type from the same source.
Result<bool> is_mounted(const MountSpec &spec, const std::string &target);

} // namespace shale::sys
