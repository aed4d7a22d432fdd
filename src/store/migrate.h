// SPDX-License-Identifier: Apache-2.0
// What `shale migrate` asks for and gets back; docs/adr/0008-migrate.md says how it is done.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "drivers/driver.h"

namespace shale::store {

struct MigrateRequest {
    std::string driver;
    std::string root; ///< empty: in this store's own root
    drivers::DriverOptions options;
    bool verify_data = false; ///< the contents of every file of every tree are compared, too
    bool force = false;       ///< no estimate is made, or it was made before
};

/// What a run would copy and what it would take there. An upper bound where the driver shares more than it can say.
struct MigrateEstimate {
    uint64_t layers = 0, containers = 0, blobs = 0;
    uint64_t bytes = 0, inodes = 0; ///< blobs included, where they are copied
    uint64_t blob_bytes = 0;
    bool elsewhere = false; ///< the driver keeps its data outside `where` and checks the room there itself
    std::string where, file_system;
    uint64_t free_bytes = 0, free_inodes = 0;
    bool inodes_limited = false;
    [[nodiscard]] bool fits() const noexcept {
        return bytes_here() <= free_bytes && (!inodes_limited || inodes <= free_inodes);
    }
    [[nodiscard]] uint64_t bytes_here() const noexcept {
        return elsewhere ? blob_bytes : bytes;
    } ///< that come to `where`
    /// ResourceExhausted, with the figures and what to do, unless it fits.
    [[nodiscard]] Status refuse() const;
};

struct MigrateReport {
    uint64_t layers = 0, containers = 0, blobs = 0; ///< copied by this run
    uint64_t kept = 0;                              ///< objects that an earlier run had copied
    uint64_t dropped = 0;                           ///< copies of what is not in the store any more, or was half made
    uint64_t bytes = 0;                             ///< of layers' blobs and containers' changes that were read
    uint64_t compared = 0;                          ///< entries of trees that were compared
    uint64_t removed_entries = 0;                   ///< unlinked from the side that was given up
    std::vector<std::string> notes;                 ///< what could not be carried over
    std::vector<std::string> pending;               ///< containers that were in use: why they were not copied
};

enum class MigratePhase : uint8_t {
    none,
    copying,  ///< the old side counts
    retiring, ///< the new side counts, the old one's data is being removed
};
struct MigrateState {
    MigratePhase phase = MigratePhase::none;
    std::string from, to;
    std::string root; ///< of the new side when it is another
    drivers::DriverOptions options;
    uint64_t layers = 0, layers_done = 0, containers = 0, containers_done = 0;
};

} // namespace shale::store
