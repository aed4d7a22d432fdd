// SPDX-License-Identifier: Apache-2.0
#include "oci/media_type.h"

#include <array>
#include <utility>

#include "oci/image.h"

namespace shale::oci {
namespace {

using archive::Compression;

constexpr auto layer_types = std::to_array<std::pair<std::string_view, Compression>>({
    {media_oci_layer, Compression::none},
    {media_oci_layer_gzip, Compression::gzip},
    {media_oci_layer_zstd, Compression::zstd},
    {"application/vnd.oci.image.layer.nondistributable.v1.tar", Compression::none},
    {"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", Compression::gzip},
    {"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", Compression::zstd},
    {"application/vnd.docker.image.rootfs.diff.tar", Compression::none},
    {"application/vnd.docker.image.rootfs.diff.tar.gzip", Compression::gzip},
    {"application/vnd.docker.image.rootfs.diff.tar.zstd", Compression::zstd},
    {"application/vnd.docker.image.rootfs.foreign.diff.tar", Compression::none},
    {"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", Compression::gzip},
});

} // namespace

bool is_manifest_type(std::string_view media_type) noexcept {
    return media_type == media_oci_manifest || media_type == media_docker_manifest;
}

bool is_index_type(std::string_view media_type) noexcept {
    return media_type == media_oci_index || media_type == media_docker_list;
}

bool is_config_type(std::string_view media_type) noexcept {
    return media_type == media_oci_config || media_type == media_docker_config;
}

std::optional<Compression> layer_compression(std::string_view media_type) noexcept {
    for (const auto &[name, compression] : layer_types)
        if (name == media_type) return compression;
    return std::nullopt;
}

std::string_view layer_type(Compression compression) noexcept {
    switch (compression) {
    case Compression::gzip:
        return media_oci_layer_gzip;
    case Compression::zstd:
        return media_oci_layer_zstd;
    case Compression::none:
        break;
    }
    return media_oci_layer;
}

} // namespace shale::oci
