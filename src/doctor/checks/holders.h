// SPDX-License-Identifier: Apache-2.0
// Who takes the space of a file system: stores, images, layers and volumes, the largest first. For the checks of what
// runs out.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "doctor/check.h"

namespace shale::doctor::checks {

enum class Measure : uint8_t { bytes, inodes };

struct Holders {
    std::vector<std::string> lines;        ///< for Finding::evidence
    const probe::Store *largest = nullptr; ///< the store that holds the most; nullptr: none of any size is known
    std::vector<std::string> not_measured; ///< for Outcome::unable
};

/// `used`: of all that is on the file system, for percentages.
Holders holders_on(const probe::Facts &facts, const probe::FileSystem &fs, Measure measure, uint64_t used);

} // namespace shale::doctor::checks
