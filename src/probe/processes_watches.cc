// SPDX-License-Identifier: Apache-2.0
#include "probe/processes_watches.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <map>
#include <span>
#include <string_view>
#include <tuple>
#include <utility>

#include <fmt/format.h>

#include "probe/file_systems.h"
#include "sys/fs.h"
#include "sys/mount.h"
#include "sys/seam.h"

namespace shale::probe {
namespace {

constexpr size_t max_mounts = 16;   ///< of one file system that are tried: btrfs has one a subvolume
constexpr size_t info_limit = 4096; ///< of /proc/self/fdinfo/N
/// What is mounted over a name hides it from this process, not from others; a link is not the name that was asked for.
constexpr uint64_t on_this_mount = RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS;

/// O_PATH: nothing happens to what a handle stands for, be it a device or a FIFO.
Result<UniqueFd> open_handle(int mount, const FileHandle &handle) {
    constexpr const char *call = "open_by_handle_at";
    if (handle.bytes.size() > MAX_HANDLE_SZ) return fail(Errc::InvalidArgument, "a file handle that is too long");
    if (const int injected = sys::enter(sys::Op::open, mount, call); injected != 0) return fail_errno(injected, call);
    alignas(file_handle) std::array<char, sizeof(file_handle) + MAX_HANDLE_SZ> raw{};
    auto *const head = reinterpret_cast<file_handle *>(raw.data());
    head->handle_bytes = static_cast<unsigned>(handle.bytes.size());
    head->handle_type = handle.type;
    std::ranges::copy(handle.bytes, raw.begin() + sizeof(file_handle));
    for (;;) {
        const int fd = ::open_by_handle_at(mount, head, O_PATH | O_CLOEXEC);
        if (fd >= 0) return UniqueFd(fd);
        if (errno != EINTR) return fail_errno(errno, call);
    }
}

bool is_mount(int fd, uint64_t id) {
    const auto text = sys::read_file(AT_FDCWD, fmt::format("/proc/self/fdinfo/{}", fd).c_str(), info_limit);
    return text && mount_id_in(*text) == id;
}

/// "/mnt/a/b" below "/mnt" -> "a/b". nullopt: it does not lie there.
std::optional<std::string> name_below(std::string_view path, std::string_view mount) {
    if (path == mount) return ".";
    if (mount != "/") {
        if (!path.starts_with(mount)) return std::nullopt;
        path.remove_prefix(mount.size());
    }
    if (!path.starts_with('/')) return std::nullopt;
    return std::string(path.substr(1));
}

/// What a name shows; nullopt in it: nothing. An error: that cannot be told on this mount.
Result<std::optional<struct stat>> shown_as(int mount, const std::string &name) {
    const auto fd = sys::open_at2(mount, name.c_str(), O_PATH | O_NOFOLLOW, on_this_mount);
    if (fd) return TRY(sys::stat_at(fd->get(), ""));
    if (fd.error().sys_errno() == ENOENT || fd.error().sys_errno() == ENOTDIR) return std::nullopt;
    return std::unexpected(fd.error());
}

/// The directory of `name` is there, and of the same (sub)volume.
bool has_directory(int mount, const std::string &name, dev_t device) {
    const size_t slash = name.rfind('/');
    const auto there = shown_as(mount, slash == std::string::npos ? "." : name.substr(0, slash));
    return there && *there && S_ISDIR((*there)->st_mode) && (*there)->st_dev == device;
}

} // namespace

std::vector<const sys::MountEntry *> mounts_to_look_on(const std::vector<sys::MountEntry> &table) {
    std::map<std::string_view, const sys::MountEntry *> uppermost; // by target: the last one lies upon the others
    for (const auto &mount : table)
        uppermost[mount.target] = &mount;
    const auto is_in_the_way = [&](std::string_view target) {
        const auto found = uppermost.find(target);
        if (found == uppermost.end()) return false;
        const auto kind = file_system_kind(found->second->type, found->second->device);
        return kind != FileSystemKind::local && kind != FileSystemKind::memory && kind != FileSystemKind::layered;
    };
    std::vector<const sys::MountEntry *> out;
    for (const auto &mount : table) {
        if (file_system_kind(mount.type, mount.device) != FileSystemKind::local) continue;
        std::string_view way = mount.target;
        while (way.size() > 1 && !is_in_the_way(way))
            way = way.substr(0, std::max<size_t>(way.rfind('/'), 1)); // "/a" -> "/"
        if (way.size() <= 1 && !is_in_the_way("/")) out.push_back(&mount);
    }
    return out;
}

void WatchPaths::load() {
    if (std::exchange(loaded_, true)) return;
    const auto table = sys::mount_table();
    if (!table) return; // the reader of file systems says so
    for (const auto *mount : mounts_to_look_on(*table))
        mounts_[mount->device].push_back({mount->id, mount->root, mount->target});
    for (auto &[device, mounts] : mounts_)
        std::ranges::stable_sort(mounts, {},
                                 [](const Mount &mount) { return std::tuple(mount.root != "/", mount.target.size()); });
}

bool WatchPaths::may_find(const std::string &device) {
    load();
    return !denied_ && mounts_.contains(device);
}

void WatchPaths::open(const std::string &device) {
    if (device_ == device) return;
    close();
    device_ = device;
    const auto mounts = mounts_.find(device);
    if (mounts == mounts_.end()) return;
    for (const auto &mount : std::span(mounts->second).first(std::min(mounts->second.size(), max_mounts))) {
        // Not O_PATH: open_by_handle_at does not take that. ENOTDIR: a file is mounted here, which holds no others.
        auto fd = host_.open_path(mount.target, O_RDONLY | O_DIRECTORY);
        if (!fd || !is_mount(fd->get(), mount.id)) continue; // another mount hides it
        auto path = sys::path_of_fd(fd->get());
        if (!path) continue;
        const bool whole = mount.root == "/";
        opened_.push_back({std::move(*fd), std::move(*path), whole});
        if (whole) return;
    }
}

void WatchPaths::close() noexcept {
    opened_.clear();
    device_.clear();
}

WatchPaths::Found WatchPaths::find(const WatchedInode &watched, const FileHandle &handle) {
    if (!may_find(watched.device)) return {};
    open(watched.device);
    for (const auto &mount : opened_) {
        if (auto found = find_on(mount, watched, handle)) return std::move(*found);
        if (denied_) break;
    }
    return {};
}

/// nullopt: not by this mount. A mount of a part of the file system gives what lies outside of it a path that begins
/// at the file system's top (fs/d_path.c): such a one is told by what is not there.
std::optional<WatchPaths::Found> WatchPaths::find_on(const Opened &mount, const WatchedInode &watched,
                                                     const FileHandle &handle) {
    const auto file = open_handle(mount.fd.get(), handle);
    if (!file) {
        denied_ = denied_ || file.error().sys_errno() == EPERM;
        return std::nullopt;
    }
    auto path = sys::path_of_fd(file->get());
    const auto status = sys::stat_at(file->get(), "");
    if (!path || !status || status->st_ino != watched.inode) return std::nullopt;
    const bool nameless = status->st_nlink == 0;
    if (nameless) {
        if (!path->ends_with(deleted_mark)) return std::nullopt;
        path->resize(path->size() - deleted_mark.size());
    }
    const auto name = name_below(*path, mount.path);
    if (!name) return std::nullopt;
    const auto shown = shown_as(mount.fd.get(), *name);
    if (!shown) return std::nullopt;
    if (*shown) {
        // A file that has a name must be seen by it: a name in the cache may be an old one, of several.
        const bool same = (*shown)->st_dev == status->st_dev && (nameless || (*shown)->st_ino == status->st_ino);
        return same ? std::optional(Found{std::move(*path), (*shown)->st_ino}) : std::nullopt;
    }
    if (!nameless || !(mount.whole || has_directory(mount.fd.get(), *name, status->st_dev))) return std::nullopt;
    return Found{std::move(*path), 0};
}

} // namespace shale::probe
