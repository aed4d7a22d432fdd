// SPDX-License-Identifier: Apache-2.0
#include "daemon/log.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>

#include "base/units.h"
#include "cli/json.h"
#include "cli/table.h"

namespace shale::daemon {
namespace {

constexpr std::array<std::string_view, 4> levels{"debug", "info", "warning", "error"};
constexpr size_t longest_value = 1'024;

bool needs_quotes(std::string_view text) {
    return text.empty() ||
           !std::ranges::all_of(text, [](char c) { return c > ' ' && c != '"' && c != '\\' && c != 0x7F; });
}

} // namespace

std::optional<LogLevel> parse_log_level(std::string_view name) {
    if (name == "warn") return LogLevel::warning;
    const auto found = std::ranges::find(levels, name);
    if (found == levels.end()) return std::nullopt;
    return static_cast<LogLevel>(found - levels.begin());
}

std::optional<LogFormat> parse_log_format(std::string_view name) {
    if (name == "text") return LogFormat::text;
    if (name == "json") return LogFormat::json;
    return std::nullopt;
}

std::string format_event(LogFormat format, LogLevel level, int64_t unix_ns, std::string_view message,
                         Log::Fields fields) {
    const std::string_view level_name = levels[static_cast<size_t>(level)];
    std::string out;
    if (format == LogFormat::json) {
        out = "{\"time\":" + cli::json_quote(format_time_ns(unix_ns)) + ",\"level\":" + cli::json_quote(level_name) +
              ",\"message\":" + cli::json_quote(message.substr(0, longest_value));
        for (const auto &[key, value] : fields)
            out += "," + cli::json_quote(key) + ":" + cli::json_quote(value.substr(0, longest_value));
        return out + "}\n";
    }
    out = std::string(level_name) + " " + printable(message.substr(0, longest_value));
    for (const auto &[key, value] : fields) {
        const std::string_view shown = value.substr(0, longest_value);
        out += " " + std::string(key) + "=" + (needs_quotes(shown) ? cli::json_quote(shown) : std::string(shown));
    }
    return out + "\n";
}

void Log::write(LogLevel level, std::string_view message, Fields fields) const {
    if (!says(level)) return;
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    const std::string line = format_event(format_, level, std::chrono::nanoseconds(now).count(), message, fields);
    // One write a line: lines of several threads do not mix. Who reads is not waited for beyond that.
    (void)!::write(STDERR_FILENO, line.data(), line.size());
}

} // namespace shale::daemon
