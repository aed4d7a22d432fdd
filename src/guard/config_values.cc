// SPDX-License-Identifier: Apache-2.0
#include "guard/config_values.h"

#include <charconv>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "base/text.h"
#include "base/units.h"

namespace shale::guard {
namespace {

using Json = nlohmann::json;

/// As the file has it, on one line and not long.
std::string shown(const Json &value) {
    constexpr size_t most = 60;
    std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
    if (text.size() > most) text = "something longer";
    return printable(text);
}

std::unexpected<Error> wrong(std::string_view expected, const Json &value) {
    return fail(Errc::InvalidArgument, fmt::format("must be {}, and is {}", expected, shown(value)));
}

/// nullopt: it is no whole number of 0 or more.
std::optional<uint64_t> whole(const Json &value) {
    if (value.is_number_unsigned()) return value.get<uint64_t>();
    if (value.is_number_integer() && value.get<int64_t>() >= 0) return static_cast<uint64_t>(value.get<int64_t>());
    return std::nullopt;
}

std::optional<uint64_t> whole_of_text(std::string_view text) {
    uint64_t out = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
    return error == std::errc() && end == text.data() + text.size() ? std::optional(out) : std::nullopt;
}

Status read_marks(const Json &value, TierSetting &out) {
    const auto add = [&](const Json &one) -> Status {
        unsigned percent = 0;
        TRY(read_percent(one, 1, 100, percent));
        out.marks.push_back(percent);
        return {};
    };
    out = {true, {}};
    if (!value.is_array()) {
        TRY(add(value));
        return {};
    }
    constexpr size_t most = 8; // more than that is no step, but a slope
    if (value.empty() || value.size() > most)
        return fail(Errc::InvalidArgument, fmt::format("a list of 1 to {} marks, and has {}", most, value.size()));
    for (const Json &one : value)
        TRY(add(one));
    std::ranges::sort(out.marks);
    const auto twice = std::ranges::unique(out.marks);
    out.marks.erase(twice.begin(), twice.end());
    return {};
}

std::string marks_text(const std::vector<unsigned> &marks) {
    return marks.size() == 1 ? std::to_string(marks.front()) : fmt::format("[{}]", fmt::join(marks, ", "));
}

} // namespace

Status read(const Json &value, bool &out) {
    if (!value.is_boolean()) return wrong("true or false", value);
    out = value.get<bool>();
    return {};
}

Status read_number(const Json &value, uint64_t least, uint64_t most, uint64_t &out) {
    const auto number = whole(value);
    if (!number || *number < least || *number > most)
        return wrong(most == ~uint64_t{0} ? fmt::format("a whole number of {} or more", least)
                                          : fmt::format("a whole number from {} to {}", least, most),
                     value);
    out = *number;
    return {};
}

Status read_percent(const Json &value, unsigned least, unsigned most, unsigned &out) {
    std::optional<uint64_t> number = whole(value);
    if (const auto *text = value.get_ptr<const std::string *>()) {
        std::string_view digits = *text;
        if (digits.ends_with('%')) digits.remove_suffix(1);
        number = whole_of_text(digits);
    }
    if (!number || *number < least || *number > most)
        return wrong(fmt::format("a whole number of percent from {} to {}", least, most), value);
    out = static_cast<unsigned>(*number);
    return {};
}

Status read_seconds(const Json &value, uint64_t least, uint64_t most, Duration &out) {
    uint64_t seconds = 0;
    TRY(read_number(value, least, most, seconds));
    out = std::chrono::seconds(seconds);
    return {};
}

Status read_size(const Json &value, uint64_t least, uint64_t most, uint64_t &out) {
    std::optional<uint64_t> size = whole(value);
    if (const auto *text = value.get_ptr<const std::string *>())
        if (const auto parsed = parse_bytes(*text)) size = *parsed;
    if (!size || *size < least || *size > most)
        return wrong(most == ~uint64_t{0} ? "a size like \"10G\", or a number of bytes"
                                          : fmt::format("a size from {} to {}", size_text(least), size_text(most)),
                     value);
    out = *size;
    return {};
}

Status read_tiers(const Json &value, Kind kind, KindConfig &out) {
    if (!value.is_object()) return wrong("a table of tiers: { gc = 90, evict = 98 }", value);
    std::vector<std::string_view> known;
    for (const TierName &tier : tier_names)
        if (suits(kind, tier.tier)) known.push_back(tier.name);
    for (const auto &[name, setting] : value.items()) {
        const auto tier = tier_named(name);
        if (!tier) return unknown_key(name, fmt::format("guard.{}.tiers", name_of(kind)), known);
        TierSetting &to = out.tiers[std::to_underlying(*tier)];
        const auto context = [&name = name] { return name; };
        if (setting.is_boolean())
            to = {setting.get<bool>(), {}};
        else if (setting.is_array() || setting.is_number() || setting.is_string())
            TRY(in_context(read_marks(setting, to), context));
        else
            return in_context(Status(wrong("true, false, a mark in percent, or a list of marks", setting)), context);
    }
    return {};
}

std::string seconds_text(Duration time) {
    return std::to_string(std::chrono::duration_cast<std::chrono::seconds>(time).count());
}

std::string size_text(uint64_t bytes) {
    constexpr std::string_view units = "EPTGMK";
    for (size_t i = 0; i < units.size(); ++i)
        if (const size_t shift = 10 * (units.size() - i); bytes != 0 && bytes % (uint64_t{1} << shift) == 0)
            return fmt::format("\"{}{}\"", bytes >> shift, units[i]);
    return std::to_string(bytes);
}

std::string tiers_text(Kind kind) {
    std::vector<std::string> parts;
    for (const Rung &rung : kind_defaults(kind).rungs)
        if (rung.on) parts.push_back(fmt::format("{} = {}", name_of(rung.tier), marks_text(rung.marks())));
    return fmt::format("{{ {} }}", fmt::join(parts, ", "));
}

std::string off_text(Kind kind) {
    std::vector<std::string> parts;
    for (const Rung &rung : kind_defaults(kind).rungs)
        if (!rung.on) parts.push_back(fmt::format("{} = {}", name_of(rung.tier), marks_text(rung.marks())));
    return parts.empty() ? std::string() : fmt::format("Off, if not turned on: {}.", fmt::join(parts, ", "));
}

std::unexpected<Error> unknown_key(std::string_view key, std::string_view table,
                                   std::span<const std::string_view> known) {
    const std::string near = nearest(key, known);
    return fail(Errc::InvalidArgument,
                fmt::format("unknown key \"{}\" in [{}]; {}", printable(key.substr(0, 60)), table,
                            near.empty() ? fmt::format("there are: {}", fmt::join(known, ", "))
                                         : fmt::format("did you mean {}?", near)));
}

} // namespace shale::guard
