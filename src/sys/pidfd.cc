// SPDX-License-Identifier: Apache-2.0
#include "sys/pidfd.h"

#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include <fmt/format.h>

#include "sys/fs_internal.h"

namespace shale::sys {

Result<UniqueFd> open_process(pid_t pid) {
    const long fd = detail::invoke(Op::pidfd, -1, "pidfd_open", [&] { return ::syscall(SYS_pidfd_open, pid, 0U); });
    if (fd >= 0) return UniqueFd(static_cast<int>(fd));
    const int error = errno;
    if (error == ESRCH) return fail(Errc::NotFound, fmt::format("there is no process {}", pid));
    return fail_errno(error, fmt::format("pidfd_open (Linux 5.3) of process {}", pid));
}

Status signal_process(int process, int signal) {
    const long done = detail::invoke(Op::pidfd, process, "pidfd_send_signal",
                                     [&] { return ::syscall(SYS_pidfd_send_signal, process, signal, nullptr, 0U); });
    if (done != 0) return fail_errno(errno, "pidfd_send_signal");
    return {};
}

bool has_ended(int process) {
    pollfd ended{process, POLLIN, 0};
    return ::poll(&ended, 1, 0) > 0;
}

} // namespace shale::sys
