// SPDX-License-Identifier: Apache-2.0
#include "lab/account.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <ranges>

namespace shale::lab {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::array<std::string_view, 6> phases{"build", "reproduce", "detect", "guard", "heal", "verify"};
constexpr std::array<std::string_view, questions.size()> question_names{"reproduced", "detected", "healed"};
constexpr int version = 1;

Json json_of(const Step &step) {
    Json out{{"phase", name_of(step.phase)}, {"text", step.text}};
    if (!step.lines.empty()) out["lines"] = step.lines;
    if (!step.rows.empty()) out["rows"] = step.rows;
    return out;
}

Json json_of(const Answer &answer) {
    return {{"yes", answer.yes}, {"because", answer.because}};
}

/// Throws nlohmann's exceptions, as all readers here: accounts_from_json() and news_from_line() end them.
Step step_of(const Json &json) {
    Step out;
    const auto name = json.at("phase").get<std::string>();
    const auto *found = std::ranges::find(phases, name);
    if (found == phases.end()) throw std::invalid_argument(fmt::format("no phase is called {:?}", name));
    out.phase = static_cast<Phase>(found - phases.begin());
    out.text = json.at("text").get<std::string>();
    if (json.contains("lines")) out.lines = json.at("lines").get<std::vector<std::string>>();
    if (json.contains("rows")) out.rows = json.at("rows").get<std::vector<std::vector<std::string>>>();
    for (const auto &row : out.rows)
        if (row.size() != out.rows.front().size()) throw std::invalid_argument("a table whose rows differ in length");
    return out;
}

Answer answer_of(const Json &json) {
    return {json.at("yes").get<bool>(), json.at("because").get<std::string>()};
}

Question question_of(const std::string &name) {
    const auto *found = std::ranges::find(question_names, name);
    if (found == question_names.end()) throw std::invalid_argument(fmt::format("no answer is called {:?}", name));
    return static_cast<Question>(found - question_names.begin());
}

Json json_of(const Account &account) {
    Json out{{"id", account.id}, {"title", account.title}, {"kernel", account.kernel}};
    if (!account.skipped.empty()) {
        out["skipped"] = account.skipped;
        return out;
    }
    if (!account.error.empty()) out["error"] = account.error;
    out["took_ms"] = account.took_ms;
    for (const Question question : questions)
        if (const auto &answer = account.answer(question)) out[std::string(name_of(question))] = json_of(*answer);
    out["steps"] = Json::array();
    for (const Step &step : account.steps)
        out["steps"].push_back(json_of(step));
    return out;
}

Account account_of(const Json &json) {
    Account out;
    out.id = json.at("id").get<std::string>();
    out.title = json.at("title").get<std::string>();
    out.kernel = json.at("kernel").get<std::string>();
    if (json.contains("skipped")) out.skipped = json.at("skipped").get<std::string>();
    if (json.contains("error")) out.error = json.at("error").get<std::string>();
    if (json.contains("took_ms")) out.took_ms = json.at("took_ms").get<uint64_t>();
    for (const Question question : questions)
        if (const std::string key(name_of(question)); json.contains(key))
            out.answers[static_cast<size_t>(question)] = answer_of(json.at(key));
    if (json.contains("steps"))
        for (const Json &step : json.at("steps"))
            out.steps.push_back(step_of(step));
    return out;
}

/// Nesting that deep is in no document of ours, and would be a stack's end.
constexpr int deepest = 16;

Json parsed(std::string_view text) {
    return Json::parse(text, [](int depth, Json::parse_event_t, const Json &) {
        if (depth > deepest) throw std::invalid_argument("nested too deeply");
        return true;
    });
}

template <class F> auto guarded(std::string_view what, F &&read) -> Result<decltype(read())> {
    try {
        return read();
    } catch (const Json::exception &error) {
        return fail(Errc::InvalidArgument, fmt::format("{}: {}", what, error.what()));
    } catch (const std::invalid_argument &error) {
        return fail(Errc::InvalidArgument, fmt::format("{}: {}", what, error.what()));
    }
}

std::string dumped(const Json &json, int indent) {
    return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

} // namespace

std::string_view name_of(Phase phase) noexcept {
    return phases[static_cast<size_t>(phase)];
}

std::string_view name_of(Question question) noexcept {
    return question_names[static_cast<size_t>(question)];
}

bool is_good(const Account &account) {
    return account.skipped.empty() && account.error.empty() &&
           std::ranges::all_of(account.answers, [](const auto &answer) { return answer && answer->yes; });
}

void take(Account &account, News news) {
    if (news.step) account.steps.push_back(std::move(*news.step));
    if (news.answer) account.answers[static_cast<size_t>(news.answer->first)] = std::move(news.answer->second);
}

std::string to_line(const News &news) {
    Json out = Json::object();
    if (news.step) out["step"] = json_of(*news.step);
    if (news.answer) {
        out["answer"] = json_of(news.answer->second);
        out["answer"]["of"] = name_of(news.answer->first);
    }
    return dumped(out, -1);
}

Result<News> news_from_line(std::string_view line) {
    return guarded("a scenario's line", [&] {
        const Json json = parsed(line);
        News out;
        if (json.contains("step")) out.step = step_of(json.at("step"));
        if (json.contains("answer"))
            out.answer =
                std::pair{question_of(json.at("answer").at("of").get<std::string>()), answer_of(json.at("answer"))};
        return out;
    });
}

std::string to_json(const std::vector<Account> &accounts) {
    Json out{{"version", version}, {"scenarios", Json::array()}};
    for (const Account &account : accounts)
        out["scenarios"].push_back(json_of(account));
    return dumped(out, 1) + "\n";
}

Result<std::vector<Account>> accounts_from_json(std::string_view text) {
    if (text.size() > max_accounts_bytes)
        return fail(Errc::ResourceExhausted,
                    fmt::format("a report of the lab of more than {} bytes", max_accounts_bytes));
    return guarded("a report of the lab", [&] {
        const Json json = parsed(text);
        if (const auto theirs = json.at("version").get<int>(); theirs != version)
            throw std::invalid_argument(fmt::format("its version is {}, this shale reads {}", theirs, version));
        std::vector<Account> out;
        for (const Json &scenario : json.at("scenarios"))
            out.push_back(account_of(scenario));
        return out;
    });
}

} // namespace shale::lab
