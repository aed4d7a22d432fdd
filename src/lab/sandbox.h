// SPDX-License-Identifier: Apache-2.0
// Runs a scenario in mount and PID namespaces of its own. Its processes end with it, its mounts with them, its loop
// devices with those, and the files behind them with the devices: whatever way it ends, and whoever is killed.
//
//     shale lab run ── keeper                      what namespaces do not end (keeper.h)
//           └── outer: makes the namespaces, waits
//                 └── init: PID 1 there; waits for all
//                       └── the scenario; what it tells goes through a pipe to `shale lab run`
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <string>

#include "lab/account.h"
#include "lab/scenario.h"

namespace shale::lab {

struct SandboxOptions {
    std::string files;               ///< directory on the file system that holds the disks; empty: memory
    std::chrono::seconds limit{600}; ///< then it is ended
    const std::atomic<bool> *cancel = nullptr;
    std::function<void(const News &)> listener; ///< is told while it runs
};

/// Forks: to be called while this process has one thread. What could not be done is in the account: skipped, or error.
Account run_in_sandbox(const Scenario &scenario, const SandboxOptions &options);

} // namespace shale::lab
