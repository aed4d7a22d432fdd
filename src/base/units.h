// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/error.h"

namespace shale {

/// "1.5 GiB"; below 1 KiB plain "17 B".
std::string format_bytes(uint64_t bytes);
/// "53,104"
std::string format_count(uint64_t count);
/// "10", "10k", "1.5G", "10GB", "10GiB", all powers of 1024 (Docker's spelling of sizes).
Result<uint64_t> parse_bytes(std::string_view text);
/// RFC 3339 in UTC with nanoseconds cut to what is there: "2026-11-24T05:16:14.123456789Z".
std::string format_time_ns(int64_t unix_ns);

} // namespace shale
