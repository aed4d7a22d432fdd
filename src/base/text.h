// SPDX-License-Identifier: Apache-2.0
// Text of others, made harmless for where it goes.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace shale {

/// For a terminal: control characters (escapes of a hostile image name) as \xNN; all else as it is.
std::string printable(std::string_view text);
/// For HTML, in an element or between double quotes: printable(), and & < > " as entities.
std::string html_escaped(std::string_view text);

/// The candidate with the least edit distance, when it is near enough to be a slip of the pen; else empty. A word of
/// more than 64 bytes is none.
std::string nearest(std::string_view word, std::span<const std::string_view> candidates);

} // namespace shale
