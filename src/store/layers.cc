// SPDX-License-Identifier: Apache-2.0
// Layer rows. States: (none) -> staging -> ready -> (none). "staging" is an intent: its session owns the driver's
// directory of that id. A ready layer has its parent ready, its chain id unique among ready layers, and its data synced
// before its row.
#include <fmt/format.h>

#include <charconv>

#include "store/locks.h"
#include "store/records.h"
#include "store/store.h"

namespace shale::store {
namespace {

constexpr std::string_view select_layer =
    "SELECT l.id, l.parent, l.chain_id, l.diff_id, l.blob, coalesce(b.bytes, 0), l.bytes, l.inodes, l.created_ns, "
    "(SELECT count(DISTINCT image) FROM image_layers WHERE layer = l.id), "
    "(SELECT count(*) FROM layers WHERE parent = l.id AND state = 'ready'), "
    "coalesce(c.number, 0) "
    "FROM layers l LEFT JOIN blobs b ON b.digest = l.blob "
    "LEFT JOIN (SELECT parent, count(*) AS number FROM containers GROUP BY parent) c ON c.parent = l.id "
    "WHERE l.state = 'ready'";

LayerInfo read_layer(const Statement &row) {
    LayerInfo info;
    info.id = row.id(0);
    if (!row.is_null(1)) info.parent = row.id(1);
    info.chain_id = row.digest(2);
    info.diff_id = row.digest(3);
    info.blob = row.digest(4);
    info.blob_bytes = row.count(5);
    info.bytes = row.count(6);
    info.inodes = row.count(7);
    info.created_ns = row.integer(8);
    info.images = row.count(9);
    info.children = row.count(10);
    info.containers = row.count(11);
    return info;
}

} // namespace

Result<std::vector<LayerInfo>> Store::list_layers() {
    auto rows = TRY(records_->prepare(std::string(select_layer) + " ORDER BY l.id"));
    std::vector<LayerInfo> layers;
    while (TRY(rows.step()))
        layers.push_back(read_layer(rows));
    return layers;
}

Result<std::unordered_map<LayerId, LayerInfo>> Store::layers_of(const Digest &image) {
    auto rows = TRY(
        records_->prepare(std::string(select_layer) + " AND l.id IN (SELECT layer FROM image_layers WHERE image = ?)"));
    rows.bind(image);
    std::unordered_map<LayerId, LayerInfo> layers;
    while (TRY(rows.step()))
        layers.emplace(rows.id(0), read_layer(rows));
    return layers;
}

Result<LayerInfo> Store::find_layer(std::string_view reference) {
    std::string_view hex = reference;
    if (hex.starts_with("sha256:")) hex.remove_prefix(7);
    uint64_t number = 0;
    const auto [end, bad] = std::from_chars(reference.data(), reference.data() + reference.size(), number);
    const bool numeric = bad == std::errc{} && end == reference.data() + reference.size() && reference.size() < 19;
    auto rows = TRY(records_->prepare(std::string(select_layer) +
                                      " AND (l.id = ? OR substr(l.chain_id, 8, length(?)) = ? OR "
                                      "substr(l.diff_id, 8, length(?)) = ?) ORDER BY l.id LIMIT 3"));
    const std::string prefix(hex.size() >= 4 ? hex : std::string_view("-"));
    rows.bind(numeric ? static_cast<int64_t>(number) : int64_t{-1});
    for (int i = 0; i < 4; ++i)
        rows.bind(std::string_view(prefix));
    std::vector<LayerInfo> found;
    while (TRY(rows.step())) {
        const auto layer = read_layer(rows);
        if (numeric && layer.id.value == number) return layer;
        found.push_back(layer);
    }
    if (found.empty())
        return fail(Errc::NotFound, fmt::format("no layer \"{}\"; `shale layer ls` lists them", reference));
    if (found.size() > 1)
        return fail(Errc::InvalidArgument, fmt::format("\"{}\" fits several layers ({}, {}, ...); give more digits",
                                                       reference, found[0].id.value, found[1].id.value));
    return found[0];
}

Result<std::vector<LayerId>> Store::chain_of(std::optional<LayerId> top) {
    std::vector<LayerId> chain;
    // A recursive query without ORDER BY gives its rows first in, first out (SQLite, "Recursive Common Table
    // Expressions").
    auto rows =
        TRY(records_->prepare("WITH RECURSIVE up(id, parent, depth) AS (SELECT id, parent, 0 FROM layers WHERE id = ? "
                              "UNION ALL SELECT l.id, l.parent, up.depth + 1 FROM layers l JOIN up ON l.id = up.parent "
                              "WHERE up.depth < 10000) SELECT id FROM up"));
    rows.bind(top);
    while (TRY(rows.step()))
        chain.push_back(rows.id(0));
    return chain;
}

Result<std::optional<LayerId>> Store::layer_by_chain(const Digest &chain) {
    auto rows = TRY(records_->prepare("SELECT id FROM layers WHERE chain_id = ? AND state = 'ready'"));
    rows.bind(chain);
    if (!TRY(rows.step())) return std::nullopt;
    return rows.id(0);
}

Status Store::begin_layer(LayerId &id, std::optional<LayerId> parent) {
    id = TRY(records_->new_id());
    auto tx = TRY(records_->begin(Sync::relaxed));
    auto insert =
        TRY(tx.prepare("INSERT INTO layers(id, parent, state, session, created_ns) VALUES (?, ?, 'staging', ?, ?)"));
    TRY(insert.bind(id).bind(parent).bind(locks_->session()).bind(now_ns()).run());
    return tx.commit();
}

void Store::abandon_layer(LayerId id) noexcept {
    // What cannot be undone now (disk gone, process out of descriptors) is undone by the next open: the row stays.
    if (!driver_->remove(id)) return;
    auto tx = records_->begin(Sync::relaxed);
    if (!tx) return;
    if (auto drop = tx->prepare("DELETE FROM layers WHERE id = ? AND state = 'staging'"); drop && drop->bind(id).run())
        (void)tx->commit();
}

Result<archive::PackReport> Store::export_layer(LayerId id, const archive::Sink &sink) {
    auto locks = TRY(locks_->hold());
    TRY(locks.add(Locks::gc_offset, sys::LockMode::shared));
    auto chain = TRY(chain_of(id));
    if (chain.empty()) return fail(Errc::NotFound, fmt::format("no layer {}", id.value));
    const std::span parents(chain.begin() + 1, chain.end());
    return TRY(driver_->diff(id, parents, sink)).pack;
}

} // namespace shale::store
