// SPDX-License-Identifier: Apache-2.0
// Values of the configuration, from and to the file; inside this room only. Errors say what must stand there and what
// does, without the key, which the caller adds.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include <nlohmann/json_fwd.hpp>

#include "base/error.h"
#include "guard/config.h"

namespace shale::guard {

Status read(const nlohmann::json &value, bool &out);
Status read_number(const nlohmann::json &value, uint64_t least, uint64_t most, uint64_t &out);
/// 90, or "90%".
Status read_percent(const nlohmann::json &value, unsigned least, unsigned most, unsigned &out);
Status read_seconds(const nlohmann::json &value, uint64_t least, uint64_t most, Duration &out);
/// 1024, or "1K": as parse_bytes().
Status read_size(const nlohmann::json &value, uint64_t least, uint64_t most, uint64_t &out);
/// The table `tiers` of a kind. A tier that is not named keeps what it has.
Status read_tiers(const nlohmann::json &value, Kind kind, KindConfig &out);

std::string seconds_text(Duration time);
/// The shortest that read_size() reads as that: "10G" with its quotes, 1000.
std::string size_text(uint64_t bytes);
/// What is on by default: "{ log = 90, gc = 90 }".
std::string tiers_text(Kind kind);
/// "Off, if not named: evict (98), ..."; "" when nothing is.
std::string off_text(Kind kind);

/// InvalidArgument: unknown key "x" in [guard.bytes], with the nearest of `known`, or all.
std::unexpected<Error> unknown_key(std::string_view key, std::string_view table,
                                   std::span<const std::string_view> known);

} // namespace shale::guard
