// SPDX-License-Identifier: Apache-2.0
// Device-mapper through libdevmapper (the ioctls of linux/dm-ioctl.h). The library keeps state of its own, so calls of
// one process take turns. Nodes below /dev/mapper are made by the library itself: shale waits for no udev, and asks it
// not to look into these devices (what looks keeps them busy).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace shale::sys {

/// The unit of all tables.
inline constexpr uint64_t sector_bytes = 512;

struct DmTarget {
    uint64_t start_sectors = 0, length_sectors = 0;
    std::string type;       ///< "thin-pool", "thin", "linear"
    std::string parameters; ///< of a table, or what the target says as its status
};

struct DmInfo {
    uint32_t major = 0, minor = 0;
    unsigned openers = 0;
    bool suspended = false;
    bool has_table = false;        ///< false: made and never loaded
    bool goes_when_unused = false; ///< a deferred removal is pending (Linux 3.13)
    std::string uuid;
};

/// Version of the kernel's device-mapper. FailedPrecondition, beginning "this kernel has no device-mapper", without it.
Result<std::string> dm_version();
/// Version of a target type; its module is loaded when it is not there yet.
Result<std::string> dm_target_version(std::string_view type);

/// nullopt: no such device.
Result<std::optional<DmInfo>> dm_find(const std::string &name);
/// Names of all devices.
Result<std::vector<std::string>> dm_names();
Result<std::vector<DmTarget>> dm_table(const std::string &name);
/// commit: a thin pool first commits its metadata (what it says is then what is on disk).
enum class DmStatus : uint8_t { as_it_is, commit };
Result<std::vector<DmTarget>> dm_status(const std::string &name, DmStatus how);

/// Makes the device, loads the table and activates it; nothing is left of it after a failure (of a process that dies: a
/// device without a table). EBUSY: there is one of that name.
Status dm_create(const std::string &name, const std::string &uuid, const std::vector<DmTarget> &table);
/// Loads a new table beside the active one; dm_resume puts it in its place.
Status dm_reload(const std::string &name, const std::vector<DmTarget> &table);
/// What happens to a file system on a device that is suspended. as_it_is: nothing, only I/O under way is awaited;
/// frozen: it is written out before, and whoever mounts it meanwhile gets EBUSY (fs/super.c, "blockdev is frozen").
enum class DmSuspend : uint8_t { as_it_is, frozen };
Status dm_suspend(const std::string &name, DmSuspend file_system);
Status dm_resume(const std::string &name);
/// now: EBUSY while it is open. when_unused: at once, or by the kernel when the last user closes it (Linux 3.13).
enum class DmRemove : uint8_t { now, when_unused };
Status dm_remove(const std::string &name, DmRemove how);
/// Undoes a pending removal. ENXIO or EBUSY: too late.
Status dm_keep(const std::string &name);
Status dm_message(const std::string &name, const std::string &message);

/// "/dev/mapper/NAME", a node of the device that is active now: made or corrected when it is not.
Result<std::string> dm_node(const std::string &name);

} // namespace shale::sys
