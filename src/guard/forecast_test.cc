// SPDX-License-Identifier: Apache-2.0
#include "guard/forecast.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <random>

namespace shale::guard {
namespace {

using std::chrono::hours;
using std::chrono::minutes;
using std::chrono::seconds;

constexpr uint64_t most = std::numeric_limits<uint64_t>::max();
const Time start{hours(24 * 20'000)};

/// A sample every 10 seconds.
Forecast of_series(int count, const std::function<uint64_t(int)> &used, uint64_t total = 1'000'000) {
    Forecast out;
    for (int i = 0; i < count; ++i)
        out.add({Kind::bytes, "/", used(i), total}, start + seconds(10) * i);
    return out;
}
double seconds_of(std::optional<Duration> time) {
    return time ? std::chrono::duration<double>(*time).count() : -1;
}

TEST(Forecast, Linear) {
    const Forecast forecast = of_series(30, [](int i) { return 500'000 + 1000 * static_cast<uint64_t>(i); });
    ASSERT_TRUE(forecast.rise_per_second());
    EXPECT_DOUBLE_EQ(*forecast.rise_per_second(), 100);
    EXPECT_DOUBLE_EQ(seconds_of(forecast.until_full()), (1'000'000 - 529'000) / 100.0);
    EXPECT_EQ(forecast.until(529'000), Duration::zero()) << "it is there";
    EXPECT_EQ(forecast.until(3), Duration::zero());
}

TEST(Forecast, NoisyAndWithOutliers) {
    for (unsigned seed = 1; seed <= 20; ++seed) {
        std::mt19937 random(seed);
        std::normal_distribution<double> noise(0, 3000);
        std::uniform_real_distribution<double> chance(0, 1);
        const Forecast forecast = of_series(60, [&](int i) {
            const double outlier = chance(random) < 0.2 ? 200'000 : 0; // an unpack that is over at the next look
            return static_cast<uint64_t>(300'000 + 2000 * i + noise(random) + outlier);
        });
        ASSERT_TRUE(forecast.rise_per_second()) << seed;
        EXPECT_NEAR(*forecast.rise_per_second(), 200, 60) << seed; // least squares: off by up to 300
    }
}

TEST(Forecast, Stepping) {
    // An image of 20,000 every 100 seconds: 200 a second.
    const Forecast forecast = of_series(60, [](int i) { return 100'000 + 20'000 * static_cast<uint64_t>(i / 10); });
    ASSERT_TRUE(forecast.rise_per_second());
    EXPECT_NEAR(*forecast.rise_per_second(), 200, 30);
}

TEST(Forecast, FallingConstantAndTremblingHaveNone) {
    EXPECT_FALSE(of_series(60, [](int i) { return 900'000 - 100 * static_cast<uint64_t>(i); }).until_full());
    EXPECT_FALSE(of_series(60, [](int) { return 900'000; }).until_full());
    EXPECT_FALSE(of_series(60, [](int i) { return 900'000 + static_cast<uint64_t>(i % 2); }).until_full());
    int rising = 0;
    for (unsigned seed = 1; seed <= 200; ++seed) {
        std::mt19937 random(seed);
        std::uniform_int_distribution<uint64_t> noise(0, 100'000);
        if (of_series(60, [&](int) { return 500'000 + noise(random); }).until_full()) ++rising;
    }
    EXPECT_LE(rising, 20) << "5 % by chance of 200";
}

TEST(Forecast, OnlyTheRecentCounts) {
    // It fell for an hour, and has risen for the last ten minutes.
    const Forecast forecast = of_series(420, [](int i) {
        return i < 360 ? 900'000 - 1000 * static_cast<uint64_t>(i) : 540'000 + 500 * static_cast<uint64_t>(i - 360);
    });
    ASSERT_TRUE(forecast.rise_per_second());
    EXPECT_DOUBLE_EQ(*forecast.rise_per_second(), 50);
}

TEST(Forecast, TooFewOrTooShort) {
    const auto rising = [](int i) { return 500'000 + 1000 * static_cast<uint64_t>(i); };
    EXPECT_FALSE(Forecast().until_full());
    EXPECT_FALSE(of_series(5, rising).until_full()) << "5 samples";
    EXPECT_FALSE(of_series(6, rising).until_full()) << "50 seconds";
    EXPECT_TRUE(of_series(7, rising).until_full());
    Forecast fast;
    for (int i = 0; i < 1000; ++i)
        fast.add({Kind::bytes, "/", rising(i), 10'000'000}, start + Duration(50) * i);
    EXPECT_FALSE(fast.until_full()) << "1,000 samples, but of 50 seconds";
    for (int i = 1000; i < 10'000; ++i)
        fast.add({Kind::bytes, "/", rising(i), 100'000'000}, start + Duration(50) * i);
    ASSERT_TRUE(fast.rise_per_second()) << "passed over, but not all";
    EXPECT_NEAR(*fast.rise_per_second(), 20'000, 1e-6);
    EXPECT_EQ(fast.until(rising(9999)), Duration::zero()) << "the last sample counts, passed over or not";
}

TEST(Forecast, ResetAndAClockThatWasSetBackBeginAnew) {
    const auto rising = [](int i) { return 500'000 + 1000 * static_cast<uint64_t>(i); };
    Forecast forecast = of_series(30, rising);
    forecast.reset();
    EXPECT_FALSE(forecast.until_full());
    EXPECT_FALSE(forecast.until_next_step({}));
    forecast = of_series(30, rising);
    forecast.add({Kind::bytes, "/", 530'000, 1'000'000}, start);
    EXPECT_FALSE(forecast.until_full());
    for (int i = 1; i < 8; ++i)
        forecast.add({Kind::bytes, "/", 530'000 + 2000 * static_cast<uint64_t>(i), 1'000'000}, start + seconds(10) * i);
    ASSERT_TRUE(forecast.rise_per_second());
    EXPECT_DOUBLE_EQ(*forecast.rise_per_second(), 200);
}

TEST(Forecast, SamplesOfOneMomentAreOne) {
    Forecast forecast({.capacity = 60, .least_samples = 3, .least_span = seconds(0), .window = seconds(0)});
    for (uint64_t i = 0; i < 10; ++i)
        forecast.add({Kind::bytes, "/", i, 100}, start);
    EXPECT_FALSE(forecast.until_full()) << "a slope over no time";
}

TEST(Forecast, FarAwayIsNotInSight) {
    const Forecast slow = of_series(60, [](int i) { return static_cast<uint64_t>(i); }, most);
    EXPECT_TRUE(slow.rise_per_second());
    EXPECT_FALSE(slow.until_full()) << "in millions of years";
    const Forecast huge =
        of_series(60, [](int i) { return most - (uint64_t{1} << 50U) * static_cast<uint64_t>(60 - i); }, most);
    ASSERT_TRUE(huge.until_full());
    EXPECT_NEAR(seconds_of(huge.until_full()), 10, 0.1);
    EXPECT_FALSE(of_series(60, [](int i) { return static_cast<uint64_t>(i); }, 0).until_full()) << "no limit";
}

TEST(Forecast, UntilTheNextStep) {
    Marks marks;
    marks.steps = {{50, Tier::log}, {60, Tier::gc}, {95, Tier::refuse_creates}};
    const Forecast forecast = of_series(30, [](int i) { return 500'000 + 1000 * static_cast<uint64_t>(i); });
    auto next = forecast.until_next_step(marks);
    ASSERT_TRUE(next);
    EXPECT_EQ(next->step, (Step{60, Tier::gc}));
    EXPECT_DOUBLE_EQ(seconds_of(next->in), (600'000 - 529'000) / 100.0);
    marks.steps = {{50, Tier::log}, {95, Tier::refuse_creates}};
    marks.min_free = 200'000;
    next = forecast.until_next_step(marks);
    ASSERT_TRUE(next);
    EXPECT_DOUBLE_EQ(seconds_of(next->in), (800'001 - 529'000) / 100.0) << "the reserve comes before the mark";
    marks.steps = {{50, Tier::log}};
    marks.min_free = 0;
    EXPECT_FALSE(forecast.until_next_step(marks)) << "it is at all of them";
}

} // namespace
} // namespace shale::guard
