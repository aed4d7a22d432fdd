// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <utility>

namespace shale::oci {

/// [A-Za-z0-9_][A-Za-z0-9_.-]{0,127}
bool is_tag(std::string_view text) noexcept;
/// What no reference may hold, whatever its grammar: control characters or "..".
bool is_hostile_name(std::string_view text) noexcept;
/// Tag of a normalised reference; empty for a digest reference.
std::string_view tag_of(std::string_view reference) noexcept;
/// A name for images whose source states a bare tag only: last component of `path` without archive suffixes, made to
/// fit the grammar; empty when nothing is left.
std::string stem_name(std::string_view path);

} // namespace shale::oci
