// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <span>

#include "base/text.h"
#include "base/units.h"
#include "doctor/checks/common.h"
#include "doctor/report.h"
#include "doctor/space.h"

namespace shale::doctor {

namespace {

constexpr double map_width = 1000, map_height = 420, header_height = 16;
constexpr int deepest = 3;
constexpr size_t most_parts = 200; // of one rectangle; the others are one

constexpr std::string_view style = R"(
body{font:15px/1.45 system-ui,sans-serif;max-width:1040px;margin:2em auto;padding:0 1em;color:#1c2226;background:#fff}
h1{font-size:1.5em} h2{font-size:1.2em;margin-top:2em} code,pre{font:13px ui-monospace,monospace}
pre{background:#f3f5f7;padding:.6em .8em;overflow-x:auto} .finding{border-left:5px solid #888;padding:.1em 1em;margin:1.2em 0}
.critical{border-color:#c0262d} .warning{border-color:#d08a00} .info{border-color:#3478a8}
.badge{color:#fff;padding:.1em .5em;border-radius:3px;font-size:.8em} .critical .badge{background:#c0262d}
.warning .badge{background:#8f5f00} .info .badge{background:#3478a8} dt{font-weight:600} dd{margin:0 0 .4em 1em}
svg text{font:11px system-ui,sans-serif} @media(prefers-color-scheme:dark){body{color:#dde3e8;background:#14181b}
pre{background:#20272c}}
)";
constexpr std::string_view colors[] = {"#7fb2d9", "#e3b873", "#9ccb8b", "#d99a9a",
                                       "#b7a5d6", "#8fcac3", "#d3c27c", "#c4a58f"};

/// At most `letters` code points of it.
std::string cut(std::string_view text, size_t letters) {
    size_t end = 0;
    for (; end < text.size(); ++end)
        if ((static_cast<unsigned char>(text[end]) & 0xC0U) != 0x80U && letters-- == 0) break;
    return std::string(text.substr(0, end));
}

std::string label_of(const SpaceNode &node) {
    return fmt::format("{}: {}", checks::shown(node.name), format_bytes(node.bytes));
}

struct Box {
    double x = 0, y = 0, width = 0, height = 0;
};

/// Longer side over shorter side of the worst of the first `count` parts, laid along the shorter side of the box.
double worst_ratio(std::span<const SpaceNode> parts, size_t count, double side, double scale) {
    double sum = 0, worst = 0;
    for (size_t i = 0; i < count; ++i)
        sum += static_cast<double>(parts[i].bytes) * scale;
    const double thick = sum / side;
    for (size_t i = 0; i < count; ++i) {
        const double length = static_cast<double>(parts[i].bytes) * scale / thick;
        worst = std::max({worst, length / thick, thick / length});
    }
    return worst;
}

/// Squarified treemap (Bruls, Huizing, van Wijk 2000): rows along the shorter side, each as long as it makes its
/// rectangles less oblong. `draw(part, box, index)`.
template <class Draw> void squarify(std::span<const SpaceNode> parts, Box box, Draw &&draw) {
    double total = 0;
    for (const SpaceNode &part : parts)
        total += static_cast<double>(part.bytes);
    if (total <= 0 || box.width <= 0 || box.height <= 0) return;
    const double scale = box.width * box.height / total;
    for (size_t index = 0; !parts.empty() && parts.front().bytes != 0;) {
        const double side = std::min(box.width, box.height);
        if (side <= 0) return; // by rounding: what is left is too small for any area
        size_t count = 1;
        while (count < parts.size() && parts[count].bytes != 0 &&
               worst_ratio(parts, count + 1, side, scale) <= worst_ratio(parts, count, side, scale))
            ++count;
        double sum = 0, at = 0;
        for (size_t i = 0; i < count; ++i)
            sum += static_cast<double>(parts[i].bytes) * scale;
        const double thick = sum / side;
        const bool upright = box.width >= box.height; // the row is a column at the left
        for (size_t i = 0; i < count; ++i, ++index) {
            const double length = static_cast<double>(parts[i].bytes) * scale / thick;
            draw(parts[i], upright ? Box{box.x, box.y + at, thick, length} : Box{box.x + at, box.y, length, thick},
                 index);
            at += length;
        }
        (upright ? box.x : box.y) += thick;
        (upright ? box.width : box.height) -= thick;
        parts = parts.subspan(count);
    }
}

/// What is beyond most_parts is one part.
std::vector<SpaceNode> bounded(const std::vector<SpaceNode> &parts) {
    if (parts.size() <= most_parts) return parts;
    std::vector<SpaceNode> out(parts.begin(), parts.begin() + most_parts);
    SpaceNode rest{.name = fmt::format("{} more", parts.size() - most_parts)};
    for (size_t i = most_parts; i < parts.size(); ++i)
        rest.bytes += parts[i].bytes;
    out.push_back(std::move(rest));
    return out;
}

void draw_parts(std::string &out, const std::vector<SpaceNode> &parts, const Box &box, int depth,
                std::string_view color) {
    squarify(bounded(parts), box, [&](const SpaceNode &part, const Box &where, size_t index) {
        const std::string_view fill = depth == 0 ? colors[index % std::size(colors)] : color;
        const std::string text = html_escaped(label_of(part));
        out += fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" fill=\"{}\" "
                           "fill-opacity=\"{:.2f}\" stroke=\"#fff\"><title>{}</title></rect>\n",
                           where.x, where.y, where.width, where.height, fill, depth == 0 ? 0.45 : 0.55, text);
        constexpr double letter = 6.2;
        const auto letters = static_cast<size_t>(std::clamp((where.width - 8) / letter, 0.0, map_width));
        if (letters >= 6 && where.height >= header_height)
            out += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\">{}</text>\n", where.x + 4, where.y + 12,
                               html_escaped(cut(label_of(part), letters)));
        if (depth + 1 < deepest && where.height > 2 * header_height)
            draw_parts(out, part.parts,
                       {where.x + 2, where.y + header_height, where.width - 4, where.height - header_height - 2},
                       depth + 1, fill);
    });
}

std::string treemap(const Space &space) {
    const auto &fs = *space.file_system;
    std::string out = fmt::format("<h2>{} ({}): {} used of {}</h2>\n", html_escaped(fs.target), html_escaped(fs.type),
                                  format_bytes(space.used_bytes), format_bytes(fs.total_bytes));
    std::vector<SpaceNode> parts = space.parts;
    if (space.rest_bytes > 0) parts.push_back({.name = "the rest", .bytes = static_cast<uint64_t>(space.rest_bytes)});
    parts.push_back({.name = "free", .bytes = fs.free_bytes});
    std::ranges::sort(parts, std::ranges::greater{}, &SpaceNode::bytes);
    out += fmt::format("<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"where the space is\">\n", map_width,
                       map_height);
    draw_parts(out, parts, {0, 0, map_width, map_height}, 0, {});
    return out + "</svg>\n";
}

std::string section(std::string_view name, std::string_view text) {
    return text.empty() ? "" : fmt::format("<dt>{}</dt><dd>{}</dd>\n", name, html_escaped(text));
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

} // namespace

std::string report_html(const probe::Facts &facts, const Diagnosis &diagnosis) {
    const std::string title = html_escaped(fmt::format("shale doctor: {}", facts.kernel.hostname));
    std::string out =
        fmt::format("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{0}</title>\n"
                    "<style>{1}</style></head><body>\n<h1>{0}</h1>\n<p>{2} checks: {3} critical, {4} warnings, "
                    "{5} infos, {6} not judged</p>\n",
                    title, style, diagnosis.checks, diagnosis.count(Severity::critical),
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
        out += treemap(space);
    return out + "</body></html>\n";
}

} // namespace shale::doctor
