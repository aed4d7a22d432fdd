// SPDX-License-Identifier: Apache-2.0
// Runs a foreign program where no system call does the work (mkfs, lvm2, thin_check): without a shell, with a deadline.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "base/error.h"

namespace shale::sys {

struct ToolResult {
    int exit_status = 0;
    std::string output; ///< standard output, at most 1 MiB
    std::string errors; ///< standard error, at most 64 KiB
};

/// Path of a program: the system's directories only, whatever PATH says. NotFound names the Debian package to install.
Result<std::string> find_tool(const std::string &name, const std::string &package);

/// Runs `arguments[0]` (a path) and waits until it has ended, not for children that it leaves behind. Standard input is
/// empty, no descriptor is inherited, LC_ALL is C, and the program is killed with its group when the deadline passes
/// (DeadlineExceeded; one that hangs in the kernel is left behind five seconds later) or when this thread dies. An exit
/// status other than 0 is no error here: the caller knows what it means. Needs pidfd_open (Linux 5.3).
Result<ToolResult> run_tool(const std::vector<std::string> &arguments, std::chrono::milliseconds deadline);
/// The same; an exit status other than 0 is FailedPrecondition with the program's own words.
Result<std::string> run_tool_or_fail(const std::vector<std::string> &arguments, std::chrono::milliseconds deadline);

} // namespace shale::sys
