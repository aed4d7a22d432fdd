// SPDX-License-Identifier: Apache-2.0
#include "sys/fs.h"

#include <dirent.h>
#include <fmt/format.h>
#include <linux/openat2.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <memory>

#include "sys/fs_internal.h"

#ifndef SYS_fchmodat2
#define SYS_fchmodat2 452
#endif

namespace shale::sys {

using detail::failed;
using detail::invoke;

std::string fd_path(int fd) {
    return "/proc/self/fd/" + std::to_string(fd);
}

namespace detail {

std::string what(std::string_view verb, int fd, const char *name) {
    std::array<char, 4096> link{};
    std::string_view shown = name != nullptr ? name : "";
    if (shown.empty() && fd >= 0) {
        // Past the seam on purpose: this only words an error.
        ssize_t length = ::readlink(fd_path(fd).c_str(), link.data(), link.size());
        if (length > 0) shown = {link.data(), static_cast<size_t>(length)};
    }
    std::string out(verb);
    out += " \"";
    for (char c : shown) {
        auto byte = static_cast<unsigned char>(c);
        if (byte >= 0x20 && byte != 0x7f && c != '"' && c != '\\') {
            out += c;
            continue;
        }
        std::array<char, 5> escaped{};
        std::snprintf(escaped.data(), escaped.size(), "\\x%02x", byte);
        out += escaped.data();
    }
    out += '"';
    return out;
}

namespace {

/// One getdents64 of at most 64 KiB; false at the end of the directory.
template <class F> Result<bool> read_some_entries(int dir, F &&on_entry) {
    constexpr size_t buffer_size = size_t{64} << 10U;
    alignas(dirent64) thread_local std::array<char, buffer_size> buffer;
    ssize_t got = invoke(Op::getdents, dir, nullptr, [&] { return ::getdents64(dir, buffer.data(), buffer_size); });
    if (got < 0) return failed("list", dir, nullptr);
    for (size_t at = 0; at < static_cast<size_t>(got);) {
        const auto *raw = reinterpret_cast<const dirent64 *>(buffer.data() + at);
        at += raw->d_reclen;
        const char *name = static_cast<const char *>(raw->d_name);
        if (std::string_view(name) != "." && std::string_view(name) != "..") on_entry(name, raw->d_ino, raw->d_type);
    }
    return got > 0;
}

} // namespace

Result<bool> read_entries(int dir, std::vector<DirEntry> &out) {
    return read_some_entries(
        dir, [&out](const char *name, uint64_t inode, unsigned char type) { out.push_back({name, inode, type}); });
}

} // namespace detail

Status for_each_entry(int dir, const std::function<void(const char *, uint64_t, unsigned char)> &on_entry) {
    while (TRY(detail::read_some_entries(dir, on_entry))) {
    }
    return {};
}

Result<UniqueFd> open_at(int dir, const char *name, int flags, mode_t mode) {
    int fd = invoke(Op::open, dir, name, [&] { return ::openat(dir, name, flags | O_CLOEXEC | O_NOFOLLOW, mode); });
    if (fd < 0) return failed("open", dir, name);
    return UniqueFd(fd);
}

Result<UniqueFd> open_at2(int dir, const char *name, int flags, uint64_t resolve, mode_t mode) {
    open_how how{};
    how.flags = static_cast<uint64_t>(flags) | O_CLOEXEC;
    how.mode = (flags & (O_CREAT | __O_TMPFILE)) != 0 ? mode : 0;
    how.resolve = resolve;
    const long fd = invoke(Op::openat2, dir, name, [&] {
        // openat2(2), EAGAIN: a rename or a mount anywhere on the host came between the steps of a path with "..".
        constexpr int attempts = 1000;
        long got = -1;
        for (int i = 0; i < attempts && got < 0; ++i) {
            got = ::syscall(SYS_openat2, dir, name, &how, sizeof how);
            if (got < 0 && errno != EAGAIN) break;
        }
        return got;
    });
    if (fd < 0) return failed("open", dir, name);
    return UniqueFd(static_cast<int>(fd));
}

Result<UniqueFd> open_dir(int dir, const char *name) {
    return open_at(dir, name, O_RDONLY | O_DIRECTORY);
}

Result<UniqueFd> open_dirs(int dir, std::string_view path) {
    UniqueFd current = TRY(open_dir(dir, "."));
    for (size_t begin = 0; begin < path.size();) {
        const size_t slash = std::min(path.find('/', begin), path.size());
        current = TRY(open_dir(current.get(), std::string(path.substr(begin, slash - begin)).c_str()));
        begin = slash + 1;
    }
    return current;
}

Result<UniqueFd> make_dirs(int dir, std::string_view path, mode_t mode) {
    const bool from_root = dir == AT_FDCWD && path.starts_with('/');
    UniqueFd current = TRY(open_dir(dir, from_root ? "/" : "."));
    while (!path.empty()) {
        size_t slash = path.find('/');
        std::string part(path.substr(0, slash));
        path.remove_prefix(slash == std::string_view::npos ? path.size() : slash + 1);
        if (part.empty() || part == ".") continue;
        if (part == "..") return fail(Errc::InvalidArgument, "make directories: \"..\" in the path");
        auto next = open_dir(current.get(), part.c_str());
        if (!next && next.error().sys_errno() == ENOENT) {
            auto made = make_dir(current.get(), part.c_str(), mode);
            if (!made && made.error().sys_errno() != EEXIST) return std::unexpected(std::move(made).error());
            next = open_dir(current.get(), part.c_str());
        }
        current = TRY(std::move(next));
    }
    return current;
}

Result<size_t> read_some(int fd, std::span<std::byte> out) {
    ssize_t got = invoke(Op::read, fd, nullptr, [&] { return ::read(fd, out.data(), out.size()); });
    if (got < 0) return failed("read", fd, nullptr);
    return static_cast<size_t>(got);
}

Result<size_t> pread_some(int fd, std::span<std::byte> out, uint64_t offset) {
    ssize_t got =
        invoke(Op::read, fd, nullptr, [&] { return ::pread(fd, out.data(), out.size(), static_cast<off_t>(offset)); });
    if (got < 0) return failed("read", fd, nullptr);
    return static_cast<size_t>(got);
}

Status write_all(int fd, std::span<const std::byte> data) {
    while (!data.empty()) {
        ssize_t put = invoke(Op::write, fd, nullptr, [&] { return ::write(fd, data.data(), data.size()); });
        if (put < 0) return failed("write", fd, nullptr);
        data = data.subspan(static_cast<size_t>(put));
    }
    return {};
}

Status pwrite_all(int fd, std::span<const std::byte> data, uint64_t offset) {
    while (!data.empty()) {
        ssize_t put = invoke(Op::write, fd, nullptr,
                             [&] { return ::pwrite(fd, data.data(), data.size(), static_cast<off_t>(offset)); });
        if (put < 0) return failed("write", fd, nullptr);
        data = data.subspan(static_cast<size_t>(put));
        offset += static_cast<uint64_t>(put);
    }
    return {};
}

Result<std::string> read_file(int dir, const char *name, size_t limit) {
    UniqueFd fd = TRY(open_at(dir, name, O_RDONLY | O_NONBLOCK | O_NOCTTY));
    std::string out;
    size_t filled = 0;
    for (;;) {
        out.resize(std::max(size_t{4096}, filled * 2));
        size_t got = TRY(read_some(fd.get(), std::as_writable_bytes(std::span(out)).subspan(filled)));
        if (got == 0) break;
        filled += got;
        if (filled > limit)
            return fail(Errc::ResourceExhausted,
                        detail::what("read", dir, name) + ": larger than " + std::to_string(limit) + " bytes");
    }
    out.resize(filled);
    return out;
}

Status write_file_durably(int dir, const char *name, std::string_view data, mode_t mode) {
    static std::atomic<uint64_t> counter{0};
    std::string_view whole(name);
    size_t slash = whole.rfind('/');
    UniqueFd parent;
    if (slash != std::string_view::npos || dir == AT_FDCWD) {
        parent = TRY(open_dir(
            dir, slash == std::string_view::npos ? "." : std::string(whole.substr(0, slash + 1)).append(".").c_str()));
        dir = parent.get();
        name += slash == std::string_view::npos ? 0 : slash + 1;
    }
    // A leftover of a crashed process may have our pid: O_EXCL then moves on to the next number.
    UniqueFd file;
    std::string temporary;
    for (int attempt = 0; !file; ++attempt) {
        temporary = std::string(name) + ".tmp-" + std::to_string(::getpid()) + "-" + std::to_string(counter++);
        auto opened = open_at(dir, temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL, mode);
        if (!opened && (opened.error().sys_errno() != EEXIST || attempt == 1000))
            return std::unexpected(std::move(opened).error());
        if (opened) file = std::move(*opened);
    }
    ScopeGuard undo([&] { (void)::unlinkat(dir, temporary.c_str(), 0); });
    TRY(write_all(file.get(), std::as_bytes(std::span(data))));
    TRY(chmod_fd(file.get(), mode)); // the umask does not count
    TRY(fsync_fd(file.get()));
    TRY(rename_at(dir, temporary.c_str(), dir, name));
    undo.release();
    return fsync_fd(dir);
}

Status make_dir(int dir, const char *name, mode_t mode) {
    if (invoke(Op::mkdir, dir, name, [&] { return ::mkdirat(dir, name, mode); }) < 0)
        return failed("make directory", dir, name);
    return {};
}

Status make_node(int dir, const char *name, mode_t mode, dev_t device) {
    if (invoke(Op::mknod, dir, name, [&] { return ::mknodat(dir, name, mode, device); }) < 0)
        return failed("make node", dir, name);
    return {};
}

Status make_symlink(std::string_view target, int dir, const char *name) {
    std::string text(target);
    if (invoke(Op::symlink, dir, name, [&] { return ::symlinkat(text.c_str(), dir, name); }) < 0)
        return failed("make symlink", dir, name);
    return {};
}

Status make_link(int from_dir, const char *from, int to_dir, const char *to) {
    int done = invoke(Op::link, to_dir, to, [&] {
        if (*from != '\0') return ::linkat(from_dir, from, to_dir, to, 0);
        // AT_EMPTY_PATH wants CAP_DAC_READ_SEARCH (before 6.10); the /proc form does not.
        return ::linkat(AT_FDCWD, fd_path(from_dir).c_str(), to_dir, to, AT_SYMLINK_FOLLOW);
    });
    if (done < 0) return failed("make hard link", to_dir, to);
    return {};
}

Status unlink_at(int dir, const char *name, int flags) {
    if (invoke(Op::unlink, dir, name, [&] { return ::unlinkat(dir, name, flags); }) < 0)
        return failed("remove", dir, name);
    return {};
}

Status rename_at(int from_dir, const char *from, int to_dir, const char *to, unsigned flags) {
    int done = invoke(Op::rename, to_dir, to, [&] {
        if (flags == 0) return ::renameat(from_dir, from, to_dir, to);
        return ::renameat2(from_dir, from, to_dir, to, flags);
    });
    if (done < 0) {
        int error = errno;
        return fail_errno(error, detail::what("rename", from_dir, from) + detail::what(" to", to_dir, to));
    }
    return {};
}

Status chown_at(int dir, const char *name, uid_t uid, gid_t gid) {
    const int flags = AT_SYMLINK_NOFOLLOW | (*name == '\0' ? AT_EMPTY_PATH : 0);
    if (invoke(Op::chown, dir, name, [&] { return ::fchownat(dir, name, uid, gid, flags); }) < 0)
        return failed("change owner of", dir, name);
    return {};
}

Status chmod_fd(int fd, mode_t mode) {
    int done = invoke(Op::chmod, fd, nullptr, [&] {
        int direct = ::fchmod(fd, mode);
        if (direct < 0 && errno == EBADF) return ::chmod(fd_path(fd).c_str(), mode); // O_PATH
        return direct;
    });
    if (done < 0) return failed("change mode of", fd, nullptr);
    return {};
}

Status chmod_at(int dir, const char *name, mode_t mode) {
    if (*name == '\0') return chmod_fd(dir, mode);
    int done = invoke(Op::chmod, dir, name, [&] {
        long direct = ::syscall(SYS_fchmodat2, dir, name, mode, AT_SYMLINK_NOFOLLOW);
        if (direct < 0 && errno == ENOSYS) return ::fchmodat(dir, name, mode, AT_SYMLINK_NOFOLLOW); // before 6.6
        return static_cast<int>(direct);
    });
    if (done < 0) return failed("change mode of", dir, name);
    return {};
}

Status set_times(int dir, const char *name, const timespec &atime, const timespec &mtime) {
    const std::array<timespec, 2> times{atime, mtime};
    int done = invoke(Op::utimens, dir, name, [&] {
        if (*name != '\0') return ::utimensat(dir, name, times.data(), AT_SYMLINK_NOFOLLOW);
        int direct = ::futimens(dir, times.data());
        if (direct < 0 && errno == EBADF) return ::utimensat(AT_FDCWD, fd_path(dir).c_str(), times.data(), 0);
        return direct;
    });
    if (done < 0) return failed("set times of", dir, name);
    return {};
}

Status truncate_fd(int fd, uint64_t size) {
    if (invoke(Op::truncate, fd, nullptr, [&] { return ::ftruncate(fd, static_cast<off_t>(size)); }) < 0)
        return failed("truncate", fd, nullptr);
    return {};
}

Status allocate_file(int fd, uint64_t size) {
    if (invoke(Op::fallocate, fd, nullptr, [&] { return ::fallocate(fd, 0, 0, static_cast<off_t>(size)); }) < 0)
        return failed("fallocate", fd, nullptr);
    return {};
}

namespace {
int raw_stat(int dir, const char *name, struct stat &out) {
    const int flags = AT_SYMLINK_NOFOLLOW | (*name == '\0' ? AT_EMPTY_PATH : 0);
    return invoke(Op::stat, dir, name, [&] { return ::fstatat(dir, name, &out, flags); });
}
} // namespace

Result<struct stat> stat_at(int dir, const char *name) {
    struct stat out{};
    if (raw_stat(dir, name, out) < 0) return failed("stat", dir, name);
    return out;
}

Result<std::optional<struct stat>> stat_if_exists(int dir, const char *name) {
    struct stat out{};
    if (raw_stat(dir, name, out) == 0) return out;
    if (errno == ENOENT) return std::nullopt;
    return failed("stat", dir, name);
}

Result<struct statfs> statfs_fd(int fd) {
    struct statfs out{};
    if (invoke(Op::stat, fd, nullptr, [&] { return ::fstatfs(fd, &out); }) < 0)
        return failed("stat file system of", fd, nullptr);
    return out;
}

std::string file_system_name(const struct statfs &status) {
    struct Magic {
        uint64_t number;
        std::string_view name;
    };
    // statfs(2), linux/magic.h
    static constexpr std::array known{
        Magic{0xEF53, "ext4"},         Magic{0x58465342, "xfs"},     Magic{0x9123683E, "btrfs"},
        Magic{0x01021994, "tmpfs"},    Magic{0x794C7630, "overlay"}, Magic{0x2FC12FC1, "zfs"},
        Magic{0xF2F52010, "f2fs"},     Magic{0x6969, "nfs"},         Magic{0x65735546, "fuse"},
        Magic{0xCA451A4E, "bcachefs"}, Magic{0xE0F5E1E2, "erofs"},   Magic{0x73717368, "squashfs"},
        Magic{0x01021997, "9p"},       Magic{0xFF534D42, "cifs"},    Magic{0x00C36400, "ceph"},
        Magic{0x4d44, "vfat"},         Magic{0x2011BAB0, "exfat"},   Magic{0x7366746e, "ntfs"},
    };
    const auto number = static_cast<uint64_t>(status.f_type) & 0xffff'ffffU;
    const auto *hit = std::ranges::find(known, number, &Magic::number);
    return hit != known.end() ? std::string(hit->name) : fmt::format("{:#x}", number);
}

Result<std::string> read_link(int dir, const char *name) {
    constexpr size_t limit = 65'536;
    for (std::string out(256, '\0');; out.resize(out.size() * 16)) {
        ssize_t got = invoke(Op::read, dir, name, [&] { return ::readlinkat(dir, name, out.data(), out.size()); });
        if (got < 0) return failed("read link", dir, name);
        if (static_cast<size_t>(got) < out.size()) {
            out.resize(static_cast<size_t>(got));
            return out;
        }
        if (out.size() >= limit)
            return fail(Errc::ResourceExhausted, detail::what("read link", dir, name) + ": longer than 65,536 bytes");
    }
}

Result<std::vector<DirEntry>> list_dir(int dir, size_t limit) {
    UniqueFd reopened;
    if (dir == AT_FDCWD || (::lseek(dir, 0, SEEK_SET) < 0 && errno == EBADF)) { // O_PATH cannot be listed itself
        reopened = TRY(open_dir(dir, "."));
        dir = reopened.get();
    }
    std::vector<DirEntry> out;
    for (size_t resolved = 0; TRY(detail::read_entries(dir, out));) {
        if (out.size() > limit)
            return fail(Errc::ResourceExhausted,
                        detail::what("list", dir, nullptr) + ": more than " + std::to_string(limit) + " entries");
        for (; resolved < out.size(); ++resolved) {
            if (out[resolved].type != DT_UNKNOWN) continue;
            auto found = TRY(stat_if_exists(dir, out[resolved].name.c_str()));
            if (found) out[resolved].type = static_cast<unsigned char>(IFTODT(found->st_mode));
        }
    }
    return out;
}

Status fsync_fd(int fd) {
    if (invoke(Op::fsync, fd, nullptr, [&] { return ::fsync(fd); }) < 0) return failed("fsync", fd, nullptr);
    return {};
}

Status syncfs_fd(int fd) {
    if (invoke(Op::syncfs, fd, nullptr, [&] { return ::syncfs(fd); }) < 0)
        return failed("sync file system of", fd, nullptr);
    return {};
}

void start_writeback(int fd, uint64_t offset, uint64_t length) noexcept {
    if (enter(Op::sync_range, fd) != 0) return;
    (void)::sync_file_range(fd, static_cast<off_t>(offset), static_cast<off_t>(length), SYNC_FILE_RANGE_WRITE);
}

Result<std::string> path_of_fd(int fd) {
    if (fd < 0) return fail_errno(EBADF, "path of a descriptor");
    return read_link(AT_FDCWD, fd_path(fd).c_str());
}

} // namespace shale::sys
