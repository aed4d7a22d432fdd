// SPDX-License-Identifier: Apache-2.0
// Images as documents: OCI image-spec v1 and Docker schema 2 manifests, configs, indexes. All input is hostile: sizes
// bounded, depth bounded, digests verified before a document counts, a document with both "layers" and "manifests"
// refused (CVE-2021-41190).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/digest.h"
#include "base/error.h"
#include "base/fd.h"

namespace shale::oci {

inline constexpr size_t max_document_bytes = size_t{4} << 20U; ///< containerd's and OCI's customary 4 MiB bound
inline constexpr std::string_view media_oci_manifest = "application/vnd.oci.image.manifest.v1+json";
inline constexpr std::string_view media_oci_index = "application/vnd.oci.image.index.v1+json";
inline constexpr std::string_view media_oci_config = "application/vnd.oci.image.config.v1+json";
inline constexpr std::string_view media_oci_layer = "application/vnd.oci.image.layer.v1.tar";
inline constexpr std::string_view media_oci_layer_gzip = "application/vnd.oci.image.layer.v1.tar+gzip";
inline constexpr std::string_view media_oci_layer_zstd = "application/vnd.oci.image.layer.v1.tar+zstd";

struct Descriptor {
    std::string media_type;
    Digest digest;
    uint64_t size = 0;
    std::map<std::string, std::string> annotations;
    std::string os, architecture, variant; ///< of platform, may be empty
};

struct Manifest {
    std::string media_type;
    Descriptor config;
    std::vector<Descriptor> layers;
};

/// What of the config shale uses; the raw bytes are kept and exported untouched.
struct Config {
    std::string os, architecture, variant, created, author;
    std::vector<Digest> diff_ids;
    std::vector<std::string> entrypoint, cmd, env; ///< env "K=V"
    std::string working_dir, user, stop_signal;
    std::map<std::string, std::string> labels;
};

Result<Manifest> parse_manifest(std::string_view json);
Result<std::vector<Descriptor>> parse_index(std::string_view json);
/// diff_ids must be as many as layers when `layers` is given.
Result<Config> parse_config(std::string_view json, std::optional<size_t> layers = std::nullopt);

/// OCI documents that shale writes (sorted keys, no white space: equal input gives equal bytes).
std::string write_manifest(const Descriptor &config, const std::vector<Descriptor> &layers);
/// Child config for a commit: parent's config bytes with one diff_id and one history row more. Empty parent: a new one.
struct CommitInfo {
    Digest diff_id;
    std::string created; ///< RFC 3339
    std::string created_by, comment, author;
    std::vector<std::string> cmd; ///< replaces Cmd when not empty
};
Result<std::string> write_child_config(std::string_view parent_config_json, const CommitInfo &info);

/// A reference as people write it: "debian", "debian:12", "host:5000/a/b:tag", normalised to have a tag (":latest").
/// Refuses control characters, "..", spaces, over 255+128 bytes (docker's reference grammar).
Result<std::string> normalize_reference(std::string_view text);

/// Where a layer's (or document's) bytes lie: in a file at an offset. fd may be shared by several views (pread).
struct BlobView {
    std::shared_ptr<UniqueFd> file;
    uint64_t offset = 0, size = 0;
};

/// One image found in an archive or layout, documents read and verified; layers located, not read.
struct SourceImage {
    std::vector<std::string> names; ///< references stated by the source, normalised; may be empty
    std::string manifest_json;      ///< as found, or written by shale for docker-save archives
    std::string config_json;
    Manifest manifest;
    Config config;
    std::vector<BlobView> layers;       ///< same order as manifest.layers
    bool manifest_is_synthetic = false; ///< docker-save: digests of uncompressed layers, manifest made here
};

struct SourceOptions {
    std::string os = "linux", architecture = "amd64"; ///< choice within an index
    std::string reference;                            ///< only this image of several; empty = all
    std::string spool_dir; ///< for compressed archives and pipes: unnamed temporary file (O_TMPFILE) here
    uint64_t max_spool_bytes = uint64_t{1} << 38U;
};

/// Opens a path: directory with oci-layout; tar of one; docker-save tar (with or without OCI files inside; OCI
/// preferred); any of the tars gzip- or zstd-compressed; "-" = standard input. Foreign-layer urls are never fetched
/// (CVE-2020-15157).
Result<std::vector<SourceImage>> open_source(const std::string &path, const SourceOptions &options);

/// What an export writes: documents and layer blobs by digest.
struct ExportLayer {
    Descriptor descriptor;
    Digest diff_id;
    BlobView blob;
};
struct ExportImage {
    std::vector<std::string> names;
    std::string manifest_json, config_json;
    std::vector<ExportLayer> layers;
};
enum class ExportFormat : uint8_t { oci_dir, oci_archive, docker_archive };
/// OCI: blobs byte for byte, index.json with org.opencontainers.image.ref.name (the tag) and io.containerd.image.name
/// annotations. Docker archive: loadable by docker and podman load: manifest.json, <hex>.json and <diff id
/// hex>/layer.tar, no OCI files. Each blob's digest is recomputed while it is written; a difference is DataLoss.
/// Written to PATH.partial-PID, fsynced, renamed; PATH "-" = standard output (archives only).
Status write_export(const ExportImage &image, ExportFormat format, const std::string &path);

} // namespace shale::oci
