// SPDX-License-Identifier: Apache-2.0
// What a resource is on the host: which places of containers lie on it, and which block devices their writes go to.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "guard/resource.h"
#include "guard/workloads.h"
#include "probe/facts.h"
#include "probe/host.h"

namespace shale::guard {

struct Ground {
    std::set<std::string> devices; ///< of file systems, as mountinfo has them; of a thin pool: of its volumes
    std::string subvolume;         ///< btrfs: its number; empty: any
    std::string zfs;               ///< pool or dataset; empty: no ZFS
    std::optional<uint32_t> project;
    std::set<std::string> blocks; ///< of a file system without a device number of its own (btrfs): whole disks
    std::string why_not;          ///< nothing can be slowed there, because; empty: it can
};

/// `facts`: of look() (guard/samples.h); devices are read where the resource is a pool.
Ground ground_of(const probe::Host &host, const probe::Facts &facts, const Sample &about);
/// A container that can write there takes space of that resource.
bool lies_on(const probe::Host &host, const Ground &ground, const Seat &seat);
/// The devices that carry what is written there, as a limit names them: "major:minor" of whole disks, for a partition
/// has no queue of its own (Linux, block/blk-cgroup.c, blkg_conf_open_bdev()).
std::set<std::string> blocks_of(const probe::Host &host, const Ground &ground, const Seat &seat);

} // namespace shale::guard
