// SPDX-License-Identifier: Apache-2.0
// Pools and datasets of ZFS. Only its programs tell about them (zpool-list(8), zfs-list(8)); what they print for
// machines
// (-H -p) has no escapes: a line that does not fit is counted and left out.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "probe/facts.h"
#include "probe/host.h"
#include "sys/run.h"

namespace shale::probe {

struct ZfsFacts {
    std::vector<ZfsPool> pools;
    std::vector<ZfsDataset> datasets; ///< file systems, volumes and snapshots, by name
};

/// Empty where the kernel has no ZFS (/sys/module/zfs), and for a host that is not this one.
ZfsFacts read_zfs(const Host &host, std::vector<Problem> &problems);

/// Runs `zpool` or `zfs` with these arguments.
using ZfsTool = std::function<Result<sys::ToolResult>(const std::vector<std::string> &arguments)>;
/// At most `max_datasets`. What a program prints is cut at a mebibyte (sys/run.h): a list that does not fit is asked
/// for in parts.
ZfsFacts list_zfs(const ZfsTool &zpool, const ZfsTool &zfs, std::vector<Problem> &problems,
                  size_t max_datasets = 1'000'000);

inline constexpr std::string_view zpool_columns = "name,health,size,allocated,free,fragmentation,capacity,autotrim";
/// What a user chose stands last, as it may hold a tab. shale:root is of drivers/zfs, and inherited from its dataset.
inline constexpr std::string_view zfs_columns =
    "name,type,used,referenced,usedbysnapshots,quota,refquota,recordsize,volblocksize,creation,userrefs,mounted,"
    "origin,shale:root,mountpoint";

template <class T> struct ZfsRows {
    std::vector<T> rows;
    uint64_t malformed = 0;
    std::string example; ///< of a malformed one
};
/// Lines of `zpool list -H -p -o zpool_columns`; autotrim (OpenZFS 0.8) may be missing.
ZfsRows<ZfsPool> parse_zpool_list(std::string_view text);
/// Lines of `zfs list -H -p -o zfs_columns`.
ZfsRows<ZfsDataset> parse_zfs_datasets(std::string_view text);

} // namespace shale::probe
