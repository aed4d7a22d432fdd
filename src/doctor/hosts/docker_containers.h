// SPDX-License-Identifier: Apache-2.0
// Containers and volumes, which a root has once for all its drivers.
//
//   containers/ID/config.v2.json, hostconfig.json   moby, container/container.go, type Container
//   containers/ID/ID-json.log[.N[.gz]], local-logs/ what it wrote
//   volumes/metadata.db                             bbolt: "volumes" -> NAME -> {"Name", "Driver", ...}
//   (volume/service/db.go) volumes/NAME/_data                              of the driver "local"
//   (volume/local/local.go)
#pragma once

#include <map>
#include <string>
#include <vector>

#include "doctor/hosts/docker_draft.h"

namespace shale::doctor::docker {

struct Containers {
    std::vector<probe::StoreContainer> all;                       ///< without `layer`
    std::map<std::string, std::vector<std::string>> volume_users; ///< name of the volume -> "container ID"
    Sources sources;
    std::vector<probe::Problem> problems;
    uint64_t log_bytes = 0;
    uint64_t without_log_limit = 0; ///< json-file logs that nothing ends
};
Containers read_containers(const probe::Host &host, const std::string &root);

/// Those of the draft's driver, and those of no driver in `known` if it is the one in use: "container ID" to their
/// layers.
void add_containers(Draft &draft, const Containers &containers, const std::vector<std::string> &known);

/// All volumes, with their users.
void read_volumes(Draft &draft, const Containers &containers);

} // namespace shale::doctor::docker
