// SPDX-License-Identifier: Apache-2.0
// The layers of a containers/storage store: what its records name, joined with what lies on disk.
//
//   overlay/ID/{diff,link,lower,work,merged,empty}  link: the name of the layer's own link in l/; lower: "l/X:l/Y", the
//                                                   nearest first
//   overlay/l/X -> ../ID/diff                       short names, so that the options of a mount fit into a page
//   vfs/dir/ID, btrfs/subvolumes/ID, zfs/graph/ID, aufs/diff/ID
//   DRIVER/staging/X                                a layer that is being pulled piece by piece, with staging.lock
//   DRIVER/tempdirs/temp-dir-X, lock-X              layers that are being deleted
//
// Format: containers/storage, drivers/overlay/overlay.go, drivers/*/, internal/tempdir, internal/staging_lockfile.
#pragma once

#include <vector>

#include "doctor/hosts/podman_records.h"
#include "probe/facts.h"
#include "probe/host.h"

namespace shale::doctor::podman {

/// Users of one layer that are told because a recorded layer's `lower` names it.
inline constexpr size_t max_lower_users = 1000;

/// Fills store.layers, adds to its sources what of the disk could not be read, and to its settings what is wrong with
/// links that belong to no layer. `used_by` has only "layer ID" of the recorded layers that are mounted on it by their
/// `lower`, whether it is recorded itself or not. `datasets` are those of ZFS, as far as they are known.
void read_layers(const probe::Host &host, const Places &places, const Records &records, const Foreign &foreign,
                 const std::vector<probe::ZfsDataset> &datasets, probe::Store &store);

} // namespace shale::doctor::podman
