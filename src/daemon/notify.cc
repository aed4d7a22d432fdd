// SPDX-License-Identifier: Apache-2.0
#include "daemon/notify.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <ctime>

#include "base/fd.h"

namespace shale::daemon {

Status notify(std::string_view state) {
    const char *where = getenv("NOTIFY_SOCKET");
    if (where == nullptr || *where == '\0') return {};
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const size_t length = std::strlen(where);
    if (length >= sizeof address.sun_path || (*where != '/' && *where != '@'))
        return fail(Errc::InvalidArgument, fmt::format("NOTIFY_SOCKET \"{}\" is no address of a unix socket", where));
    std::memcpy(address.sun_path, where, length);
    if (*where == '@') address.sun_path[0] = '\0'; // the abstract name space

    std::string text(state);
    if (state.starts_with("RELOADING=1")) {
        timespec now{};
        clock_gettime(CLOCK_MONOTONIC, &now);
        text += fmt::format("\nMONOTONIC_USEC={}", now.tv_sec * 1'000'000 + now.tv_nsec / 1'000);
    }
    UniqueFd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (!fd) return fail_errno(errno, "socket");
    const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + length);
    if (::sendto(fd.get(), text.data(), text.size(), MSG_NOSIGNAL, reinterpret_cast<const sockaddr *>(&address), size) <
        0)
        return fail_errno(errno, fmt::format("send to {}", where));
    return {};
}

} // namespace shale::daemon
