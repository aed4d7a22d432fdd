// SPDX-License-Identifier: Apache-2.0
// What lies on the disk: the trees of a graph driver (moby, daemon/graphdriver/DRIVER).
//
//   overlay2, fuse-overlayfs   DRIVER/ID/{diff,link,lower,work,merged,committed}; DRIVER/l/LINK -> ../ID/diff
//   overlay                    overlay/ID/root, or overlay/ID/{upper,work,merged,lower-id}
//   vfs                        vfs/dir/ID
//   btrfs                      btrfs/subvolumes/ID
//   aufs                       aufs/{diff,layers,mnt}/ID
//   devicemapper               a thin device each, by devicemapper/metadata/ID
//   zfs                        a dataset each, DATASET/ID
#pragma once

#include <span>
#include <string_view>

#include "doctor/hosts/docker_draft.h"

namespace shale::doctor::docker {

/// The drivers of Linux, the ones first that dockerd prefers when a root has trees of several (driver_linux.go,
/// `priority`); fuse-overlayfs is that of rootless mode, vfs is never chosen for what lies there (driver.go, New).
inline constexpr std::string_view drivers[] = {"overlay2", "fuse-overlayfs", "btrfs",        "zfs",
                                               "aufs",     "overlay",        "devicemapper", "vfs"};

/// Where the trees of a driver that have a directory each lie; of devicemapper: their records.
[[nodiscard]] std::string trees_dir(const std::string &root, std::string_view driver);
/// The daemon was started with it: there are records, or at least one tree.
[[nodiscard]] bool has_driver(const probe::Host &host, const std::string &root, std::string_view driver);
[[nodiscard]] bool has_tree(const probe::Host &host, const std::string &root, std::string_view driver,
                            const std::string &id);

/// Adds the trees, and what of their own files is broken. Before it, the records have to be read: it tells `on_disk` of
/// each, and judges the links of overlay2. `datasets`: of the host, for zfs.
void read_graph(Draft &draft, std::span<const probe::ZfsDataset> datasets);

/// Path of an unrecorded tree that came or changed at or after `recent_s`; "": there is none. One that is being made
/// has its record a moment later (layer_store.go, CreateRWLayer; BuildKit's snapshot.go, Prepare).
std::string recent_unrecorded(const Draft &draft, uint64_t recent_s);

} // namespace shale::doctor::docker
