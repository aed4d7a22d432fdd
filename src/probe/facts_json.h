// SPDX-License-Identifier: Apache-2.0
// Facts as a JSON document, and back. The members have the names of facts.h; docs/formats/facts.md tells the rules.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "base/error.h"
#include "probe/facts.h"

namespace shale::probe {

/// A larger document is ResourceExhausted.
inline constexpr size_t max_facts_bytes = size_t{512} << 20U;

/// One document, indented, that ends with a line feed. Text that is not UTF-8 (paths) gets U+FFFD for what is wrong.
std::string to_json(const Facts &facts);

/// Members that are missing have their defaults, unknown ones are passed over, so that the document of another version
/// of shale can be read as long as `version` is the same. InvalidArgument: no JSON, cut off (with the byte), nested too
/// deep, a member of the wrong type (with its name), no facts at all; Unimplemented: another version of the document
/// (the text says which, and which shale wrote it).
Result<Facts> facts_from_json(std::string_view text);

} // namespace shale::probe
