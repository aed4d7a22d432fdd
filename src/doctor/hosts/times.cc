// SPDX-License-Identifier: Apache-2.0
#include "doctor/hosts/times.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <string>

#include "probe/text.h"

namespace shale::doctor {

namespace {

constexpr size_t max_stat_bytes = size_t{64} << 10U;

bool number_at(std::string_view text, size_t at, size_t length, int &out) {
    if (text.size() < at + length) return false;
    const char *begin = text.data() + at;
    const auto [end, bad] = std::from_chars(begin, begin + length, out);
    return bad == std::errc() && end == begin + length && out >= 0;
}

std::optional<int> zone_of(std::string_view text) {
    if (text == "Z") return 0;
    int hours = 0, minutes = 0;
    if (text.size() != 6 || (text[0] != '+' && text[0] != '-') || text[3] != ':' || !number_at(text, 1, 2, hours) ||
        !number_at(text, 4, 2, minutes))
        return std::nullopt;
    const int seconds = hours * 3600 + minutes * 60;
    return text[0] == '-' ? -seconds : seconds;
}

} // namespace

uint64_t rfc3339_s(std::string_view text) {
    int year = 0, month = 0, day = 0, hour = 0, minute = 0, second = 0;
    if (!number_at(text, 0, 4, year) || !number_at(text, 5, 2, month) || !number_at(text, 8, 2, day) ||
        !number_at(text, 11, 2, hour) || !number_at(text, 14, 2, minute) || !number_at(text, 17, 2, second))
        return 0;
    if (text[4] != '-' || text[7] != '-' || (text[10] != 'T' && text[10] != 't') || text[13] != ':' || text[16] != ':')
        return 0;
    std::string_view rest = text.substr(19);
    if (rest.starts_with('.')) rest.remove_prefix(std::min(rest.find_first_not_of("0123456789", 1), rest.size()));
    const auto zone = zone_of(rest);
    const std::chrono::year_month_day date{std::chrono::year(year), std::chrono::month(static_cast<unsigned>(month)),
                                           std::chrono::day(static_cast<unsigned>(day))};
    if (!zone || !date.ok() || hour > 23 || minute > 59 || second > 60) return 0;
    const int64_t days = std::chrono::sys_days(date).time_since_epoch().count();
    const int64_t seconds = days * 86'400 + int64_t{hour} * 3600 + int64_t{minute} * 60 + second - *zone;
    return static_cast<uint64_t>(std::max<int64_t>(seconds, 0));
}

std::optional<uint64_t> started_s(const probe::Host &host, int pid) {
    constexpr uint64_t ticks_a_second = 100;      // USER_HZ of every architecture that engines run on
    constexpr size_t field = 22, first_field = 3; // the first behind the name, which may hold anything
    const auto process = host.read_if_there(fmt::format("/proc/{}/stat", pid), max_stat_bytes);
    const auto system = host.read_if_there("/proc/stat");
    if (!process || !*process || !system || !*system) return std::nullopt;
    const size_t name_end = (*process)->rfind(')'), boot = (*system)->find("\nbtime ");
    if (name_end == std::string::npos || boot == std::string::npos) return std::nullopt;
    const auto words = probe::words_of(std::string_view(**process).substr(name_end + 1));
    const auto boot_words = probe::words_of(std::string_view(**system).substr(boot, 40));
    if (words.size() <= field - first_field || boot_words.size() < 2) return std::nullopt;
    const auto ticks = probe::to_number(words[field - first_field]), booted_s = probe::to_number(boot_words[1]);
    if (!ticks || !booted_s) return std::nullopt;
    return *booted_s + *ticks / ticks_a_second;
}

} // namespace shale::doctor
