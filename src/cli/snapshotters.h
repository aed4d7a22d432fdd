// SPDX-License-Identifier: Apache-2.0
// Which snapshotters a configuration describes: what shaled serves, and what containerd is told of it.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "cli/options.h"

namespace shale::cli {

inline constexpr std::string_view default_snapshotter = "shale", default_socket = "/run/shale/shale.sock";

struct Snapshotter {
    std::string name;   ///< in containerd's configuration; letters, digits, '.', '_' and '-'
    std::string socket; ///< absolute path
    Settings settings;
};

/// One for each [[snapshotter]] table, or one of the global root and driver. InvalidArgument: a name, socket or root is
/// used twice, a value is of no use, or a table misses what it needs (with several: name, socket and root).
/// `sources` as for resolve().
Result<std::vector<Snapshotter>> resolve_snapshotters(std::span<const Source> sources, const std::string &default_root,
                                                      std::span<const drivers::DriverInfo> built);

/// The text for containerd's configuration: a [proxy_plugins.NAME] table for each.
std::string containerd_config(std::span<const Snapshotter> snapshotters);

} // namespace shale::cli
