// SPDX-License-Identifier: Apache-2.0
#include "guard/tiers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "guard/config.h"
#include "guard/marks.h"

namespace shale::guard {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::Not;

TierSetting &setting(Config &config, Kind kind, Tier tier) {
    return config.of(kind).tiers[std::to_underlying(tier)];
}

std::vector<std::string> names(const std::vector<Contradiction> &all) {
    std::vector<std::string> out;
    for (const auto &one : all)
        out.push_back(std::string(one.name) + " " + one.key);
    return out;
}

TEST(Tiers, NamesGoBothWays) {
    for (const auto &[tier, name] : tier_names) {
        EXPECT_EQ(name_of(tier), name);
        EXPECT_EQ(tier_named(name), tier);
    }
    EXPECT_EQ(tier_named("Evict"), std::nullopt);
}

TEST(Tiers, ByDefaultNothingButObservingAndCollecting) {
    const Config config;
    EXPECT_THAT(contradictions(config), IsEmpty());
    for (const auto &[kind, name] : kind_names) {
        const Marks marks = plan(config, kind);
        EXPECT_TRUE(check(marks)) << name << ": " << check(marks).error().text();
        EXPECT_FALSE(marks.steps.empty()) << name;
        for (const Step &step : marks.steps)
            EXPECT_TRUE(step.tier == Tier::log || step.tier == Tier::gc) << name << ": " << text_of(step);
    }
    EXPECT_THAT(plan(config, Kind::bytes).steps,
                ElementsAre(Step{90, Tier::log}, Step{90, Tier::gc}, Step{95, Tier::log}, Step{97, Tier::log},
                            Step{98, Tier::log}))
        << "what is off is logged at its mark";
    EXPECT_THAT(plan(config, Kind::thin_metadata).steps,
                ElementsAre(Step{80, Tier::log}, Step{80, Tier::gc}, Step{85, Tier::log}, Step{90, Tier::log},
                            Step{95, Tier::log}));
}

TEST(Tiers, QgroupsAtEightyFiveNinetyTwoNinetyEight) {
    Config config;
    EXPECT_THAT(plan(config, Kind::btrfs_qgroup).steps,
                ElementsAre(Step{85, Tier::log}, Step{92, Tier::log}, Step{98, Tier::log}));
    setting(config, Kind::btrfs_qgroup, Tier::throttle).on = true;
    setting(config, Kind::btrfs_qgroup, Tier::evict).on = true;
    EXPECT_THAT(contradictions(config), IsEmpty());
    EXPECT_THAT(plan(config, Kind::btrfs_qgroup).steps,
                ElementsAre(Step{85, Tier::log}, Step{92, Tier::throttle}, Step{98, Tier::evict}));
}

TEST(Tiers, SettingsMakeThePlan) {
    Config config;
    config.of(Kind::bytes).high = 85;
    config.of(Kind::bytes).marks.hysteresis = 3;
    setting(config, Kind::bytes, Tier::refuse_creates) = {true, {93}};
    setting(config, Kind::bytes, Tier::throttle).on = false;
    setting(config, Kind::thin_data, Tier::extend).on = true;
    config.of(Kind::thin_data).high = 70;
    const Marks bytes = plan(config, Kind::bytes);
    EXPECT_THAT(bytes.steps, ElementsAre(Step{85, Tier::log}, Step{85, Tier::gc}, Step{93, Tier::refuse_creates},
                                         Step{98, Tier::log}));
    EXPECT_EQ(bytes.hysteresis, 3U);
    EXPECT_EQ(bytes.min_free, uint64_t{10} << 30U);
    EXPECT_THAT(plan(config, Kind::thin_data).steps,
                ElementsAre(Step{70, Tier::log}, Step{70, Tier::gc}, Step{70, Tier::extend}, Step{85, Tier::log},
                            Step{85, Tier::extend}, Step{90, Tier::log}, Step{90, Tier::extend}, Step{95, Tier::log},
                            Step{95, Tier::extend}));
    setting(config, Kind::bytes, Tier::log).on = false;
    EXPECT_THAT(plan(config, Kind::bytes).steps, ElementsAre(Step{85, Tier::gc}, Step{93, Tier::refuse_creates}));
}

TEST(Tiers, ContradictionsHaveNames) {
    const auto found = [](auto change) {
        Config config;
        change(config);
        return names(contradictions(config));
    };
    EXPECT_THAT(found([](Config &c) { setting(c, Kind::bytes, Tier::evict) = {true, {80}}; }),
                ElementsAre("harsher-first guard.bytes.tiers.evict"));
    EXPECT_THAT(found([](Config &c) {
                    setting(c, Kind::bytes, Tier::refuse_creates).on = true;
                    c.of(Kind::bytes).high = 96;
                }),
                ElementsAre("harsher-first guard.bytes.tiers.refuse_creates"))
        << "gc goes along with high";
    EXPECT_THAT(found([](Config &c) {
                    setting(c, Kind::bytes, Tier::gc).on = false;
                    setting(c, Kind::bytes, Tier::evict).on = true;
                }),
                ElementsAre("harm-without-gc guard.bytes.tiers.gc"));
    EXPECT_THAT(found([](Config &c) { setting(c, Kind::inodes, Tier::extend) = {true, {90}}; }),
                ElementsAre("wrong-tier guard.inodes.tiers.extend"));
    EXPECT_THAT(found([](Config &c) { setting(c, Kind::depth, Tier::evict) = {true, {95}}; }),
                Contains("wrong-tier guard.depth.tiers.evict"));
    EXPECT_THAT(found([](Config &c) { setting(c, Kind::btrfs_qgroup, Tier::gc).on = true; }),
                ElementsAre("no-mark guard.btrfs_qgroup.tiers.gc"));
    EXPECT_THAT(found([](Config &c) { setting(c, Kind::thin_data, Tier::extend).on = true; }),
                ElementsAre("no-extend-max guard.thin_data.tiers.extend"));
    EXPECT_THAT(found([](Config &c) {
                    c.extend_max = 1;
                    setting(c, Kind::thin_data, Tier::extend).on = true;
                }),
                IsEmpty());
    EXPECT_THAT(found([](Config &c) {
                    c.of(Kind::bytes).marks.hysteresis = 40;
                    setting(c, Kind::bytes, Tier::gc) = {true, {40}};
                }),
                ElementsAre("hysteresis-too-wide guard.bytes.hysteresis"));
    EXPECT_THAT(found([](Config &c) { c.of(Kind::zfs_quota).marks.back_off = std::chrono::hours(1); }),
                ElementsAre("back-off-limit guard.zfs_quota.back_off_limit_s"));
}

TEST(Tiers, WhatIsOffContradictsNothing) {
    Config config;
    setting(config, Kind::bytes, Tier::evict) = {true, {80}};
    config.of(Kind::bytes).enabled = false;
    EXPECT_THAT(contradictions(config), IsEmpty());
    config.of(Kind::bytes).enabled = true;
    EXPECT_THAT(contradictions(config), Not(IsEmpty()));
    config.enabled = false;
    EXPECT_THAT(contradictions(config), IsEmpty());
}

TEST(Tiers, EveryPlanWithoutContradictionsPassesCheck) {
    // Any one tier of any kind at any mark, with any hysteresis: what is not named as wrong can be gone by.
    size_t planned = 0;
    for (const auto &[kind, kind_name] : kind_names)
        for (const auto &[tier, tier_name] : tier_names)
            for (unsigned mark = 1; mark <= 100; mark += 3)
                for (const unsigned hysteresis : {0U, 5U, 50U}) {
                    Config config;
                    setting(config, kind, tier) = {true, {mark}};
                    config.of(kind).marks.hysteresis = hysteresis;
                    if (!contradictions(config).empty()) continue;
                    ++planned;
                    const auto status = check(plan(config, kind));
                    EXPECT_TRUE(status) << kind_name << " " << tier_name << " " << mark << ": "
                                        << status.error().text();
                }
    EXPECT_GT(planned, 1000U);
}

} // namespace
} // namespace shale::guard
