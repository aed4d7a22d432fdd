// SPDX-License-Identifier: Apache-2.0
// containerd's configuration: config.toml of the versions 1 to 4, with what it imports (containerd,
// cmd/containerd/server/config/config.go), as far as it tells where things lie.
#pragma once

#include <map>
#include <string>

#include "probe/facts.h"
#include "probe/host.h"

namespace shale::doctor::containerd {

inline constexpr const char *default_config = "/etc/containerd/config.toml"; // defaults/defaults_unix.go
inline constexpr const char *default_root = "/var/lib/containerd";
inline constexpr const char *default_state = "/run/containerd";

/// A snapshotter that is another daemon: [proxy_plugins.NAME] with type "snapshot".
struct Proxy {
    std::string type, address;
    std::string root; ///< exports.root, where it says so
};
struct Config {
    std::string root, state;              ///< empty: the default
    std::string cri_snapshotter;          ///< that Kubernetes' containers get; empty: the default, overlayfs
    std::map<std::string, Proxy> proxies; ///< by name
    /// Of [plugins."io.containerd.snapshotter.v1.NAME"]: NAME -> key -> value, lists joined by ",".
    std::map<std::string, std::map<std::string, std::string>> snapshotters;
};

/// Reads the file at `path` (one that is missing is empty) and its imports, and adds each to facts.config_files once.
Config read_config(const probe::Host &host, const std::string &path, probe::Facts &facts);

} // namespace shale::doctor::containerd
