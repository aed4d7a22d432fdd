// SPDX-License-Identifier: Apache-2.0
// Names that nobody can guess and nobody else has.
#pragma once

#include <cstddef>
#include <string>

#include "base/error.h"

namespace shale::sys {

/// `bytes` random bytes (getrandom, at most 256) as lower-case hexadecimal digits.
Result<std::string> random_hex(size_t bytes);

} // namespace shale::sys
