// SPDX-License-Identifier: Apache-2.0
// shaled in a process of its own.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace shale::test {

/// The program, serving a store at `root` on `socket`, with a driver of driver_names() as store_options() would open
/// it.
std::vector<std::string> shaled_arguments(const std::string &tested, const std::string &root,
                                          const std::string &socket);

/// Runs until the end of this object; can die every now and then and come back.
class Shaled {
public:
    /// `arguments`: the program and its arguments. What it says is appended to the file `log`.
    Shaled(std::vector<std::string> arguments, std::string log);
    ~Shaled();
    Shaled(const Shaled &) = delete;
    Shaled &operator=(const Shaled &) = delete;
    /// Kills from now on until calm().
    void storm();
    void calm();
    [[nodiscard]] int kills() const { return kills_; }
    /// Killed now, with -9, and begun again; `meanwhile` is called when it is dead.
    void restart(const std::function<void()> &meanwhile = [] {});
    /// Goes up before it is ended, and when it has begun: odd while it runs.
    [[nodiscard]] uint64_t turns() const { return turns_; }
    /// Held by who has files open on a mount: a new process would inherit them, and the mount would be busy.
    std::mutex &starting() { return starting_; }
    /// What it ended with.
    int end(int signal);

private:
    void start();

    std::vector<std::string> arguments_;
    std::string log_;
    std::mutex starting_;
    std::atomic<int> kills_{0};
    std::atomic<uint64_t> turns_{0};
    std::atomic<pid_t> pid_{-1};
    std::jthread killer_;
};

} // namespace shale::test
