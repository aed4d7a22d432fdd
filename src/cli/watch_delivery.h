// SPDX-License-Identifier: Apache-2.0
// What becomes of a change that was seen: a line, a signal, a command.
#pragma once

#include <signal.h>
#include <sys/types.h>

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/fd.h"

namespace shale::cli {

struct WatchEvent {
    int64_t time_ns = 0;
    std::string kind, path;
    uint64_t inode_before = 0, inode_after = 0; ///< 0: nothing was there
    std::string source;                         ///< where it was seen, when that is not the path
    bool is_stale = false;
};
/// "TIME KIND PATH", control characters escaped; ends with a line feed.
std::string event_line(const WatchEvent &event);
/// One line of JSON.
std::string event_json(const WatchEvent &event);

/// "HUP", "SIGHUP", "hup", "1". InvalidArgument: there is no such signal.
Result<int> parse_signal(std::string_view text);

/// Runs a command for events, one at a time; those that come meanwhile wait, each path with its last event only.
class CommandRunner {
public:
    /// `command` is found in PATH; empty: nothing is ever run. `signals` and `mask` are as the command gets them.
    CommandRunner(std::vector<std::string> command, const sigset_t &signals, mode_t mask);
    CommandRunner(const CommandRunner &) = delete;
    CommandRunner &operator=(const CommandRunner &) = delete;
    /// One that still runs is told to end (SIGTERM), and left.
    ~CommandRunner();

    void add(const WatchEvent &event);
    /// Starts the next one when none runs; takes the end of one that has. A failure is a note, never an error.
    void step();
    [[nodiscard]] bool is_busy() const noexcept { return child_ != 0 || !waiting_.empty(); }
    /// For poll(2): readable when it has ended; -1: none runs.
    [[nodiscard]] int fd() const noexcept { return child_fd_.get(); }

private:
    struct Call {
        std::string kind, path;
    };
    void start(const Call &call);
    void note_end(int status) const;

    std::vector<std::string> command_;
    sigset_t signals_;
    mode_t mask_;
    std::deque<Call> waiting_;
    pid_t child_ = 0;
    UniqueFd child_fd_;
};

} // namespace shale::cli
