// SPDX-License-Identifier: Apache-2.0
#include "guard/watermark.h"

#include <algorithm>
#include <iterator>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "guard/json_members.h"

namespace shale::guard {
namespace {

using Json = nlohmann::json;

constexpr int state_version = 1;
constexpr unsigned most_failures = 1'000'000; ///< counted; the wait has long been at its limit

void add_steps(std::string_view what, const std::vector<Step> &steps, std::string &out) {
    for (size_t i = 0; i < steps.size(); ++i)
        fmt::format_to(std::back_inserter(out), "{}{}", i == 0 ? "; " : ", ", text_of(steps[i]));
    if (!steps.empty()) fmt::format_to(std::back_inserter(out), " {}", what);
}

std::string reason_of(const Decision &decision, const Sample &sample, const Marks &marks) {
    if (decision.entered.empty() && decision.left.empty() && decision.due.empty()) return {};
    std::string out = fmt::format("{} of {}: {}", name_of(sample.kind), sample.subject, text_of(sample));
    const uint64_t reserve = reserve_of(marks, sample.total);
    if (free_of(sample) < reserve)
        fmt::format_to(std::back_inserter(out), ", less than the {} that are to stay free",
                       amount_text(reserve, sample.unit));
    add_steps("entered", decision.entered, out);
    add_steps("left", decision.left, out);
    for (size_t i = 0; i < decision.due.size(); ++i)
        fmt::format_to(std::back_inserter(out), "{}{}", i == 0 ? "; due: " : ", ", name_of(decision.due[i].tier));
    return out;
}

} // namespace

Watermark::Watermark(Marks marks) : marks_(std::move(marks)), states_(marks_.steps.size()) {}

std::optional<size_t> Watermark::index_of(const Step &step) const noexcept {
    const auto found = std::ranges::find(marks_.steps, step);
    if (found == marks_.steps.end()) return std::nullopt;
    return static_cast<size_t>(found - marks_.steps.begin());
}

bool Watermark::is_inside(const Step &step) const noexcept {
    const auto index = index_of(step);
    return index && states_[*index].inside;
}

bool Watermark::is_inside(Tier tier) const noexcept {
    for (size_t i = 0; i < states_.size(); ++i)
        if (marks_.steps[i].tier == tier && states_[i].inside) return true;
    return false;
}

std::optional<Time> Watermark::waits_until(const State &state) const noexcept {
    if (!state.ended) return std::nullopt;
    return *state.ended + (state.failures != 0 ? back_off_after(marks_, state.failures) : marks_.cool_down);
}

std::optional<Time> Watermark::waits_until(const Step &step) const noexcept {
    const auto index = index_of(step);
    return index ? waits_until(states_[*index]) : std::nullopt;
}

/// A clock that was set back must not make anything wait until it is where it was.
void Watermark::forget_the_future(Time now) noexcept {
    for (State &state : states_) {
        if (state.ended && *state.ended > now) state.ended = now;
        if (state.began && *state.began > now) state.began = now;
    }
}

void Watermark::cross(const Sample &sample, Decision &out) {
    for (size_t i = 0; i < states_.size(); ++i) {
        State &state = states_[i];
        const Band band = band_of(marks_, marks_.steps[i], sample.total);
        if (!state.inside && sample.used >= band.enter) {
            state.inside = true;
            state.acted = false;
            out.entered.push_back(marks_.steps[i]);
        } else if (state.inside && sample.used < band.leave) {
            state.inside = false;
            state.failures = 0; // what follows the end of a failure, too, is the cool-down now
            out.left.push_back(marks_.steps[i]);
        }
    }
    std::ranges::reverse(out.left);
}

bool Watermark::is_tier_in_flight(Tier tier) const noexcept {
    for (size_t i = 0; i < states_.size(); ++i)
        if (marks_.steps[i].tier == tier && states_[i].began) return true;
    return false;
}

bool Watermark::must_evict_wait(Time now) const noexcept {
    for (size_t i = 0; i < states_.size(); ++i)
        if (states_[i].began && now - *states_[i].began < marks_.patience) return true;
    return false;
}

/// A step that use is at, as far as it and what it did before matter.
bool Watermark::may_act(size_t index, Time now) const noexcept {
    const Tier tier = marks_.steps[index].tier;
    const State &state = states_[index];
    if (tier == Tier::log || (state.acted && state.failures == 0 && !reclaims(tier))) return false;
    const auto until = waits_until(state);
    return !until || now >= *until;
}

void Watermark::hand_out(Tier tier, const Sample &sample, Time now, Decision &out) {
    if (is_tier_in_flight(tier)) return;
    std::optional<size_t> highest;
    for (size_t i = 0; i < states_.size(); ++i)
        if (marks_.steps[i].tier == tier && sample.used >= band_of(marks_, marks_.steps[i], sample.total).enter)
            highest = i;
    if (!highest || !may_act(*highest, now) || (tier == Tier::evict && must_evict_wait(now))) return;
    for (size_t i = 0; i <= *highest; ++i)
        if (marks_.steps[i].tier == tier) states_[i].acted = true;
    states_[*highest].began = now;
    out.due.push_back(marks_.steps[*highest]);
}

Decision Watermark::update(const Sample &sample, Time now) {
    Decision out;
    if (sample.total == 0) return out;
    total_ = sample.total;
    forget_the_future(now);
    cross(sample, out);
    for (const auto &[tier, name] : tier_names)
        if (tier != Tier::evict) hand_out(tier, sample, now, out);
    hand_out(Tier::evict, sample, now, out); // extend stands behind it in the enum, and goes before it
    out.reason = reason_of(out, sample, marks_);
    return out;
}

bool Watermark::result_of_action(const Step &step, uint64_t freed, bool ok, Time now) {
    const auto index = index_of(step);
    if (!index || !states_[*index].began) return false;
    const bool good = ok && (!reclaims(step.tier) || freed >= least_reclaim_of(marks_, total_));
    State &state = states_[*index];
    state.began.reset();
    state.ended = now;
    state.failures = good ? 0 : std::min(state.failures + 1, most_failures);
    for (size_t i = 0; i < *index; ++i) // it acted for the lower steps of its tier, too; none of them waits less for it
        if (marks_.steps[i].tier == step.tier && waits_until(states_[i]).value_or(now) < waits_until(state)) {
            states_[i].ended = state.ended;
            states_[i].failures = state.failures;
        }
    return good;
}

Json Watermark::to_json() const {
    Json steps = Json::array();
    for (size_t i = 0; i < states_.size(); ++i) {
        const State &state = states_[i];
        Json step{{"percent", marks_.steps[i].percent},
                  {"tier", name_of(marks_.steps[i].tier)},
                  {"inside", state.inside},
                  {"acted", state.acted},
                  {"failures", state.failures}};
        if (state.began) step["began_ms"] = time_json(*state.began);
        if (state.ended) step["ended_ms"] = time_json(*state.ended);
        steps.push_back(std::move(step));
    }
    return {{"version", state_version}, {"steps", std::move(steps)}};
}

Result<Watermark> Watermark::from_json(const Json &json, Marks marks) {
    Watermark out(std::move(marks));
    constexpr std::string_view where = "watermark:";
    TRY(check_version(json, state_version, where));
    const Json &steps = *TRY(array_member(json, "steps", max_steps, where));
    for (size_t i = 0; i < steps.size(); ++i) {
        const std::string at = fmt::format("{} steps[{}]", where, i);
        Step step;
        State state;
        step.percent = static_cast<unsigned>(TRY(number_member(steps[i], "percent", 100, at)));
        step.tier = TRY(tier_member(steps[i], "tier", at));
        state.inside = TRY(bool_member(steps[i], "inside", at));
        state.acted = TRY(bool_member(steps[i], "acted", at));
        state.failures = static_cast<unsigned>(TRY(number_member(steps[i], "failures", most_failures, at)));
        state.began = TRY(optional_time_member(steps[i], "began_ms", at));
        state.ended = TRY(optional_time_member(steps[i], "ended_ms", at));
        const auto index = out.index_of(step);
        if (!index) continue;
        if (is_held(step.tier)) {
            const bool inside = state.inside;
            state = State(); // whoever restarts has undone it
            state.inside = inside;
        } else if (state.began) {
            state.ended = std::exchange(state.began, std::nullopt);
            state.failures = std::min(state.failures + 1, most_failures);
        }
        if (!state.inside) state.acted = false;
        out.states_[*index] = state;
    }
    return out;
}

} // namespace shale::guard
