// SPDX-License-Identifier: Apache-2.0
#include "guard/forecast.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace shale::guard {
namespace {

/// Of the normal distribution, one-sided, 95 %.
constexpr double significant = 1.645;
constexpr Duration farthest = std::chrono::days(365);

double difference(uint64_t from, uint64_t to) {
    return to >= from ? static_cast<double>(to - from) : -static_cast<double>(from - to);
}

/// Mann-Kendall: `score` is how many more pairs rise than fall, of `count` samples. Ties only make it more careful.
bool rises(int64_t score, size_t count) {
    const auto n = static_cast<double>(count);
    const double deviation = std::sqrt(n * (n - 1) * (2 * n + 5) / 18);
    return score > 0 && (static_cast<double>(score) - 1) / deviation >= significant;
}

double median_of(std::vector<double> &values) {
    const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
    std::ranges::nth_element(values, middle);
    if (values.size() % 2 != 0) return *middle;
    return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

} // namespace

Forecast::Forecast(ForecastLimits limits) : limits_(limits) {
    constexpr size_t least = 3, most = 512; // pairs go with the square
    limits_.capacity = std::clamp(limits_.capacity, least, most);
    limits_.least_samples = std::clamp(limits_.least_samples, least, limits_.capacity);
}

void Forecast::reset() noexcept {
    points_.clear();
    last_.reset();
}

void Forecast::add(const Sample &sample, Time now) {
    if (last_ && now < last_->time) reset();
    last_ = Point{now, sample.used};
    total_ = sample.total;
    const Duration gap = limits_.window / (2 * static_cast<Duration::rep>(limits_.capacity));
    if (!points_.empty() && (now == points_.back().time || now - points_.back().time < gap)) return;
    if (points_.size() == limits_.capacity) points_.pop_front();
    points_.push_back(*last_);
}

std::optional<double> Forecast::rise_per_second() const {
    const size_t count = points_.size();
    if (count < limits_.least_samples || points_.back().time - points_.front().time < limits_.least_span)
        return std::nullopt;
    std::vector<double> slopes;
    slopes.reserve(count * (count - 1) / 2);
    int64_t score = 0;
    for (size_t i = 0; i < count; ++i)
        for (size_t k = i + 1; k < count; ++k) {
            const double rise = difference(points_[i].used, points_[k].used);
            score += rise > 0 ? 1 : rise < 0 ? -1 : 0;
            slopes.push_back(rise / std::chrono::duration<double>(points_[k].time - points_[i].time).count());
        }
    if (!rises(score, count)) return std::nullopt;
    const double slope = median_of(slopes);
    return slope > 0 ? std::optional(slope) : std::nullopt;
}

std::optional<Duration> Forecast::until(uint64_t amount) const {
    const auto slope = rise_per_second();
    if (!slope) return std::nullopt;
    if (last_->used >= amount) return Duration::zero();
    const double seconds = difference(last_->used, amount) / *slope;
    if (seconds > std::chrono::duration<double>(farthest).count()) return std::nullopt;
    return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
}

std::optional<Duration> Forecast::until_full() const {
    return total_ == 0 ? std::nullopt : until(total_);
}

std::optional<Forecast::NextStep> Forecast::until_next_step(const Marks &marks) const {
    if (total_ == 0 || !last_) return std::nullopt;
    const Step *next = nullptr;
    uint64_t amount = 0;
    for (const Step &step : marks.steps)
        if (const uint64_t enter = band_of(marks, step, total_).enter;
            enter > last_->used && (next == nullptr || enter < amount)) {
            next = &step;
            amount = enter;
        }
    if (next == nullptr) return std::nullopt;
    const auto in = until(amount);
    return in ? std::optional(NextStep{*next, *in}) : std::nullopt;
}

} // namespace shale::guard
