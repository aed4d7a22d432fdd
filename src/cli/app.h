// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

namespace shale::cli {

/// The program behind main(): returns the exit code.
int run_program(const std::vector<std::string> &arguments);

} // namespace shale::cli
