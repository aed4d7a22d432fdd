// SPDX-License-Identifier: Apache-2.0
// The calls of the snapshot service as the rest of the daemon sees them: for logs and metrics.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <string_view>

namespace shale::frontends {

enum class Method : uint8_t { Prepare, View, Mounts, Commit, Remove, Stat, Update, List, Usage, Cleanup };
inline constexpr std::array<std::string_view, 10> method_names{"Prepare", "View",   "Mounts", "Commit", "Remove",
                                                               "Stat",    "Update", "List",   "Usage",  "Cleanup"};

/// Names of the status codes by number (google.rpc.Code), as gRPC's own tools print them.
inline constexpr std::array<std::string_view, 17> code_names{
    "OK",       "Canceled",       "Unknown",          "InvalidArgument",   "DeadlineExceeded",
    "NotFound", "AlreadyExists",  "PermissionDenied", "ResourceExhausted", "FailedPrecondition",
    "Aborted",  "OutOfRange",     "Unimplemented",    "Internal",          "Unavailable",
    "DataLoss", "Unauthenticated"};

/// One call that has ended. The texts live as long as the observer's call.
struct Call {
    Method method = Method::Stat;
    unsigned code = 0; ///< of the status, by number; 0 = OK
    std::chrono::nanoseconds took{};
    std::string_view key;     ///< snapshot that it was about; empty: none
    std::string_view message; ///< of a failed one
};
/// Called from many threads at once.
using CallObserver = std::function<void(const Call &)>;

} // namespace shale::frontends
