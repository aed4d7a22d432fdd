// SPDX-License-Identifier: Apache-2.0
#include "guard/tiers.h"

#include <fmt/format.h>

#include "guard/config.h"
#include "guard/marks.h"

namespace shale::guard {
namespace {

/// The tiers that do something, by the harm that they do.
constexpr std::array by_harm{Tier::trim_caches, Tier::gc, Tier::refuse_creates, Tier::throttle, Tier::evict};

const TierSetting &setting_of(const KindConfig &config, Tier tier) {
    return config.tiers[std::to_underlying(tier)];
}

const Rung *rung_of(Kind kind, Tier tier) {
    for (const Rung &rung : kind_defaults(kind).rungs)
        if (rung.tier == tier) return &rung;
    return nullptr;
}

bool is_on(const KindConfig &config, Kind kind, Tier tier) {
    const Rung *rung = rung_of(kind, tier);
    return setting_of(config, tier).on.value_or(rung != nullptr && rung->on);
}

/// Whether it is on or not. Empty: it has none.
std::vector<unsigned> marks_of(const KindConfig &config, Kind kind, Tier tier) {
    if (const auto &given = setting_of(config, tier).marks; !given.empty()) return given;
    const Rung *rung = rung_of(kind, tier);
    if (rung == nullptr) return {};
    std::vector<unsigned> out = rung->marks();
    std::ranges::replace(out, kind_defaults(kind).high, config.high);
    std::ranges::sort(out);
    return out;
}

void check_tiers(const KindConfig &config, Kind kind, const std::string &where, std::vector<Contradiction> &out) {
    for (const auto &[tier, name] : tier_names) {
        if (setting_of(config, tier).on != true) continue;
        const std::string key = fmt::format("{}.tiers.{}", where, name);
        if (!suits(kind, tier))
            out.push_back({"wrong-tier", key, fmt::format("{} cannot be done about {}", name, name_of(kind))});
        else if (marks_of(config, kind, tier).empty())
            out.push_back({"no-mark", key,
                           fmt::format("{0} has no mark of its own for {1}; write {0} = 95, or another mark", name,
                                       name_of(kind))});
    }
}

void check_order(const KindConfig &config, Kind kind, const std::string &where, std::vector<Contradiction> &out) {
    const auto lowest_of = [&](Tier tier) {
        const auto marks = marks_of(config, kind, tier);
        return is_on(config, kind, tier) && !marks.empty() ? marks.front() : 0;
    };
    for (size_t i = 0; i < by_harm.size(); ++i) {
        const unsigned harsh = lowest_of(by_harm[i]);
        if (harsh == 0) continue;
        for (size_t k = 0; k < i; ++k)
            if (const unsigned mild = lowest_of(by_harm[k]); harsh < mild)
                out.push_back(
                    {"harsher-first", fmt::format("{}.tiers.{}", where, name_of(by_harm[i])),
                     fmt::format("{} begins at {} %, before the milder {} at {} %; give {} a mark of {} or "
                                 "more",
                                 name_of(by_harm[i]), harsh, name_of(by_harm[k]), mild, name_of(by_harm[i]), mild)});
    }
    const Rung *gc = rung_of(kind, Tier::gc);
    if (is_on(config, kind, Tier::evict) && gc != nullptr && !is_on(config, kind, Tier::gc))
        out.push_back({"harm-without-gc", where + ".tiers.gc",
                       fmt::format("containers are evicted at {} %, and nothing is collected before; turn gc on",
                                   lowest_of(Tier::evict))});
}

void check_kind(const KindConfig &config, Kind kind, std::vector<Contradiction> &out) {
    const std::string where = fmt::format("guard.{}", name_of(kind));
    check_tiers(config, kind, where, out);
    check_order(config, kind, where, out);
    unsigned lowest = 101;
    for (const auto &[tier, name] : tier_names)
        if (const auto marks = marks_of(config, kind, tier); setting_of(config, tier).on != false && !marks.empty())
            lowest = std::min(lowest, marks.front());
    if (lowest <= config.marks.hysteresis)
        out.push_back(
            {"hysteresis-too-wide", where + ".hysteresis",
             fmt::format("{} points below the mark of {} % are nothing, it would never be left; give at most {}",
                         config.marks.hysteresis, lowest, lowest - 1)});
    if (config.marks.back_off_limit < config.marks.back_off)
        out.push_back({"back-off-limit", where + ".back_off_limit_s",
                       fmt::format("the wait after a failure begins with {} s and is to grow to {} s; give at least {}",
                                   config.marks.back_off / std::chrono::seconds(1),
                                   config.marks.back_off_limit / std::chrono::seconds(1),
                                   config.marks.back_off / std::chrono::seconds(1))});
}

} // namespace

Marks plan(const Config &config, Kind kind) {
    const KindConfig &own = config.of(kind);
    const bool logs = setting_of(own, Tier::log).on.value_or(true);
    Marks out = own.marks;
    out.steps.clear();
    for (const auto &[tier, name] : tier_names) {
        const bool acts = is_on(own, kind, tier);
        const bool is_shown = !acts && logs && !setting_of(own, tier).on; // off, but nobody said so
        if (!suits(kind, tier) || (!acts && !is_shown)) continue;
        for (const unsigned percent : marks_of(own, kind, tier))
            out.steps.push_back({percent, acts ? tier : Tier::log});
    }
    std::ranges::sort(out.steps);
    const auto twice = std::ranges::unique(out.steps);
    out.steps.erase(twice.begin(), twice.end());
    return out;
}

std::vector<Contradiction> contradictions(const Config &config) {
    std::vector<Contradiction> out;
    if (!config.enabled) return out;
    for (const auto &[kind, name] : kind_names)
        if (config.of(kind).enabled) {
            check_kind(config.of(kind), kind, out);
            if (suits(kind, Tier::extend) && is_on(config.of(kind), kind, Tier::extend) && config.extend_max == 0)
                out.push_back({"no-extend-max", fmt::format("guard.{}.tiers.extend", name),
                               "pools are to be extended, and nothing says to what size at most; write extend_max = "
                               "\"100G\", or another size, in [guard]"});
        }
    return out;
}

} // namespace shale::guard
