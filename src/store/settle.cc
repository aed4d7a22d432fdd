// SPDX-License-Identifier: Apache-2.0
// Layers that a commit left in the form they were written in (Driver::settle). One process of a store settles at a
// time; a layer is built anew beside its old form, and changes over under the gc byte held exclusively, while nothing
// stands on it that is or may become mounted: mounts that were told stay what they were.
#include <fmt/format.h>

#include <memory>
#include <optional>

#include "store/locks.h"
#include "store/records.h"
#include "store/store.h"

namespace shale::store {

/// False too when the layer is gone.
Result<bool> Store::is_at_rest(LayerId id) {
    auto row = TRY(records_->prepare(
        "WITH RECURSIVE up(id) AS (SELECT id FROM layers WHERE id = ? AND state = 'ready' UNION SELECT l.id FROM "
        "layers "
        "l JOIN up ON l.parent = up.id) SELECT EXISTS (SELECT 1 FROM up) AND NOT EXISTS (SELECT 1 FROM layers WHERE id "
        "IN (SELECT id FROM up) AND state <> 'ready') AND NOT EXISTS (SELECT 1 FROM containers WHERE parent IN (SELECT "
        "id FROM up)) AND NOT EXISTS (SELECT 1 FROM up JOIN snapshots p ON p.layer = up.id JOIN snapshots s ON "
        "s.parent "
        "= p.id WHERE s.kind < 3)"));
    return TRY(row.bind(id).step()) && row.integer(0) != 0;
}

Result<bool> Store::settle(LayerId id) {
    if (!TRY(is_at_rest(id))) return false;
    auto turn = TRY(locks_->hold());
    if (!TRY(turn.try_add(Locks::settle_offset, sys::LockMode::exclusive))) return false; // another process does it
    auto done = driver_->settle(id, [&]() -> Result<std::shared_ptr<void>> {
        auto alone = std::make_shared<LockHold>(TRY(locks_->hold()));
        if (!TRY(alone->try_add(Locks::gc_offset, sys::LockMode::exclusive)) || !TRY(is_at_rest(id))) return nullptr;
        return alone;
    });
    if (!done) {
        if (!TRY(is_at_rest(id))) return false; // it was removed meanwhile
        return done;
    }
    if (*done) TRY(record_usage({&id, 1}));
    return done;
}

Status Store::record_usage(std::span<const LayerId> layers) {
    std::vector<std::pair<LayerId, drivers::Usage>> sizes;
    for (const LayerId id : layers) {
        const auto chain = TRY(chain_of(id));
        // A size that cannot be told makes no layer worse.
        if (const auto usage = driver_->usage(id, std::span(chain).subspan(chain.empty() ? 0 : 1)))
            sizes.emplace_back(id, *usage);
    }
    auto tx = TRY(records_->begin(Sync::relaxed));
    for (const auto &[id, usage] : sizes)
        for (const std::string_view row : {"snapshots SET bytes = ?, inodes = ? WHERE layer = ? AND kind = 3",
                                           "layers SET bytes = ?, inodes = ? WHERE id = ?"}) {
            auto put = TRY(tx.prepare(fmt::format("UPDATE {}", row)));
            TRY(put.bind(usage.bytes).bind(usage.inodes).bind(id).run());
        }
    return tx.commit();
}

Result<Store::SettleReport> Store::settle_all(const std::atomic<bool> *cancel) {
    SettleReport report;
    for (const LayerId id : TRY(driver_->unsettled())) {
        if (cancel != nullptr && cancel->load(std::memory_order_relaxed)) break;
        const auto done = settle(id);
        if (done && *done)
            ++report.settled;
        else
            ++report.left;
        if (!done) report.what.push_back(fmt::format("layer {} keeps its form: {}", id.value, done.error().text()));
    }
    return report;
}

} // namespace shale::store
