// SPDX-License-Identifier: Apache-2.0
#include "sys/file_state.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <array>
#include <cerrno>
#include <cstddef>

#include "sys/fanotify.h"
#include "sys/fs_internal.h"

namespace shale::sys {
namespace {

/// A second change that comes so soon after a first one may bear its times (FAT has steps of two seconds).
constexpr int64_t coarsest_clock_ns = 3'000'000'000;

int64_t nanoseconds(const statx_timestamp &time) {
    return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

/// The number of an inode is given again soon after its file was deleted: where the name was made anew, or that may
/// have been overlooked, the time of birth tells. (Elsewhere it does not: overlay's is another one after a copy-up.)
bool is_same_file(const FileState &before, const FileState &after, const Noticed &noticed) {
    if (!before.is_inode_of(after)) return false;
    const bool is_new_name = (noticed.what & (event::created | event::moved_to)) != 0;
    if (before.born_ns == 0 || after.born_ns == 0) return !is_new_name;
    return before.born_ns == after.born_ns || !(is_new_name || noticed.is_unsure);
}

} // namespace

std::string_view change_name(ChangeKind kind) noexcept {
    constexpr std::array<std::string_view, 6> names{"replaced", "created",  "deleted",
                                                    "moved",    "modified", "attributes"};
    static_assert(names.size() == static_cast<size_t>(ChangeKind::attributes) + 1);
    return names[static_cast<size_t>(kind)];
}

bool FileState::is_directory() const noexcept {
    return is_there && S_ISDIR(mode);
}

Result<FileState> file_state(int dir, const char *name) {
    struct statx found{};
    const unsigned flags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | (*name == '\0' ? unsigned{AT_EMPTY_PATH} : 0U);
    const int done = detail::invoke(Op::stat, dir, name, [&] {
        return ::statx(dir, name, static_cast<int>(flags), STATX_BASIC_STATS | STATX_BTIME, &found);
    });
    if (done != 0 && (errno == ENOENT || errno == ENOTDIR)) return FileState();
    if (done != 0) return detail::failed("stat", dir, name);
    return FileState{.is_there = true,
                     .device = makedev(found.stx_dev_major, found.stx_dev_minor),
                     .inode = found.stx_ino,
                     .born_ns = (found.stx_mask & STATX_BTIME) != 0 ? nanoseconds(found.stx_btime) : 0,
                     .modified_ns = nanoseconds(found.stx_mtime),
                     .changed_ns = nanoseconds(found.stx_ctime),
                     .size = found.stx_size,
                     .mode = found.stx_mode,
                     .uid = found.stx_uid,
                     .gid = found.stx_gid};
}

std::optional<ChangeKind> compare(const FileState &before, const FileState &after, const Noticed &noticed) noexcept {
    if (!before.is_there && !after.is_there) return std::nullopt;
    if (!before.is_there) return ChangeKind::created;
    if (!after.is_there) return (noticed.what & event::moved_from) != 0 ? ChangeKind::moved : ChangeKind::deleted;
    if (!is_same_file(before, after, noticed)) return ChangeKind::replaced;
    // A file that the name does not show any more sends events under that name as long as it is open: an event alone is
    // no change. The time of change is, unless it is too young to tell.
    const bool has_changed =
        before.changed_ns != after.changed_ns || noticed.time_ns - after.changed_ns < coarsest_clock_ns;
    const bool was_told = (noticed.what & event::attributes) != 0 && has_changed;
    const bool has_other_rights = before.mode != after.mode || before.uid != after.uid || before.gid != after.gid;
    if (!after.is_directory()) {
        if (before.size != after.size || before.modified_ns != after.modified_ns) return ChangeKind::modified;
        if ((noticed.what & event::modified) != 0 && has_changed) return ChangeKind::modified;
        if (noticed.is_unsure && before.changed_ns != after.changed_ns) return ChangeKind::attributes;
    }
    if (was_told || has_other_rights) return ChangeKind::attributes;
    return std::nullopt;
}

} // namespace shale::sys
