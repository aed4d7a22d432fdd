// SPDX-License-Identifier: Apache-2.0
// Which dockerd runs or would run, where its root is, and what its configuration says: its command line, then
// daemon.json, then what it does by itself (moby, cmd/dockerd/daemon.go, loadDaemonCliConfig).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "probe/facts.h"
#include "probe/host.h"

namespace shale::doctor::docker {

/// daemon.json, as far as it matters here. Names as there, members of members with a dot:
/// "features.containerd-snapshotter".
using Settings = std::map<std::string, std::string>;

/// A root with what belongs to it.
struct Place {
    std::string root;
    std::string config_path;
    Settings settings;                 ///< of the file, and over them of the command line
    int pid = 0;                       ///< of its dockerd; 0: none runs
    std::string version;               ///< of that, or of the system's which would serve it; "": not known
    std::optional<uint64_t> started_s; ///< when that began: what was last changed before is nobody's work any more
    bool serves = true; ///< a daemon with this configuration keeps its data here: not beside the root of userns-remap
};

/// The roots that `data_root` (as read_docker() has it) stands for; each directory once, those of userns-remap within
/// them too. Appends daemon.json files, and the problems with them.
std::vector<Place> find_places(const probe::Host &host, const std::vector<probe::Process> &processes,
                               const std::string &data_root, probe::Facts &facts);

/// The process is in a container: what it says of paths is said of others than the host's. By its cgroup.
[[nodiscard]] bool in_container(const probe::Process &process);

} // namespace shale::doctor::docker
