// SPDX-License-Identifier: Apache-2.0
// The probed fact "concurrent writes": what the first write into a file costs alone and among others.
#pragma once

#include <string_view>

#include "base/error.h"
#include "base/fd.h"
#include "drivers/driver.h"

namespace shale::drivers {

/// Puts 8 files of 256 KiB into the directory `dir`.
Status make_written_files(int dir);
/// `dir`: where a container sees those files. A byte changes in four of them one after the other, then in the other
/// four at once from as many threads. Medians, in microseconds, of one open, pwrite and close; an error makes the value
/// "unknown", with the reason. `what` names the write in words.
Fact concurrent_writes(const Result<UniqueFd> &dir, std::string_view what);

} // namespace shale::drivers
