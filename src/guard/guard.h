// SPDX-License-Identifier: Apache-2.0
// The guard's round: look, decide by the watermarks, do what is due, tell. One thread; the clock is the caller's.
//
// What it knows of the past (watermarks: which steps are inside, when what was done) is in DIR/state.json, replaced as
// a whole when it has changed; without it the guard begins anew, which at worst does something once more. What it has
// in force is a refusal only, which ends by itself (store/refusal.h) and is renewed every round: killed at any time, it
// leaves nothing behind that lasts longer than `refusal_lasts`.
#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "guard/config.h"
#include "guard/event.h"
#include "guard/forecast.h"
#include "guard/hands.h"
#include "guard/watermark.h"

namespace shale::guard {

/// A refusal outlives this many rounds that do not come, and a minute.
inline constexpr int rounds_of_patience = 3;
[[nodiscard]] std::chrono::seconds refusal_lasts(const Config &config) noexcept;

/// One resource after a round.
struct Row {
    Sample sample;
    Marks marks;
    std::vector<Step> inside; ///< the steps that are entered
    std::optional<double> rise_per_second;
    std::optional<Duration> until_full;
    std::optional<Forecast::NextStep> next;
    [[nodiscard]] bool is_inside(const Step &step) const { return std::ranges::find(inside, step) != inside.end(); }
};

class Guard {
public:
    /// Unimplemented: the configuration turns a tier on that `hands` cannot carry out.
    static Status can(const Config &config, const Hands &hands);
    /// `dir`: of open_guard_dir(); `hands` and `tell` outlive it. `tell` gets every event, after it was logged (in a
    /// dry run nothing is logged, and nothing done). Unimplemented: as can().
    static Result<Guard> start(Config config, UniqueFd dir, Hands &hands, std::function<void(const Event &)> tell);

    /// An error is the log's or the state's: what was to be done was done all the same.
    Status round(Time now);
    /// What is in force ends, and is told: writers are not slowed any more; with `all`, nothing is refused either (of
    /// one that looks once, a refusal lasts as long as it says). To be called at the end; in a dry run nothing happens.
    enum class Ends : uint8_t { all, limits };
    Status finish(Ends what, Time now);
    /// Of the last round, in the order of kinds, then subjects.
    [[nodiscard]] const std::vector<Row> &rows() const noexcept { return rows_; }
    [[nodiscard]] const Config &config() const noexcept { return config_; }

private:
    using Key = std::pair<Kind, std::string>;
    struct Watched {
        Watermark watermark;
        Forecast forecast;
        bool warned = false; ///< of the forecast
    };

    Guard(Config config, UniqueFd dir, Hands &hands, std::function<void(const Event &)> tell);
    void load();
    Status save();
    Watched &watch(const Sample &sample);
    void judge(const Sample &sample, Time now);
    void act(const Sample &sample, Watched &watched, const Step &step, Time now);
    void warn(const Sample &sample, Watched &watched, Time now);
    void refuse(const std::vector<Sample> &samples, Time now);
    void slow(const std::vector<Sample> &samples, Time now);
    void tell(const Slowed &changes, const Sample &about, Time now);
    void recover(Time now);
    void note(Event event);
    Event event(EventType type, const Sample &sample, std::optional<Tier> tier, std::string what, Time now) const;

    Config config_;
    UniqueFd dir_;
    EventLog log_;
    Hands &hands_;
    std::function<void(const Event &)> tell_;
    std::map<Key, Watched> watched_;
    std::map<Key, std::string> saved_; ///< states of the last run, until the resource is seen
    std::string state_;                ///< as it is on disk
    std::vector<Row> rows_;
    std::vector<std::string> problems_; ///< of the last round: told once
    bool refusing_ = false;
    bool recovered_ = false;
    std::vector<std::string> slow_failures_; ///< of the last round: told once
    std::optional<Error> failed_;            ///< the first of this round
};

} // namespace shale::guard
