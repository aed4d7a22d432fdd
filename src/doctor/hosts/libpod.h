// SPDX-License-Identifier: Apache-2.0
// What podman (libpod) and CRI-O know of the containers of a store beyond containers/storage: whether they run, what
// they mount, where they log; and podman's volumes.
//
//   ROOT/libpod/bolt_state.db      podman 4 and before: bbolt. "ctr"/ID/{config,state}, "vol"/NAME/config,
//                                  "runtime-config"
//   ROOT/db.sql, ROOT/libpod/db.sql   podman 5: SQLite. ContainerConfig, ContainerState, VolumeConfig, DBConfig
//   ROOT/DRIVER-containers/ID/userdata/state.json   CRI-O
//   ROOT/volumes/NAME/_data        volumes of the driver "local"
//
// Either database keeps JSON documents of the same form (libpod/container_config.go, container.go, volume.go). With
// `transient_store` they lie below the run root. CRI-O: internal/oci/container.go.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "doctor/hosts/podman_records.h"
#include "probe/facts.h"
#include "probe/host.h"

namespace shale::doctor::podman {

struct LibpodContainer {
    std::string name, image, state;
    int pid = 0;
    std::string log_path;
    std::vector<std::string> binds, volumes;
    uint64_t created_s = 0;
};
struct LibpodVolume {
    std::string driver, path; ///< path "": by its name, below the directory of volumes
};
struct Libpod {
    std::map<std::string, LibpodContainer> containers; ///< by id
    std::map<std::string, LibpodVolume> volumes;       ///< by name
    std::string volume_directory;
    std::vector<probe::RecordSource> sources;
};

/// What is in both databases counts as the newer one, SQLite's, has it.
Libpod read_libpod(const probe::Host &host, const Places &places);
/// State and process of a CRI-O container, as far as there is a file that tells.
void read_crio_state(const probe::Host &host, const Places &places, probe::StoreContainer &container);
/// Volumes on record, and directories of volumes.
std::vector<probe::StoreVolume> join_volumes(const probe::Host &host, const Libpod &libpod,
                                             std::vector<probe::RecordSource> &sources);

} // namespace shale::doctor::podman
