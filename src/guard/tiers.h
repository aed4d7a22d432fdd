// SPDX-License-Identifier: Apache-2.0
// What the guard may do about a resource that runs out, the mildest first, and what is to be done at which mark. By
// default it observes and collects garbage; what harms somebody is done only where the configuration says so.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "guard/resource.h"

namespace shale::guard {

struct Config;
struct Marks;

enum class Tier : uint8_t {
    log,            ///< says that the mark was reached
    trim_caches,    ///< drops what can be had again: build cache, page cache of layers
    gc,             ///< removes what nothing needs
    refuse_creates, ///< new containers, images and snapshots are refused at once, with the reason
    throttle,       ///< writers that are not critical are slowed down
    evict,          ///< ends the container of the lowest class of service
    extend,         ///< makes a thin pool larger
};

struct TierName {
    Tier tier;
    std::string_view name;
};
/// All of them, in the order of the enum.
inline constexpr std::array tier_names{
    TierName{Tier::log, "log"},
    TierName{Tier::trim_caches, "trim_caches"},
    TierName{Tier::gc, "gc"},
    TierName{Tier::refuse_creates, "refuse_creates"},
    TierName{Tier::throttle, "throttle"},
    TierName{Tier::evict, "evict"},
    TierName{Tier::extend, "extend"},
};
static_assert(std::ranges::is_sorted(tier_names, {}, &TierName::tier) &&
              tier_names.size() == std::to_underlying(Tier::extend) + 1);

[[nodiscard]] constexpr std::string_view name_of(Tier tier) noexcept {
    return tier_names[std::to_underlying(tier)].name;
}
[[nodiscard]] constexpr std::optional<Tier> tier_named(std::string_view name) noexcept {
    const auto *const found = std::ranges::find(tier_names, name, &TierName::name);
    return found == tier_names.end() ? std::nullopt : std::optional(found->tier);
}

/// Frees (or adds) something, which can be counted.
[[nodiscard]] constexpr bool reclaims(Tier tier) noexcept {
    return tier == Tier::trim_caches || tier == Tier::gc || tier == Tier::evict || tier == Tier::extend;
}
/// Is in force until it is undone, which has to be done when its step is left.
[[nodiscard]] constexpr bool is_held(Tier tier) noexcept {
    return tier == Tier::refuse_creates || tier == Tier::throttle;
}
/// Can be done about that kind of resource: only thin pools are extended, and a stack of layers becomes no less deep.
[[nodiscard]] constexpr bool suits(Kind kind, Tier tier) noexcept {
    if (tier == Tier::extend) return kind == Kind::thin_data || kind == Kind::thin_metadata;
    if (kind == Kind::depth) return tier == Tier::log || tier == Tier::refuse_creates;
    return true;
}

/// The marks of a kind, with a step for each mark of each tier that is on. A tier that is off by default and is not
/// configured leaves a step of `log` at its mark, so that what would have been done can be seen; one that the
/// configuration turns off leaves nothing. `config` has no contradictions().
[[nodiscard]] Marks plan(const Config &config, Kind kind);

/// A configuration that cannot be meant.
struct Contradiction {
    /// "back-off-limit": below the first back-off.
    /// "harm-without-gc": containers are evicted, and nothing is collected before, though that could help.
    /// "harsher-first": a harsher tier at a lower mark than a milder one.
    /// "hysteresis-too-wide": as much as the lowest mark: it would never be left.
    /// "no-mark": a tier is turned on that has no mark by default, and none is given.
    /// "no-extend-max": thin pools are extended, and no size is given to which they may grow.
    /// "wrong-tier": it cannot be done about this kind.
    std::string_view name;
    std::string key;  ///< where: "guard.bytes.tiers.evict"
    std::string text; ///< what is wrong, with the figures, and what to write instead
};
/// All of them, in the order of kinds; those that are off are passed over. That something is logged at a higher mark
/// than something is done is none: every step that is entered is an event.
[[nodiscard]] std::vector<Contradiction> contradictions(const Config &config);

} // namespace shale::guard
