// SPDX-License-Identifier: Apache-2.0
// How a scenario tells what it does and sees. Whoever listens gets each piece at once, so that a scenario that dies has
// told all that came before.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "lab/account.h"

namespace shale::lab {

struct Ran;     // world.h
struct Finding; // findings.h

class Story {
public:
    explicit Story(std::function<void(const News &)> listener) : listener_(std::move(listener)) {}

    /// All that is told from here on is of this phase.
    void phase(Phase phase) { phase_ = phase; }
    /// A sentence, with lines of evidence.
    void say(std::string text, std::vector<std::string> lines = {});
    /// "$ command", what it printed (the last `most` lines of each stream), and its exit status when that is not 0.
    void show(const Ran &ran, size_t most = 12);
    /// What the doctor says: severity, check, summary, evidence.
    void show(const Finding &finding, size_t most = 6);
    /// A table; the header first.
    void table(std::string text, std::vector<std::vector<std::string>> rows);

    void answer(Question question, bool yes, std::string because);

private:
    void tell(Step step);
    std::function<void(const News &)> listener_;
    Phase phase_ = Phase::build;
};

} // namespace shale::lab
