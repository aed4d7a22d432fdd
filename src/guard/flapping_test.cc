// SPDX-License-Identifier: Apache-2.0
// The watermark over long random loads, against a second, simpler reckoning of what a crossing is.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <map>
#include <random>

#include "guard/watermark.h"

namespace shale::guard {
namespace {

using std::chrono::minutes;
using std::chrono::seconds;

const Time start{std::chrono::hours(24 * 20'000)};
constexpr int samples = 100'000;
constexpr int64_t total = 100'000; ///< so that a point is 1,000
constexpr int64_t points = total / 100;

Sample at(int64_t used) {
    return {Kind::bytes, "/data", static_cast<uint64_t>(used), static_cast<uint64_t>(total)};
}

/// What a crossing is: at the mark or more, then below mark - 5 points.
class Oracle {
public:
    explicit Oracle(const Marks &marks) : steps_(marks.steps) {}

    void see(int64_t used) {
        entered.clear();
        left.clear();
        for (const Step &step : steps_) {
            const int64_t mark = step.percent * points;
            bool &inside = inside_[step];
            if (!inside && used >= mark) {
                inside = true;
                ++crossings[step];
                entered.push_back(step);
            } else if (inside && used < mark - 5 * points) {
                inside = false;
                left.insert(left.begin(), step);
            }
        }
    }
    std::vector<Step> entered, left;
    std::map<Step, int> crossings;

private:
    std::vector<Step> steps_;
    std::map<Step, bool> inside_;
};

Marks all_tiers() {
    Marks out;
    out.steps = {{85, Tier::log},    {88, Tier::extend},         {90, Tier::gc},
                 {93, Tier::extend}, {95, Tier::refuse_creates}, {97, Tier::throttle},
                 {98, Tier::evict}};
    out.min_reclaim = 500;
    return out;
}

TEST(Flapping, ActionsThatWorkAreNotMoreThanCrossings) {
    for (unsigned seed = 1; seed <= 3; ++seed) {
        const Marks marks = all_tiers();
        Watermark mark(marks);
        Oracle oracle(marks);
        std::mt19937 random(seed);
        std::uniform_int_distribution<int64_t> walk(-1500, 1600);
        std::map<Step, int> actions;
        int64_t used = 50 * points;
        for (int i = 0; i < samples; ++i) {
            used = std::clamp<int64_t>(used + walk(random), 0, total);
            const Time now = start + seconds(10) * i;
            const int64_t seen = used;
            const Decision decision = mark.update(at(used), now);
            oracle.see(used);
            ASSERT_EQ(decision.entered, oracle.entered) << "sample " << i << ", use " << used;
            ASSERT_EQ(decision.left, oracle.left) << "sample " << i << ", use " << used;
            ASSERT_EQ(decision.reason.empty(),
                      decision.entered.empty() && decision.left.empty() && decision.due.empty());
            for (const Step &step : decision.due) {
                ++actions[step];
                ASSERT_GE(seen, step.percent * points);
                int64_t freed = 0;
                if (reclaims(step.tier)) { // all that it has to: below its mark by the hysteresis
                    freed = seen - (step.percent - 10) * points;
                    used = std::min(used, seen - freed);
                }
                ASSERT_TRUE(mark.result_of_action(step, static_cast<uint64_t>(freed), true, now));
            }
        }
        for (const Step &step : marks.steps) {
            EXPECT_LE(actions[step], oracle.crossings[step]) << text_of(step);
            EXPECT_GE(oracle.crossings[step], step.percent < 90 ? 100 : 0)
                << "the walk says nothing: " << text_of(step);
        }
        EXPECT_EQ(actions[(Step{85, Tier::log})], 0);
        EXPECT_GE(actions[(Step{88, Tier::extend})], 100);
    }
}

/// The last action of a step, as a test sees it.
struct Seen {
    Time began;
    std::optional<Time> ended;
    bool good = true;
    int in_crossing = 0; ///< actions since it was entered
};

TEST(Flapping, RepeatsHaveAReason) {
    for (unsigned seed = 11; seed <= 13; ++seed) {
        const Marks marks = all_tiers();
        Watermark mark(marks);
        Oracle oracle(marks);
        std::mt19937 random(seed);
        std::uniform_int_distribution<int64_t> walk(-1200, 1300), little(0, 3000);
        std::uniform_int_distribution<int> duration(0, 20), one_of(0, 9);
        std::map<Step, Seen> seen;
        std::map<Step, int> runs, actions, repeats; // runs: samples that it still takes
        int64_t used = 50 * points;
        for (int i = 0; i < samples; ++i) {
            const Time now = start + seconds(10) * i;
            for (auto &[step, left] : runs) {
                if (left == 0 || --left != 0) continue;
                const int64_t freed = reclaims(step.tier) ? std::min(used, little(random)) : 0;
                const bool ok = one_of(random) != 0;
                if (ok) used -= freed;
                seen[step].ended = now;
                seen[step].good = ok && (!reclaims(step.tier) || freed >= 500);
                ASSERT_EQ(mark.result_of_action(step, static_cast<uint64_t>(freed), ok, now), seen[step].good);
            }
            used = std::clamp<int64_t>(used + walk(random), 0, total);
            if (i % 20'000 == 19'999) used = 20 * points; // somebody cleans up
            const Decision decision = mark.update(at(used), now);
            oracle.see(used);
            ASSERT_EQ(decision.entered, oracle.entered) << "sample " << i;
            ASSERT_EQ(decision.left, oracle.left) << "sample " << i;
            for (const Step &step : decision.entered)
                seen[step].in_crossing = 0;
            for (const Step &step : decision.due) {
                Seen &last = seen[step];
                ASSERT_NE(step.tier, Tier::log);
                ASSERT_EQ(runs[step], 0) << "two at once: " << text_of(step);
                ASSERT_GE(used, step.percent * points) << text_of(step);
                if (last.ended) {
                    ASSERT_GE(now - *last.ended, last.good ? minutes(5) : minutes(1)) << text_of(step);
                }
                if (last.in_crossing > 0) {
                    ++repeats[step];
                    ASSERT_TRUE(!last.good || reclaims(step.tier)) << "held already: " << text_of(step);
                }
                for (const auto &[other, left] : runs)
                    if (step.tier == Tier::evict && left != 0) {
                        ASSERT_GE(now - seen[other].began, minutes(1)) << "evict beside " << text_of(other);
                    }
                last.began = now;
                ++last.in_crossing;
                ++actions[step];
                runs[step] = 1 + duration(random);
            }
        }
        int all_repeats = 0;
        for (const Step &step : marks.steps) {
            EXPECT_LE(actions[step], oracle.crossings[step] + repeats[step]) << text_of(step);
            all_repeats += repeats[step];
        }
        EXPECT_GT(all_repeats, 100) << "the walk says nothing";
        EXPECT_GT(actions[(Step{98, Tier::evict})], 100);
    }
}

TEST(Flapping, TremblingAtTheMarkIsOneCrossing) {
    Marks marks = all_tiers();
    marks.cool_down = std::chrono::days(300);
    Watermark mark(marks);
    std::mt19937 random(7);
    std::uniform_int_distribution<int64_t> near(-4999, 4999);
    int entered = 0, left = 0, acted = 0;
    for (int i = 0; i < samples; ++i) {
        const int64_t used = i == 0 ? 90 * points : 90 * points + near(random) / 2; // within 2.5 points
        const Decision decision = mark.update(at(used), start + seconds(10) * i);
        entered += static_cast<int>(std::ranges::count(decision.entered, Step{90, Tier::gc}));
        left += static_cast<int>(decision.left.size());
        for (const Step &step : decision.due) {
            acted += step == Step{90, Tier::gc} ? 1 : 0;
            (void)mark.result_of_action(step, 1000, true, start + seconds(10) * i);
        }
    }
    EXPECT_EQ(entered, 1);
    EXPECT_EQ(left, 0);
    EXPECT_EQ(acted, 1);
}

TEST(Flapping, RestartsChangeNoCrossing) {
    const Marks marks = all_tiers();
    Watermark whole(marks), restarted(marks);
    std::mt19937 random(5);
    std::uniform_int_distribution<int64_t> walk(-1500, 1550);
    std::uniform_int_distribution<int> one_of(0, 49);
    int64_t used = 85 * points;
    int crossings = 0;
    for (int i = 0; i < samples / 10; ++i) {
        used = std::clamp<int64_t>(used + walk(random), 0, total);
        const Time now = start + seconds(10) * i;
        if (one_of(random) == 0) {
            auto again = Watermark::from_json(nlohmann::json::parse(restarted.to_json().dump()), marks);
            ASSERT_TRUE(again) << again.error().text();
            restarted = std::move(*again);
        }
        const Decision a = whole.update(at(used), now), b = restarted.update(at(used), now);
        ASSERT_EQ(a.entered, b.entered) << i;
        ASSERT_EQ(a.left, b.left) << i;
        crossings += static_cast<int>(a.entered.size());
    }
    EXPECT_GT(crossings, 100);
}

} // namespace
} // namespace shale::guard
