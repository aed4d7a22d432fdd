// SPDX-License-Identifier: Apache-2.0
// Members of the guard's own documents, which are read as if somebody else had written them; inside this room only. An
// error is InvalidArgument and names the member: "where.key must be ...".
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <nlohmann/json_fwd.hpp>

#include "base/error.h"
#include "guard/resource.h"
#include "guard/tiers.h"

namespace shale::guard {

/// Milliseconds since the epoch. From 1970 to 9999: what lies outside becomes the nearest of these.
nlohmann::json time_json(Time time);

/// It is an object whose "version" is that.
Status check_version(const nlohmann::json &json, int version, std::string_view where);
Result<uint64_t> number_member(const nlohmann::json &json, const char *key, uint64_t most, std::string_view where);
Result<bool> bool_member(const nlohmann::json &json, const char *key, std::string_view where);
/// Without NUL.
Result<std::string> text_member(const nlohmann::json &json, const char *key, size_t most_bytes, std::string_view where);
Result<Time> time_member(const nlohmann::json &json, const char *key, std::string_view where);
/// nullopt: it is not there, or null.
Result<std::optional<Time>> optional_time_member(const nlohmann::json &json, const char *key, std::string_view where);
Result<Tier> tier_member(const nlohmann::json &json, const char *key, std::string_view where);
Result<Kind> kind_member(const nlohmann::json &json, const char *key, std::string_view where);
Result<const nlohmann::json *> array_member(const nlohmann::json &json, const char *key, size_t most,
                                            std::string_view where);

} // namespace shale::guard
