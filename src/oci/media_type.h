// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string_view>

#include "archive/decompress.h"

namespace shale::oci {

inline constexpr std::string_view media_docker_manifest = "application/vnd.docker.distribution.manifest.v2+json";
inline constexpr std::string_view media_docker_list = "application/vnd.docker.distribution.manifest.list.v2+json";
inline constexpr std::string_view media_docker_config = "application/vnd.docker.container.image.v1+json";

bool is_manifest_type(std::string_view media_type) noexcept;
bool is_index_type(std::string_view media_type) noexcept;
bool is_config_type(std::string_view media_type) noexcept;
/// The compression that a layer's media type states; nullopt for a type that is no layer. Only a statement: readers go
/// by the magic bytes, since archives exist whose types are wrong.
std::optional<archive::Compression> layer_compression(std::string_view media_type) noexcept;
/// The OCI layer type for a compression.
std::string_view layer_type(archive::Compression compression) noexcept;

} // namespace shale::oci
