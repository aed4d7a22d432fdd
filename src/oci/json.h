// SPDX-License-Identifier: Apache-2.0
// Reading of untrusted JSON, inside this room only (the header is heavy: include it in few files). Nothing here throws:
// every access is checked for its type first. A null member counts as absent, as in the Go programs that write most
// images.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "oci/image.h"

namespace shale::oci {

using Json = nlohmann::json;

inline constexpr size_t max_json_depth = 64;

/// At most max_document_bytes and max_json_depth levels; a key that occurs twice in one object is refused, because
/// readers differ in which one they take. `what` names the document in errors.
Result<Json> parse_json(std::string_view text, std::string_view what);
/// As parse_json; anything but an object is InvalidArgument.
Result<Json> parse_object(std::string_view text, std::string_view what);

/// Where an error lies: "manifest: layers[3].size".
std::string field_path(std::string_view where, std::string_view key);
std::unexpected<Error> wrong_type(std::string_view where, std::string_view key, std::string_view expected);

/// Member of an object; nullptr when absent, null, or `object` is no object.
const Json *find_member(const Json &object, const char *key);
/// Absent = empty string. Strings with NUL are refused: none of the fields that shale reads may hold one.
Result<std::string> string_member(const Json &object, const char *key, std::string_view where);
/// Absent = empty. A single string counts as a list of one when `or_string` (old Docker configs).
Result<std::vector<std::string>> list_member(const Json &object, const char *key, std::string_view where,
                                             bool or_string = false);
Result<std::map<std::string, std::string>> map_member(const Json &object, const char *key, std::string_view where);
/// An object, or nullptr when absent.
Result<const Json *> object_member(const Json &object, const char *key, std::string_view where);
Result<Descriptor> read_descriptor(const Json &value, std::string_view where);

} // namespace shale::oci
