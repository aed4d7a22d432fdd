// SPDX-License-Identifier: Apache-2.0
// The configuration of the guard: the table [guard] of shale.toml, with a table for each kind of resource. Every option
// is one row of a table in config.cc, which parser, example file and manual are made from.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "base/error.h"
#include "guard/marks.h"
#include "guard/resource.h"
#include "guard/tiers.h"

namespace shale::guard {

struct TierSetting {
    std::optional<bool> on;      ///< not set: as by default; marks that are given turn it on, too
    std::vector<unsigned> marks; ///< ordered, none twice; empty: those it has by default
    bool operator==(const TierSetting &) const = default;
};
/// [guard.KIND]
struct KindConfig {
    bool enabled = true;
    unsigned high = 0; ///< moves every mark that stands at the default one
    Marks marks;       ///< without steps: plan() makes those
    std::array<TierSetting, tier_names.size()> tiers;
    bool operator==(const KindConfig &) const = default;
};
/// [guard]
struct Config {
    bool enabled = true;
    bool dry_run = false;
    Duration interval = std::chrono::seconds(10);
    Duration warn_within = std::chrono::hours(4);
    uint64_t event_log_bytes = uint64_t{10} << 20U;
    uint64_t throttle_write_bps = uint64_t{1} << 20U; ///< of each writer, on each device
    Duration evict_grace = std::chrono::seconds(10);
    unsigned extend_percent = 20; ///< of what the pool has
    uint64_t extend_max = 0;      ///< bytes; 0: extend cannot be turned on
    std::array<KindConfig, kind_names.size()> kinds;

    Config(); ///< the defaults, of all kinds
    [[nodiscard]] KindConfig &of(Kind kind) noexcept { return kinds[std::to_underlying(kind)]; }
    [[nodiscard]] const KindConfig &of(Kind kind) const noexcept { return kinds[std::to_underlying(kind)]; }
    bool operator==(const Config &) const = default;
};

/// From a whole configuration file; without [guard] the defaults. InvalidArgument: no TOML ("FILE: line N: ..."), or as
/// read_config(), after "FILE: ". ResourceExhausted: as of doctor::parse_toml().
Result<Config> parse_config(std::string_view text, std::string_view file);
/// From the table [guard], as doctor::parse_toml() has it. InvalidArgument names the key: one that is unknown, with the
/// nearest there is; a value of the wrong type or out of its range, with both; and the first contradiction, by its
/// name.
Result<Config> read_config(const nlohmann::json &table);
/// Folklore's storage options "overlay2.min_space" (a size: "10G") and "overlay2.hysteresis" (points: "5", "5%"), with
/// or without "overlay2.": the first is of bytes, the second of bytes and inodes. InvalidArgument as above, but for
/// contradictions. In the file they may stand in [guard], too.
Status take_folklore(Config &config, std::string_view key, std::string_view value);

/// For the manual.
struct Option {
    std::string_view key;
    std::string_view unit; ///< "seconds", "percent", "points", "size", "true or false", ...
    std::string_view text; ///< what it does: whole sentences
    std::string fallback;  ///< the default, as it is written in the file
    bool by_kind = false;  ///< kinds have different ones
};
/// Those of [guard].
std::vector<Option> options();
/// Those of [guard.KIND].
std::vector<Option> options(Kind kind);
/// The whole of [guard] as it is by default, each option with what it does, its unit and its default; settings stand
/// behind "#", as in packaging/shale.toml. What is the same for all kinds is told once.
std::string example_toml();

} // namespace shale::guard
