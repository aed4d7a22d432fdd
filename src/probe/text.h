// SPDX-License-Identifier: Apache-2.0
// Taking apart the small texts of /proc and /sys. Nothing here allocates but words_of(), nothing throws.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <optional>
#include <string_view>
#include <system_error>
#include <vector>

namespace shale::probe {

/// A decimal number that is the whole text; nullopt: it is none, or does not fit.
inline std::optional<uint64_t> to_number(std::string_view text) {
    uint64_t value = 0;
    const auto [end, bad] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (bad != std::errc() || end != text.data() + text.size()) return std::nullopt;
    return value;
}

/// Without blanks, tabs and newlines at both ends.
inline std::string_view trimmed(std::string_view text) {
    constexpr std::string_view blank = " \t\r\n";
    const size_t begin = text.find_first_not_of(blank);
    if (begin == std::string_view::npos) return {};
    return text.substr(begin, text.find_last_not_of(blank) + 1 - begin);
}

/// Takes what stands before the first `separator` off `rest`, and the separator; without one, all of it.
inline std::string_view next_part(std::string_view &rest, char separator) {
    const size_t end = rest.find(separator);
    const std::string_view part = rest.substr(0, end);
    rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
    return part;
}

/// What stands between blanks, tabs and newlines.
/// "rw,nosuid" has "nosuid".
inline bool has_part(std::string_view list, std::string_view part, char separator = ',') {
    while (!list.empty())
        if (next_part(list, separator) == part) return true;
    return false;
}

inline std::vector<std::string_view> words_of(std::string_view text) {
    constexpr std::string_view blank = " \t\r\n";
    std::vector<std::string_view> out;
    for (size_t begin = text.find_first_not_of(blank); begin != std::string_view::npos;) {
        const size_t end = std::min(text.find_first_of(blank, begin), text.size());
        out.push_back(text.substr(begin, end - begin));
        begin = text.find_first_not_of(blank, end);
    }
    return out;
}

} // namespace shale::probe
