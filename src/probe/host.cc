// SPDX-License-Identifier: Apache-2.0
#include "probe/host.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>

#include <algorithm>
#include <cerrno>
#include <span>

#include <fmt/format.h>

namespace shale::probe {
namespace {

/// Magic links (/proc/PID/root, /proc/PID/ns/mnt) lead out of every root. The kernel refuses them in a scoped lookup
/// today and reserves the right to change that (openat2(2), RESOLVE_IN_ROOT); so it is said.
constexpr uint64_t inside = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;

/// openat2(2) wants the path relative to the directory: "/x" -> "x", "/" -> ".".
const char *relative(const std::string &path) {
    const size_t begin = path.find_first_not_of('/');
    return begin == std::string::npos ? "." : path.c_str() + begin;
}

/// The error of an open, in the words of the one who asked: sys/ knows the relative path only.
std::unexpected<Error> not_opened(const Error &error, const std::string &path) {
    if (error.sys_errno() == ENOSYS)
        return std::unexpected(
            Error(Errc::Unimplemented, ENOSYS, fmt::format("open {:?}: this needs Linux 5.6 (openat2)", path)));
    return fail_errno(error.sys_errno(), fmt::format("open {:?}", path));
}

Result<std::string> read_all(int fd, const std::string &path, size_t size_hint, size_t limit) {
    const auto too_large = [&] {
        return fail(Errc::ResourceExhausted, fmt::format("read {:?}: larger than {} bytes", path, limit));
    };
    if (size_hint > limit) return too_large();
    std::string out;
    for (size_t filled = 0;;) {
        // One byte more than is wanted tells "exactly the limit" from "more". Files of /proc have size 0.
        if (filled == out.size()) out.resize(std::min(std::max({size_t{4096}, size_hint + 1, filled * 2}), limit + 1));
        const size_t got = TRY(sys::read_some(fd, std::as_writable_bytes(std::span(out)).subspan(filled)));
        filled += got;
        if (filled > limit) return too_large();
        if (got != 0) continue;
        out.resize(filled);
        return out;
    }
}

} // namespace

Result<Host> Host::open(const std::string &root) {
    auto dir = sys::open_at2(AT_FDCWD, root.c_str(), O_PATH | O_DIRECTORY, 0);
    if (!dir) {
        if (dir.error().sys_errno() != ENOTDIR) return not_opened(dir.error(), root);
        return fail(Errc::InvalidArgument, fmt::format("root of the host, {:?}: not a directory", root));
    }
    const auto there = TRY(sys::stat_at(dir->get(), ""));
    const auto ours = TRY(sys::stat_at(AT_FDCWD, "/"));
    Host host;
    host.dir_ = std::move(*dir);
    if (there.st_dev == ours.st_dev && there.st_ino == ours.st_ino) {
        host.root_ = "/";
        return host;
    }
    // The root of another mount namespace (/proc/1/root) shows as "/" too: it keeps the name that it was given by.
    const auto path = sys::path_of_fd(host.dir_.get());
    host.root_ = path && path->starts_with('/') && *path != "/" ? *path : root;
    while (host.root_.size() > 1 && host.root_.ends_with('/'))
        host.root_.pop_back();
    return host;
}

std::string Host::here(std::string_view path) const {
    path.remove_prefix(std::min(path.find_first_not_of('/'), path.size()));
    if (live()) return fmt::format("/{}", path);
    return path.empty() ? root_ : fmt::format("{}/{}", root_, path);
}

Result<UniqueFd> Host::open_path(const std::string &path, int flags) const {
    if (path.contains('\0')) return fail(Errc::InvalidArgument, fmt::format("open {:?}: a path with a NUL", path));
    // openat2(2), EINVAL: O_PATH goes with O_CLOEXEC, O_DIRECTORY and O_NOFOLLOW only.
    const int added = (flags & O_PATH) != 0 ? 0 : O_NOCTTY | O_NONBLOCK;
    auto fd = sys::open_at2(dir_.get(), relative(path), flags | added, inside);
    if (!fd) return not_opened(fd.error(), here(path));
    return fd;
}

Result<std::string> Host::read(const std::string &path, size_t limit) const {
    const auto not_regular = [&] {
        return fail(Errc::InvalidArgument, fmt::format("read {:?}: not a regular file", here(path)));
    };
    // Opening a device can do something (a tape rewinds, a watchdog starts): so it is looked at first.
    const auto before = TRY(stat(path));
    if (before && !S_ISREG(before->st_mode)) return not_regular();
    const UniqueFd fd = TRY(open_path(path, O_RDONLY));
    const auto status = TRY(sys::stat_at(fd.get(), ""));
    if (!S_ISREG(status.st_mode)) return not_regular();
    return read_all(fd.get(), here(path), static_cast<size_t>(std::max<off_t>(status.st_size, 0)), limit);
}

Result<std::optional<std::string>> Host::read_if_there(const std::string &path, size_t limit) const {
    auto text = read(path, limit);
    if (text) return std::move(*text);
    if (text.error().sys_errno() == ENOENT) return std::nullopt;
    return std::unexpected(std::move(text).error());
}

Result<std::vector<sys::DirEntry>> Host::list(const std::string &path, size_t limit) const {
    const UniqueFd fd = TRY(open_path(path, O_RDONLY | O_DIRECTORY));
    auto out = TRY(sys::list_dir(fd.get(), limit));
    std::ranges::sort(out, {}, &sys::DirEntry::name);
    return out;
}

Result<std::vector<sys::DirEntry>> Host::list_if_there(const std::string &path, size_t limit) const {
    auto entries = list(path, limit);
    if (!entries && entries.error().sys_errno() == ENOENT) return std::vector<sys::DirEntry>{};
    return entries;
}

Result<std::optional<struct stat>> Host::stat(const std::string &path) const {
    const auto fd = open_path(path, O_PATH);
    if (fd) return TRY(sys::stat_at(fd->get(), ""));
    if (fd.error().sys_errno() == ENOENT || fd.error().sys_errno() == ENOTDIR) return std::nullopt;
    return std::unexpected(fd.error());
}

bool Host::is_dir(const std::string &path) const {
    const auto status = stat(path);
    return status && *status && S_ISDIR((*status)->st_mode);
}

} // namespace shale::probe
