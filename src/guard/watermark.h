// SPDX-License-Identifier: Apache-2.0
// What has to be done about one resource, sample by sample: a machine without a clock, without threads and without
// effects, whose state survives a restart.
//
// States of a step: outside; inside (use is at its mark, or the reserve is touched, and since then has not fallen below
// the mark by the hysteresis). Inside, its action is: not due yet (a wait of an earlier crossing has not passed), in
// flight (handed out, no result yet), done, or failed.
//
// Invariants:
// - An action is handed out only while use is at its mark, at most once a crossing, but for two exceptions: it failed,
//   and the back-off has passed; or it reclaims, succeeded, the cool-down has passed and use is at the mark all the
//   same.
// - Of one step, the next action begins no sooner than the cool-down (after a success) or the back-off (after a
//   failure) after the end of the last, in another crossing neither.
// - Of one tier there is never more than one action in flight. Where use is at several marks of a tier, the highest
//   acts for all of them.
// - evict is not handed out together with or beside a milder action, unless that has been running for longer than the
//   patience.
// - `log` is done by entering its step; it is never in flight.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "base/error.h"
#include "guard/marks.h"
#include "guard/resource.h"

namespace shale::guard {

struct Decision {
    std::vector<Step> entered; ///< the lowest mark first
    /// The highest mark first. What a tier holds (is_held) has to be undone once none of its steps is inside any more.
    std::vector<Step> left;
    std::vector<Step> due; ///< to be done now, in this order, evict last; each wants its result_of_action()
    /// One line with the figures and the marks, where any of the above is not empty: "bytes of /: 91.2 % in use (...),
    /// ...; gc at 90 % entered; due: gc".
    std::string reason;
};

class Watermark {
public:
    /// `marks` pass check().
    explicit Watermark(Marks marks);

    /// Samples are of one resource. One without a total changes nothing and decides nothing. A clock that was set back
    /// makes a wait longer by at most its own length.
    Decision update(const Sample &sample, Time now);
    /// How an action that was due has ended: `freed` in the unit of the samples (for extend: what was added). False: it
    /// has failed, because it was not `ok`, or because it should have reclaimed and freed less than least_reclaim_of();
    /// or it was not in flight, and nothing changes.
    bool result_of_action(const Step &step, uint64_t freed, bool ok, Time now);

    [[nodiscard]] const Marks &marks() const noexcept { return marks_; }
    [[nodiscard]] bool is_inside(const Step &step) const noexcept;
    /// Any step of that tier is.
    [[nodiscard]] bool is_inside(Tier tier) const noexcept;
    /// When an action of that step may begin at the earliest, as far as waits go; nullopt: at any time.
    [[nodiscard]] std::optional<Time> waits_until(const Step &step) const noexcept;

    /// The state, without the marks. {"version": 1, "steps": [...]}
    [[nodiscard]] nlohmann::json to_json() const;
    /// What to_json() gave, maybe of other marks: steps that `marks` does not have are forgotten, new ones are outside.
    /// An action that was in flight has failed: nobody knows what became of it. What is held is taken for undone, as a
    /// restart does, and is due again while use is at its mark. InvalidArgument: no such state
    /// (another version, a member of the wrong type or out of range, with its name); the caller begins anew.
    static Result<Watermark> from_json(const nlohmann::json &state, Marks marks);

private:
    struct State {
        bool inside = false;
        bool acted = false;        ///< in this crossing
        unsigned failures = 0;     ///< in a row, since it was outside
        std::optional<Time> began; ///< in flight since
        std::optional<Time> ended; ///< the last action
    };

    [[nodiscard]] std::optional<size_t> index_of(const Step &step) const noexcept;
    [[nodiscard]] std::optional<Time> waits_until(const State &state) const noexcept;
    void forget_the_future(Time now) noexcept;
    void cross(const Sample &sample, Decision &out);
    [[nodiscard]] bool may_act(size_t index, Time now) const noexcept;
    [[nodiscard]] bool is_tier_in_flight(Tier tier) const noexcept;
    [[nodiscard]] bool must_evict_wait(Time now) const noexcept;
    void hand_out(Tier tier, const Sample &sample, Time now, Decision &out);

    Marks marks_;
    std::vector<State> states_; ///< of marks_.steps, one each
    uint64_t total_ = 0;        ///< of the last sample
};

} // namespace shale::guard
