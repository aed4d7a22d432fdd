// SPDX-License-Identifier: Apache-2.0
// When a resource will be full if it goes on as it does. The slope is the median of the slopes between all pairs of
// recent samples (Theil-Sen: up to 29 % of them may be anything), and it counts only where the samples rise more than
// chance has them do (Mann-Kendall, one-sided, 95 %): what only trembles has no forecast.
#pragma once

#include <cstddef>
#include <deque>
#include <optional>

#include "guard/marks.h"
#include "guard/resource.h"

namespace shale::guard {

/// Our own figures; with samples every 10 seconds the slope is that of the last 10 minutes.
struct ForecastLimits {
    size_t capacity = 60;                          ///< samples that are kept: 3 to 512
    size_t least_samples = 6;                      ///< fewer say nothing
    Duration least_span = std::chrono::minutes(1); ///< nor do those of a shorter time
    /// Samples that come more than twice as often as `capacity` of them in this time are passed over.
    Duration window = std::chrono::minutes(10);
};

/// Of one resource.
class Forecast {
public:
    explicit Forecast(ForecastLimits limits = {});

    /// A sample that is older than the one before (a clock that was set back) makes all before it forgotten.
    void add(const Sample &sample, Time now);
    /// Something was freed: what was before says nothing of what comes.
    void reset() noexcept;

    /// Units a second; nullopt: too few samples, too short a time, or it does not rise.
    [[nodiscard]] std::optional<double> rise_per_second() const;
    /// From the last sample until use is `amount`; 0: it is there. nullopt: as above, or in more than a year.
    [[nodiscard]] std::optional<Duration> until(uint64_t amount) const;
    [[nodiscard]] std::optional<Duration> until_full() const;
    /// Until the next step of `marks` that use is not at yet; nullopt: as above, or there is none.
    struct NextStep {
        Step step;
        Duration in{};
    };
    [[nodiscard]] std::optional<NextStep> until_next_step(const Marks &marks) const;

private:
    struct Point {
        Time time;
        uint64_t used = 0;
    };

    ForecastLimits limits_;
    std::deque<Point> points_;
    std::optional<Point> last_; ///< passed over or not
    uint64_t total_ = 0;        ///< of the last
};

} // namespace shale::guard
