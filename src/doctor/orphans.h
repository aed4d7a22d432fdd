// SPDX-License-Identifier: Apache-2.0
// What lies in the stores of a host and is in no record: found in the facts, and proved against every mount table and
// every process before anybody may touch it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <sys/types.h>

#include "doctor/uses.h"
#include "probe/facts.h"
#include "probe/host.h"

namespace shale::doctor {

struct Orphan {
    const probe::Store *store = nullptr; ///< of the facts, as is the next
    const probe::StoreLayer *layer = nullptr;
    /// "without a record", "left by a step of a build", "half removed", "init layer of a container that is gone"
    std::string what;
    std::vector<std::string> proof;     ///< what was searched, and how much of it there was
    std::vector<std::string> obstacles; ///< why it is not touched; empty: it may be reclaimed
    std::string path, root;             ///< canonical, as this process names them: it, and its store
    std::pair<dev_t, ino_t> inode;      ///< what was judged
    uint64_t changed_s = 0; ///< when its directory was made or last changed (ctime), which nobody can set back
};

struct Audit {
    std::vector<Orphan> orphans;     ///< the largest first
    std::vector<std::string> unable; ///< stores that cannot be judged, and why
};

/// `uses` of this kernel: also where the host is a disk of another that is mounted here, and may be the disk of this
/// one. `alone`: the caller knows that nobody else uses the stores; without that, what runs on the host of an examined
/// disk is an obstacle.
Audit audit_orphans(const probe::Host &host, const probe::Facts &facts, const Uses &uses, bool alone);

/// Nobody but the user of this process (or root) can put something else at a path below `directory` while one looks:
/// each directory on the way is theirs, and others cannot write to it but for a sticky one. The path is canonical.
Status check_way(const std::string &directory);

} // namespace shale::doctor
