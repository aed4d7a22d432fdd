// SPDX-License-Identifier: Apache-2.0
// Rounds of a guard whose world is three numbers.
#include "guard/guard.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <utility>

#include <fmt/format.h>

#include "probe/test_root.h"
#include "sys/fs.h"

namespace shale::guard {
namespace {

using std::chrono::minutes;
using std::chrono::seconds;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr uint64_t gib = uint64_t{1} << 30U;

struct World final : Hands {
    std::vector<Sample> samples = {{Kind::bytes, "/data", 50 * gib, 100 * gib, "bytes"},
                                   {Kind::inodes, "/data", 10, 1000, "inodes"}};
    uint64_t gc_frees = 20 * gib;
    bool gc_works = true;
    std::vector<Tier> done;
    std::vector<std::string> refused;
    seconds refused_for{};
    std::vector<std::string> problems;
    Outcome left;
    bool slowed = false, slow_works = true;
    int looks_at_writers = 0;

    std::vector<Sample> look(std::vector<std::string> &out) override {
        out = problems;
        return samples;
    }
    std::string cannot(Tier tier) const override { return tier == Tier::evict ? "no hands for that" : ""; }
    Outcome act(Tier tier, const Sample &about) override {
        done.push_back(tier);
        if (!gc_works) return {false, {"the disk is broken"}};
        for (auto &one : samples)
            if (one.kind == about.kind && one.subject == about.subject) one.used -= std::min(one.used, gc_frees);
        return {true, {"removed 3 layers"}};
    }
    Outcome recover() override { return std::exchange(left, {}); }
    std::vector<std::string> would(Tier tier, const Sample &about) override {
        return {fmt::format("{} of {}", name_of(tier), about.subject)};
    }
    Slowed slow(std::span<const Sample> about, Time /*now*/) override {
        Slowed out;
        ++looks_at_writers;
        if (!about.empty() && !slow_works) {
            out.failed = {"no controller"};
        } else if (slowed != !about.empty()) {
            (about.empty() ? out.undone : out.set) = {"container abc"};
            slowed = !about.empty();
        }
        return out;
    }
    Status refuse(std::span<const std::string> reasons, seconds how_long) override {
        refused.assign(reasons.begin(), reasons.end());
        refused_for = how_long;
        return {};
    }
};

class GuardTest : public testing::Test {
protected:
    Guard start(std::string_view config = "") {
        auto parsed = parse_config(config, "shale.toml");
        EXPECT_TRUE(parsed) << parsed.error().text();
        auto dir = sys::make_dirs(AT_FDCWD, root_.path() + "/guard");
        EXPECT_TRUE(dir);
        auto out = Guard::start(std::move(*parsed), std::move(*dir), world_,
                                [this](const Event &event) { events_.push_back(event); });
        EXPECT_TRUE(out) << out.error().text();
        return std::move(*out);
    }
    void round(Guard &guard, Duration later = seconds(10)) {
        now_ += later;
        const auto done = guard.round(now_);
        EXPECT_TRUE(done) << done.error().text();
    }
    [[nodiscard]] std::vector<EventType> types() const {
        std::vector<EventType> out;
        for (const auto &event : events_)
            out.push_back(event.type);
        return out;
    }

    probe::TestRoot root_;
    World world_;
    Time now_{std::chrono::hours(500'000)};
    std::vector<Event> events_;
};

TEST_F(GuardTest, ActsOnceACrossingAndTellsWithFigures) {
    auto guard = start();
    round(guard);
    EXPECT_THAT(events_, IsEmpty());
    world_.samples[0].used = 95 * gib;
    round(guard);
    EXPECT_EQ(std::ranges::count(world_.done, Tier::gc), 1);
    ASSERT_FALSE(events_.empty());
    EXPECT_EQ(events_.front().type, EventType::entered);
    const auto acted = std::ranges::find(events_, EventType::acted, &Event::type);
    ASSERT_NE(acted, events_.end());
    EXPECT_THAT(acted->what, HasSubstr("freed 20.0 GiB"));
    EXPECT_THAT(acted->evidence, testing::ElementsAre("removed 3 layers"));
    for (int i = 0; i < 100; ++i)
        round(guard);
    EXPECT_EQ(std::ranges::count(world_.done, Tier::gc), 1) << "75 GiB is below the mark and its hysteresis";
    EXPECT_NE(std::ranges::find(events_, EventType::left, &Event::type), events_.end());
    ASSERT_EQ(guard.rows().size(), 2U);
    EXPECT_THAT(guard.rows()[0].inside, IsEmpty());
}

TEST_F(GuardTest, WhatFreesNothingHasFailedAndIsTriedLessAndLess) {
    auto guard = start();
    world_.samples[0].used = 95 * gib;
    world_.gc_frees = 0;
    for (int i = 0; i < 360; ++i) // an hour
        round(guard);
    const auto times = std::ranges::count(world_.done, Tier::gc);
    EXPECT_GE(times, 2);
    EXPECT_LE(times, 7) << "1, 2, 4, 8, 16, 32 minutes";
    EXPECT_NE(std::ranges::find(events_, EventType::failed, &Event::type), events_.end());
}

TEST_F(GuardTest, RefusesWhileTheStepIsInsideAndRenews) {
    auto guard = start("[guard.inodes.tiers]\nrefuse_creates = 95\n");
    round(guard);
    EXPECT_THAT(world_.refused, IsEmpty());
    world_.samples[1].used = 960;
    world_.gc_frees = 0;
    round(guard);
    ASSERT_EQ(world_.refused.size(), 1U);
    EXPECT_THAT(world_.refused[0], HasSubstr("inodes of /data: 96.0 %"));
    EXPECT_GE(world_.refused_for, 3 * guard.config().interval);
    world_.samples[1].used = 920;
    round(guard);
    EXPECT_EQ(world_.refused.size(), 1U) << "not below the hysteresis yet";
    world_.samples[1].used = 800;
    round(guard);
    EXPECT_THAT(world_.refused, IsEmpty());
    EXPECT_EQ(events_.back().type, EventType::undone);
}

TEST_F(GuardTest, WritersAreSlowedWhileTheStepIsInsideAndToldOnce) {
    auto guard = start("[guard.bytes.tiers]\nthrottle = 97\n");
    world_.gc_frees = 0;
    world_.samples[0].used = 98 * gib;
    for (int i = 0; i < 5; ++i)
        round(guard);
    EXPECT_TRUE(world_.slowed);
    const auto told = [&](EventType type) {
        return std::ranges::count_if(events_,
                                     [&](const Event &one) { return one.type == type && one.tier == Tier::throttle; });
    };
    EXPECT_EQ(told(EventType::acted), 1);
    world_.samples[0].used = 93 * gib;
    round(guard);
    EXPECT_TRUE(world_.slowed) << "not below the hysteresis yet";
    world_.samples[0].used = 91 * gib;
    round(guard);
    EXPECT_FALSE(world_.slowed);
    EXPECT_EQ(told(EventType::undone), 1);
    world_.samples[0].used = 98 * gib;
    round(guard);
    EXPECT_TRUE(world_.slowed);
    ASSERT_TRUE(guard.finish(Guard::Ends::all, now_));
    EXPECT_FALSE(world_.slowed) << "it ends with the guard";
    EXPECT_EQ(told(EventType::undone), 2);
    world_.slow_works = false;
    for (int i = 0; i < 5; ++i)
        round(guard);
    EXPECT_EQ(told(EventType::failed), 1) << "the same failure is told once";
}

TEST_F(GuardTest, WhatAKilledGuardLeftIsUndoneFirst) {
    world_.left = {true, {"cgroup x: back"}};
    auto guard = start();
    round(guard);
    ASSERT_FALSE(events_.empty());
    EXPECT_EQ(events_.front().type, EventType::undone);
    EXPECT_THAT(events_.front().evidence, testing::ElementsAre("cgroup x: back"));
    const auto before = events_.size();
    round(guard);
    EXPECT_EQ(events_.size(), before);
}

TEST_F(GuardTest, ADryRunDoesNothingAndSaysWhat) {
    auto guard = start("[guard]\ndry_run = true\n[guard.bytes.tiers]\nrefuse_creates = 93\n");
    world_.samples[0].used = 95 * gib;
    round(guard);
    EXPECT_THAT(world_.done, IsEmpty());
    EXPECT_THAT(world_.refused, IsEmpty());
    const auto would = std::ranges::find_if(events_, [](const Event &e) { return e.what.starts_with("would do gc"); });
    ASSERT_NE(would, events_.end());
    EXPECT_TRUE(would->undone);
    EXPECT_THAT(would->evidence, testing::ElementsAre("gc of /data"));
    EXPECT_EQ(world_.looks_at_writers, 0);
    ASSERT_TRUE(guard.finish(Guard::Ends::all, now_));
    EXPECT_EQ(world_.looks_at_writers, 0) << "what is in force is another guard's";
    EXPECT_TRUE(sys::list_dir(sys::open_dir(AT_FDCWD, (root_.path() + "/guard").c_str())->get())->empty());
}

TEST_F(GuardTest, ARestartGoesOn) {
    {
        auto guard = start();
        world_.samples[0].used = 95 * gib;
        world_.gc_frees = gib;
        round(guard);
        EXPECT_EQ(std::ranges::count(world_.done, Tier::gc), 1);
    }
    auto again = start();
    round(again);
    EXPECT_EQ(std::ranges::count(world_.done, Tier::gc), 1) << "it is known that it was done";
    ASSERT_TRUE(sys::write_file_durably(sys::open_dir(AT_FDCWD, (root_.path() + "/guard").c_str())->get(), "state.json",
                                        "{\"version\": 1, \"resources\": [3, {\"kind\": \"bytes\"}, {\"kind\": 7}]}"));
    auto damaged = start();
    round(damaged);
    EXPECT_EQ(std::ranges::count(world_.done, Tier::gc), 2) << "without a state it begins anew";
}

TEST_F(GuardTest, WhatItCannotDoIsRefusedAtTheStart) {
    auto config = parse_config("[guard.bytes.tiers]\nevict = 98\n", "shale.toml");
    ASSERT_TRUE(config) << config.error().text();
    auto dir = sys::make_dirs(AT_FDCWD, root_.path() + "/guard");
    const auto refused = Guard::start(std::move(*config), std::move(*dir), world_, {});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Errc::Unimplemented);
    EXPECT_THAT(refused.error().text(), HasSubstr("no hands for that"));
}

TEST_F(GuardTest, ProblemsAreToldOnceAndTheForecastInTime) {
    auto guard = start();
    world_.problems = {"/sys/fs/btrfs: no"};
    for (int i = 0; i < 60; ++i) {
        world_.samples[0].used += gib / 10; // full in about an hour
        round(guard);
    }
    EXPECT_EQ(std::ranges::count(types(), EventType::problem), 1);
    EXPECT_EQ(std::ranges::count(types(), EventType::forecast), 1);
    const auto forecast = std::ranges::find(events_, EventType::forecast, &Event::type);
    EXPECT_THAT(forecast->what, HasSubstr("is full in"));
    ASSERT_TRUE(guard.rows()[0].until_full);
    EXPECT_NEAR(static_cast<double>(guard.rows()[0].until_full->count()) / 1000,
                static_cast<double>(44 * gib) / (static_cast<double>(gib) / 100), 60);
}

/// A disk that fills and is emptied at random: for every time that gc was done, use had come to its mark from below.
TEST_F(GuardTest, NeverFlaps) {
    auto guard = start();
    std::minstd_rand random(7);
    uint64_t crossings = 0;
    bool above = false;
    for (int i = 0; i < 20'000; ++i) {
        const auto step = static_cast<int64_t>(random() % 5) - 2;
        auto &used = world_.samples[0].used;
        used = static_cast<uint64_t>(std::clamp<int64_t>(static_cast<int64_t>(used / gib) + step, 0, 100)) * gib;
        const bool now_above = used >= 90 * gib;
        if (now_above && !above) ++crossings;
        above = now_above;
        world_.gc_frees = 2 * gib;
        round(guard);
        above = world_.samples[0].used >= 90 * gib;
    }
    EXPECT_GT(world_.done.size(), 10U);
    EXPECT_LE(std::ranges::count(world_.done, Tier::gc), static_cast<int64_t>(crossings) + 1);
}

} // namespace
} // namespace shale::guard
