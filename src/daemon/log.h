// SPDX-License-Identifier: Apache-2.0
// What the daemon says on standard error: one event a line, as text ("level message key=value ...") or as JSON.
#pragma once

#include <atomic>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace shale::daemon {

enum class LogLevel : uint8_t { debug, info, warning, error };
enum class LogFormat : uint8_t { text, json };

/// By their names; "warn" is warning. Nullopt: no such level or format.
std::optional<LogLevel> parse_log_level(std::string_view name);
std::optional<LogFormat> parse_log_format(std::string_view name);

class Log {
public:
    using Fields = std::initializer_list<std::pair<std::string_view, std::string_view>>;

    void set(LogFormat format, LogLevel level) noexcept {
        format_ = format;
        level_ = level;
    }
    [[nodiscard]] bool says(LogLevel level) const noexcept { return level >= level_.load(std::memory_order_relaxed); }
    /// From any thread. Strangers' texts are shown harmless and at most 1,024 bytes of each.
    void write(LogLevel level, std::string_view message, Fields fields = {}) const;

private:
    std::atomic<LogFormat> format_{LogFormat::text};
    std::atomic<LogLevel> level_{LogLevel::info};
};

/// One event as a line, with its line feed; time in nanoseconds since the epoch (only JSON shows it: the journal has
/// its own).
std::string format_event(LogFormat format, LogLevel level, int64_t unix_ns, std::string_view message,
                         Log::Fields fields);

} // namespace shale::daemon
