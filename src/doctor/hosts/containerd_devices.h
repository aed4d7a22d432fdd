// SPDX-License-Identifier: Apache-2.0
// Snapshotters of containerd that keep no trees below their root: zfs (datasets) and devmapper (thin devices).
#pragma once

#include <optional>
#include <string_view>

#include "doctor/hosts/containerd_snapshots.h"

namespace shale::doctor::containerd {

/// The datasets DATASET/N below the one that is mounted at the root; a committed one has the snapshot "@snapshot"
/// (containerd/zfs, zfs.go). They are looked up in `facts`, which were read before; where it has none, a source is
/// "unreadable".
SnapshotterContents read_zfs_snapshotter(const probe::Host &host, const Snapshotter &which, const Moment &moment,
                                         const probe::Facts &facts);

/// The devices POOL-snap-N, as ROOT/POOL.db has them: JSON with the state (containerd, plugins/snapshots/devmapper,
/// metadata.go and device_info.go). The pool itself has the last word and is not asked here.
SnapshotterContents read_thin_snapshotter(const probe::Host &host, const Snapshotter &which, const Moment &moment);

/// All of it is a number.
std::optional<uint64_t> number_of(std::string_view name);

} // namespace shale::doctor::containerd
