// SPDX-License-Identifier: Apache-2.0
#include "doctor/treemap.h"

#include <algorithm>
#include <iterator>
#include <span>

#include <fmt/format.h>

#include "base/text.h"
#include "base/units.h"
#include "doctor/checks/common.h"

namespace shale::doctor {
namespace {

constexpr double map_width = 1000, map_height = 420, header_height = 16;
constexpr int deepest = 3;
constexpr size_t most_parts = 200; // of one rectangle; the others are one
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

} // namespace

std::string treemap_svg(std::vector<SpaceNode> parts, std::string_view label) {
    std::ranges::sort(parts, std::ranges::greater{}, &SpaceNode::bytes);
    std::string out = fmt::format("<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">\n", map_width, map_height,
                                  html_escaped(label));
    draw_parts(out, parts, {0, 0, map_width, map_height}, 0, {});
    return out + "</svg>\n";
}

} // namespace shale::doctor
