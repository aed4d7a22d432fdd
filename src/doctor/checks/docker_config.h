// SPDX-License-Identifier: Apache-2.0
// dockerd's configuration as far as checks judge it: a file, and what the command line of the dockerd that reads it
// says.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "doctor/check.h"

namespace shale::doctor::checks {

inline constexpr std::string_view daemon_json_kind = "docker daemon.json"; ///< ConfigFile::kind

/// Garbage collection of a BuildKit, as it is written ("20GB", "10%"); empty: not set.
struct BuilderCollection {
    std::string origin; ///< path of the file
    bool enabled = true;
    std::string reserved, most_used, least_free; ///< reservedSpace (keepStorage), maxUsedSpace, minFreeSpace
};

struct DockerConfig {
    std::string origin;                    ///< of the file; empty: there is none
    std::string storage_driver;            ///< empty: dockerd chooses
    std::vector<std::string> storage_opts; ///< of the file, then of the command line
    std::optional<BuilderCollection> builder;
    /// Flags of the running dockerd by the name that the file has for them ("hosts" for -H); each with its first value.
    std::map<std::string, std::string> flags;
};

/// Of that file (nullptr: without one) and of the process (nullptr: none runs). A file that is no JSON, or members of
/// wrong types, count as not set: daemon-json-lint says so.
DockerConfig docker_config(const probe::ConfigFile *file, const probe::Process *daemon);
/// The dockerd that reads the file; nullptr: none runs.
const probe::Process *daemon_of(const probe::Facts &facts, const probe::ConfigFile &file);
/// The stores of the dockerd that reads the file, whether it runs or not.
std::vector<const probe::Store *> stores_of(const probe::Facts &facts, const probe::ConfigFile &file);
/// What a store's dockerd is told.
DockerConfig docker_config_of(const probe::Facts &facts, const probe::Store &store);
/// The value of a storage option ("dm.min_free_space"), the last one wins; empty: not set.
std::string storage_option(const DockerConfig &config, std::string_view key);

} // namespace shale::doctor::checks
