// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

namespace shale::daemon {

/// The program behind shaled's main(): serves until it is told to stop, returns the exit code.
int run_program(const std::vector<std::string> &arguments);

} // namespace shale::daemon
