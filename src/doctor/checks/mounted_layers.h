// SPDX-License-Identifier: Apache-2.0
// Which mounts show a layer or another part of a store, in every mount namespace.
#pragma once

#include <cstdint>
#include <set>
#include <string_view>
#include <vector>

#include "doctor/check.h"

namespace shale::doctor::checks {

/// A mount that is of a store. Pointers live as long as the facts.
struct MountedLayer {
    const probe::MountNamespace *where = nullptr;
    const probe::Mount *mount = nullptr;
    const probe::Store *store = nullptr;
    const probe::StoreLayer *layer = nullptr;         ///< nullptr: no layer that the store's reader knows
    const probe::StoreContainer *container = nullptr; ///< that the layer, or the directory, is of
    std::string_view container_id; ///< of a directory of containers/ID that no record names; else empty
};

/// Overlays whose upper directory lies in a store, and mounts on a layer's or a container's own directory. Namespaces
/// of an engine that runs in a container (with a root of its own) are left out: its paths are not those of the host.
std::vector<MountedLayer> mounted_layers(const probe::Facts &facts);

/// Mounts upon a place within a layer's directory, whatever they show; each has its `layer`. Namespaces as above.
std::vector<MountedLayer> mounts_in_layers(const probe::Facts &facts);
/// Namespaces that have what the mount shows for their root: those of containers that run in it.
std::vector<const probe::MountNamespace *> namespaces_rooted_in(const probe::Facts &facts, const MountedLayer &mounted);

/// "upperdir" of an overlay's options; empty: it has none. Lives as long as the mount.
std::string_view upper_directory(const probe::Mount &mount);

/// Namespaces in which engines and their helpers live: to them every layer's mount belongs. So do those of process 1
/// and of the reader.
std::set<uint64_t> engine_namespaces(const probe::Facts &facts);

} // namespace shale::doctor::checks
