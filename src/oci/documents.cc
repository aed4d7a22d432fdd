// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "oci/image.h"
#include "oci/json.h"
#include "oci/media_type.h"

namespace shale::oci {
namespace {

/// Far above what any engine can stack; keeps a hostile manifest from costing a descriptor per entry.
constexpr size_t max_layers = 1000;
constexpr size_t max_index_entries = 10'000;

/// A document must be one thing only (CVE-2021-41190): which fields are present decides, not the media type alone.
Status refuse_member(const Json &document, const char *key, std::string_view what) {
    if (find_member(document, key) == nullptr) return {};
    return fail(Errc::InvalidArgument,
                fmt::format("{} has \"{}\", which belongs to another kind of document", what, key));
}

Status check_schema(const Json &document, std::string_view what) {
    const Json *version = find_member(document, "schemaVersion");
    if (version == nullptr) return {};
    const auto *number = version->get_ptr<const Json::number_unsigned_t *>();
    if (number == nullptr) return fail(Errc::InvalidArgument, fmt::format("{}: schemaVersion is not a number", what));
    if (*number == 1) return fail(Errc::Unimplemented, fmt::format("{}: schema version 1 is not supported", what));
    if (*number != 2) return fail(Errc::InvalidArgument, fmt::format("{}: schemaVersion is {}, not 2", what, *number));
    return {};
}

} // namespace

Result<Manifest> parse_manifest(std::string_view json) {
    const Json document = TRY(parse_object(json, "manifest"));
    for (const char *key : {"manifests", "fsLayers"})
        TRY(refuse_member(document, key, "manifest"));
    TRY(check_schema(document, "manifest"));
    Manifest out;
    out.media_type = TRY(string_member(document, "mediaType", "manifest:"));
    if (out.media_type.empty()) out.media_type = media_oci_manifest;
    if (!is_manifest_type(out.media_type))
        return fail(Errc::InvalidArgument,
                    fmt::format("manifest: mediaType \"{}\" is not a manifest's", out.media_type));

    const Json *config = find_member(document, "config");
    if (config == nullptr) return fail(Errc::InvalidArgument, "manifest: config is missing");
    out.config = TRY(read_descriptor(*config, "manifest: config"));
    if (!is_config_type(out.config.media_type))
        return fail(
            Errc::Unimplemented,
            fmt::format("manifest: config.mediaType \"{}\" is not an image's (an artifact?)", out.config.media_type));
    if (out.config.size > max_document_bytes)
        return fail(Errc::ResourceExhausted,
                    fmt::format("manifest: config.size {} is more than {}", out.config.size, max_document_bytes));

    const Json *layers = find_member(document, "layers");
    if (layers == nullptr) return out;
    if (!layers->is_array()) return wrong_type("manifest:", "layers", "a list");
    if (layers->size() > max_layers)
        return fail(Errc::ResourceExhausted,
                    fmt::format("manifest: {} layers, more than {}", layers->size(), max_layers));
    out.layers.reserve(layers->size());
    for (const Json &layer : *layers) {
        const std::string where = fmt::format("manifest: layers[{}]", out.layers.size());
        Descriptor descriptor = TRY(read_descriptor(layer, where));
        if (!layer_compression(descriptor.media_type))
            return fail(Errc::Unimplemented, fmt::format("{}.mediaType \"{}\" is not a layer type known here", where,
                                                         descriptor.media_type));
        out.layers.push_back(std::move(descriptor));
    }
    return out;
}

Result<std::vector<Descriptor>> parse_index(std::string_view json) {
    const Json document = TRY(parse_object(json, "index"));
    for (const char *key : {"layers", "config", "fsLayers"})
        TRY(refuse_member(document, key, "index"));
    TRY(check_schema(document, "index"));
    const std::string media_type = TRY(string_member(document, "mediaType", "index:"));
    if (!media_type.empty() && !is_index_type(media_type))
        return fail(Errc::InvalidArgument, fmt::format("index: mediaType \"{}\" is not an index's", media_type));
    std::vector<Descriptor> out;
    const Json *manifests = find_member(document, "manifests");
    if (manifests == nullptr) return out;
    if (!manifests->is_array()) return wrong_type("index:", "manifests", "a list");
    if (manifests->size() > max_index_entries)
        return fail(Errc::ResourceExhausted,
                    fmt::format("index: {} manifests, more than {}", manifests->size(), max_index_entries));
    out.reserve(manifests->size());
    for (const Json &entry : *manifests)
        out.push_back(TRY(read_descriptor(entry, fmt::format("index: manifests[{}]", out.size()))));
    return out;
}

Result<Config> parse_config(std::string_view json, std::optional<size_t> layers) {
    const Json document = TRY(parse_object(json, "config"));
    Config out;
    out.os = TRY(string_member(document, "os", "config:"));
    out.architecture = TRY(string_member(document, "architecture", "config:"));
    out.variant = TRY(string_member(document, "variant", "config:"));
    out.created = TRY(string_member(document, "created", "config:"));
    out.author = TRY(string_member(document, "author", "config:"));

    const Json *rootfs = TRY(object_member(document, "rootfs", "config:"));
    if (rootfs == nullptr) return fail(Errc::InvalidArgument, "config: rootfs is missing");
    const std::string type = TRY(string_member(*rootfs, "type", "config: rootfs"));
    if (!type.empty() && type != "layers")
        return fail(Errc::InvalidArgument, fmt::format("config: rootfs.type is \"{}\", not \"layers\"", type));
    for (const std::string &text : TRY(list_member(*rootfs, "diff_ids", "config: rootfs")))
        out.diff_ids.push_back(TRY(in_context(
            Digest::parse(text), [&] { return fmt::format("config: rootfs.diff_ids[{}]", out.diff_ids.size()); })));
    if (layers && *layers != out.diff_ids.size())
        return fail(Errc::InvalidArgument,
                    fmt::format("config: {} rootfs.diff_ids for {} layers", out.diff_ids.size(), *layers));

    if (const Json *run = TRY(object_member(document, "config", "config:")); run != nullptr) {
        constexpr std::string_view where = "config: config";
        out.entrypoint = TRY(list_member(*run, "Entrypoint", where, true));
        out.cmd = TRY(list_member(*run, "Cmd", where, true));
        out.env = TRY(list_member(*run, "Env", where));
        out.working_dir = TRY(string_member(*run, "WorkingDir", where));
        out.user = TRY(string_member(*run, "User", where));
        out.stop_signal = TRY(string_member(*run, "StopSignal", where));
        out.labels = TRY(map_member(*run, "Labels", where));
    }
    return out;
}

} // namespace shale::oci
