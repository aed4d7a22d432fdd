// SPDX-License-Identifier: Apache-2.0
// A process of a scenario that does something and then stays: a service of a container that leaks, watches, or writes.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/fd.h"

namespace shale::lab {

class Actor {
public:
    /// Forks; the new process does `begin`, tells that it is ready when that was true, then does `stay` and waits for
    /// its end. Failed: `begin` was false, or it died. The caller must have one thread.
    static Result<Actor> start(const std::function<bool()> &begin, const std::function<void()> &stay = {});
    Actor(Actor &&other) noexcept;
    Actor &operator=(Actor &&) = delete;
    ~Actor();

    [[nodiscard]] pid_t pid() const noexcept { return pid_; }
    /// SIGKILL; waits until it is gone and its files are closed.
    Status end();
    /// Whether it ends by itself in that time.
    [[nodiscard]] bool ends_within(std::chrono::milliseconds time);

private:
    explicit Actor(pid_t pid) : pid_(pid) {}
    pid_t pid_ = 0;
};

/// This very program in the background; what it says goes to `output` and `errors`.
Result<Actor> start_shale(const std::vector<std::string> &arguments, const std::string &output,
                          const std::string &errors);

/// Asks until it is true, at most that long; false: it never was.
bool eventually(const std::function<bool()> &is_so, std::chrono::milliseconds most = std::chrono::seconds(60));

} // namespace shale::lab
