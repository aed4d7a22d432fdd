// SPDX-License-Identifier: Apache-2.0
// btrfs: subvolumes and snapshots through libbtrfsutil, quota through ioctls (linux/btrfs.h) and the counters that the
// kernel shows below /sys/fs/btrfs/<uuid>/qgroups (Linux 5.9).
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/error.h"

namespace shale::sys {

/// True when the open file or directory lies on btrfs.
bool is_btrfs(int fd);
/// True when the open directory is the root of a subvolume.
Result<bool> is_subvolume(int fd);

/// An empty subvolume `name` in the directory `dir`, mode 0755 less the umask.
Status make_subvolume(int dir, const char *name);
/// A writable snapshot of the subvolume that `from` is the root of. O(1); nested subvolumes are empty directories in
/// it.
Status snapshot(int from, int dir, const char *name);
/// Freezes or thaws a subvolume. A frozen one cannot be renamed into another directory.
Status set_read_only(int subvolume, bool read_only);
Result<bool> is_read_only(int subvolume);
/// Removes a subvolume with those nested in it; its space comes back in the background. Needs CAP_SYS_ADMIN, or the
/// mount option user_subvol_rm_allowed and no nested ones.
Status delete_subvolume(int dir, const char *name);
/// A subvolume that lies in another.
struct NestedSubvolume {
    uint64_t id = 0;
    std::string path; ///< relative to the other's root; "": a directory on the way may not be read
};
/// The oldest of the subvolumes that lie right in the one that `subvolume` is the root of; nullopt: there is none. One
/// look, however many there are; needs no privilege (Linux 4.18; ENOTTY before).
Result<std::optional<NestedSubvolume>> nested_subvolume(int subvolume);
/// Number of the subvolume that `fd` lies in.
Result<uint64_t> subvolume_of(int fd);

/// What counts space by subvolume. simple (Linux 6.7): each extent belongs to the subvolume that wrote it; full: shared
/// and exclusive are told apart, at a cost for every snapshot and delete.
enum class BtrfsQuota : uint8_t { off, simple, full };
/// Name of a mode as `shale drivers` shows it.
[[nodiscard]] const char *name_of(BtrfsQuota mode) noexcept;

/// The file system that an open directory lies on, as far as quota goes.
class BtrfsQgroups {
public:
    /// Where sysfs does not show them (not mounted, an old kernel) the mode is off.
    static Result<BtrfsQgroups> open(int fd);
    [[nodiscard]] BtrfsQuota mode() const;
    /// Turns quota on for the whole file system. simple is EINVAL before Linux 6.7.
    static Status enable(int fd, BtrfsQuota mode);

    struct Count {
        uint64_t referenced = 0, exclusive = 0; ///< bytes
        uint64_t limit = 0;                     ///< of what set_limit() limits; 0 = none
    };
    /// nullopt: the subvolume has no counters (made while quota was off).
    [[nodiscard]] std::optional<Count> count(uint64_t subvolume) const;
    /// Limits what the subvolume that `fd` is the root of may own: the exclusive bytes (full), all that it wrote
    /// (simple). 0 = none.
    Status set_limit(int fd, uint64_t bytes) const;
    /// Forgets the counters of a subvolume that is gone. EBUSY while the kernel still clears it.
    Status forget(int fd, uint64_t subvolume) const;

private:
    std::string dir_; ///< /sys/fs/btrfs/<uuid>/qgroups
};

} // namespace shale::sys
