// SPDX-License-Identifier: Apache-2.0
#include "guard/guard.h"

#include <algorithm>
#include <set>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "guard/json_members.h"
#include "oci/json.h"
#include "sys/fs.h"

namespace shale::guard {
namespace {

constexpr const char *state_name = "state.json";
constexpr size_t most_state = size_t{4} << 20U;
constexpr size_t most_resources = 10'000, most_subject = 8192;
constexpr int state_version = 1;

/// "3 hours 5 minutes", "12 minutes"
std::string text_of(Duration time) {
    const auto minutes = std::chrono::duration_cast<std::chrono::minutes>(time).count();
    if (minutes < 1) return "less than a minute";
    if (minutes < 120) return fmt::format("{} minute{}", minutes, minutes == 1 ? "" : "s");
    if (minutes < 48 * 60) return fmt::format("{} hours {} minutes", minutes / 60, minutes % 60);
    return fmt::format("{} days", minutes / (24 * 60));
}

std::string name_of(const Sample &sample) {
    return fmt::format("{} of {}", name_of(sample.kind), sample.subject);
}

} // namespace

std::chrono::seconds refusal_lasts(const Config &config) noexcept {
    return std::chrono::duration_cast<std::chrono::seconds>(config.interval) * rounds_of_patience +
           std::chrono::minutes(1);
}

Guard::Guard(Config config, UniqueFd dir, Hands &hands, std::function<void(const Event &)> tell)
    : config_(std::move(config)), dir_(std::move(dir)),
      log_(UniqueFd(::fcntl(dir_.get(), F_DUPFD_CLOEXEC, 0)), config_.event_log_bytes), hands_(hands),
      tell_(std::move(tell)) {}

Status Guard::can(const Config &config, const Hands &hands) {
    for (const auto &[kind, kind_name] : kind_names) {
        if (!config.of(kind).enabled) continue;
        for (const Step &step : plan(config, kind).steps)
            if (const auto why = hands.cannot(step.tier); !why.empty())
                return fail(Errc::Unimplemented,
                            fmt::format("[guard.{}] turns {} on: {}", kind_name, name_of(step.tier), why));
    }
    return {};
}

Result<Guard> Guard::start(Config config, UniqueFd dir, Hands &hands, std::function<void(const Event &)> tell) {
    TRY(can(config, hands));
    Guard out(std::move(config), std::move(dir), hands, std::move(tell));
    out.load();
    return out;
}

/// A state that cannot be used is as good as none.
void Guard::load() {
    auto text = sys::read_file(dir_.get(), state_name, most_state);
    if (!text) return;
    const auto state = oci::parse_object(*text, state_name);
    if (!state || !check_version(*state, state_version, state_name)) return;
    const auto resources = array_member(*state, "resources", most_resources, state_name);
    if (!resources) return;
    for (const auto &one : **resources) {
        const auto kind = kind_member(one, "kind", state_name);
        const auto subject = text_member(one, "subject", most_subject, state_name);
        const auto *watermark = oci::find_member(one, "state");
        if (kind && subject && watermark != nullptr) saved_.emplace(Key{*kind, *subject}, watermark->dump());
    }
    state_ = std::move(*text);
}

Status Guard::save() {
    auto resources = nlohmann::json::array();
    for (const auto &[key, watched] : watched_)
        resources.push_back(
            {{"kind", name_of(key.first)}, {"subject", key.second}, {"state", watched.watermark.to_json()}});
    std::string text = nlohmann::json{{"version", state_version}, {"resources", std::move(resources)}}.dump(
        -1, ' ', false, nlohmann::json::error_handler_t::replace);
    if (text == state_) return {};
    TRY(sys::write_file_durably(dir_.get(), state_name, text));
    state_ = std::move(text);
    return {};
}

Guard::Watched &Guard::watch(const Sample &sample) {
    const Key key{sample.kind, sample.subject};
    if (const auto found = watched_.find(key); found != watched_.end()) return found->second;
    const Marks marks = plan(config_, sample.kind);
    std::optional<Watermark> watermark;
    if (const auto saved = saved_.extract(key); !saved.empty())
        if (auto read = Watermark::from_json(nlohmann::json::parse(saved.mapped(), nullptr, false), marks))
            watermark = std::move(*read);
    return watched_.emplace(key, Watched{watermark ? std::move(*watermark) : Watermark(marks), Forecast(), false})
        .first->second;
}

Event Guard::event(EventType type, const Sample &sample, std::optional<Tier> tier, std::string what, Time now) const {
    return {now, type, sample.kind, sample.subject, tier, std::move(what), {}, false};
}

void Guard::note(Event event) {
    if (!config_.dry_run)
        if (const auto done = log_.append(event); !done && !failed_) failed_ = done.error();
    if (tell_) tell_(event);
}

Status Guard::round(Time now) {
    failed_.reset();
    recover(now);
    std::vector<std::string> problems;
    auto samples = hands_.look(problems);
    if (samples.size() > most_resources) {
        problems.push_back(fmt::format("{} resources: the first {} are watched", samples.size(), most_resources));
        samples.resize(most_resources);
    }
    std::erase_if(samples, [&](const Sample &one) { return !config_.of(one.kind).enabled; });
    for (const auto &problem : problems)
        if (std::ranges::find(problems_, problem) == problems_.end())
            note({now, EventType::problem, Kind::bytes, {}, {}, problem, {}, false});
    problems_ = std::move(problems);
    // What is not there any more is forgotten: it may come back as something else.
    std::set<Key> there;
    for (const auto &sample : samples)
        there.emplace(sample.kind, sample.subject);
    std::erase_if(watched_, [&](const auto &one) { return !there.contains(one.first); });
    for (const auto &sample : samples)
        judge(sample, now);
    refuse(samples, now);
    slow(samples, now);
    rows_.clear();
    for (auto &sample : samples) {
        const auto &watched = watch(sample);
        Row row{sample,
                watched.watermark.marks(),
                {},
                watched.forecast.rise_per_second(),
                watched.forecast.until_full(),
                watched.forecast.until_next_step(watched.watermark.marks())};
        for (const Step &step : row.marks.steps)
            if (watched.watermark.is_inside(step)) row.inside.push_back(step);
        rows_.push_back(std::move(row));
    }
    if (!config_.dry_run)
        if (const auto done = save(); !done && !failed_) failed_ = done.error();
    if (failed_) return std::unexpected(*failed_);
    return {};
}

void Guard::judge(const Sample &sample, Time now) {
    Watched &watched = watch(sample);
    watched.forecast.add(sample, now);
    warn(sample, watched, now);
    const Decision decision = watched.watermark.update(sample, now);
    for (const Step &step : decision.entered)
        note(event(EventType::entered, sample, step.tier, fmt::format("{}: {}", text_of(step), text_of(sample)), now));
    for (const Step &step : decision.left)
        note(event(EventType::left, sample, step.tier, fmt::format("{}: {}", text_of(step), text_of(sample)), now));
    for (const Step &step : decision.due)
        act(sample, watched, step, now);
}

void Guard::act(const Sample &sample, Watched &watched, const Step &step, Time now) {
    Event begun =
        event(EventType::acting, sample, step.tier,
              fmt::format("{}{}: {}", config_.dry_run ? "would do " : "", name_of(step.tier), text_of(sample)), now);
    begun.undone = config_.dry_run;
    if (config_.dry_run) {
        begun.evidence = hands_.would(step.tier, sample);
        note(std::move(begun));
        (void)watched.watermark.result_of_action(step, sample.total, true, now);
        return;
    }
    note(std::move(begun));
    if (is_held(step.tier)) { // in force from refuse() or slow() on, at the end of this round
        (void)watched.watermark.result_of_action(step, 0, true, now);
        return;
    }
    const Outcome outcome = hands_.act(step.tier, sample);
    // What counts is what the resource says, not what the action believes.
    std::vector<std::string> ignored;
    uint64_t freed = 0;
    std::string after = "its use is not known afterwards";
    for (const auto &now_seen : hands_.look(ignored)) {
        if (now_seen.kind != sample.kind || now_seen.subject != sample.subject) continue;
        const uint64_t before_free = free_of(sample), after_free = free_of(now_seen);
        freed = after_free > before_free ? after_free - before_free : 0;
        after = text_of(now_seen);
    }
    if (freed > 0) watched.forecast.reset();
    const bool enough = watched.watermark.result_of_action(step, freed, outcome.ok, now);
    Event ended = event(enough ? EventType::acted : EventType::failed, sample, step.tier,
                        fmt::format("{} {} {}: {}", name_of(step.tier), step.tier == Tier::extend ? "added" : "freed",
                                    amount_text(freed, sample.unit), after),
                        now);
    ended.evidence = outcome.evidence;
    note(std::move(ended));
}

void Guard::warn(const Sample &sample, Watched &watched, Time now) {
    const auto full = watched.forecast.until_full();
    const bool soon = full && *full <= config_.warn_within;
    if (soon && !watched.warned)
        note(event(EventType::forecast, sample, {},
                   fmt::format("{} is full in {} if it goes on like this: {}", name_of(sample), text_of(*full),
                               text_of(sample)),
                   now));
    // It was told; again when it has been better, with room between.
    if (soon)
        watched.warned = true;
    else if (!full || *full > config_.warn_within * 2)
        watched.warned = false;
}

/// What another guard that was killed has left; a dry run leaves it to one that acts.
void Guard::recover(Time now) {
    if (recovered_ || config_.dry_run) return;
    recovered_ = true;
    Outcome left = hands_.recover();
    if (left.evidence.empty()) return;
    Event undone{now,
                 left.ok ? EventType::undone : EventType::failed,
                 Kind::bytes,
                 {},
                 Tier::throttle,
                 left.ok ? "what a guard that was killed had left in force is undone"
                         : "what a guard that was killed had left in force is not all undone",
                 std::move(left.evidence),
                 left.ok};
    note(std::move(undone));
}

void Guard::refuse(const std::vector<Sample> &samples, Time now) {
    std::vector<std::string> reasons;
    for (const auto &sample : samples) {
        const auto &watermark = watch(sample).watermark;
        const bool held = std::ranges::any_of(watermark.marks().steps, [&](const Step &step) {
            return step.tier == Tier::refuse_creates && watermark.is_inside(step);
        });
        if (held) reasons.push_back(fmt::format("{}: {}", name_of(sample), text_of(sample)));
    }
    if (config_.dry_run) return;
    const auto done = hands_.refuse(reasons, refusal_lasts(config_));
    if (!done && !failed_) failed_ = done.error();
    if (refusing_ && reasons.empty() && done)
        note({now,
              EventType::undone,
              Kind::bytes,
              {},
              Tier::refuse_creates,
              "what is new is not refused any more",
              {},
              true});
    refusing_ = !reasons.empty();
}

void Guard::slow(const std::vector<Sample> &samples, Time now) {
    if (config_.dry_run) return;
    std::vector<Sample> about;
    for (const auto &sample : samples)
        if (watch(sample).watermark.is_inside(Tier::throttle)) about.push_back(sample);
    tell(hands_.slow(about, now), about.empty() ? Sample() : about.front(), now);
}

void Guard::tell(const Slowed &changes, const Sample &about, Time now) {
    const auto say = [&](EventType type, std::string what, const std::vector<std::string> &evidence) {
        Event out = event(type, about, Tier::throttle, std::move(what), now);
        out.evidence = evidence;
        out.undone = type == EventType::undone;
        note(std::move(out));
    };
    if (!changes.undone.empty())
        say(EventType::undone, fmt::format("{} limits of writers are set back", changes.undone.size()), changes.undone);
    if (!changes.set.empty())
        say(EventType::acted, fmt::format("{} limits of writers are set", changes.set.size()), changes.set);
    if (!changes.failed.empty() && changes.failed != slow_failures_)
        say(EventType::failed, "writers could not be slowed, or not all", changes.failed);
    slow_failures_ = changes.failed;
}

Status Guard::finish(Ends what, Time now) {
    if (config_.dry_run) return {};
    failed_.reset();
    tell(hands_.slow({}, now), Sample(), now);
    if (what == Ends::all)
        if (const auto done = hands_.refuse({}, {}); !done && !failed_) failed_ = done.error();
    if (failed_) return std::unexpected(*failed_);
    return {};
}

} // namespace shale::guard
