// SPDX-License-Identifier: Apache-2.0
#include "lab/actor.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <thread>
#include <utility>

namespace shale::lab {

Result<Actor> Actor::start(const std::function<bool()> &begin, const std::function<void()> &stay) {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) return fail_errno(errno, "pipe");
    const UniqueFd read(ends[0]);
    UniqueFd write(ends[1]);
    const pid_t pid = ::fork();
    if (pid < 0) return fail_errno(errno, "fork");
    if (pid == 0) {
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (!begin() || ::write(write.get(), "r", 1) != 1) ::_exit(1);
        write.reset();
        if (stay) stay();
        for (;;)
            ::pause();
    }
    Actor out(pid);
    write.reset();
    char ready = 0;
    ssize_t got = 0;
    while ((got = ::read(read.get(), &ready, 1)) < 0 && errno == EINTR) {
    }
    if (got != 1) return fail(Errc::Internal, "a process of the scenario could not do its part");
    return out;
}

Actor::Actor(Actor &&other) noexcept : pid_(std::exchange(other.pid_, 0)) {}

Actor::~Actor() {
    (void)end();
}

Status Actor::end() {
    const pid_t pid = std::exchange(pid_, 0);
    if (pid <= 0) return {};
    if (::kill(pid, SIGKILL) != 0 && errno != ESRCH) return fail_errno(errno, "kill");
    while (::waitpid(pid, nullptr, 0) < 0)
        if (errno != EINTR) return fail_errno(errno, "wait");
    return {};
}

bool Actor::ends_within(std::chrono::milliseconds time) {
    const auto end = std::chrono::steady_clock::now() + time;
    while (std::chrono::steady_clock::now() < end) {
        if (::waitpid(pid_, nullptr, WNOHANG) == pid_) {
            pid_ = 0;
            return true;
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
}

Result<Actor> start_shale(const std::vector<std::string> &arguments, const std::string &output,
                          const std::string &errors) {
    std::vector<const char *> words{"shale"};
    for (const auto &word : arguments)
        words.push_back(word.c_str());
    words.push_back(nullptr);
    const auto open = [](const std::string &path) {
        return ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    };
    return Actor::start([&] { return ::dup2(open(output), 1) == 1 && ::dup2(open(errors), 2) == 2; },
                        [&] {
                            ::execv("/proc/self/exe", const_cast<char *const *>(words.data()));
                            ::_exit(127);
                        });
}

bool eventually(const std::function<bool()> &is_so, std::chrono::milliseconds most) {
    const auto end = std::chrono::steady_clock::now() + most;
    for (;;) {
        if (is_so()) return true;
        if (std::chrono::steady_clock::now() > end) return false;
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
}

} // namespace shale::lab
