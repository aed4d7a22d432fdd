// SPDX-License-Identifier: Apache-2.0
#include "lab/findings.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>

#include "lab/world.h"

namespace shale::lab {

Result<std::vector<Finding>> findings_of(const Ran &doctor) {
    std::vector<Finding> out;
    try {
        const auto report = nlohmann::json::parse(doctor.out);
        for (const auto &finding : report.at("findings"))
            out.push_back({finding.at("check"), finding.at("severity"), finding.at("subject"), finding.at("summary"),
                           finding.at("evidence"), finding.at("commands")});
    } catch (const nlohmann::json::exception &error) {
        return fail(Errc::InvalidArgument,
                    fmt::format("{}: exit status {}, {}: {}", doctor.line, doctor.status, error.what(), doctor.errors));
    }
    return out;
}

std::optional<Finding> find(const std::vector<Finding> &findings, std::string_view check, std::string_view text) {
    const auto has = [&](std::string_view where) { return where.find(text) != std::string_view::npos; };
    const auto found = std::ranges::find_if(findings, [&](const Finding &finding) {
        return finding.check == check &&
               (has(finding.subject) || has(finding.summary) || std::ranges::any_of(finding.evidence, has));
    });
    return found != findings.end() ? std::optional(*found) : std::nullopt;
}

} // namespace shale::lab
