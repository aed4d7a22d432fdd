// SPDX-License-Identifier: Apache-2.0
#include "cli/watch_delivery.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>

#include <fmt/format.h>

#include "base/text.h"
#include "base/units.h"
#include "cli/context.h"
#include "cli/json.h"
#include "sys/pidfd.h"

namespace shale::cli {
namespace {

/// A number, or null for "nothing was there".
std::string inode_json(uint64_t inode) {
    return inode == 0 ? "null" : std::to_string(inode);
}

std::vector<char *> pointers_to(std::vector<std::string> &words) {
    std::vector<char *> out;
    out.reserve(words.size() + 1);
    for (std::string &word : words)
        out.push_back(word.data());
    out.push_back(nullptr);
    return out;
}

/// In the child. Standard output is the events'.
[[noreturn]] void become(char *const *command, char *const *environment, const sigset_t &signals, mode_t mask) {
    for (const int signal : {SIGINT, SIGTERM, SIGPIPE})
        ::signal(signal, SIG_DFL);
    ::sigprocmask(SIG_SETMASK, &signals, nullptr);
    ::umask(mask);
    const int nothing = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    ::dup2(nothing, STDIN_FILENO);
    ::dup2(STDERR_FILENO, STDOUT_FILENO);
    ::execvpe(command[0], command, environment);
    const int error = errno;
    ::dprintf(STDERR_FILENO, "shale: cannot run %s: %s\n", printable(command[0]).c_str(), std::strerror(error));
    ::_exit(127);
}

} // namespace

std::string event_line(const WatchEvent &event) {
    return fmt::format("{} {:<10} {}\n", format_time_ns(event.time_ns), event.kind, printable(event.path));
}

std::string event_json(const WatchEvent &event) {
    std::string out =
        fmt::format(R"({{"time":{},"event":{},"path":{},"inode_before":{},"inode_after":{})",
                    json_quote(format_time_ns(event.time_ns)), json_quote(event.kind), json_quote(event.path),
                    inode_json(event.inode_before), inode_json(event.inode_after));
    if (!event.source.empty()) out += fmt::format(R"(,"source":{})", json_quote(event.source));
    if (event.is_stale) out += R"(,"stale":true)";
    return out + "}\n";
}

Result<int> parse_signal(std::string_view text) {
    int number = 0;
    const auto [end, bad] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (bad == std::errc() && end == text.data() + text.size() && number > 0 && number < NSIG) return number;
    std::string name(text);
    std::ranges::transform(name, name.begin(), [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
    if (name.starts_with("SIG")) name.erase(0, 3);
    for (int signal = 1; signal < NSIG; ++signal)
        if (const char *known = ::sigabbrev_np(signal); known != nullptr && name == known) return signal;
    return fail(Errc::InvalidArgument,
                fmt::format("there is no signal \"{}\"; it is a name such as HUP, or a number", text));
}

CommandRunner::CommandRunner(std::vector<std::string> command, const sigset_t &signals, mode_t mask)
    : command_(std::move(command)), signals_(signals), mask_(mask) {}

CommandRunner::~CommandRunner() {
    if (child_ != 0) ::kill(child_, SIGTERM); // its number is its own until it is waited for
}

void CommandRunner::add(const WatchEvent &event) {
    if (command_.empty()) return;
    const auto same = std::ranges::find(waiting_, event.path, &Call::path);
    if (same != waiting_.end())
        same->kind = event.kind;
    else
        waiting_.push_back({event.kind, event.path});
}

void CommandRunner::step() {
    if (child_ != 0) {
        int status = 0;
        if (::waitpid(child_, &status, WNOHANG) != child_) return;
        child_ = 0;
        child_fd_.reset();
        note_end(status);
    }
    if (waiting_.empty()) return;
    const Call next = std::move(waiting_.front());
    waiting_.pop_front();
    start(next);
}

void CommandRunner::start(const Call &call) {
    std::vector<std::string> environment;
    for (char **one = environ; one != nullptr && *one != nullptr; ++one) {
        const std::string_view entry = *one;
        if (!entry.starts_with("SHALE_PATH=") && !entry.starts_with("SHALE_EVENT=")) environment.emplace_back(entry);
    }
    environment.push_back("SHALE_PATH=" + call.path);
    environment.push_back("SHALE_EVENT=" + call.kind);
    auto words = pointers_to(command_), values = pointers_to(environment);
    const pid_t child = ::fork();
    if (child == 0) become(words.data(), values.data(), signals_, mask_);
    if (child < 0) {
        Context::note(fmt::format("shale: {} was not run: {}", printable(command_.front()), std::strerror(errno)));
        return;
    }
    child_ = child;
    auto fd = sys::open_process(child);
    if (fd) child_fd_ = std::move(*fd);
}

void CommandRunner::note_end(int status) const {
    const std::string name = printable(command_.front());
    if (WIFSIGNALED(status)) Context::note(fmt::format("shale: {} was killed by signal {}", name, WTERMSIG(status)));
    if (WIFEXITED(status) && WEXITSTATUS(status) != 0)
        Context::note(fmt::format("shale: {} ended with status {}", name, WEXITSTATUS(status)));
}

} // namespace shale::cli
