// SPDX-License-Identifier: Apache-2.0
// A check: a pure function from facts to findings, with all that a person needs to act on one. Its page in docs/checks
// is made from the same words (`shale doctor --explain ID`). One file a check in checks/, one line in checks/all.cc.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "probe/facts.h"

namespace shale::doctor {

enum class Severity : uint8_t {
    info,     ///< good to know; nothing has to be done
    warning,  ///< will hurt, or hurts already a little
    critical, ///< hurts now, or loses data
};
[[nodiscard]] std::string_view name_of(Severity severity) noexcept;

struct Finding {
    Severity severity = Severity::warning;
    std::string subject;               ///< what it is about: a mount, a store, a pool, "process 12 (nginx)"
    std::string summary;               ///< one sentence, with the figures
    std::vector<std::string> evidence; ///< a line each: figures and paths, the worst first; at most max_evidence
    std::vector<std::string> commands; ///< of the remedy, exact, in order; a line that begins with "#" is a remark
    auto operator<=>(const Finding &) const = default;
};
inline constexpr size_t max_evidence = 20;

/// What a check says about a host.
struct Outcome {
    std::vector<Finding> findings;
    std::vector<std::string> unable; ///< what it should have looked at and could not, and why
};

struct Check {
    std::string_view id;     ///< "inodes-low"
    std::string_view title;  ///< "A file system is running out of inodes"
    std::string_view why;    ///< why it matters: what breaks, and how that shows; whole sentences
    std::string_view limits; ///< when it speaks: thresholds and the source of each
    std::string_view remedy, risk, undo;
    Outcome (*run)(const probe::Facts &facts);
};

/// All of them, in the order of their ids.
std::span<const Check *const> all_checks();
/// nullptr: there is none with that id.
const Check *find_check(std::string_view id);

} // namespace shale::doctor
