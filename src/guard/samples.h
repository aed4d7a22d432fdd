// SPDX-License-Identifier: Apache-2.0
// The resources that stores stand on, as the guard counts them. Looking is cheap enough for every ten seconds: statfs,
// some ioctls, a status line a thin pool; programs run only where there is ZFS. No tree is walked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "guard/resource.h"
#include "probe/facts.h"
#include "probe/host.h"

namespace shale::guard {

/// A store, as far as this room is concerned.
struct Place {
    std::string root, driver;
};
inline constexpr size_t no_carrier = SIZE_MAX;
struct Seen {
    probe::Facts facts;           ///< file systems, thin pools and ZFS; nothing else is filled
    std::vector<size_t> carriers; ///< of each place: index into facts.file_systems, or no_carrier
};

/// The file systems; thin pools only where a place is of devicemapper or lies on a device of device-mapper, ZFS only
/// where it is of zfs or lies on ZFS: these cost a walk of /sys/block, or programs that list every snapshot. What could
/// not be read is in the problems.
Seen look(const probe::Host &host, std::span<const Place> places);

/// Of what was seen: the file systems that carry a place (their bytes and inodes, their btrfs, their qgroups and
/// projects that have a limit), every thin pool, every ZFS pool, and the datasets that have a quota. In the order of
/// kinds, then subjects; each resource once.
std::vector<Sample> samples_of(const Seen &seen);

} // namespace shale::guard
