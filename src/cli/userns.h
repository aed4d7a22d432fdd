// SPDX-License-Identifier: Apache-2.0
// Working without root: a user and mount namespace of our own.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "cli/context.h"

namespace shale::cli {

/// For a caller that is not root: moves this process (single-threaded yet) into a new user and mount namespace, as root
/// there, with the ranges of /etc/subuid and /etc/subgid where newuidmap can map them, else with the caller's ids only.
/// When the host forbids it the reason is in `unavailable` and the process goes on as it was. For root: nothing.
Rootless enter_user_namespace();

/// A range of ids as /etc/subuid states it.
struct IdRange {
    unsigned start = 0, count = 0;
};
/// First range of `name` or `id` in the text of /etc/subuid; count 0: none. Malformed lines are passed over.
IdRange find_sub_range(std::string_view text, std::string_view name, unsigned id);

/// Runs a program by its absolute path (no shell) with a deadline; not exiting with 0 is an error.
Status run_tool(const std::string &path, const std::vector<std::string> &arguments, int deadline_seconds);

} // namespace shale::cli
