// SPDX-License-Identifier: Apache-2.0
// Records that containerd's snapshotters keep (containerd, core/snapshots/storage/bolt.go), and what of a layer follows
// from them alone.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "probe/facts.h"
#include "probe/host.h"

namespace shale::doctor::containerd {

enum class Kind : uint8_t { unknown, view, active, committed }; // snapshotter.go, Kind, by number

struct Record {
    uint64_t id = 0;
    Kind kind = Kind::unknown;
    std::string parent; ///< key
    std::optional<uint64_t> bytes, inodes;
    uint64_t created_s = 0;
};
struct Records {
    uint64_t sequence = 0; ///< the last number that was given
    std::map<std::string, Record> by_key;
};

/// ROOT/metadata.db. Errors: of BoltFile::open(); DataLoss for what is damaged.
Result<Records> read_records(const probe::Host &host, const std::string &path);

/// A layer for each record, in the order of their numbers, as it should be: recorded, not yet on disk. Parents that are
/// missing, loops of parents and numbers given twice are damage.
std::vector<probe::StoreLayer> layers_of(const Records &records);

} // namespace shale::doctor::containerd
