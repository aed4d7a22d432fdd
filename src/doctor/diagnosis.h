// SPDX-License-Identifier: Apache-2.0
// All checks over the facts of a host, the worst first.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "doctor/check.h"

namespace shale::doctor {

struct Diagnosis {
    struct Item {
        const Check *check = nullptr;
        Finding finding;
    };
    struct Unable {
        const Check *check = nullptr;
        std::string why;
    };
    std::vector<Item> findings;      ///< by severity (critical first), then by the checks' ids
    std::vector<Unable> unable;      ///< what a check should have judged and could not
    std::vector<std::string> unread; ///< what the host's readers passed over; no check missed it
    size_t checks = 0;               ///< how many looked

    [[nodiscard]] size_t count(Severity severity) const;
    /// The exit status of node-problem-detector's custom plugins and of Nagios' kind: 0 nothing but infos, 1 a problem,
    /// 2 no problem was found, but something could not be looked at.
    [[nodiscard]] int exit_status() const;
};

/// `which` empty: all checks.
Diagnosis diagnose(const probe::Facts &facts, std::span<const Check *const> which = {});

} // namespace shale::doctor
