// SPDX-License-Identifier: Apache-2.0
// Where a file has data and where it has holes.
#pragma once

#include <cstdint>
#include <optional>

namespace shale::sys {

struct DataRange {
    uint64_t begin = 0, end = 0;
};

/// The next range of data at or behind `at`, up to `length`; nullopt: a hole is all that is left. Where the file system
/// cannot tell (lseek(2), SEEK_DATA), all is data.
std::optional<DataRange> next_data(int fd, uint64_t at, uint64_t length) noexcept;

} // namespace shale::sys
