// SPDX-License-Identifier: Apache-2.0
// Block devices, and file systems that grow with them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/fd.h"

namespace shale::sys {

struct BlockDevice {
    std::string path;
    std::string number; ///< "major:minor"
    uint64_t bytes = 0;
};
/// Opens a block device; links are followed, as names in /dev are links. InvalidArgument: it is something else.
Result<UniqueFd> open_block_device(const std::string &path, int flags);
Result<BlockDevice> look_at_block_device(const std::string &path);
/// Names of the devices that have the device "major:minor" open for themselves (/sys/dev/block/N/holders), those of
/// device-mapper by their own names. Mounts are not among them.
Result<std::vector<std::string>> holders_of(const std::string &number);
/// "major:minor" of the device that the file system of an open file lies on.
Result<std::string> device_below(int fd);

/// What is in the first `bytes` is not needed any more (BLKDISCARD). Where the device cannot, nothing happens.
Status discard_blocks(int device, uint64_t bytes);

/// The mounted file system that `root` lies on fills a device of `bytes`: ext4 (EXT4_IOC_RESIZE_FS), XFS
/// (XFS_IOC_FSGROWFSDATA). Unimplemented: another one.
Status grow_file_system(int root, uint64_t bytes);

} // namespace shale::sys
