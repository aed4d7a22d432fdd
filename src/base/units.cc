// SPDX-License-Identifier: Apache-2.0
#include "base/units.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>
#include <ctime>

namespace shale {

std::string format_bytes(uint64_t bytes) {
    constexpr std::array<std::string_view, 6> names{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    if (bytes < 1024) return fmt::format("{} B", bytes);
    double value = static_cast<double>(bytes) / 1024;
    size_t unit = 0;
    while (value >= 1024 && unit + 1 < names.size()) {
        value /= 1024;
        ++unit;
    }
    return fmt::format("{:.1f} {}", value, names[unit]);
}

std::string format_count(uint64_t count) {
    std::string digits = std::to_string(count);
    for (size_t i = digits.size(); i > 3; i -= 3)
        digits.insert(i - 3, ",");
    return digits;
}

Result<uint64_t> parse_bytes(std::string_view text) {
    double value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    std::string_view unit(end, static_cast<size_t>(text.data() + text.size() - end));
    while (unit.starts_with(' '))
        unit.remove_prefix(1);
    int shift = -1;
    constexpr std::string_view letters = "KMGTPE";
    if (unit.empty() || unit == "B" || unit == "b") {
        shift = 0;
    } else {
        const char letter = static_cast<char>(unit[0] & ~0x20);
        const std::string_view rest = unit.substr(1);
        const bool known_rest = rest.empty() || rest == "B" || rest == "b" || rest == "iB" || rest == "ib";
        if (const auto at = letters.find(letter); at != std::string_view::npos && known_rest)
            shift = static_cast<int>(at + 1) * 10;
    }
    if (error != std::errc{} || shift < 0 || !std::isfinite(value) || value < 0 ||
        std::ldexp(value, shift) >= 18446744073709551615.0)
        return fail(Errc::InvalidArgument, fmt::format("\"{}\" is not a size; write e.g. 500M, 10G", text));
    return static_cast<uint64_t>(std::ldexp(value, shift));
}

std::string format_time_ns(int64_t unix_ns) {
    int64_t seconds = unix_ns / 1'000'000'000;
    int64_t rest = unix_ns % 1'000'000'000;
    if (rest < 0) {
        rest += 1'000'000'000;
        --seconds;
    }
    const time_t when = seconds;
    tm parts{};
    gmtime_r(&when, &parts);
    std::string out = fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}", parts.tm_year + 1900, parts.tm_mon + 1,
                                  parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec);
    if (rest != 0) {
        std::string fraction = fmt::format(".{:09}", rest);
        fraction.erase(fraction.find_last_not_of('0') + 1);
        out += fraction;
    }
    return out + "Z";
}

} // namespace shale
