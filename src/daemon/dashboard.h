// SPDX-License-Identifier: Apache-2.0
// The page of shaled: what is served, what runs out and when, where the space of layers is, what the doctor finds, what
// the guard did. A page of its own: no script, nothing from elsewhere; it asks to be loaded again by itself.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "daemon/guardian.h"
#include "doctor/diagnosis.h"
#include "store/snapshots.h"

namespace shale::daemon {

/// All that the page shows. Text in it is of others, and is escaped by the page.
struct Dashboard {
    struct Layer {
        std::string name;
        uint64_t bytes = 0, inodes = 0;
    };
    struct Served {
        std::string name, driver, root, socket;
        std::string failure; ///< why it is not served; empty: it is
        store::Snapshots::Counts counts;
        std::vector<Layer> layers; ///< the largest first, at most `most_layers`
        uint64_t more_layers = 0, more_bytes = 0;
        Guardian::View guard;
    };
    static constexpr size_t most_layers = 200;

    std::string hostname, version;
    int64_t taken_ns = 0;
    bool has_guard = false; ///< [guard] enabled
    std::vector<Served> served;
    /// Of the stores that are served, without a walk over their trees. Null: not asked yet.
    const doctor::Diagnosis *diagnosis = nullptr;
    int64_t diagnosed_ns = 0;
};

std::string dashboard_html(const Dashboard &dashboard);
/// The same as one document, {"version": 1, ...}.
std::string dashboard_json(const Dashboard &dashboard);

} // namespace shale::daemon
