// SPDX-License-Identifier: Apache-2.0
// Images and their names. An image is its manifest's digest; a name points to one; an image without a name is gone.
#include <fmt/format.h>

#include <algorithm>

#include "store/locks.h"
#include "store/records.h"
#include "store/store.h"

namespace shale::store {

Result<ImageInfo> Store::load_image(const Digest &manifest) {
    ImageInfo image;
    image.manifest = manifest;
    auto row = TRY(records_->prepare("SELECT config, os, architecture, created_ns FROM images WHERE manifest = ?"));
    if (!TRY(row.bind(manifest).step())) return fail(Errc::NotFound, fmt::format("no image {}", manifest.text()));
    image.config = row.digest(0);
    image.os = row.text(1);
    image.architecture = row.text(2);
    image.created_ns = row.integer(3);
    auto names = TRY(records_->prepare("SELECT name FROM names WHERE image = ? ORDER BY name"));
    names.bind(manifest);
    while (TRY(names.step()))
        image.names.push_back(names.text(0));
    const auto known = TRY(layers_of(manifest));
    auto layers =
        TRY(records_->prepare("SELECT layer, blob, bytes FROM image_layers WHERE image = ? ORDER BY position"));
    layers.bind(manifest);
    while (TRY(layers.step())) {
        const auto found = known.find(layers.id(0));
        if (found == known.end()) return fail(Errc::NotFound, fmt::format("no layer {}", layers.id(0).value));
        LayerInfo layer = found->second;
        layer.blob = layers.digest(1); // the one that this manifest names: a layer can come in several compressions
        layer.blob_bytes = layers.count(2);
        image.bytes += layer.bytes;
        if (layer.images == 1) image.exclusive_bytes += layer.bytes;
        image.layers.push_back(layer);
    }
    return image;
}

Result<std::vector<ImageInfo>> Store::list_images() {
    std::vector<Digest> manifests;
    auto rows = TRY(records_->prepare("SELECT manifest FROM images ORDER BY created_ns DESC, manifest"));
    while (TRY(rows.step()))
        manifests.push_back(rows.digest(0));
    std::vector<ImageInfo> images;
    images.reserve(manifests.size());
    for (const auto &manifest : manifests)
        images.push_back(TRY(load_image(manifest)));
    return images;
}

Result<Digest> Store::resolve_image(std::string_view reference) {
    if (auto name = oci::normalize_reference(reference)) {
        auto row = TRY(records_->prepare("SELECT image FROM names WHERE name = ?"));
        if (TRY(row.bind(std::string_view(*name)).step())) return row.digest(0);
    }
    std::string_view hex = reference;
    if (hex.starts_with("sha256:")) hex.remove_prefix(7);
    const bool is_hex =
        hex.size() >= 4 && hex.size() <= 64 && hex.find_first_not_of("0123456789abcdef") == std::string_view::npos;
    if (is_hex) {
        auto rows = TRY(records_->prepare("SELECT manifest FROM images WHERE substr(manifest, 8, length(?)) = ? "
                                          "OR substr(config, 8, length(?)) = ? LIMIT 2"));
        for (int i = 0; i < 4; ++i)
            rows.bind(hex);
        if (TRY(rows.step())) {
            const Digest found = rows.digest(0);
            if (TRY(rows.step()))
                return fail(Errc::InvalidArgument,
                            fmt::format("\"{}\" fits several images; give more digits", reference));
            return found;
        }
    }
    return fail(Errc::NotFound, fmt::format("no image \"{}\"; `shale image ls` lists them", reference));
}

Result<ImageInfo> Store::find_image(std::string_view reference) {
    return load_image(TRY(resolve_image(reference)));
}
Result<std::string> Store::image_manifest(const Digest &manifest) {
    return read_document(manifest);
}
Result<std::string> Store::image_config(const Digest &config) {
    return read_document(config);
}

Status Store::tag_image(std::string_view reference, std::string_view name) {
    const std::string normal = TRY(oci::normalize_reference(name));
    // Held shared so that gc cannot take the image between look-up and naming.
    auto locks = TRY(locks_->hold());
    TRY(locks.add(Locks::gc_offset, sys::LockMode::shared));
    const Digest manifest = TRY(resolve_image(reference));
    auto tx = TRY(records_->begin(Sync::synced));
    auto put = TRY(tx.prepare("INSERT OR REPLACE INTO names VALUES (?, ?)"));
    TRY(put.bind(std::string_view(normal)).bind(manifest).run());
    return tx.commit();
}

Result<Store::Removed> Store::remove_image(std::string_view reference, bool force, bool dry_run) {
    auto locks = TRY(locks_->hold());
    TRY(locks.add(Locks::gc_offset, sys::LockMode::exclusive));
    const Digest manifest = TRY(resolve_image(reference));
    auto image = TRY(load_image(manifest));
    Removed removed;
    const auto named = oci::normalize_reference(reference);
    const bool by_name = named && std::ranges::find(image.names, *named) != image.names.end();
    if (by_name) {
        removed.untagged.push_back(*named);
    } else {
        if (image.names.size() > 1 && !force)
            return fail(Errc::FailedPrecondition,
                        fmt::format("image {} has {} names; remove them one by one, or all with --force",
                                    manifest.text(), image.names.size()));
        removed.untagged = image.names;
    }
    if (removed.untagged.size() == image.names.size()) {
        auto users = TRY(records_->prepare("SELECT name FROM containers WHERE image = ? ORDER BY name LIMIT 1"));
        if (!force && TRY(users.bind(manifest).step()))
            return fail(
                Errc::FailedPrecondition,
                fmt::format("image {} is used by container \"{}\"; remove that first, or use --force (its layers stay "
                            "as long as the container does)",
                            reference, users.text(0)));
        removed.deleted = manifest;
    }
    if (dry_run) return removed;
    TRY(making_room([&]() -> Status {
        auto tx = TRY(records_->begin(Sync::synced));
        for (const auto &name : removed.untagged) {
            auto drop = TRY(tx.prepare("DELETE FROM names WHERE name = ?"));
            TRY(drop.bind(std::string_view(name)).run());
        }
        return tx.commit();
    }));
    GcReport report;
    if (removed.deleted) TRY(making_room([&] { return sweep(false, report); }));
    return removed;
}

Status Store::export_image(std::string_view reference, oci::ExportFormat format, const std::string &path) {
    auto locks = TRY(locks_->hold());
    TRY(locks.add(Locks::gc_offset, sys::LockMode::shared));
    const Digest digest = TRY(resolve_image(reference));
    auto image = TRY(load_image(digest));
    oci::ExportImage out;
    const auto named = oci::normalize_reference(reference);
    if (named && std::ranges::find(image.names, *named) != image.names.end())
        out.names.push_back(*named);
    else
        out.names = image.names;
    out.manifest_json = TRY(read_document(image.manifest));
    out.config_json = TRY(read_document(image.config));
    auto manifest = TRY(oci::parse_manifest(out.manifest_json));
    if (manifest.layers.size() != image.layers.size())
        return fail(Errc::DataLoss, fmt::format("image {} has {} layers in its manifest and {} in the records",
                                                digest.text(), manifest.layers.size(), image.layers.size()));
    for (size_t i = 0; i < manifest.layers.size(); ++i)
        out.layers.push_back({manifest.layers[i], image.layers[i].diff_id, TRY(open_blob(manifest.layers[i].digest))});
    return oci::write_export(out, format, path);
}

} // namespace shale::store
