// SPDX-License-Identifier: Apache-2.0
// Files, directories and links, relative to directory descriptors, through the seam. EINTR is retried here.
// Errors carry the errno and "call name". No function follows a symlink in the last component unless it says so.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/fd.h"

namespace shale::sys {

/// openat(2) with O_CLOEXEC|O_NOFOLLOW added. `dir` may be AT_FDCWD.
Result<UniqueFd> open_at(int dir, const char *name, int flags, mode_t mode = 0);
/// openat2(2): `resolve` = RESOLVE_* bits. Fails with ENOSYS before Linux 5.6.
Result<UniqueFd> open_at2(int dir, const char *name, int flags, uint64_t resolve, mode_t mode = 0);
/// A directory, O_RDONLY|O_DIRECTORY, last component not followed.
Result<UniqueFd> open_dir(int dir, const char *name);
/// The directory at `path` below `dir` ("" = itself), a component at a time: of any length, no symlink is followed.
Result<UniqueFd> open_dirs(int dir, std::string_view path);
/// mkdirs "a/b/c" below `dir` as far as missing (0700 for new ones unless `mode`), each component without
/// following symlinks, and opens the last.
Result<UniqueFd> make_dirs(int dir, std::string_view path, mode_t mode = 0700);

Result<size_t> read_some(int fd, std::span<std::byte> out);                   ///< 0 at end
Result<size_t> pread_some(int fd, std::span<std::byte> out, uint64_t offset); ///< 0 at end
Status write_all(int fd, std::span<const std::byte> data);
Status pwrite_all(int fd, std::span<const std::byte> data, uint64_t offset);
/// Whole small file; more than `limit` bytes is ResourceExhausted (hostile input stays bounded).
Result<std::string> read_file(int dir, const char *name, size_t limit);
/// Writes NAME.tmp-PID-N, fsyncs it, renames it over `name`, fsyncs `dir`.
Status write_file_durably(int dir, const char *name, std::string_view data, mode_t mode = 0600);

Status make_dir(int dir, const char *name, mode_t mode);
Status make_node(int dir, const char *name, mode_t mode, dev_t device);
Status make_symlink(std::string_view target, int dir, const char *name);
Status make_link(int from_dir, const char *from, int to_dir, const char *to);
Status unlink_at(int dir, const char *name, int flags = 0); ///< flags: AT_REMOVEDIR
/// renameat2(2); flags RENAME_NOREPLACE, RENAME_EXCHANGE.
Status rename_at(int from_dir, const char *from, int to_dir, const char *to, unsigned flags = 0);

/// fchownat with AT_SYMLINK_NOFOLLOW; name "" = the descriptor itself.
Status chown_at(int dir, const char *name, uid_t uid, gid_t gid);
Status chmod_fd(int fd, mode_t mode);
/// chmod of a name that is known not to be a symlink.
Status chmod_at(int dir, const char *name, mode_t mode);
/// Sets mtime (and atime) with nanoseconds; name "" = the descriptor itself; symlinks are not followed.
Status set_times(int dir, const char *name, const timespec &atime, const timespec &mtime);
Status truncate_fd(int fd, uint64_t size);
/// fallocate(2): the first `size` bytes have their blocks.
Status allocate_file(int fd, uint64_t size);

/// fstatat with AT_SYMLINK_NOFOLLOW; name "" = the descriptor itself.
Result<struct stat> stat_at(int dir, const char *name);
/// As stat_at; a missing name is nullopt, not an error.
Result<std::optional<struct stat>> stat_if_exists(int dir, const char *name);
Result<struct statfs> statfs_fd(int fd);
/// Name of a file system by its statfs magic: "ext4" (ext2 and ext3 share the number); "0x1234" when unknown.
std::string file_system_name(const struct statfs &status);
/// Target of a symlink, at most 65,536 bytes.
Result<std::string> read_link(int dir, const char *name);

struct DirEntry {
    std::string name;
    uint64_t inode = 0;
    unsigned char type = 0; ///< DT_*; DT_UNKNOWN has been resolved with statx
};
/// All entries but "." and "..", in the kernel's order. Bounded by `limit` entries (ResourceExhausted).
Result<std::vector<DirEntry>> list_dir(int dir, size_t limit = 10'000'000);

/// The entries but "." and "..", one after the other, in the kernel's order: nothing is kept of them. `name` ends with
/// a NUL and is valid within the call; `type` may be DT_UNKNOWN. Must not be called from within `on_entry`.
Status for_each_entry(int dir,
                      const std::function<void(const char *name, uint64_t inode, unsigned char type)> &on_entry);

/// Extended attributes of an open descriptor; for a name use the /proc/self/fd form inside.
Result<std::vector<std::string>> list_xattrs(int dir, const char *name);
Result<std::optional<std::string>> get_xattr(int dir, const char *name, const char *key);
Status set_xattr(int dir, const char *name, const char *key, std::string_view value);
Status remove_xattr(int dir, const char *name, const char *key);
/// The same on a descriptor that was opened for reading or writing (no O_PATH): the fast path.
Status set_xattr_fd(int fd, const char *key, std::string_view value);

Status fsync_fd(int fd);
Status syncfs_fd(int fd);
/// Starts write-back of a range without waiting (sync_file_range WRITE). Only a hint: never an error.
void start_writeback(int fd, uint64_t offset, uint64_t length) noexcept;

/// Copies `length` bytes of a file's data (holes kept): FICLONE, then copy_file_range, then read/write.
enum class CopyMethod : uint8_t { reflink, copy_range, read_write };
Result<CopyMethod> copy_file_data(int from, int to, uint64_t length);

/// Removes a tree below `dir` (never crossing a mount point, never following a symlink); missing is fine.
/// Iterative, constant number of descriptors. `on_entry` is called once an entry removed (may be empty).
Status remove_tree(int dir, const char *name, const std::function<void()> &on_entry = {});

struct RemoveOptions {
    unsigned threads = 1;
    const std::atomic<bool> *cancel = nullptr; ///< set: what is there stays
    std::function<void()> on_entry{};          ///< once an entry removed, by any of the threads
};
/// Of the trees `names` below `dir`, removes what resists in no way, by several threads. What is left (immutable,
/// locked by modes, mounted, very deep, being added to) is remove_tree's, which also says what is wrong with it.
void remove_what_goes(int dir, std::span<const std::string> names, const RemoveOptions &options);

/// Open-file-description byte-range lock (fcntl F_OFD_SETLK[W]); released when `fd` closes.
enum class LockMode : uint8_t { shared, exclusive };
Status lock_range(int fd, uint64_t offset, uint64_t length, LockMode mode);           ///< waits
Result<bool> try_lock_range(int fd, uint64_t offset, uint64_t length, LockMode mode); ///< false = held
Status unlock_range(int fd, uint64_t offset, uint64_t length);

/// "/proc/self/fd/N"
std::string fd_path(int fd);
/// The path the kernel shows for a descriptor (readlink of fd_path).
Result<std::string> path_of_fd(int fd);

} // namespace shale::sys
