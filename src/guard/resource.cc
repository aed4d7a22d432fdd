// SPDX-License-Identifier: Apache-2.0
#include "guard/resource.h"

#include <cmath>

#include <fmt/format.h>

#include "base/units.h"

namespace shale::guard {

std::string span_text(Duration time) {
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(time).count();
    if (seconds < 120) return fmt::format("{} s", seconds);
    if (seconds < 2 * 3600) return fmt::format("{} min", seconds / 60);
    return seconds < 48 * 3600 ? fmt::format("{} h", seconds / 3600) : fmt::format("{} d", seconds / 86'400);
}

std::string amount_text(uint64_t amount, std::string_view unit) {
    return unit == "bytes" ? format_bytes(amount) : fmt::format("{} {}", format_count(amount), unit);
}

std::string text_of(const Sample &sample) {
    if (sample.total == 0) return fmt::format("{} in use, without a limit", amount_text(sample.used, sample.unit));
    double percent = std::floor(percent_of(sample) * 10) / 10;
    // A double may lie on the other side of a whole percentage than the figures do.
    const auto whole = static_cast<unsigned>(std::min(std::round(percent_of(sample)), 100.0));
    if (percent < whole && is_at(sample, whole)) percent = whole;
    if (percent >= whole && !is_at(sample, whole)) percent = whole - 0.1;
    return fmt::format("{:.1f} % in use ({} of {}), {} free", percent, amount_text(sample.used, sample.unit),
                       amount_text(sample.total, sample.unit), amount_text(free_of(sample), sample.unit));
}

} // namespace shale::guard
