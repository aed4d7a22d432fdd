// SPDX-License-Identifier: Apache-2.0
#include "sys/run.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string_view>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/fd.h"
#include "sys/fs_internal.h"

namespace shale::sys {
namespace {

using Clock = std::chrono::steady_clock;
using detail::invoke;

constexpr std::chrono::seconds grace{5}; ///< for a killed program to go

struct Pipe {
    UniqueFd read, write;
};

Result<Pipe> make_pipe() {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) return fail_errno(errno, "pipe");
    Pipe out{UniqueFd(ends[0]), UniqueFd(ends[1])};
    if (::fcntl(out.read.get(), F_SETFL, O_NONBLOCK) != 0) return fail_errno(errno, "pipe");
    return out;
}

/// In the child: only what may be called after a fork of a process with threads.
[[noreturn]] void become(const char *const *arguments, const char *const *environment, int output, int errors) {
    ::setpgid(0, 0);
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    const int nothing = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    ::dup2(nothing, 0);
    ::dup2(output, 1);
    ::dup2(errors, 2);
    ::close_range(3, ~0U, 0); // what libraries opened without O_CLOEXEC
    sigset_t none;
    sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    ::execve(arguments[0], const_cast<char *const *>(arguments), const_cast<char *const *>(environment));
    ::_exit(127);
}

/// Appends what can be read now, at least what a pipe holds (64 KiB, pipe(7)); false at the end.
bool take(int fd, std::string &out, size_t limit) {
    std::array<char, 4096> buffer; // NOLINT: filled by read
    for (int reads = 0; reads < 64; ++reads) {
        const ssize_t got = ::read(fd, buffer.data(), buffer.size());
        if (got == 0) return false;
        if (got < 0) return errno == EINTR || errno == EAGAIN;
        out.append(buffer.data(), std::min(static_cast<size_t>(got), limit - std::min(limit, out.size())));
    }
    return true;
}

std::string name_of(const std::vector<std::string> &arguments) {
    return fmt::format("{}", fmt::join(arguments, " "));
}

int milliseconds_until(Clock::time_point end) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now()).count();
    return static_cast<int>(std::clamp<long>(left, 0, 1'000'000));
}

/// Reads both ends until the child has ended; what others who inherited them write later is nobody's. False: the
/// deadline passed.
bool follow(int child, const Pipe &output, const Pipe &errors, ToolResult &out, Clock::time_point end) {
    std::array<pollfd, 3> ends{pollfd{output.read.get(), POLLIN, 0}, pollfd{errors.read.get(), POLLIN, 0},
                               pollfd{child, POLLIN, 0}};
    for (bool ended = false; !ended;) {
        if (Clock::now() >= end) return false;
        if (::poll(ends.data(), ends.size(), milliseconds_until(end)) <= 0) continue;
        ended = ends[2].revents != 0; // what it wrote is in the pipes by now
        if ((ended || ends[0].revents != 0) && !take(output.read.get(), out.output, size_t{1} << 20U)) ends[0].fd = -1;
        if ((ended || ends[1].revents != 0) && !take(errors.read.get(), out.errors, size_t{64} << 10U)) ends[1].fd = -1;
    }
    return true;
}

/// Kills the child with its group. False: it does not go, because it hangs in the kernel; it is left behind then.
bool kill_group(pid_t child, int child_fd) {
    ::kill(-child, SIGKILL);
    ::kill(child, SIGKILL); // it may not have a group of its own yet
    pollfd gone{child_fd, POLLIN, 0};
    for (const auto end = Clock::now() + grace; Clock::now() < end;)
        if (::poll(&gone, 1, milliseconds_until(end)) > 0) return true;
    return false;
}

} // namespace

Result<std::string> find_tool(const std::string &name, const std::string &package) {
    for (const auto *dir : {"/usr/sbin/", "/usr/bin/", "/sbin/", "/bin/", "/usr/local/sbin/", "/usr/local/bin/"}) {
        std::string path = dir + name;
        if (::access(path.c_str(), X_OK) == 0) return path;
    }
    return fail(Errc::NotFound, fmt::format("there is no program \"{}\" here; install it (Debian: {})", name, package));
}

Result<ToolResult> run_tool(const std::vector<std::string> &arguments, std::chrono::milliseconds deadline) {
    const auto end = Clock::now() + deadline;
    Pipe output = TRY(make_pipe());
    Pipe errors = TRY(make_pipe());
    std::vector<const char *> argv;
    for (const auto &argument : arguments)
        argv.push_back(argument.c_str());
    argv.push_back(nullptr);
    std::vector<const char *> environment;
    for (char **entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
        const std::string_view one = *entry;
        if (!one.starts_with("LC_") && !one.starts_with("LANG") && !one.starts_with("LD_"))
            environment.push_back(*entry);
    }
    environment.push_back("LC_ALL=C");
    environment.push_back("DM_DISABLE_UDEV=1"); // as sys/dm.h: nodes are made by libdevmapper
    environment.push_back(nullptr);

    const pid_t child = invoke(Op::exec, -1, arguments[0].c_str(), [] { return ::fork(); });
    if (child < 0) return fail_errno(errno, fmt::format("run \"{}\"", name_of(arguments)));
    if (child == 0) become(argv.data(), environment.data(), output.write.get(), errors.write.get());
    const UniqueFd child_fd(static_cast<int>(::syscall(SYS_pidfd_open, child, 0)));
    const int no_fd = errno;
    output.write.reset();
    errors.write.reset();
    ToolResult out;
    const bool in_time = child_fd && follow(child_fd.get(), output, errors, out, end);
    if (!in_time && !kill_group(child, child_fd.get()) && child_fd)
        return fail(Errc::DeadlineExceeded,
                    fmt::format("\"{}\" (process {}) did not end within {} ms and cannot be killed: it hangs in the "
                                "kernel; see the kernel's log",
                                name_of(arguments), child, deadline.count()));
    int status = 0;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    if (!child_fd) return fail_errno(no_fd, "pidfd_open (Linux 5.3)");
    if (!in_time)
        return fail(Errc::DeadlineExceeded, fmt::format("\"{}\" did not end within {} ms and was killed",
                                                        name_of(arguments), deadline.count()));
    if (WIFSIGNALED(status))
        return fail(Errc::Unavailable,
                    fmt::format("\"{}\" was killed by signal {}", name_of(arguments), WTERMSIG(status)));
    out.exit_status = WEXITSTATUS(status);
    return out;
}

Result<std::string> run_tool_or_fail(const std::vector<std::string> &arguments, std::chrono::milliseconds deadline) {
    auto done = TRY(run_tool(arguments, deadline));
    if (done.exit_status == 0) return std::move(done.output);
    std::string words = done.errors.empty() ? done.output : done.errors;
    while (words.ends_with('\n'))
        words.pop_back();
    for (char &c : words)
        if (c == '\n') c = ';';
    return fail(Errc::FailedPrecondition, fmt::format("\"{}\" ended with status {}: {}", name_of(arguments),
                                                      done.exit_status, words.empty() ? "(no words)" : words));
}

} // namespace shale::sys
