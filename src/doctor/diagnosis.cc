// SPDX-License-Identifier: Apache-2.0
#include "doctor/diagnosis.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace shale::doctor {

size_t Diagnosis::count(Severity severity) const {
    return static_cast<size_t>(
        std::ranges::count_if(findings, [&](const Item &item) { return item.finding.severity == severity; }));
}

int Diagnosis::exit_status() const {
    if (count(Severity::warning) + count(Severity::critical) != 0) return 1;
    return unable.empty() ? 0 : 2;
}

Diagnosis diagnose(const probe::Facts &facts, std::span<const Check *const> which) {
    if (which.empty()) which = all_checks();
    Diagnosis out;
    out.checks = which.size();
    for (const Check *check : which) {
        Outcome outcome = check->run(facts);
        for (Finding &finding : outcome.findings)
            out.findings.push_back({check, std::move(finding)});
        for (std::string &why : outcome.unable)
            out.unable.push_back({check, std::move(why)});
    }
    std::ranges::stable_sort(out.findings, std::ranges::greater{},
                             [](const auto &item) { return item.finding.severity; });
    for (const auto &problem : facts.problems)
        out.unread.push_back(fmt::format("{}: {}", problem.about, problem.why));
    return out;
}

} // namespace shale::doctor
