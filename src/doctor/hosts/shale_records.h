// SPDX-License-Identifier: Apache-2.0
// The records of one of shale's stores, ROOT/shale.db, as one state of it (docs/formats/records.md; formats 2 and 3).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "doctor/hosts/sqlite_copy.h"

namespace shale::doctor::shale_store {

/// Ids are decimal, as the directories are named. What is missing is "".
struct Layer {
    std::string id, parent, state, chain_id;
    std::optional<uint64_t> bytes, inodes; ///< not of one that is staged
    uint64_t created_s = 0;
};
struct Image {
    std::string manifest, config;
    std::vector<std::string> names, layers, blobs; ///< layers from the base up, and the blob of each
    uint64_t created_s = 0;
};
struct Container {
    std::string id, name, parent, image, target;
    uint64_t created_s = 0;
};
enum class SnapshotKind : uint8_t { view = 1, active = 2, committed = 3 };
struct Snapshot {
    std::string id, name, layer, parent_layer;
    SnapshotKind kind = SnapshotKind::view;
    uint64_t created_s = 0;
    std::optional<uint64_t> bytes, inodes;
    bool lost = false; ///< its data could not be written to disk
};
struct Lease {
    std::string id, ref; ///< "layer:12", "image:sha256:...", "blob:sha256:..."
};
struct Records {
    std::map<std::string, std::string> meta;
    std::vector<Layer> layers;
    std::vector<Image> images;
    std::vector<Container> containers;
    std::vector<Snapshot> snapshots;
    std::vector<Lease> leases;             ///< those that have not expired
    std::map<std::string, uint64_t> blobs; ///< digest -> bytes
    int64_t format = 0;

    [[nodiscard]] std::string meta_text(const std::string &key) const;
    [[nodiscard]] uint64_t count() const; ///< of all rows but those of blobs
};

/// `now_s`: since the epoch, for leases. DataLoss: damaged. Unimplemented: another format. ResourceExhausted: more rows
/// than anybody has.
Result<Records> read_records(const SqliteCopy &db, uint64_t now_s);

} // namespace shale::doctor::shale_store
