// SPDX-License-Identifier: Apache-2.0
// Extended attributes. There is no *at form before Linux 6.13, so a name is reached as /proc/self/fd/DIR/NAME; an
// open descriptor (name "") takes the f-calls, and an O_PATH one (EBADF there) its /proc/self/fd/N link.
#include <sys/xattr.h>

#include <array>
#include <cstring>

#include "sys/fs.h"
#include "sys/fs_internal.h"

namespace shale::sys {
namespace {

using detail::failed;
using detail::invoke;

std::string path_for(int dir, const char *name) {
    if (dir == AT_FDCWD) return *name == '\0' ? "." : name;
    std::string path = fd_path(dir);
    if (*name != '\0') path.append("/").append(name);
    return path;
}

/// `by_fd(fd)` on an open descriptor, `by_link(path)` following the /proc link of an O_PATH one, `by_name(path)` not
/// following for a name.
template <class Fd, class Link, class Name>
auto reach(int dir, const char *name, Fd by_fd, Link by_link, Name by_name) -> decltype(by_fd(dir)) {
    if (*name == '\0' && dir != AT_FDCWD) {
        auto direct = by_fd(dir);
        if (direct >= 0 || errno != EBADF) return direct;
        return by_link(path_for(dir, name).c_str());
    }
    return by_name(path_for(dir, name).c_str());
}

ssize_t list_raw(int dir, const char *name, char *out, size_t size) {
    return invoke(Op::getxattr, dir, name, [&] {
        return reach(
            dir, name, [&](int fd) { return ::flistxattr(fd, out, size); },
            [&](const char *path) { return ::listxattr(path, out, size); },
            [&](const char *path) { return ::llistxattr(path, out, size); });
    });
}

ssize_t get_raw(int dir, const char *name, const char *key, char *out, size_t size) {
    return invoke(Op::getxattr, dir, name, [&] {
        return reach(
            dir, name, [&](int fd) { return ::fgetxattr(fd, key, out, size); },
            [&](const char *path) { return ::getxattr(path, key, out, size); },
            [&](const char *path) { return ::lgetxattr(path, key, out, size); });
    });
}

} // namespace

Result<std::vector<std::string>> list_xattrs(int dir, const char *name) {
    std::array<char, 512> small; // NOLINT: filled by the kernel
    std::string large;
    const char *text = small.data();
    ssize_t got = list_raw(dir, name, small.data(), small.size());
    if (got < 0 && errno == ERANGE) {
        large.resize(65'536); // XATTR_LIST_MAX
        got = list_raw(dir, name, large.data(), large.size());
        text = large.data();
    }
    if (got < 0) {
        if (errno == EOPNOTSUPP) return std::vector<std::string>{};
        return failed("list attributes of", dir, name);
    }
    std::vector<std::string> out;
    for (size_t at = 0; at < static_cast<size_t>(got); at += out.back().size() + 1)
        out.emplace_back(text + at);
    return out;
}

Result<std::optional<std::string>> get_xattr(int dir, const char *name, const char *key) {
    std::string out(256, '\0');
    ssize_t got = get_raw(dir, name, key, out.data(), out.size());
    if (got < 0 && errno == ERANGE) {
        out.resize(65'536); // XATTR_SIZE_MAX
        got = get_raw(dir, name, key, out.data(), out.size());
    }
    if (got < 0) {
        if (errno == ENODATA || errno == EOPNOTSUPP) return std::nullopt;
        return failed(std::string("get attribute ") + key + " of", dir, name);
    }
    out.resize(static_cast<size_t>(got));
    return out;
}

Status set_xattr(int dir, const char *name, const char *key, std::string_view value) {
    int done = invoke(Op::setxattr, dir, name, [&] {
        return reach(
            dir, name, [&](int fd) { return ::fsetxattr(fd, key, value.data(), value.size(), 0); },
            [&](const char *path) { return ::setxattr(path, key, value.data(), value.size(), 0); },
            [&](const char *path) { return ::lsetxattr(path, key, value.data(), value.size(), 0); });
    });
    if (done < 0) return failed(std::string("set attribute ") + key + " of", dir, name);
    return {};
}

Status remove_xattr(int dir, const char *name, const char *key) {
    int done = invoke(Op::setxattr, dir, name, [&] {
        return reach(
            dir, name, [&](int fd) { return ::fremovexattr(fd, key); },
            [&](const char *path) { return ::removexattr(path, key); },
            [&](const char *path) { return ::lremovexattr(path, key); });
    });
    if (done < 0) return failed(std::string("remove attribute ") + key + " of", dir, name);
    return {};
}

Status set_xattr_fd(int fd, const char *key, std::string_view value) {
    if (invoke(Op::setxattr, fd, nullptr, [&] { return ::fsetxattr(fd, key, value.data(), value.size(), 0); }) < 0)
        return failed(std::string("set attribute ") + key + " of", fd, nullptr);
    return {};
}

} // namespace shale::sys
