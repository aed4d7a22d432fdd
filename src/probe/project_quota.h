// SPDX-License-Identifier: Apache-2.0
// What a file system's project quota says as a whole: whether it counts, whether it limits, and each number that has a
// record (quotactl(2)). One number: sys/quota.h.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "probe/facts.h"

namespace shale::probe {

inline constexpr size_t max_projects = 100'000;

/// Fills in `project_quota`, `project_ids` and `projects` of `out`, whose `device`, `source` and `target` are known.
/// `fd`: any descriptor on it (O_PATH will do). Number 0 stands for "none" and is left out, as are records without use
/// and limits. Without CAP_SYS_ADMIN only `project_quota` can be known; that, and what was cut, becomes a problem.
void read_project_quota(int fd, FileSystem &out, std::vector<Problem> &problems);

} // namespace shale::probe
