// SPDX-License-Identifier: Apache-2.0
#include "doctor/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <ctime>
#include <map>
#include <string_view>

#include "base/text.h"
#include "base/units.h"

namespace shale::doctor {

namespace {

constexpr size_t width = 110;
constexpr size_t node_problem_bytes = 80; // node-problem-detector, docs/custom_plugin_monitor.md: max_output_length

class Paint {
public:
    explicit Paint(bool color) : color_(color) {}
    [[nodiscard]] std::string severity(Severity severity) const {
        const std::string_view code = severity == Severity::critical  ? "1;31"
                                      : severity == Severity::warning ? "1;33"
                                                                      : "1;36";
        std::string name(name_of(severity));
        std::ranges::transform(name, name.begin(), [](char c) { return static_cast<char>(c - 'a' + 'A'); });
        return with(code, name);
    }
    [[nodiscard]] std::string strong(std::string_view text) const { return with("1", text); }
    [[nodiscard]] std::string faint(std::string_view text) const { return with("2", text); }

private:
    [[nodiscard]] std::string with(std::string_view code, std::string_view text) const {
        return color_ ? fmt::format("\x1b[{}m{}\x1b[0m", code, text) : std::string(text);
    }
    bool color_;
};

/// Broken between words, for a line of which `column` bytes are written; the other lines begin after `indent` spaces.
std::string wrapped(std::string_view text, size_t column, size_t indent) {
    std::string out;
    bool is_first = true; // of its line
    while (!text.empty()) {
        const size_t end = std::min(text.find(' '), text.size());
        const std::string_view word = text.substr(0, end);
        text.remove_prefix(std::min(end + 1, text.size()));
        if (!is_first && column + 1 + word.size() > width) {
            out += "\n" + std::string(indent, ' ');
            column = indent;
        } else if (!is_first) {
            out += ' ';
            ++column;
        }
        is_first = false;
        out += word;
        column += word.size();
    }
    return out + "\n";
}

/// "  LABEL: TEXT"
std::string labelled(const Paint &paint, std::string_view label, std::string_view text) {
    const std::string begin = fmt::format("  {}: ", label);
    return paint.faint(begin) + wrapped(text, begin.size(), 4);
}

std::string date_of(uint64_t seconds) {
    const auto time = static_cast<time_t>(seconds);
    tm parts{};
    std::array<char, 32> text{};
    if (::gmtime_r(&time, &parts) == nullptr) return "?";
    return {text.data(), std::strftime(text.data(), text.size(), "%Y-%m-%d %H:%M UTC", &parts)};
}

std::string head(const probe::Facts &facts) {
    std::string stores;
    for (const auto &store : facts.stores)
        stores += fmt::format("{}{} {} at {}", stores.empty() ? "" : ", ", store.engine, store.driver, store.root);
    return printable(fmt::format("{}{}{}, {}; stores: {}",
                                 facts.kernel.hostname.empty() ? "a host" : facts.kernel.hostname,
                                 facts.kernel.release.empty() ? "" : ", Linux " + facts.kernel.release,
                                 facts.live ? "" : ", the disk at " + facts.host_root, date_of(facts.taken_s),
                                 stores.empty() ? "none" : stores));
}

std::string one_finding(const Diagnosis::Item &item, const Paint &paint) {
    const Finding &finding = item.finding;
    std::string out = fmt::format("{} {}  {}\n", paint.severity(finding.severity), paint.strong(item.check->id),
                                  printable(finding.subject));
    out += "  " + wrapped(printable(finding.summary), 2, 4);
    for (const std::string &line : finding.evidence)
        out += fmt::format("    - {}\n", printable(line));
    out += labelled(paint, "why", item.check->why);
    out += labelled(paint, "remedy", item.check->remedy);
    for (const std::string &line : finding.commands)
        out += fmt::format("    {} {}\n", line.starts_with('#') ? " " : "$", printable(line));
    if (!item.check->risk.empty()) out += labelled(paint, "risk", item.check->risk);
    if (!item.check->undo.empty()) out += labelled(paint, "undo", item.check->undo);
    return out;
}

/// Label values: backslash, quote and line feed (Prometheus, exposition_formats.md).
std::string label(std::string_view text) {
    std::string out;
    for (const char c : text) {
        if (c == '\\' || c == '"') out += '\\';
        out += c == '\n' ? std::string("\\n") : std::string(1, c);
    }
    return out;
}

/// At most `bytes` of it, "..." at the end of what was cut; no UTF-8 character is cut in two.
std::string cut(std::string_view text, size_t bytes) {
    if (text.size() <= bytes) return std::string(text);
    constexpr std::string_view mark = "...";
    constexpr size_t longest = 3; // of what follows the first byte of a character
    const size_t most = bytes - mark.size();
    size_t end = most;
    const auto in_a_character = [&] { return (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U; };
    while (end > 0 && most - end < longest && in_a_character())
        --end;
    return fmt::format("{}{}", text.substr(0, in_a_character() ? most : end), mark); // not: it is no UTF-8
}

} // namespace

std::string report_text(const probe::Facts &facts, const Diagnosis &diagnosis, bool color) {
    const Paint paint(color);
    std::string out = head(facts) + "\n\n";
    for (const auto &item : diagnosis.findings)
        out += one_finding(item, paint) + "\n";
    if (!diagnosis.unable.empty()) out += paint.strong("Not judged") + "\n";
    for (const auto &unable : diagnosis.unable)
        out += "  " + wrapped(fmt::format("{}: {}", unable.check->id, printable(unable.why)), 2, 4);
    if (!diagnosis.unread.empty()) out += paint.strong("Not read") + "\n";
    for (size_t i = 0; i < std::min(diagnosis.unread.size(), max_evidence); ++i)
        out += fmt::format("  {}\n", printable(diagnosis.unread[i]));
    if (diagnosis.unread.size() > max_evidence)
        out += fmt::format("  ... and {} more\n", diagnosis.unread.size() - max_evidence);
    if (!diagnosis.unable.empty() || !diagnosis.unread.empty()) out += "\n";
    return out + fmt::format("{} checks: {} critical, {} warnings, {} infos, {} not judged\n", diagnosis.checks,
                             diagnosis.count(Severity::critical), diagnosis.count(Severity::warning),
                             diagnosis.count(Severity::info), diagnosis.unable.size());
}

std::string report_line(const Diagnosis &diagnosis) {
    std::string out;
    if (diagnosis.findings.empty() || diagnosis.findings.front().finding.severity == Severity::info) {
        out = diagnosis.unable.empty()
                  ? "no problem found"
                  : fmt::format("not judged: {}: {}", diagnosis.unable.front().check->id, diagnosis.unable.front().why);
    } else {
        const size_t more = diagnosis.count(Severity::critical) + diagnosis.count(Severity::warning) - 1;
        const auto &first = diagnosis.findings.front();
        out = fmt::format("{}{}: {}", first.check->id, more == 0 ? "" : fmt::format(" (+{})", more),
                          first.finding.subject);
    }
    return cut(printable(out), node_problem_bytes);
}

std::string report_prometheus(const probe::Facts &facts, const Diagnosis &diagnosis) {
    std::map<std::pair<std::string_view, Severity>, size_t> found;
    std::map<std::string_view, size_t> unable;
    for (const auto &item : diagnosis.findings)
        ++found[{item.check->id, item.finding.severity}];
    for (const auto &item : diagnosis.unable)
        ++unable[item.check->id];
    std::string out = "# HELP shale_doctor_findings Findings of shale doctor, by check and severity.\n"
                      "# TYPE shale_doctor_findings gauge\n";
    for (const Severity severity : {Severity::critical, Severity::warning, Severity::info})
        for (const Check *check : all_checks())
            out += fmt::format("shale_doctor_findings{{check=\"{}\",severity=\"{}\"}} {}\n", label(check->id),
                               name_of(severity), found[{check->id, severity}]);
    out +=
        "# HELP shale_doctor_unable What a check should have judged and could not.\n# TYPE shale_doctor_unable gauge\n";
    for (const Check *check : all_checks())
        out += fmt::format("shale_doctor_unable{{check=\"{}\"}} {}\n", label(check->id), unable[check->id]);
    return out + fmt::format("# HELP shale_doctor_taken_seconds When the host was looked at, since the epoch.\n"
                             "# TYPE shale_doctor_taken_seconds gauge\nshale_doctor_taken_seconds {}\n",
                             facts.taken_s);
}

std::string check_page(const Check &check) {
    std::string out = fmt::format("# {}: {}\n\n{}\n\n## When it speaks\n\n{}\n\n## Remedy\n\n{}\n", check.id,
                                  check.title, check.why, check.limits, check.remedy);
    if (!check.risk.empty()) out += fmt::format("\n**Risk:** {}\n", check.risk);
    if (!check.undo.empty()) out += fmt::format("\n**Undo:** {}\n", check.undo);
    return out;
}

} // namespace shale::doctor
