// SPDX-License-Identifier: Apache-2.0
#include "lab/sandbox.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>

#include "sys/fs.h"

namespace shale::lab {
namespace {

using Clock = std::chrono::steady_clock;

/// Dies with its parent, also when that died before this was called.
void die_with(pid_t parent) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(1);
}

int wait_for(pid_t process) {
    int status = 0;
    while (::waitpid(process, &status, 0) < 0)
        if (errno != EINTR) return -1;
    return status;
}

Status make_world(const std::string &path) {
    if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
        return fail_errno(errno, "make mounts private");
    // Of the new PID namespace, so that what looks at processes sees the scenario's.
    if (::mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) != 0)
        return fail_errno(errno, "mount /proc");
    if (::mount("shale-lab", path.c_str(), "tmpfs", 0, "mode=0755") != 0)
        return fail_errno(errno, fmt::format("mount a tmpfs on {}", path));
    return {};
}

Status tell_story(const Scenario &scenario, UniqueFd files, const Keeper &keeper, int out, const std::string &name) {
    for (const auto *variable : {"SHALE_ROOT", "SHALE_DRIVER", "SHALE_CONFIG"})
        ::unsetenv(variable);
    const std::string path(World::path);
    TRY(make_world(path));
    if (!files) files = TRY(sys::open_dir(AT_FDCWD, path.c_str()));
    World world(std::move(files), keeper, name);
    Story story([out](const News &news) {
        const std::string line = to_line(news) + "\n";
        (void)sys::write_all(out, std::as_bytes(std::span(line))); // nobody listens any more: we are ended soon
    });
    return scenario.run(world, story);
}

/// The scenario's own process: what it tells, then "ok" or "error TEXT".
[[noreturn]] void be_scenario(const Scenario &scenario, UniqueFd files, const Keeper &keeper, int out,
                              const std::string &name) {
    const auto told = tell_story(scenario, std::move(files), keeper, out, name);
    std::string last = "ok\n";
    if (!told) {
        last = "error " + told.error().text();
        for (char &c : last)
            if (c == '\n') c = ' ';
        last += '\n';
    }
    (void)sys::write_all(out, std::as_bytes(std::span(last)));
    ::_exit(0);
}

/// PID 1 of the namespace: when it goes, the kernel ends all others.
[[noreturn]] void be_init(pid_t scenario) {
    for (;;) {
        const pid_t ended = ::waitpid(-1, nullptr, 0);
        if (ended == scenario || (ended < 0 && errno != EINTR)) ::_exit(0);
    }
}

[[noreturn]] void be_outer(const Scenario &scenario, UniqueFd files, const Keeper &keeper, int out, pid_t parent) {
    die_with(parent);
    ::setpgid(0, 0); // Ctrl-C is for `shale lab run`, which ends this
    const std::string name = fmt::format("shale-lab-{}", parent);
    if (::unshare(CLONE_NEWNS | CLONE_NEWPID) != 0) {
        const std::string last = "error " + sys_error(errno, "make mount and PID namespaces").text() + "\n";
        (void)sys::write_all(out, std::as_bytes(std::span(last)));
        ::_exit(1);
    }
    const pid_t init = ::fork();
    if (init < 0) ::_exit(1);
    if (init == 0) {
        ::prctl(PR_SET_PDEATHSIG, SIGKILL); // getppid() is 0 here, whoever lives
        const pid_t self = ::fork();
        if (self < 0) ::_exit(1);
        if (self == 0) be_scenario(scenario, std::move(files), keeper, out, name);
        ::close(out);
        be_init(self);
    }
    ::close(out);
    wait_for(init);
    ::_exit(0);
}

/// Takes the lines that are whole.
void take_lines(Account &account, std::string &told, bool &done, const SandboxOptions &options) {
    for (size_t end; (end = told.find('\n')) != std::string::npos; told.erase(0, end + 1)) {
        const std::string line = told.substr(0, end);
        if (line == "ok") {
            done = true;
        } else if (line.starts_with("error ")) {
            done = true;
            account.error = line.substr(6);
        } else if (auto news = news_from_line(line)) {
            if (options.listener) options.listener(*news);
            take(account, std::move(*news));
        } else {
            account.error = news.error().text();
        }
    }
}

/// Why it had to be ended; empty when it ended by itself.
std::string follow(Account &account, int pipe, const SandboxOptions &options) {
    const auto end = Clock::now() + options.limit;
    std::string told;
    bool done = false;
    std::array<std::byte, 65'536> piece{};
    for (;;) {
        pollfd waits{pipe, POLLIN, 0};
        if (::poll(&waits, 1, 100) < 0 && errno != EINTR) return sys_error(errno, "poll").text();
        if (options.cancel != nullptr && options.cancel->load()) return "interrupted";
        if (Clock::now() > end) return fmt::format("not done after {} s, and ended", options.limit.count());
        if ((waits.revents & (POLLIN | POLLHUP)) == 0) continue;
        const auto got = sys::read_some(pipe, piece);
        if (!got) return got.error().text();
        if (*got == 0) return done ? "" : "its process died";
        told.append(reinterpret_cast<const char *>(piece.data()), *got);
        take_lines(account, told, done, options);
    }
}

std::string kernel_release() {
    utsname names{};
    return ::uname(&names) == 0 ? names.release : "unknown";
}

Status run(Account &account, const Scenario &scenario, const SandboxOptions &options) {
    UniqueFd files;
    if (!options.files.empty()) files = TRY(sys::open_dir(AT_FDCWD, options.files.c_str()));
    const Keeper keeper = TRY(Keeper::start());
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) return fail_errno(errno, "pipe");
    UniqueFd read(ends[0]), write(ends[1]);
    const pid_t self = ::getpid();
    const pid_t outer = ::fork();
    if (outer < 0) return fail_errno(errno, "fork");
    if (outer == 0) {
        read.reset();
        be_outer(scenario, std::move(files), keeper, write.get(), self);
    }
    write.reset();
    const std::string ended = follow(account, read.get(), options);
    if (!ended.empty()) {
        ::kill(outer, SIGKILL);
        if (account.error.empty()) account.error = ended;
    }
    wait_for(outer);
    return {};
}

} // namespace

Account run_in_sandbox(const Scenario &scenario, const SandboxOptions &options) {
    Account account;
    account.id = scenario.id;
    account.title = scenario.title;
    account.kernel = kernel_release();
    account.skipped = ::geteuid() != 0 ? "needs root: it mounts, and makes devices" : scenario.cannot_run();
    if (!account.skipped.empty()) return account;
    const auto begin = Clock::now();
    if (const auto ran = run(account, scenario, options); !ran) account.error = ran.error().text();
    account.took_ms =
        static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - begin).count());
    return account;
}

} // namespace shale::lab
