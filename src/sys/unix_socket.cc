// SPDX-License-Identifier: Apache-2.0
#include "sys/unix_socket.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "base/paths.h"

namespace shale::sys {
namespace {

Result<sockaddr_un> address_of(const std::string &path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.empty() || path[0] != '/' || path.size() >= sizeof address.sun_path)
        return fail(Errc::InvalidArgument, fmt::format("socket \"{}\" must be an absolute path of at most {} bytes",
                                                       path, sizeof address.sun_path - 1));
    std::memcpy(address.sun_path, path.data(), path.size());
    return address;
}

const sockaddr *as_sockaddr(const sockaddr_un &address) {
    return reinterpret_cast<const sockaddr *>(&address);
}

/// Whether somebody listens at a socket that exists.
Result<bool> is_alive(const sockaddr_un &address) {
    UniqueFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!probe) return fail_errno(errno, "socket");
    if (::connect(probe.get(), as_sockaddr(address), sizeof address) == 0 || errno == EAGAIN) return true;
    if (errno == ECONNREFUSED || errno == ENOENT) return false;
    return fail_errno(errno, fmt::format("connect {}", address.sun_path));
}

/// Nothing, or a socket that nobody listens at, which is removed.
Status make_free(const sockaddr_un &address) {
    struct stat found{};
    if (::lstat(address.sun_path, &found) != 0) {
        if (errno == ENOENT) return {};
        return fail_errno(errno, fmt::format("lstat {}", address.sun_path));
    }
    if (!S_ISSOCK(found.st_mode))
        return fail(Errc::FailedPrecondition,
                    fmt::format("{} is there and is no socket; remove it or name another", address.sun_path));
    if (TRY(is_alive(address)))
        return fail(Errc::FailedPrecondition,
                    fmt::format("another process listens at {}; stop it or name another socket", address.sun_path));
    if (::unlink(address.sun_path) != 0 && errno != ENOENT)
        return fail_errno(errno, fmt::format("unlink {}", address.sun_path));
    return {};
}

} // namespace

Result<UnixListener> UnixListener::listen(const std::string &path, mode_t mode) {
    const sockaddr_un address = TRY(address_of(path));
    // Two that start at once take turns: the second finds the first alive.
    const std::string parent(split_path(path).first);
    UniqueFd directory(::open(parent.empty() ? "/" : parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!directory) return fail_errno(errno, "open " + parent);
    while (::flock(directory.get(), LOCK_EX) != 0)
        if (errno != EINTR) return fail_errno(errno, "flock " + parent);
    TRY(make_free(address));

    UnixListener out;
    out.fd_ = UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!out.fd_) return fail_errno(errno, "socket");
    // The name has the socket's mode from its first moment, less the umask (unix(7)); then all of it.
    if (::fchmod(out.fd_.get(), mode) != 0) return fail_errno(errno, "fchmod of a socket");
    if (::bind(out.fd_.get(), as_sockaddr(address), sizeof address) != 0)
        return fail_errno(errno, fmt::format("bind {}", path));
    ScopeGuard unlink_it([&] { ::unlink(path.c_str()); });
    struct stat made{};
    if (::chmod(path.c_str(), mode) != 0 || ::lstat(path.c_str(), &made) != 0)
        return fail_errno(errno, fmt::format("chmod {}", path));
    if (::listen(out.fd_.get(), SOMAXCONN) != 0) return fail_errno(errno, fmt::format("listen {}", path));
    unlink_it.release();
    out.path_ = path;
    out.device_ = made.st_dev;
    out.inode_ = made.st_ino;
    return out;
}

Result<std::optional<UnixListener>> UnixListener::inherit(const std::string &path) {
    constexpr int first_fd = 3, most = 64; // SD_LISTEN_FDS_START; more than anybody configures
    const char *for_whom = getenv("LISTEN_PID"), *how_many = getenv("LISTEN_FDS");
    if (for_whom == nullptr || how_many == nullptr || std::to_string(getpid()) != for_whom) return std::nullopt;
    const int end = first_fd + std::clamp(std::atoi(how_many), 0, most);
    for (int fd = first_fd; fd < end; ++fd) {
        sockaddr_un address{};
        socklen_t length = sizeof address - 1; // what is left is zero: the name ends
        if (::getsockname(fd, reinterpret_cast<sockaddr *>(&address), &length) != 0 || address.sun_family != AF_UNIX ||
            path != address.sun_path)
            continue;
        const int flags = ::fcntl(fd, F_GETFL);
        if (flags < 0 || ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0 || ::fcntl(fd, F_SETFD, FD_CLOEXEC) != 0)
            return fail_errno(errno, fmt::format("fcntl of the socket handed over for {}", path));
        UnixListener out;
        out.fd_ = UniqueFd(fd);
        return out;
    }
    return std::nullopt;
}

UnixListener::~UnixListener() {
    struct stat found{};
    if (fd_ && !path_.empty() && ::lstat(path_.c_str(), &found) == 0 && found.st_dev == device_ &&
        found.st_ino == inode_)
        ::unlink(path_.c_str());
}

Result<UniqueFd> accept_one(int listener) {
    while (true) {
        UniqueFd connection(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
        if (connection) return connection;
        if (errno == EINTR || errno == ECONNABORTED) continue;
        if (errno == EAGAIN) return UniqueFd();
        return fail_errno(errno, "accept");
    }
}

} // namespace shale::sys
