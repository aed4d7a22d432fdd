// SPDX-License-Identifier: Apache-2.0
#include "lab/story.h"

#include <fmt/format.h>

#include <algorithm>

#include "lab/findings.h"
#include "lab/world.h"

namespace shale::lab {
namespace {

/// The last `most` lines of it, and how many were left out.
void add_lines(std::vector<std::string> &out, std::string_view text, size_t most) {
    std::vector<std::string_view> lines;
    while (!text.empty()) {
        const size_t end = std::min(text.find('\n'), text.size());
        if (end != 0) lines.push_back(text.substr(0, end));
        text.remove_prefix(std::min(end + 1, text.size()));
    }
    const size_t left_out = lines.size() - std::min(lines.size(), most);
    if (left_out > 0) out.push_back(fmt::format("... ({} lines)", left_out));
    for (size_t i = left_out; i < lines.size(); ++i)
        out.emplace_back(lines[i]);
}

} // namespace

void Story::tell(Step step) {
    step.phase = phase_;
    listener_({std::move(step), {}});
}

void Story::say(std::string text, std::vector<std::string> lines) {
    tell({phase_, std::move(text), std::move(lines), {}});
}

void Story::show(const Ran &ran, size_t most) {
    Step step{phase_, "$ " + ran.line, {}, {}};
    add_lines(step.lines, ran.out, most);
    add_lines(step.lines, ran.errors, most);
    if (ran.status != 0) step.lines.push_back(fmt::format("(exit status {})", ran.status));
    tell(std::move(step));
}

void Story::show(const Finding &finding, size_t most) {
    std::vector<std::string> lines = finding.evidence;
    if (lines.size() > most) {
        const size_t left_out = lines.size() - most;
        lines.resize(most);
        lines.push_back(fmt::format("... ({} lines)", left_out));
    }
    tell({phase_,
          fmt::format("doctor, {}: {}: {}", finding.severity, finding.check, finding.summary),
          std::move(lines),
          {}});
}

void Story::table(std::string text, std::vector<std::vector<std::string>> rows) {
    tell({phase_, std::move(text), {}, std::move(rows)});
}

void Story::answer(Question question, bool yes, std::string because) {
    listener_({{}, std::pair{question, Answer{yes, std::move(because)}}});
}

} // namespace shale::lab
