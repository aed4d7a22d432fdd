// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "lab/report.h"

namespace shale::lab {
namespace {

constexpr std::string_view style = R"(
body{font:15px/1.45 system-ui,sans-serif;max-width:1040px;margin:2em auto;padding:0 1em;color:#1c2226;background:#fff}
h1{font-size:1.5em} h2{font-size:1.2em;margin-top:2.2em} h3{font-size:1em;margin:1.2em 0 .3em;text-transform:capitalize}
code,pre,td,th{font:13px ui-monospace,monospace} pre{background:#f3f5f7;padding:.5em .8em;overflow-x:auto;margin:.2em 0 .8em}
table{border-collapse:collapse;margin:.3em 0 1em} td,th{padding:.2em .8em .2em 0;text-align:left;border-bottom:1px solid #ccd2d8}
.yes{color:#1d7a3a;font-weight:600} .no{color:#c0262d;font-weight:600} .skipped{color:#777} p{margin:.5em 0 .2em}
@media(prefers-color-scheme:dark){body{color:#dde3e8;background:#14181b} pre{background:#20272c} .yes{color:#6fcf8f}
.no{color:#ff7b80} td,th{border-color:#39424a}}
)";

std::string cell(const Account &account, Question question) {
    const auto verdict = verdict_of(account, question);
    return fmt::format("<td class=\"{}\">{}</td>",
                       verdict == "yes"  ? "yes"
                       : verdict == "NO" ? "no"
                                         : "skipped",
                       verdict);
}

std::string table_of(const std::vector<std::vector<std::string>> &rows) {
    std::string out = "<table>\n";
    for (size_t i = 0; i < rows.size(); ++i) {
        const std::string_view tag = i == 0 ? "th" : "td";
        out += "<tr>";
        for (const auto &text : rows[i])
            out += fmt::format("<{0}>{1}</{0}>", tag, html_escaped(text));
        out += "</tr>\n";
    }
    return out + "</table>\n";
}

std::string step_html(const Step &step) {
    std::string out = step.text.starts_with("$ ") ? "<pre>" : "<p>";
    out += html_escaped(step.text);
    if (!step.text.starts_with("$ ")) out += "</p>\n";
    if (!step.lines.empty()) {
        out += step.text.starts_with("$ ") ? "\n" : "<pre>";
        for (const auto &line : step.lines)
            out += html_escaped(line) + "\n";
        out += "</pre>\n";
    } else if (step.text.starts_with("$ ")) {
        out += "</pre>\n";
    }
    if (!step.rows.empty()) out += table_of(step.rows);
    return out;
}

std::string story_html(const Account &account) {
    std::string out =
        fmt::format("<h2 id=\"{0}\">{0}: {1}</h2>\n", html_escaped(account.id), html_escaped(account.title));
    if (!account.skipped.empty())
        return out + fmt::format("<p class=\"skipped\">Not run: {}</p>\n", html_escaped(account.skipped));
    for (const Question question : questions)
        if (const auto &answer = account.answer(question))
            out += fmt::format("<p><span class=\"{}\">{}: {}</span>. {}</p>\n", answer->yes ? "yes" : "no",
                               name_of(question), verdict_of(account, question), html_escaped(answer->because));
    if (!account.error.empty())
        out += fmt::format("<p class=\"no\">It ended early: {}</p>\n", html_escaped(account.error));
    std::optional<Phase> phase;
    for (const Step &step : account.steps) {
        if (phase != step.phase) out += fmt::format("<h3>{}</h3>\n", name_of(step.phase));
        phase = step.phase;
        out += step_html(step);
    }
    return out;
}

} // namespace

std::string_view verdict_of(const Account &account, Question question) {
    const auto &answer = account.answer(question);
    return !answer ? "-" : answer->yes ? "yes" : "NO";
}

std::string report_html(const std::vector<Account> &accounts) {
    std::string out = fmt::format("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
                                  "<meta name=\"viewport\" content=\"width=device-width\"><title>shale lab</title>"
                                  "<style>{}</style></head><body>\n<h1>shale lab</h1>\n",
                                  style);
    const auto good = std::ranges::count_if(accounts, is_good);
    const auto skipped =
        std::ranges::count_if(accounts, [](const Account &account) { return !account.skipped.empty(); });
    out += fmt::format("<p>{} scenarios: {} reproduced, detected and healed, {} not, {} not run.</p>\n",
                       accounts.size(), good, static_cast<std::ptrdiff_t>(accounts.size()) - good - skipped, skipped);
    out += "<table>\n<tr><th>scenario</th><th>reproduced</th><th>detected</th><th>healed</th><th>seconds</"
           "th><th>kernel</th></tr>\n";
    for (const Account &account : accounts) {
        out += fmt::format("<tr><td><a href=\"#{0}\">{0}</a></td>", html_escaped(account.id));
        for (const Question question : questions)
            out += cell(account, question);
        out += fmt::format("<td>{:.1f}</td><td>{}</td></tr>\n", static_cast<double>(account.took_ms) / 1000,
                           html_escaped(account.kernel));
    }
    out += "</table>\n";
    for (const Account &account : accounts)
        out += story_html(account);
    return out + "</body></html>\n";
}

} // namespace shale::lab
