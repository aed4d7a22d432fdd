// SPDX-License-Identifier: Apache-2.0
// What lies in the stores of a host and is in no record: found in the facts, and proved against every mount table and
// every process before anybody may touch it.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "probe/facts.h"
#include "probe/host.h"

namespace shale::doctor {

struct Orphan {
    const probe::Store *store = nullptr; ///< of the facts, as is the next
    const probe::StoreLayer *layer = nullptr;
    std::string what;               ///< "without a record", "half removed", "init layer of a container that is gone"
    std::vector<std::string> proof; ///< what was searched, and how much of it there was
    std::vector<std::string> obstacles; ///< why it is not touched; empty: it may be reclaimed
};

struct Audit {
    std::vector<Orphan> orphans;     ///< the largest first
    std::vector<std::string> unable; ///< stores that cannot be judged, and why
};

/// Reads /proc and stats the lower directories of mounted overlays: nothing else but the facts.
/// Of a disk that is examined elsewhere nothing can be proved to be unused there, only that no record has it: as no
/// process runs on it, that is enough.
Audit audit_orphans(const probe::Host &host, const probe::Facts &facts);

} // namespace shale::doctor
