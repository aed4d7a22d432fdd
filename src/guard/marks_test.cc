// SPDX-License-Identifier: Apache-2.0
#include "guard/marks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

namespace shale::guard {
namespace {

using std::chrono::minutes;
using std::chrono::seconds;
using testing::HasSubstr;

constexpr uint64_t gib = uint64_t{1} << 30U;
constexpr uint64_t most = std::numeric_limits<uint64_t>::max();

Marks example() {
    Marks out;
    out.steps = {{90, Tier::gc}, {95, Tier::refuse_creates}, {98, Tier::evict}};
    return out;
}

TEST(Marks, ANinetyIsLeftBelowEightyFive) {
    const Band band = band_of(example(), {90, Tier::gc}, 1000);
    EXPECT_EQ(band.enter, 900U);
    EXPECT_EQ(band.leave, 850U);
}

TEST(Marks, BandsAreSaneForAnyTotal) {
    Marks marks = example();
    for (const uint64_t reserve : {uint64_t{0}, uint64_t{1}, 10 * gib, most}) {
        marks.min_free = reserve;
        for (const uint64_t total : {uint64_t{1}, uint64_t{2}, uint64_t{3}, uint64_t{19}, uint64_t{20}, uint64_t{500},
                                     20 * gib, 60 * gib, most - 1, most})
            for (const Step &step : marks.steps) {
                const Band band = band_of(marks, step, total);
                EXPECT_GT(band.leave, 0U) << "it could never be left, of " << total;
                EXPECT_LE(band.leave, band.enter) << text_of(step) << " of " << total;
                EXPECT_LE(band.enter, total) << text_of(step) << ": full is not at the mark, of " << total;
            }
    }
}

TEST(Marks, TheReserveActsBeforeTheMarkOnMiddlingDisks) {
    Marks marks = example();
    marks.min_free = 10 * gib;
    // 60 GiB: 90 % would leave 6 GiB.
    const Band gc = band_of(marks, {90, Tier::gc}, 60 * gib);
    EXPECT_EQ(gc.enter, 50 * gib + 1) << "10 GiB free are enough";
    EXPECT_EQ(gc.leave, 47 * gib + 1) << "5 points of 60 GiB more than the reserve";
    EXPECT_EQ(band_of(marks, {95, Tier::refuse_creates}, 60 * gib).enter, 50 * gib + 1);
    EXPECT_EQ(band_of(marks, {98, Tier::evict}, 60 * gib).enter, amount_at(60 * gib, 98)) << "evict goes by marks";
    // 1 TiB: the mark comes first.
    EXPECT_EQ(band_of(marks, {90, Tier::gc}, 1024 * gib).enter, amount_at(1024 * gib, 90));
}

TEST(Marks, TheReserveIsCappedOnSmallDisks) {
    Marks marks = example();
    marks.min_free = 10 * gib;
    EXPECT_EQ(reserve_of(marks, 20 * gib), 4 * gib);
    EXPECT_EQ(reserve_of(marks, 50 * gib), 10 * gib);
    EXPECT_EQ(reserve_of(marks, 500 * gib), 10 * gib);
    EXPECT_EQ(reserve_of(marks, 0), 0U);
    EXPECT_EQ(band_of(marks, {90, Tier::gc}, 20 * gib).enter, 16 * gib + 1);
}

TEST(Marks, TheReserveIsTheLowestStepOfATiersBusiness) {
    Marks marks;
    marks.steps = {{80, Tier::log}, {80, Tier::extend}, {95, Tier::log}, {95, Tier::extend}};
    marks.min_free = 25;
    EXPECT_EQ(band_of(marks, {95, Tier::log}, 100).enter, 95U);
    EXPECT_EQ(band_of(marks, {95, Tier::extend}, 100).enter, 95U);
    EXPECT_EQ(band_of(marks, {80, Tier::log}, 100).enter, 80U) << "capped at 20 %: less than 20 free are 81 used";
    marks.steps = {{85, Tier::log}, {95, Tier::log}};
    EXPECT_EQ(band_of(marks, {85, Tier::log}, 100).enter, 81U);
}

TEST(Marks, WhatCountsAsReclaimedOnSmallDisks) {
    Marks marks;
    marks.min_reclaim = 500 << 20U;
    EXPECT_EQ(least_reclaim_of(marks, 500 * gib), 500U << 20U);
    EXPECT_EQ(least_reclaim_of(marks, 10'000), 100U);
}

TEST(Marks, BackOffDoublesToItsLimit) {
    const Marks marks;
    EXPECT_EQ(back_off_after(marks, 0), Duration::zero());
    EXPECT_EQ(back_off_after(marks, 1), minutes(1));
    EXPECT_EQ(back_off_after(marks, 2), minutes(2));
    EXPECT_EQ(back_off_after(marks, 6), minutes(32));
    EXPECT_EQ(back_off_after(marks, 7), minutes(42));
    EXPECT_EQ(back_off_after(marks, std::numeric_limits<unsigned>::max()), minutes(42));
    Marks never;
    never.back_off = Duration::zero();
    EXPECT_EQ(back_off_after(never, 3), Duration::zero());
    Marks same;
    same.back_off = same.back_off_limit = seconds(7);
    EXPECT_EQ(back_off_after(same, 9), seconds(7));
}

TEST(Marks, CheckNamesWhatIsWrong) {
    EXPECT_TRUE(check(example()));
    const auto why = [](auto change) {
        Marks marks = example();
        change(marks);
        const auto status = check(marks);
        return status ? std::string("nothing") : status.error().text();
    };
    EXPECT_THAT(why([](Marks &m) { m.steps[0].percent = 0; }), HasSubstr("1 to 100"));
    EXPECT_THAT(why([](Marks &m) { m.steps[2].percent = 101; }), HasSubstr("1 to 100"));
    EXPECT_THAT(why([](Marks &m) { m.steps[1] = m.steps[0]; }), HasSubstr("gc at 90 % stands behind gc at 90 %"));
    EXPECT_THAT(why([](Marks &m) { std::swap(m.steps[0], m.steps[1]); }), HasSubstr("stands behind"));
    EXPECT_THAT(why([](Marks &m) { m.hysteresis = 90; }), HasSubstr("never be left"));
    EXPECT_THAT(why([](Marks &m) { m.back_off = minutes(43); }), HasSubstr("less than the first"));
    EXPECT_THAT(why([](Marks &m) { m.cool_down = Duration(-1); }), HasSubstr("-1 ms"));
    EXPECT_THAT(why([](Marks &m) {
                    m.steps.clear();
                    for (unsigned percent = 10; percent < 75; ++percent)
                        m.steps.push_back({percent, Tier::log});
                }),
                HasSubstr("65 steps"));
}

TEST(Marks, DefaultsOfEveryKindAreOrdered) {
    for (const auto &[kind, name] : kind_names) {
        const KindDefaults &defaults = kind_defaults(kind);
        EXPECT_GT(defaults.high, 5U) << name;
        EXPECT_TRUE(std::ranges::is_sorted(defaults.rungs, {}, &Rung::tier)) << name;
        for (const Rung &rung : defaults.rungs) {
            const auto marks = rung.marks();
            EXPECT_TRUE(!marks.empty() && std::ranges::is_sorted(marks)) << name;
            EXPECT_TRUE(suits(kind, rung.tier)) << name << ": " << name_of(rung.tier);
            EXPECT_EQ(rung.on, rung.tier == Tier::log || rung.tier == Tier::gc)
                << name << ": by default it is observed and collected, no more: " << name_of(rung.tier);
        }
    }
}

} // namespace
} // namespace shale::guard
