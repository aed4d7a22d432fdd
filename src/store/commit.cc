// SPDX-License-Identifier: Apache-2.0
// Committing a container: its changes become a layer blob (canonical tar, compressed), which is unpacked like any
// imported one, so that digest and diff id are proved on the way; then child config, manifest, one sync, one
// transaction. The container stays as it is.
#include <fmt/format.h>

#include "archive/unpack.h"
#include "base/units.h"
#include "store/locks.h"
#include "store/records.h"
#include "store/reserve.h"
#include "store/store.h"
#include "sys/fs.h"

namespace shale::store {

Result<CommitResult> Store::commit_container(const CommitRequest &request) {
    const std::string name = TRY(oci::normalize_reference(request.name));
    CommitResult out;
    TRY(hold_reserve(root_fd_.get()));
    auto locks = TRY(locks_->hold());
    TRY(locks.add(Locks::gc_offset, sys::LockMode::shared));
    const auto info = TRY(hold_container(locks, request.container));

    std::string tmp_name;
    UniqueFd blob = TRY(new_blob(tmp_name));
    ScopeGuard drop_blob([&] {
        if (!tmp_name.empty()) (void)sys::unlink_at(tmp_fd_.get(), tmp_name.c_str());
    });
    Sha256 diff_hash;
    Sha256 blob_hash;
    uint64_t blob_bytes = 0;
    auto encoder = TRY(archive::make_encoder(request.compression, [&](std::span<const std::byte> bytes) -> Status {
        blob_hash.update(bytes);
        blob_bytes += bytes.size();
        return sys::write_all(blob.get(), bytes);
    }));
    auto report = TRY(stable_diff(info, [&](std::span<const std::byte> bytes) -> Status {
        diff_hash.update(bytes);
        return encoder->write(bytes);
    }));
    TRY(encoder->finish());
    out.native_diff = report.native;
    out.walk_reason = report.walk_reason;
    out.pack = std::move(report.pack);
    out.diff_id = diff_hash.finish();

    // The documents that make it an image.
    oci::Descriptor layer;
    layer.digest = blob_hash.finish();
    layer.size = blob_bytes;
    layer.media_type = request.compression == archive::Compression::gzip   ? oci::media_oci_layer_gzip
                       : request.compression == archive::Compression::zstd ? oci::media_oci_layer_zstd
                                                                           : oci::media_oci_layer;
    oci::SourceImage source;
    std::string parent_config;
    std::vector<oci::Descriptor> layers;
    ImageInfo parent_image;
    if (info.image) {
        parent_image = TRY(load_image(*info.image));
        parent_config = TRY(read_document(parent_image.config));
        layers = TRY(oci::parse_manifest(TRY(read_document(*info.image)))).layers;
    }
    layers.push_back(layer);
    oci::CommitInfo commit;
    commit.diff_id = out.diff_id;
    commit.created = format_time_ns(now_ns());
    commit.created_by = "shale container commit";
    commit.comment = request.comment;
    commit.author = request.author;
    commit.cmd = request.cmd;
    source.config_json = TRY(oci::write_child_config(parent_config, commit));
    oci::Descriptor config;
    config.media_type = oci::media_oci_config;
    config.digest = Digest::of(std::string_view(source.config_json));
    config.size = source.config_json.size();
    source.manifest_json = oci::write_manifest(config, layers);
    source.manifest = TRY(oci::parse_manifest(source.manifest_json));
    source.config = TRY(oci::parse_config(source.config_json, layers.size()));
    source.names = {name};
    // The parents' blobs are in the store already; only the new one has bytes to read.
    for (size_t i = 0; i + 1 < layers.size(); ++i)
        source.layers.push_back(TRY(open_blob(layers[i].digest)));
    source.layers.push_back({std::make_shared<UniqueFd>(std::move(blob)), 0, blob_bytes});

    ImportRequest import;
    import.name = name;
    out.image = TRY(import_one(source, import, &tmp_name, {}, nullptr)).image;
    return out;
}

} // namespace shale::store
