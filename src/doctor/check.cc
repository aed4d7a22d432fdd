// SPDX-License-Identifier: Apache-2.0
#include "doctor/check.h"

#include <algorithm>

namespace shale::doctor {

std::string_view name_of(Severity severity) noexcept {
    switch (severity) {
    case Severity::info:
        return "info";
    case Severity::warning:
        return "warning";
    case Severity::critical:
        return "critical";
    }
    return "?";
}

const Check *find_check(std::string_view id) {
    const auto all = all_checks();
    const auto found = std::ranges::lower_bound(all, id, {}, [](const Check *check) { return check->id; });
    return found != all.end() && (*found)->id == id ? *found : nullptr;
}

} // namespace shale::doctor
