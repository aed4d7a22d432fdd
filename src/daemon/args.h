// SPDX-License-Identifier: Apache-2.0
// The command line of shaled.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cli/load.h"

namespace shale::daemon {

struct CommandLine {
    cli::Globals globals;         ///< `flags` has one SnapshotterTable when --root, --driver or --listen was given
    std::optional<int> exit_code; ///< set: help or version was printed, nothing is left to do
};
/// A wrong command line is InvalidArgument (exit code 2). `arguments`: without the program's name.
Result<CommandLine> parse_command_line(const std::vector<std::string> &arguments);

} // namespace shale::daemon
