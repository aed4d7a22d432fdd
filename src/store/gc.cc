// SPDX-License-Identifier: Apache-2.0
// Garbage: mark from images, containers and live leases; sweep rows in one synced transaction; then data goes to the
// trash by rename; then the trash is unlinked. A crash after the transaction leaves data that no row names: the next
// sweep takes it.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <iterator>
#include <unordered_set>

#include "base/units.h"
#include "store/locks.h"
#include "store/records.h"
#include "store/store.h"
#include "sys/fs.h"

namespace shale::store {
namespace {

constexpr std::string_view keep_layers = R"sql(
WITH RECURSIVE
 live(id) AS (SELECT id FROM leases WHERE expires_ns = 0 OR expires_ns > ?),
 refs(ref) AS (SELECT ref FROM lease_refs WHERE lease IN (SELECT id FROM live)),
 root(id) AS (
  SELECT layer FROM image_layers
  UNION SELECT parent FROM containers WHERE parent IS NOT NULL
  UNION SELECT layer FROM snapshots WHERE layer IS NOT NULL
  UNION SELECT parent FROM layers WHERE state = 'staging' AND parent IS NOT NULL
  UNION SELECT CAST(substr(ref, 7) AS INTEGER) FROM refs WHERE ref LIKE 'layer:%'),
 keep(id) AS (SELECT id FROM root UNION SELECT l.parent FROM layers l JOIN keep k ON l.id = k.id WHERE l.parent IS NOT NULL)
SELECT l.id, l.bytes, coalesce(l.chain_id, '') FROM layers l
WHERE l.state = 'ready' AND l.id NOT IN (SELECT id FROM keep) ORDER BY l.id DESC)sql";

constexpr std::string_view unused_blobs = R"sql(
WITH live(id) AS (SELECT id FROM leases WHERE expires_ns = 0 OR expires_ns > ?),
 refs(ref) AS (SELECT ref FROM lease_refs WHERE lease IN (SELECT id FROM live))
SELECT digest, bytes FROM blobs WHERE digest NOT IN (
  SELECT manifest FROM images UNION SELECT config FROM images UNION SELECT blob FROM image_layers
  UNION SELECT blob FROM layers WHERE blob IS NOT NULL AND state = 'ready'
  UNION SELECT substr(ref, 6) FROM refs WHERE ref LIKE 'blob:%'))sql";

} // namespace

Result<GcReport> Store::gc(bool dry_run) {
    GcReport report;
    {
        auto locks = TRY(locks_->hold());
        TRY(locks.add(Locks::gc_offset, sys::LockMode::exclusive));
        TRY(making_room([&] { return sweep(dry_run, report = {}); }));
    }
    if (dry_run) return report;
    report.reaped_entries = TRY(reap());
    auto settled = TRY(settle_all(nullptr)); // this takes room before it gives some back
    report.settled = settled.settled;
    std::ranges::move(settled.what, std::back_inserter(report.what));
    if (report.settled != 0) report.reaped_entries += TRY(reap());
    return report;
}

Result<uint64_t> Store::reap(const std::atomic<bool> *cancel) {
    return driver_->reap(cancel);
}

/// What is on disk and in no row, but for `just_removed`. The caller holds the gc byte exclusively. The disk is read
/// before the rows, and rows are written before the disk, so whatever a live process has just made is seen as owned.
Result<std::vector<LayerId>> Store::leftover_layers(std::span<const LayerId> just_removed) {
    std::vector<LayerId> out = TRY(driver_->list());
    std::unordered_set<LayerId> owned(just_removed.begin(), just_removed.end());
    auto rows = TRY(records_->prepare("SELECT id FROM layers UNION SELECT id FROM containers "
                                      "UNION SELECT layer FROM snapshots WHERE layer IS NOT NULL"));
    while (TRY(rows.step()))
        owned.insert(rows.id(0));
    std::erase_if(out, [&](LayerId id) { return owned.contains(id); });
    return out;
}

Status Store::sweep_leftovers() {
    auto locks = TRY(locks_->hold());
    if (!TRY(locks.try_add(Locks::gc_offset, sys::LockMode::exclusive))) return {}; // somebody makes something just now
    for (const LayerId id : TRY(leftover_layers({})))
        TRY(driver_->remove(id));
    return {};
}

/// The caller holds the gc byte exclusively: nobody has objects that no root names yet.
Status Store::sweep(bool dry_run, GcReport &report) {
    // Expired leases first: they keep nothing.
    std::vector<LayerId> layers;
    std::vector<Digest> blobs;
    {
        auto tx = TRY(records_->begin(Sync::synced));
        auto expired = TRY(tx.prepare("DELETE FROM leases WHERE expires_ns <> 0 AND expires_ns <= ?"));
        TRY(expired.bind(now_ns()).run());
        // An image without a name is gone, unless a lease holds it: re-imports and tags move names away.
        for (const std::string_view table : {"image_layers WHERE image", "images WHERE manifest"}) {
            auto nameless =
                TRY(tx.prepare(fmt::format("DELETE FROM {} NOT IN (SELECT image FROM names UNION SELECT substr(ref, 7) "
                                           "FROM lease_refs WHERE ref LIKE 'image:%')",
                                           table)));
            TRY(nameless.run());
        }
        auto layer_rows = TRY(tx.prepare(keep_layers));
        layer_rows.bind(now_ns());
        while (TRY(layer_rows.step())) {
            layers.push_back(layer_rows.id(0));
            report.layer_bytes += layer_rows.count(1);
            report.what.push_back(fmt::format("layer {} {} ({})", layer_rows.id(0).value,
                                              layer_rows.text(2).substr(0, 19), format_bytes(layer_rows.count(1))));
        }
        for (const LayerId id : layers) {
            auto drop = TRY(tx.prepare("DELETE FROM layers WHERE id = ?"));
            TRY(drop.bind(id).run());
        }
        // After the layers: their blobs count as used until then.
        auto blob_rows = TRY(tx.prepare(unused_blobs));
        blob_rows.bind(now_ns());
        while (TRY(blob_rows.step())) {
            blobs.push_back(blob_rows.digest(0));
            report.blob_bytes += blob_rows.count(1);
            report.what.push_back(
                fmt::format("blob {} ({})", blob_rows.text(0).substr(0, 19), format_bytes(blob_rows.count(1))));
        }
        for (const auto &digest : blobs) {
            auto drop = TRY(tx.prepare("DELETE FROM blobs WHERE digest = ?"));
            TRY(drop.bind(digest).run());
        }
        report.layers += layers.size();
        report.blobs += blobs.size();
        if (!dry_run) TRY(tx.commit()); // else rolled back: nothing changed
    }
    if (!dry_run) {
        for (const LayerId id : layers)
            TRY(driver_->remove(id));
        for (const auto &digest : blobs)
            if (auto gone = sys::unlink_at(blobs_fd_.get(), digest.hex().c_str());
                !gone && gone.error().sys_errno() != ENOENT)
                return gone;
    }

    for (const LayerId id : TRY(leftover_layers(layers))) {
        ++report.leftovers;
        report.what.push_back(fmt::format("directory of layer {}: no record names it", id.value));
        if (!dry_run) TRY(driver_->remove(id));
    }
    std::unordered_set<std::string> known;
    auto blob_rows = TRY(records_->prepare("SELECT digest FROM blobs"));
    while (TRY(blob_rows.step()))
        known.insert(blob_rows.text(0).substr(7));
    for (const auto &digest : blobs)
        known.insert(digest.hex());
    for (const auto &entry : TRY(sys::list_dir(blobs_fd_.get()))) {
        if (known.contains(entry.name)) continue;
        ++report.leftovers;
        report.what.push_back(fmt::format("blob file {}: no record names it", entry.name));
        if (!dry_run) TRY(sys::unlink_at(blobs_fd_.get(), entry.name.c_str()));
    }
    for (const auto &entry : TRY(sys::list_dir(tmp_fd_.get()))) {
        uint64_t session = 0;
        const auto [end, bad] = std::from_chars(entry.name.data(), entry.name.data() + entry.name.size(), session);
        if (bad == std::errc{} && *end == '-' && TRY(locks_->session_alive(session))) continue;
        ++report.leftovers;
        report.what.push_back(fmt::format("temporary file {} of a process that is gone", entry.name));
        if (!dry_run) TRY(sys::remove_tree(tmp_fd_.get(), entry.name.c_str()));
    }
    return {};
}

} // namespace shale::store
