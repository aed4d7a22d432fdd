// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "base/text.h"
#include "base/units.h"
#include "doctor/checks/common.h"
#include "doctor/report.h"
#include "doctor/space.h"
#include "doctor/treemap.h"

namespace shale::doctor {

namespace {

constexpr std::string_view sheet = R"(
body{font:15px/1.45 system-ui,sans-serif;max-width:1040px;margin:2em auto;padding:0 1em;color:#1c2226;background:#fff}
h1{font-size:1.5em} h2{font-size:1.2em;margin-top:2em} code,pre{font:13px ui-monospace,monospace}
pre{background:#f3f5f7;padding:.6em .8em;overflow-x:auto} .finding{border-left:5px solid #888;padding:.1em 1em;margin:1.2em 0}
.critical{border-color:#c0262d} .warning{border-color:#d08a00} .info{border-color:#3478a8}
.badge{color:#fff;padding:.1em .5em;border-radius:3px;font-size:.8em} .critical .badge{background:#c0262d}
.warning .badge{background:#8f5f00} .info .badge{background:#3478a8} dt{font-weight:600} dd{margin:0 0 .4em 1em}
svg text{font:11px system-ui,sans-serif} @media(prefers-color-scheme:dark){body{color:#dde3e8;background:#14181b}
pre{background:#20272c}}
)";

std::string space_html(const Space &space) {
    const auto &fs = *space.file_system;
    std::vector<SpaceNode> parts = space.parts;
    if (space.rest_bytes > 0) parts.push_back({.name = "the rest", .bytes = static_cast<uint64_t>(space.rest_bytes)});
    parts.push_back({.name = "free", .bytes = fs.free_bytes});
    return fmt::format("<h2>{} ({}): {} used of {}</h2>\n{}", html_escaped(fs.target), html_escaped(fs.type),
                       format_bytes(space.used_bytes), format_bytes(fs.total_bytes),
                       treemap_svg(std::move(parts), "where the space is"));
}

std::string section(std::string_view name, std::string_view text) {
    return text.empty() ? "" : fmt::format("<dt>{}</dt><dd>{}</dd>\n", name, html_escaped(text));
}

} // namespace

std::string_view report_style() noexcept {
    return sheet;
}

std::string finding_html(const Diagnosis::Item &item) {
    const auto &[check, finding] = item;
    std::string out =
        fmt::format("<div class=\"finding {0}\"><p><span class=\"badge\">{0}</span> <b>{1}</b> {2}</p>\n<p>{3}</p>\n",
                    name_of(finding.severity), check->id, html_escaped(finding.subject), html_escaped(finding.summary));
    if (!finding.evidence.empty()) {
        out += "<ul>\n";
        for (const std::string &line : finding.evidence)
            out += fmt::format("<li>{}</li>\n", html_escaped(line));
        out += "</ul>\n";
    }
    out += "<dl>\n" + section("Why it matters", check->why) + section("Remedy", check->remedy);
    if (!finding.commands.empty()) {
        out += "<dd><pre>";
        for (const std::string &line : finding.commands)
            out += html_escaped(line) + "\n";
        out += "</pre></dd>\n";
    }
    return out + section("Risk", check->risk) + section("Undo", check->undo) + "</dl></div>\n";
}

std::string report_html(const probe::Facts &facts, const Diagnosis &diagnosis) {
    const std::string title = html_escaped(fmt::format("shale doctor: {}", facts.kernel.hostname));
    std::string out =
        fmt::format("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{0}</title>\n"
                    "<style>{1}</style></head><body>\n<h1>{0}</h1>\n<p>{2} checks: {3} critical, {4} warnings, "
                    "{5} infos, {6} not judged</p>\n",
                    title, report_style(), diagnosis.checks, diagnosis.count(Severity::critical),
                    diagnosis.count(Severity::warning), diagnosis.count(Severity::info), diagnosis.unable.size());
    for (const auto &item : diagnosis.findings)
        out += finding_html(item);
    if (!diagnosis.unable.empty()) {
        out += "<h2>Not judged</h2>\n<ul>\n";
        for (const auto &[check, why] : diagnosis.unable)
            out += fmt::format("<li><b>{}</b> {}</li>\n", check->id, html_escaped(why));
        out += "</ul>\n";
    }
    for (const Space &space : account(facts))
        out += space_html(space);
    return out + "</body></html>\n";
}

} // namespace shale::doctor
