// SPDX-License-Identifier: Apache-2.0
// Project quota: the file system counts (and limits) what carries one project number, in O(1). ext4 (made with
// -O project,quota, mounted prjquota) and XFS (mounted pquota). The number lies on directories and is inherited.
#pragma once

#include <cstdint>
#include <optional>

#include "base/error.h"

namespace shale::sys {

struct ProjectLimits {
    uint64_t bytes = 0, inodes = 0; ///< 0 = none
};
struct ProjectCount {
    ProjectLimits limits;
    uint64_t used_bytes = 0, used_inodes = 0;
};

/// Project number of an open file or directory (FS_IOC_FSGETXATTR); 0 = none.
Result<uint32_t> project_of(int fd);
/// Gives an open directory (readable descriptor) a project number that new entries inherit (FS_XFLAG_PROJINHERIT); 0:
/// none, and they inherit none. What inherits takes no link and no rename from another project (EXDEV).
Status set_project(int directory, uint32_t project);
/// Hard limits of a project on the file system that `fd` is on. Needs CAP_SYS_ADMIN.
Status set_project_limits(int fd, uint32_t project, const ProjectLimits &limits);
/// Limits and use. A file system that does not count projects: FailedPrecondition with the reason and the way to have
/// it.
Result<ProjectCount> project_count(int fd, uint32_t project);

} // namespace shale::sys
