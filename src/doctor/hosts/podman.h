// SPDX-License-Identifier: Apache-2.0
// The stores of containers/storage, which podman, CRI-O, buildah and skopeo share, read from their files: no engine is
// asked, for it would repair what it finds, and may be of a disk. Formats as of podman 4 and 5.
//
//   records    podman_records.h    layers, images, containers
//   trees      podman_layers.h     what of the layers is on disk
//   states     libpod.h            whether containers run; volumes
#pragma once

#include <string>
#include <vector>

#include "probe/facts.h"
#include "probe/host.h"

namespace shale::doctor {

/// Appends a store of engine "podman" for each driver that has something at `graph_root`, and the configuration file.
/// Empty `graph_root`: that of /etc/containers/storage.conf, else of /usr/share/containers/storage.conf, else
/// /var/lib/containers/storage; and those of users (rootless) below their homes.
/// A store at work is read up to three times until nobody changed it meanwhile; what still changes has sources of state
/// "changing". Nothing that is broken ends the reading: it is told in `sources` and `problems`. ZFS datasets and mounts
/// are taken from `facts`, as far as they are known already.
void read_podman(const probe::Host &host, const std::vector<probe::Process> &processes, const std::string &graph_root,
                 probe::Facts &facts);

} // namespace shale::doctor
