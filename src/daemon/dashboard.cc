// SPDX-License-Identifier: Apache-2.0
#include "daemon/dashboard.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>

#include "base/text.h"
#include "base/units.h"
#include "doctor/report.h"
#include "doctor/treemap.h"

namespace shale::daemon {
namespace {

constexpr int again_s = 15; ///< the page is loaded again
constexpr double bar_width = 260, bar_height = 14, line_width = 180, line_height = 28;

constexpr std::string_view sheet = R"(
table{border-collapse:collapse;width:100%} th,td{text-align:left;padding:.25em .8em .25em 0;vertical-align:top;border-bottom:1px solid #d5dade}
.scroll{overflow-x:auto} td.number{text-align:right;white-space:nowrap} .bad{color:#c0262d;font-weight:600} .quiet{color:#6a747c}
.bar{display:block} .bar .room{fill:#e4e8eb} .bar .use{fill:#3478a8} .bar .use.high{fill:#c0262d} .bar line{stroke:#1c2226;stroke-width:1}
.bar line.entered{stroke:#c0262d;stroke-width:2} .line{display:block} .line polyline{fill:none;stroke:#3478a8;stroke-width:1.5}
td svg{max-width:none} td{overflow-wrap:anywhere;min-width:4em}
@media(prefers-color-scheme:dark){th,td{border-color:#333c43} .bar .room{fill:#2c353b} .bar line{stroke:#dde3e8} .quiet{color:#8a949c}}
)";

/// Use as a bar, with its marks.
std::string bar_svg(const guard::Row &row) {
    const auto at = [](double percent) { return bar_width * std::clamp(percent, 0.0, 100.0) / 100; };
    const double percent = percent_of(row.sample);
    std::string out = fmt::format(
        "<svg class=\"bar\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\" role=\"img\" aria-label=\"{2:.1f} % "
        "in use\">"
        "<rect class=\"room\" width=\"{0}\" height=\"{1}\"/><rect class=\"use{3}\" width=\"{4:.1f}\" height=\"{1}\"/>",
        bar_width, bar_height, percent, row.inside.empty() ? "" : " high", at(percent));
    for (const auto &step : row.marks.steps)
        out += fmt::format("<line{0} x1=\"{1:.1f}\" x2=\"{1:.1f}\" y1=\"0\" y2=\"{2}\"><title>{3}</title></line>",
                           row.is_inside(step) ? " class=\"entered\"" : "", at(step.percent), bar_height,
                           html_escaped(text_of(step)));
    return out + "</svg>";
}

/// The last hour, from the left to the right; 0 to 100 percent.
std::string line_svg(const std::vector<guard::History::Point> &points) {
    if (points.size() < 2) return "<span class=\"quiet\">-</span>";
    const auto begin = points.front().time, end = points.back().time;
    const double span = std::max(1.0, static_cast<double>((end - begin).count()));
    std::string out =
        fmt::format("<svg class=\"line\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\" role=\"img\" "
                    "aria-label=\"history\"><polyline points=\"",
                    line_width, line_height);
    for (const auto &point : points)
        out += fmt::format("{:.1f},{:.1f} ", line_width * static_cast<double>((point.time - begin).count()) / span,
                           (line_height - 2) * (1 - std::clamp(point.percent, 0.0, 100.0) / 100) + 1);
    return out + "\"/></svg>";
}

std::string served_html(const Dashboard &dashboard) {
    std::string out = "<div class=\"scroll\"><table "
                      "id=\"served\"><tr><th>snapshotter</th><th>driver</th><th>store</th><th>socket</th>"
                      "<th>active</th><th>committed</th><th>views</th><th>unsynced</th></tr>\n";
    for (const auto &one : dashboard.served) {
        out += fmt::format("<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td>", html_escaped(one.name),
                           html_escaped(one.driver), html_escaped(one.root), html_escaped(one.socket));
        if (!one.failure.empty())
            out += fmt::format("<td class=\"bad\" colspan=\"4\">not served: {}</td></tr>\n", html_escaped(one.failure));
        else
            out += fmt::format("<td class=\"number\">{}</td><td class=\"number\">{}</td><td "
                               "class=\"number\">{}</td><td class=\"number\">{}</td></tr>\n",
                               format_count(one.counts.active), format_count(one.counts.committed),
                               format_count(one.counts.views), format_count(one.counts.unsynced));
    }
    return out + "</table></div>\n";
}

std::string resources_html(const Dashboard &dashboard) {
    if (!dashboard.has_guard) return "<p class=\"quiet\">The guard is off: [guard] enabled = false.</p>\n";
    std::string out = "<div class=\"scroll\"><table id=\"resources\"><tr><th>resource</th><th>of</th><th>in use, with "
                      "the marks</th><th></th><th>free</th>"
                      "<th>full in</th><th>last hour</th><th>entered</th></tr>\n";
    for (const auto &one : dashboard.served) {
        for (size_t i = 0; i < one.guard.rows.size(); ++i) {
            const auto &row = one.guard.rows[i];
            std::string entered;
            for (const auto &step : row.inside)
                entered += (entered.empty() ? "" : ", ") + text_of(step);
            out += fmt::format(
                "<tr><td>{}</td><td>{}</td><td>{}</td><td class=\"number\">{:.1f} %</td><td "
                "class=\"number\">{}</td><td "
                "class=\"number\">{}</td><td>{}</td><td class=\"bad\">{}</td></tr>\n",
                name_of(row.sample.kind), html_escaped(row.sample.subject), bar_svg(row), percent_of(row.sample),
                html_escaped(guard::amount_text(free_of(row.sample), row.sample.unit)),
                row.until_full ? guard::span_text(*row.until_full) : "-",
                i < one.guard.history.size() ? line_svg(one.guard.history[i]) : "", html_escaped(entered));
        }
    }
    return out + "</table></div>\n";
}

std::string layers_html(const Dashboard &dashboard) {
    std::vector<doctor::SpaceNode> stores;
    for (const auto &one : dashboard.served) {
        doctor::SpaceNode store{.name = fmt::format("{} ({})", one.name, one.driver)};
        for (const auto &layer : one.layers)
            store.parts.push_back({.name = layer.name, .bytes = layer.bytes, .inodes = layer.inodes});
        if (one.more_layers > 0)
            store.parts.push_back(
                {.name = fmt::format("{} more", format_count(one.more_layers)), .bytes = one.more_bytes});
        for (const auto &part : store.parts)
            store.bytes += part.bytes;
        std::ranges::sort(store.parts, std::ranges::greater(), &doctor::SpaceNode::bytes);
        if (store.bytes > 0) stores.push_back(std::move(store));
    }
    if (stores.empty()) return "<p class=\"quiet\">No layer has any bytes.</p>\n";
    return doctor::treemap_svg(std::move(stores), "layers by their bytes");
}

std::string findings_html(const Dashboard &dashboard) {
    if (dashboard.diagnosis == nullptr) return "<p class=\"quiet\">Not looked yet.</p>\n";
    const auto &diagnosis = *dashboard.diagnosis;
    std::string out =
        fmt::format("<p class=\"quiet\">{} checks, as of {}; `shale doctor` also counts what layers hold.</p>\n",
                    diagnosis.checks, format_time_ns(dashboard.diagnosed_ns));
    if (diagnosis.findings.empty()) out += "<p>Nothing is wrong that can be told without counting.</p>\n";
    for (const auto &item : diagnosis.findings)
        out += doctor::finding_html(item);
    return out;
}

std::string events_html(const Dashboard &dashboard) {
    std::string out =
        "<div class=\"scroll\"><table "
        "id=\"events\"><tr><th>time</th><th>snapshotter</th><th>event</th><th>resource</th><th>what</th></tr>\n";
    bool any = false;
    for (const auto &one : dashboard.served) {
        for (const auto &event : one.guard.events) {
            any = true;
            const auto ns = std::chrono::duration_cast<std::chrono::nanoseconds>(event.time.time_since_epoch()).count();
            std::string what = html_escaped(event.what);
            for (const auto &line : event.evidence)
                what += "<br>" + html_escaped(line);
            out += fmt::format(
                "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>\n", format_time_ns(ns),
                html_escaped(one.name), name_of(event.type),
                event.subject.empty() ? "" : html_escaped(fmt::format("{} of {}", name_of(event.kind), event.subject)),
                what);
        }
    }
    return any ? out + "</table></div>\n" : "<p class=\"quiet\">Nothing yet.</p>\n";
}

} // namespace

std::string dashboard_html(const Dashboard &dashboard) {
    const std::string title = html_escaped("shaled on " + dashboard.hostname);
    return fmt::format("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" "
                       "content=\"{}\">"
                       "<meta name=\"viewport\" "
                       "content=\"width=device-width\"><title>{}</title>\n<style>{}{}</style></head><body>\n"
                       "<h1>{}</h1>\n<p class=\"quiet\">shale {}, {}</p>\n",
                       again_s, title, doctor::report_style(), sheet, title, html_escaped(dashboard.version),
                       format_time_ns(dashboard.taken_ns)) +
           "<h2>Served</h2>\n" + served_html(dashboard) + "<h2>What runs out</h2>\n" + resources_html(dashboard) +
           "<h2>Layers</h2>\n" + layers_html(dashboard) + "<h2>Findings</h2>\n" + findings_html(dashboard) +
           "<h2>What the guard saw and did</h2>\n" + events_html(dashboard) + "</body></html>\n";
}

std::string dashboard_json(const Dashboard &dashboard) {
    using Json = nlohmann::ordered_json;
    Json out{{"version", 1},
             {"hostname", dashboard.hostname},
             {"shale", dashboard.version},
             {"taken", format_time_ns(dashboard.taken_ns)}};
    out["served"] = Json::array();
    for (const auto &one : dashboard.served) {
        Json served{{"name", one.name}, {"driver", one.driver}, {"root", one.root}, {"socket", one.socket}};
        if (!one.failure.empty()) served["failure"] = one.failure;
        served["snapshots"] = {
            {"active", one.counts.active}, {"committed", one.counts.committed}, {"views", one.counts.views}};
        served["layers"] = Json::array();
        for (const auto &layer : one.layers)
            served["layers"].push_back({{"name", layer.name}, {"bytes", layer.bytes}, {"inodes", layer.inodes}});
        served["more_layers"] = one.more_layers;
        served["resources"] = Json::array();
        for (size_t i = 0; i < one.guard.rows.size(); ++i) {
            const auto &row = one.guard.rows[i];
            Json resource{{"kind", name_of(row.sample.kind)}, {"subject", row.sample.subject},
                          {"used", row.sample.used},          {"total", row.sample.total},
                          {"unit", row.sample.unit},          {"percent", percent_of(row.sample)}};
            if (row.until_full) resource["full_in_s"] = row.until_full->count() / 1000;
            resource["marks"] = Json::array();
            for (const auto &step : row.marks.steps)
                resource["marks"].push_back(
                    {{"percent", step.percent}, {"tier", name_of(step.tier)}, {"entered", row.is_inside(step)}});
            resource["history"] = Json::array();
            if (i < one.guard.history.size())
                for (const auto &point : one.guard.history[i])
                    resource["history"].push_back({point.time.time_since_epoch().count(), point.percent});
            served["resources"].push_back(std::move(resource));
        }
        served["events"] = Json::array();
        for (const auto &event : one.guard.events)
            served["events"].push_back(Json::parse(guard::to_line(event), nullptr, false));
        out["served"].push_back(std::move(served));
    }
    out["findings"] = Json::array();
    if (dashboard.diagnosis != nullptr)
        for (const auto &[check, finding] : dashboard.diagnosis->findings)
            out["findings"].push_back({{"check", check->id},
                                       {"severity", doctor::name_of(finding.severity)},
                                       {"subject", finding.subject},
                                       {"summary", finding.summary},
                                       {"evidence", finding.evidence},
                                       {"commands", finding.commands}});
    return out.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

} // namespace shale::daemon
