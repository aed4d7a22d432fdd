// SPDX-License-Identifier: Apache-2.0
// The labels that ask for a snapshot whose ids are mapped by its mount instead of a chown of every file (containerd's
// core/snapshots/snapshotter.go and core/mount/mount_linux.go): "CONTAINER:HOST:LENGTH[,...]", ids as in
// user_namespaces(7).
#pragma once

#include <sys/types.h>

#include <map>
#include <optional>
#include <string>

#include "base/error.h"

namespace shale::store {

struct IdMapping {
    std::string uids, gids; ///< as the labels state them: what the mount options uidmap= and gidmap= take
    uid_t root_uid = 0;     ///< on the host
    gid_t root_gid = 0;
};

/// Nullopt: neither label is there. InvalidArgument: only one is, one is malformed, or it leaves the container without
/// a root.
Result<std::optional<IdMapping>> id_mapping(const std::map<std::string, std::string, std::less<>> &labels);

} // namespace shale::store
