// SPDX-License-Identifier: Apache-2.0
// Text of others, made harmless for where it goes.
#pragma once

#include <string>
#include <string_view>

namespace shale {

/// For a terminal: control characters (escapes of a hostile image name) as \xNN; all else as it is.
std::string printable(std::string_view text);

} // namespace shale
