// SPDX-License-Identifier: Apache-2.0
// Loop devices: a file as a block device (loop(4), linux/loop.h).
#pragma once

#include <cstdint>
#include <string>

#include "base/error.h"
#include "base/fd.h"

namespace shale::sys {

/// An attached loop device. It is detached by the kernel when the last user of it is gone: close `fd` once it is
/// mounted (LO_FLAGS_AUTOCLEAR).
struct LoopDevice {
    std::string path; ///< "/dev/loop3"
    UniqueFd fd;
};

/// Attaches an open file. read_only: writes are refused by the device. Needs CAP_SYS_ADMIN; Unavailable when every
/// device is taken and no more can be made. LOOP_CONFIGURE (Linux 5.8), else LOOP_SET_FD and LOOP_SET_STATUS64.
Result<LoopDevice> attach_loop(int file, bool read_only);

/// Which file a loop device is attached to.
struct LoopFile {
    uint64_t device = 0, inode = 0; ///< as stat(2) shows them
};
/// ENXIO: nothing is attached.
Result<LoopFile> loop_file(const std::string &path);
/// The file has grown: so does the device (LOOP_SET_CAPACITY).
Status grow_loop(const std::string &path);

} // namespace shale::sys
