// SPDX-License-Identifier: Apache-2.0
// A TOML document of the host (containerd's, BuildKit's, podman's, shale's configuration) as JSON, for readers that
// look for what it names and checks that tell why its program will refuse it. toml++ is included by one file of this
// room only.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "base/error.h"

namespace shale::doctor {

inline constexpr size_t max_toml_bytes = size_t{4} << 20U;

/// Tables and arrays as they are; dates and times as text. InvalidArgument "line N: what": no TOML. ResourceExhausted:
/// larger than max_toml_bytes, a key of more than 64 parts, values nested more than 32 deep, which nothing of these
/// writes.
Result<nlohmann::json> parse_toml(std::string_view text);

/// Names of members, from the outermost table in: {"plugins", "io.containerd.grpc.v1.cri", "containerd"}.
using TomlPath = std::initializer_list<std::string_view>;
/// What `path` leads to in a document of parse_toml(); nullptr: it is not there.
const nlohmann::json *toml_at(const nlohmann::json &from, TomlPath path);
/// It as text; numbers and truth values as TOML has them. "": it is not there, is a table or a list, or no finite
/// number.
std::string toml_text(const nlohmann::json &from, TomlPath path);
/// The members of a list, as toml_text() has them; of a text, a number or a truth value a list of one.
std::vector<std::string> toml_texts(const nlohmann::json &from, TomlPath path);

} // namespace shale::doctor
