// SPDX-License-Identifier: Apache-2.0
// What a run of a scenario has to tell: its steps, and the three answers that it is judged by. As JSON it goes from the
// sandbox to the one who asked for it, into a file, and from another machine's file into one report.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace shale::lab {

enum class Phase : uint8_t { build, reproduce, detect, guard, heal, verify };
enum class Question : uint8_t {
    reproduced, ///< the failure was there, for real
    detected,   ///< shale named it, with its figures
    healed,     ///< what could not be done can be done again
};
inline constexpr std::array questions{Question::reproduced, Question::detected, Question::healed};
[[nodiscard]] std::string_view name_of(Phase phase) noexcept;
[[nodiscard]] std::string_view name_of(Question question) noexcept;

/// One thing that was done or seen.
struct Step {
    Phase phase = Phase::build;
    std::string text;                           ///< a sentence, or "$ command"
    std::vector<std::string> lines;             ///< what came out, as it was
    std::vector<std::vector<std::string>> rows; ///< a table: its header first
};

struct Answer {
    bool yes = false;
    std::string because; ///< with the figures
};

struct Account {
    std::string id, title;
    std::string kernel;  ///< that it ran on
    std::string skipped; ///< why it could not run here; empty when it did
    std::string error;   ///< why it ended early; empty when it did not
    uint64_t took_ms = 0;
    std::vector<Step> steps;
    std::array<std::optional<Answer>, questions.size()> answers; ///< by Question
    [[nodiscard]] const std::optional<Answer> &answer(Question question) const {
        return answers[static_cast<size_t>(question)];
    }
};

/// It ran to its end, and every answer is yes.
[[nodiscard]] bool is_good(const Account &account);

/// What a scenario sends while it runs: one of the two.
struct News {
    std::optional<Step> step;
    std::optional<std::pair<Question, Answer>> answer;
};
void take(Account &account, News news);

/// One line, without its end. Bytes that are no UTF-8 become U+FFFD.
std::string to_line(const News &news);
Result<News> news_from_line(std::string_view line);

/// {"version": 1, "scenarios": [...]}.
std::string to_json(const std::vector<Account> &accounts);
/// A file of to_json(), maybe from elsewhere: whatever it holds, it is an answer or InvalidArgument, at most 64 MiB.
Result<std::vector<Account>> accounts_from_json(std::string_view text);
inline constexpr size_t max_accounts_bytes = size_t{64} << 20U;

} // namespace shale::lab
