// SPDX-License-Identifier: Apache-2.0
#include "doctor/hosts/shale_records.h"

#include <fmt/format.h>

#include <string_view>
#include <unordered_map>
#include <utility>

namespace shale::doctor::shale_store {
namespace {

constexpr size_t max_rows = 500'000; ///< of one table
constexpr uint64_t ns_per_s = 1'000'000'000;

std::string id_at(const SqliteRow &row, int column) {
    return row.is_null(column) ? std::string() : fmt::format("{}", row.count(column));
}

std::string text_at(const SqliteRow &row, int column) {
    return std::string(row.text(column));
}

std::optional<uint64_t> count_at(const SqliteRow &row, int column) {
    return row.is_null(column) ? std::nullopt : std::optional(row.count(column));
}

uint64_t time_at(const SqliteRow &row, int column) {
    return row.count(column) / ns_per_s;
}

/// Appends what `make` says of each row.
template <class Row, class Make>
Status read_rows(const SqliteCopy &db, std::string_view sql, std::vector<Row> &out, const Make &make) {
    return db.for_each(sql, [&](const SqliteRow &row) -> Status {
        if (out.size() >= max_rows) return fail(Errc::ResourceExhausted, fmt::format("more than {} rows", max_rows));
        out.push_back(make(row));
        return {};
    });
}

Status read_meta(const SqliteCopy &db, Records &out) {
    return db.for_each("SELECT key, value FROM meta", [&](const SqliteRow &row) -> Status {
        if (out.meta.size() >= 1000) return fail(Errc::ResourceExhausted, "more than 1000 rows of meta");
        out.meta.insert_or_assign(text_at(row, 0), text_at(row, 1));
        return {};
    });
}

Status read_layers(const SqliteCopy &db, Records &out) {
    return read_rows(db, "SELECT id, parent, state, chain_id, bytes, inodes, created_ns FROM layers", out.layers,
                     [](const SqliteRow &row) {
                         Layer layer{.id = id_at(row, 0),
                                     .parent = id_at(row, 1),
                                     .state = text_at(row, 2),
                                     .chain_id = text_at(row, 3),
                                     .bytes = {},
                                     .inodes = {},
                                     .created_s = time_at(row, 6)};
                         if (layer.state != "ready") return layer;
                         layer.bytes = row.count(4);
                         layer.inodes = row.count(5);
                         return layer;
                     });
}

Status read_images(const SqliteCopy &db, Records &out) {
    TRY(read_rows(db, "SELECT manifest, config, created_ns FROM images", out.images, [](const SqliteRow &row) {
        return Image{.manifest = text_at(row, 0),
                     .config = text_at(row, 1),
                     .names = {},
                     .layers = {},
                     .blobs = {},
                     .created_s = time_at(row, 2)};
    }));
    std::unordered_map<std::string_view, Image *> by_manifest;
    for (Image &image : out.images)
        by_manifest.emplace(image.manifest, &image);
    const auto of = [&](const SqliteRow &row) {
        const auto found = by_manifest.find(row.text(0));
        return found == by_manifest.end() ? nullptr : found->second;
    };
    size_t rows = 0;
    TRY(db.for_each("SELECT image, layer, blob FROM image_layers ORDER BY image, position",
                    [&](const SqliteRow &row) -> Status {
                        if (++rows > max_rows)
                            return fail(Errc::ResourceExhausted, fmt::format("more than {} rows", max_rows));
                        Image *image = of(row);
                        if (image == nullptr) return {};
                        image->layers.push_back(id_at(row, 1));
                        image->blobs.push_back(text_at(row, 2));
                        return {};
                    }));
    return db.for_each("SELECT image, name FROM names ORDER BY name", [&](const SqliteRow &row) -> Status {
        if (++rows > 2 * max_rows) return fail(Errc::ResourceExhausted, fmt::format("more than {} rows", max_rows));
        if (Image *image = of(row); image != nullptr) image->names.push_back(text_at(row, 1));
        return {};
    });
}

Status read_containers(const SqliteCopy &db, Records &out) {
    return read_rows(db, "SELECT id, name, parent, image, target, created_ns FROM containers", out.containers,
                     [](const SqliteRow &row) {
                         return Container{.id = id_at(row, 0),
                                          .name = text_at(row, 1),
                                          .parent = id_at(row, 2),
                                          .image = text_at(row, 3),
                                          .target = text_at(row, 4),
                                          .created_s = time_at(row, 5)};
                     });
}

Status read_snapshots(const SqliteCopy &db, Records &out) {
    return read_rows(db,
                     "SELECT s.id, s.name, s.kind, s.layer, p.layer, s.created_ns, s.bytes, s.inodes, s.synced "
                     "FROM snapshots s LEFT JOIN snapshots p ON p.id = s.parent",
                     out.snapshots, [](const SqliteRow &row) {
                         const int64_t kind = row.integer(2);
                         return Snapshot{.id = id_at(row, 0),
                                         .name = text_at(row, 1),
                                         .layer = id_at(row, 3),
                                         .parent_layer = id_at(row, 4),
                                         .kind = kind == 2   ? SnapshotKind::active
                                                 : kind == 3 ? SnapshotKind::committed
                                                             : SnapshotKind::view,
                                         .created_s = time_at(row, 5),
                                         .bytes = count_at(row, 6),
                                         .inodes = count_at(row, 7),
                                         .lost = row.integer(8) == 2};
                     });
}

Status read_leases(const SqliteCopy &db, uint64_t now_s, Records &out) {
    std::vector<std::pair<Lease, uint64_t>> all;
    TRY(read_rows(db, "SELECT r.lease, r.ref, l.expires_ns FROM lease_refs r JOIN leases l ON l.id = r.lease", all,
                  [](const SqliteRow &row) {
                      return std::pair(Lease{.id = text_at(row, 0), .ref = text_at(row, 1)}, row.count(2));
                  }));
    for (auto &[lease, expires_ns] : all)
        if (expires_ns == 0 || expires_ns / ns_per_s >= now_s) out.leases.push_back(std::move(lease));
    return {};
}

Status read_blobs(const SqliteCopy &db, Records &out) {
    return db.for_each("SELECT digest, bytes FROM blobs", [&](const SqliteRow &row) -> Status {
        if (out.blobs.size() >= max_rows)
            return fail(Errc::ResourceExhausted, fmt::format("more than {} rows", max_rows));
        out.blobs.insert_or_assign(text_at(row, 0), row.count(1));
        return {};
    });
}

} // namespace

std::string Records::meta_text(const std::string &key) const {
    const auto found = meta.find(key);
    return found == meta.end() ? std::string() : found->second;
}

uint64_t Records::count() const {
    return layers.size() + images.size() + containers.size() + snapshots.size() + leases.size();
}

Result<Records> read_records(const SqliteCopy &db, uint64_t now_s) {
    Records out;
    out.format = TRY(db.user_version());
    if (out.format == 0 && !TRY(db.has_table("meta"))) return out; // a store that is just being made
    if (out.format != 2 && out.format != 3)
        return fail(Errc::Unimplemented, fmt::format("record format {}; this shale reads formats 2 and 3", out.format));
    TRY(read_meta(db, out));
    TRY(read_layers(db, out));
    TRY(read_images(db, out));
    TRY(read_containers(db, out));
    if (out.format == 3) TRY(read_snapshots(db, out));
    TRY(read_leases(db, now_s, out));
    TRY(read_blobs(db, out));
    return out;
}

} // namespace shale::doctor::shale_store
