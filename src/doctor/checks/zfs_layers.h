// SPDX-License-Identifier: Apache-2.0
// Which datasets are layers of containers' stores, for the checks of ZFS.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>

#include "doctor/check.h"

namespace shale::doctor::checks {

/// "tank/docker" of "tank/docker/0a1b" and "tank/docker/0a1b@x"; empty: of a pool.
std::string_view parent_of(std::string_view dataset);
/// "0a1b" of both.
std::string_view last_part(std::string_view dataset);
/// "tank/docker/0a1b" of "tank/docker/0a1b@x".
std::string_view without_snapshot(std::string_view dataset);

/// Datasets whose children are layers, and the store that they are of; nullptr: of none that was found.
using LayerParents = std::map<std::string, const probe::Store *, std::less<>>;
using LayerParent = LayerParents::value_type;
/// By what the stores' readers say ("zfs.fsname", "zfs dataset"), else by the names of what is in a dataset: 64
/// hexadecimal digits (Docker, Podman), or the label and name of shale's (src/drivers/zfs/FORMAT.md).
LayerParents layer_parents(const probe::Facts &facts);
/// The parent that a dataset or snapshot is a layer of; nullptr: it is none.
const LayerParent *layer_parent_of(const LayerParents &parents, std::string_view dataset);
/// What Docker and Podman call a layer: 64 hexadecimal digits, and maybe "-init".
bool is_layer_name(std::string_view name);
/// "2023-11-14T22:13:20Z" of seconds since the epoch.
std::string time_text(uint64_t seconds);

} // namespace shale::doctor::checks
