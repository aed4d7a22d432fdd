// SPDX-License-Identifier: Apache-2.0
#include "guard/watermark.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace shale::guard {
namespace {

using std::chrono::hours;
using std::chrono::minutes;
using std::chrono::seconds;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

const Time start{hours(24 * 20'000)};
constexpr Step log90{90, Tier::log}, gc90{90, Tier::gc}, refuse95{95, Tier::refuse_creates},
    throttle97{97, Tier::throttle}, evict98{98, Tier::evict};

Sample at(uint64_t used) {
    return {Kind::bytes, "/data", used, 1000};
}
Marks marks_of(std::vector<Step> steps) {
    Marks out;
    out.steps = std::move(steps);
    return out;
}

TEST(Watermark, OnceACrossing) {
    Watermark mark(marks_of({log90, gc90}));
    EXPECT_THAT(mark.update(at(899), start).entered, IsEmpty());
    const Decision decision = mark.update(at(900), start);
    EXPECT_THAT(decision.entered, ElementsAre(log90, gc90));
    EXPECT_THAT(decision.due, ElementsAre(gc90)) << "log is done by entering";
    EXPECT_THAT(mark.update(at(950), start + minutes(60)).due, IsEmpty()) << "it has not ended yet";
    EXPECT_TRUE(mark.result_of_action(gc90, 100, true, start + minutes(60)));
    // Between 85 and 90 %: neither left nor to be acted upon.
    const Decision between = mark.update(at(850), start + hours(9));
    EXPECT_THAT(between.left, IsEmpty());
    EXPECT_THAT(between.due, IsEmpty());
    EXPECT_TRUE(mark.is_inside(gc90));
    EXPECT_THAT(mark.update(at(849), start + hours(9)).left, ElementsAre(gc90, log90));
    EXPECT_FALSE(mark.is_inside(gc90));
    EXPECT_THAT(mark.update(at(905), start + hours(10)).due, ElementsAre(gc90)) << "another crossing";
}

TEST(Watermark, ReasonHasTheFigures) {
    Watermark mark(marks_of({gc90, refuse95}));
    EXPECT_EQ(mark.update(at(10), start).reason, "");
    EXPECT_EQ(mark.update({Kind::inodes, "/data", 960, 1000, "inodes"}, start).reason,
              "inodes of /data: 96.0 % in use (960 inodes of 1,000 inodes), 40 inodes free; gc at 90 %, refuse_creates "
              "at 95 % entered; due: gc, refuse_creates");
    EXPECT_EQ(mark.update(at(10), start).reason,
              "bytes of /data: 1.0 % in use (10 B of 1000 B), 990 B free; refuse_creates at 95 %, gc at 90 % left");
    Marks marks = marks_of({gc90});
    marks.min_free = 150;
    EXPECT_THAT(Watermark(marks).update(at(870), start).reason,
                HasSubstr("130 B free, less than the 150 B that are to stay free; gc at 90 % entered"));
}

TEST(Watermark, WithoutATotalNothingChanges) {
    const Sample nothing{Kind::bytes, "/data", 0, 0};
    Watermark mark(marks_of({gc90}));
    EXPECT_THAT(mark.update(nothing, start).entered, IsEmpty());
    (void)mark.update(at(990), start);
    const Decision decision = mark.update(nothing, start);
    EXPECT_THAT(decision.left, IsEmpty()) << "a reading that failed is no relief";
    EXPECT_TRUE(mark.is_inside(gc90));
}

TEST(Watermark, WhatWorkedAndWasNotEnoughIsDoneAgainAfterTheCoolDown) {
    Watermark mark(marks_of({gc90}));
    EXPECT_THAT(mark.update(at(950), start).due, ElementsAre(gc90));
    EXPECT_TRUE(mark.result_of_action(gc90, 20, true, start));
    EXPECT_EQ(mark.waits_until(gc90), start + minutes(5));
    EXPECT_THAT(mark.update(at(930), start + minutes(5) - Duration(1)).due, IsEmpty());
    EXPECT_THAT(mark.update(at(899), start + minutes(6)).due, IsEmpty()) << "below the mark it may rest";
    EXPECT_THAT(mark.update(at(930), start + minutes(6)).due, ElementsAre(gc90));
}

TEST(Watermark, WhatIsHeldIsNotDoneTwice) {
    Watermark mark(marks_of({refuse95, throttle97}));
    EXPECT_THAT(mark.update(at(990), start).due, ElementsAre(refuse95, throttle97));
    EXPECT_TRUE(mark.result_of_action(refuse95, 0, true, start)) << "it need not free anything";
    EXPECT_TRUE(mark.result_of_action(throttle97, 0, true, start));
    EXPECT_THAT(mark.update(at(990), start + hours(5)).due, IsEmpty());
    EXPECT_THAT(mark.update(at(910), start + hours(5)).left, ElementsAre(throttle97)) << "to be undone";
}

TEST(Watermark, WhatAHigherStepHoldsALowerOneDoesNotDoAgain) {
    const Step refuse90{90, Tier::refuse_creates};
    Watermark mark(marks_of({refuse90, refuse95}));
    EXPECT_THAT(mark.update(at(960), start).due, ElementsAre(refuse95));
    EXPECT_TRUE(mark.result_of_action(refuse95, 0, true, start));
    EXPECT_THAT(mark.update(at(930), start + hours(1)).due, IsEmpty()) << "it is in force";
    EXPECT_THAT(mark.update(at(880), start + hours(1)).left, ElementsAre(refuse95));
    EXPECT_TRUE(mark.is_inside(Tier::refuse_creates)) << "nothing is to be undone yet";
    EXPECT_THAT(mark.update(at(840), start + hours(1)).left, ElementsAre(refuse90));
    EXPECT_FALSE(mark.is_inside(Tier::refuse_creates));
}

TEST(Watermark, CoolDownHoldsOverCrossings) {
    Watermark mark(marks_of({gc90}));
    (void)mark.update(at(900), start);
    (void)mark.result_of_action(gc90, 100, true, start + seconds(1));
    (void)mark.update(at(800), start + seconds(10));
    const Decision again = mark.update(at(900), start + seconds(20));
    EXPECT_THAT(again.entered, ElementsAre(gc90));
    EXPECT_THAT(again.due, IsEmpty());
    EXPECT_THAT(mark.update(at(900), start + seconds(301)).due, ElementsAre(gc90));
}

TEST(Watermark, FailuresBackOffDoubling) {
    Watermark mark(marks_of({gc90}));
    Time now = start;
    for (const int wait : {1, 2, 4, 8, 16, 32, 42, 42}) {
        ASSERT_THAT(mark.update(at(950), now).due, ElementsAre(gc90)) << wait;
        EXPECT_FALSE(mark.result_of_action(gc90, 100, false, now));
        EXPECT_THAT(mark.update(at(950), now + minutes(wait) - Duration(1)).due, IsEmpty()) << wait;
        now += minutes(wait);
    }
    ASSERT_THAT(mark.update(at(950), now).due, ElementsAre(gc90));
    EXPECT_TRUE(mark.result_of_action(gc90, 100, true, now));
    EXPECT_EQ(mark.waits_until(gc90), now + minutes(5)) << "success forgets the failures";
}

TEST(Watermark, FailuresAreOfACrossing) {
    Watermark mark(marks_of({gc90}));
    Time now = start;
    for (const int wait : {1, 2, 4, 8, 16, 32}) {
        ASSERT_THAT(mark.update(at(950), now).due, ElementsAre(gc90)) << wait;
        (void)mark.result_of_action(gc90, 0, false, now);
        now += minutes(wait);
    }
    (void)mark.update(at(950), now);
    (void)mark.result_of_action(gc90, 0, false, now); // 42 minutes now
    EXPECT_THAT(mark.update(at(849), now).left, ElementsAre(gc90));
    EXPECT_THAT(mark.update(at(950), now + minutes(5) - Duration(1)).due, IsEmpty());
    EXPECT_THAT(mark.update(at(950), now + minutes(5)).due, ElementsAre(gc90)) << "the cool-down, no more";
}

TEST(Watermark, TooLittleIsAFailure) {
    Marks marks = marks_of({gc90, throttle97});
    marks.min_reclaim = 50; // of 1,000: capped at 10
    Watermark mark(marks);
    (void)mark.update(at(990), start);
    EXPECT_FALSE(mark.result_of_action(gc90, 9, true, start));
    EXPECT_EQ(mark.waits_until(gc90), start + minutes(1));
    EXPECT_THAT(mark.update(at(990), start + minutes(1)).due, ElementsAre(gc90));
    EXPECT_TRUE(mark.result_of_action(gc90, 10, true, start + minutes(1)));
}

TEST(Watermark, ResultsThatNobodyWaitsForChangeNothing) {
    Watermark mark(marks_of({gc90}));
    EXPECT_FALSE(mark.result_of_action(gc90, 100, true, start));
    EXPECT_FALSE(mark.result_of_action(evict98, 100, true, start));
    EXPECT_THAT(mark.update(at(950), start).due, ElementsAre(gc90)) << "no cool-down began";
    EXPECT_TRUE(mark.result_of_action(gc90, 100, true, start));
    EXPECT_FALSE(mark.result_of_action(gc90, 100, false, start)) << "twice";
    EXPECT_EQ(mark.waits_until(gc90), start + minutes(5));
}

TEST(Watermark, EvictWaitsForWhatIsMilder) {
    Watermark mark(marks_of({gc90, evict98}));
    EXPECT_THAT(mark.update(at(990), start).due, ElementsAre(gc90));
    EXPECT_THAT(mark.update(at(990), start + seconds(59)).due, IsEmpty()) << "gc runs";
    Watermark impatient = mark;
    EXPECT_THAT(impatient.update(at(990), start + seconds(60)).due, ElementsAre(evict98)) << "gc takes too long";
    EXPECT_TRUE(mark.result_of_action(gc90, 100, true, start + seconds(59)));
    EXPECT_THAT(mark.update(at(990), start + seconds(59)).due, ElementsAre(evict98)) << "gc was not enough";
    Watermark relieved(marks_of({gc90, evict98}));
    (void)relieved.update(at(990), start);
    (void)relieved.result_of_action(gc90, 200, true, start + seconds(30));
    EXPECT_THAT(relieved.update(at(940), start + seconds(30)).due, IsEmpty()) << "nobody had to go";
}

TEST(Watermark, ExtendGoesBeforeEvict) {
    Watermark mark(marks_of({{90, Tier::extend}, evict98}));
    EXPECT_THAT(mark.update(at(990), start).due, ElementsAre(Step{90, Tier::extend}));
}

TEST(Watermark, TheHighestStepOfATierActsForAll) {
    const Step at80{80, Tier::extend}, at85{85, Tier::extend}, at90{90, Tier::extend};
    Watermark mark(marks_of({at80, at85, at90}));
    EXPECT_THAT(mark.update(at(810), start).due, ElementsAre(at80));
    EXPECT_THAT(mark.update(at(860), start).due, IsEmpty()) << "the tier is at work";
    EXPECT_TRUE(mark.result_of_action(at80, 10, true, start));
    EXPECT_THAT(mark.update(at(860), start).due, ElementsAre(at85))
        << "the next 5 points: a step of its own, as dmeventd";
    EXPECT_TRUE(mark.result_of_action(at85, 10, true, start));
    EXPECT_THAT(mark.update(at(890), start).due, IsEmpty());

    Watermark jump(marks_of({at80, at85, at90}));
    EXPECT_THAT(jump.update(at(950), start).due, ElementsAre(at90)) << "once, and not three times";
    EXPECT_FALSE(jump.result_of_action(at90, 0, false, start));
    EXPECT_THAT(jump.update(at(870), start + seconds(59)).due, IsEmpty())
        << "85 % is reached, but the same was tried a minute ago";
    EXPECT_THAT(jump.update(at(870), start + seconds(60)).due, ElementsAre(at85));
}

TEST(Watermark, AGrownDiskLeavesTheStep) {
    Watermark mark(marks_of({gc90}));
    (void)mark.update(at(950), start);
    EXPECT_THAT(mark.update({Kind::bytes, "/data", 950, 2000}, start).left, ElementsAre(gc90));
}

TEST(Watermark, AClockThatWasSetBackDelaysByOneWaitAtMost) {
    Watermark mark(marks_of({gc90}));
    (void)mark.update(at(950), start);
    (void)mark.result_of_action(gc90, 100, true, start);
    const Time earlier = start - hours(24 * 365);
    EXPECT_THAT(mark.update(at(950), earlier).due, IsEmpty());
    EXPECT_THAT(mark.update(at(950), earlier + minutes(5)).due, ElementsAre(gc90));
}

// -------------------------------------------------------------------------------------------------------------- state

nlohmann::json busy_state() {
    Watermark mark(marks_of({gc90, refuse95, evict98}));
    (void)mark.update(at(990), start);
    (void)mark.result_of_action(gc90, 100, true, start + seconds(5));
    (void)mark.result_of_action(refuse95, 0, true, start + seconds(5));
    return mark.to_json();
}

TEST(Watermark, StateSurvivesARestart) {
    const auto text = busy_state().dump();
    auto mark = Watermark::from_json(nlohmann::json::parse(text), marks_of({gc90, refuse95, evict98}));
    ASSERT_TRUE(mark) << mark.error().text();
    const Decision decision = mark->update(at(970), start + seconds(10));
    EXPECT_THAT(decision.entered, IsEmpty()) << "it was inside before";
    EXPECT_THAT(decision.due, ElementsAre(refuse95)) << "gc has acted and cools down; what was held was undone";
    EXPECT_EQ(mark->waits_until(gc90), start + seconds(305));
    EXPECT_THAT(mark->update(at(970), start + seconds(305)).due, ElementsAre(gc90));
}

TEST(Watermark, StateOfJsonIsStateOfJson) {
    auto mark = Watermark::from_json(busy_state(), marks_of({gc90, refuse95, evict98}));
    ASSERT_TRUE(mark);
    const auto once = mark->to_json();
    auto again = Watermark::from_json(once, marks_of({gc90, refuse95, evict98}));
    ASSERT_TRUE(again);
    EXPECT_EQ(again->to_json(), once);
}

TEST(Watermark, WhatWasInFlightHasFailed) {
    Watermark before(marks_of({gc90}));
    (void)before.update(at(950), start);
    auto mark = Watermark::from_json(before.to_json(), marks_of({gc90}));
    ASSERT_TRUE(mark);
    EXPECT_FALSE(mark->result_of_action(gc90, 100, true, start)) << "nobody runs it any more";
    EXPECT_THAT(mark->update(at(950), start + seconds(59)).due, IsEmpty());
    EXPECT_THAT(mark->update(at(950), start + seconds(60)).due, ElementsAre(gc90));
}

TEST(Watermark, StateOfOtherMarks) {
    auto mark = Watermark::from_json(busy_state(), marks_of({{85, Tier::gc}, refuse95}));
    ASSERT_TRUE(mark);
    const Decision decision = mark->update(at(970), start + minutes(1));
    EXPECT_THAT(decision.entered, ElementsAre(Step{85, Tier::gc})) << "it is new";
    EXPECT_TRUE(mark->is_inside(refuse95));
}

TEST(Watermark, HostileStatesAreRefusedByName) {
    using Json = nlohmann::json;
    const Marks marks = marks_of({gc90, refuse95, evict98});
    const auto why = [&](auto change) {
        Json state = busy_state();
        change(state);
        const auto mark = Watermark::from_json(state, marks);
        if (mark) return std::string("accepted");
        EXPECT_EQ(mark.error().code(), Errc::InvalidArgument);
        return mark.error().text();
    };
    EXPECT_EQ(why([](Json &) {}), "accepted");
    EXPECT_THAT(why([](Json &s) { s = 7; }), HasSubstr("no document with a version"));
    EXPECT_THAT(why([](Json &s) { s = Json::array({1, 2}); }), HasSubstr("no document with a version"));
    EXPECT_THAT(why([](Json &s) { s["version"] = 2; }), HasSubstr("version 2"));
    EXPECT_THAT(why([](Json &s) { s["version"] = "1"; }), HasSubstr("no document with a version"));
    EXPECT_THAT(why([](Json &s) { s.erase("steps"); }), HasSubstr("steps must be a list"));
    EXPECT_THAT(why([](Json &s) { s["steps"] = Json(Json::array_t(65, s["steps"][0])); }), HasSubstr("at most 64"));
    EXPECT_THAT(why([](Json &s) { s["steps"][1] = 3; }), HasSubstr("steps[1].percent"));
    EXPECT_THAT(why([](Json &s) { s["steps"][1]["percent"] = 4294967391; }), HasSubstr("steps[1].percent"));
    EXPECT_THAT(why([](Json &s) { s["steps"][1]["percent"] = -95; }), HasSubstr("steps[1].percent"));
    EXPECT_THAT(why([](Json &s) { s["steps"][0]["tier"] = "eviction"; }), HasSubstr("steps[0].tier"));
    EXPECT_THAT(why([](Json &s) { s["steps"][0]["tier"] = 5; }), HasSubstr("steps[0].tier"));
    EXPECT_THAT(why([](Json &s) { s["steps"][0]["inside"] = 1; }), HasSubstr("steps[0].inside"));
    EXPECT_THAT(why([](Json &s) { s["steps"][0].erase("acted"); }), HasSubstr("steps[0].acted"));
    EXPECT_THAT(why([](Json &s) { s["steps"][0]["failures"] = 1e300; }), HasSubstr("steps[0].failures"));
    EXPECT_THAT(why([](Json &s) { s["steps"][0]["ended_ms"] = "now"; }), HasSubstr("steps[0].ended_ms"));
    EXPECT_THAT(why([](Json &s) { s["steps"][0]["ended_ms"] = 9'223'372'036'854'775'807; }), HasSubstr("year 10000"));
    EXPECT_THAT(why([](Json &s) { s["steps"][0]["began_ms"] = -1; }), HasSubstr("steps[0].began_ms"));
}

TEST(Watermark, AStateOfTheFutureWaitsNoLongerThanOthers) {
    auto state = busy_state();
    state["steps"][0]["ended_ms"] = 253'402'300'799'999;
    state["steps"][0]["failures"] = 1'000'000;
    auto mark = Watermark::from_json(state, marks_of({gc90, refuse95, evict98}));
    ASSERT_TRUE(mark);
    EXPECT_THAT(mark->update(at(950), start).due, ElementsAre(refuse95));
    EXPECT_THAT(mark->update(at(950), start + minutes(42)).due, ElementsAre(gc90));
}

} // namespace
} // namespace shale::guard
