// SPDX-License-Identifier: Apache-2.0
// A TOML document of the host (containerd's, BuildKit's, shale's configuration) as JSON, for checks that look into it
// or tell why its program will refuse it. toml++ is included by one file of this room only.
#pragma once

#include <cstddef>
#include <string_view>

#include <nlohmann/json_fwd.hpp>

#include "base/error.h"

namespace shale::doctor {

inline constexpr size_t max_toml_bytes = size_t{4} << 20U;

/// Tables and arrays as they are; dates and times as text. InvalidArgument "line N: what": no TOML. ResourceExhausted:
/// larger than max_toml_bytes, a key of more than 64 parts, values nested more than 32 deep, which nothing of these
/// writes.
Result<nlohmann::json> parse_toml(std::string_view text);

} // namespace shale::doctor
