// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <map>
#include <utility>

#include <fmt/format.h>

#include "oci/json.h"
#include "oci/media_type.h"
#include "oci/source.h"
#include "oci/stream.h"

namespace shale::oci {
namespace {

constexpr size_t max_images = 1000;

struct Item {
    std::string config;
    std::vector<std::string> tags, layers;
};

Result<std::vector<Item>> read_items(const TarIndex &members) {
    const auto file = TRY(members.file("manifest.json"));
    if (!file) return fail(Errc::NotFound, "manifest.json is missing");
    const std::string text = TRY(read_document(*file, max_document_bytes, "manifest.json"));
    const Json document = TRY(parse_json(text, "manifest.json"));
    if (!document.is_array()) return fail(Errc::InvalidArgument, "manifest.json: not a list");
    if (document.size() > max_images)
        return fail(Errc::ResourceExhausted,
                    fmt::format("manifest.json: {} images, more than {}", document.size(), max_images));
    std::vector<Item> out;
    for (const Json &entry : document) {
        const std::string where = fmt::format("manifest.json: [{}]", out.size());
        if (!entry.is_object()) return fail(Errc::InvalidArgument, fmt::format("{} is not an object", where));
        Item item;
        item.config = TRY(string_member(entry, "Config", where));
        item.tags = TRY(list_member(entry, "RepoTags", where));
        item.layers = TRY(list_member(entry, "Layers", where));
        if (item.config.empty()) return fail(Errc::InvalidArgument, fmt::format("{}.Config is missing", where));
        out.push_back(std::move(item));
    }
    return out;
}

/// "<hex>.json", "blobs/sha256/<hex>", "sha256:<hex>": names that state the config's digest.
std::optional<Digest> stated_digest(std::string_view name) {
    for (const std::string_view prefix : {"blobs/sha256/", "sha256:"})
        if (name.starts_with(prefix)) name.remove_prefix(prefix.size());
    if (name.ends_with(".json")) name.remove_suffix(5);
    auto digest = Digest::parse("sha256:" + std::string(name));
    if (!digest) return std::nullopt;
    return *digest;
}

Result<std::vector<std::string>> names_of(const Item &item) {
    std::vector<std::string> out;
    for (const std::string &tag : item.tags) {
        std::string name = TRY(stated_name(tag));
        if (!name.empty() && std::ranges::find(out, name) == out.end()) out.push_back(std::move(name));
    }
    return out;
}

/// Digests of compressed members by where they lie: a list may name one member any number of times.
using Hashed = std::map<std::pair<uint64_t, uint64_t>, Digest>;

Result<Digest> digest_of(const BlobView &view, Hashed &hashed) {
    const std::pair place{view.offset, view.size};
    if (const auto found = hashed.find(place); found != hashed.end()) return found->second;
    Sha256 hash;
    TRY(read_view(view, [&](std::span<const std::byte> block) -> Status {
        hash.update(block);
        return {};
    }));
    return hashed.emplace(place, hash.finish()).first->second;
}

Result<SourceImage> load_item(const TarIndex &members, const Item &item, Hashed &hashed) {
    SourceImage out;
    out.manifest_is_synthetic = true;
    const BlobView config = TRY(in_context(members.resolve(item.config), [] { return std::string("config"); }));
    out.config_json = TRY(read_document(config, max_document_bytes, "config"));
    Descriptor descriptor;
    descriptor.media_type = media_oci_config;
    descriptor.digest = Digest::of(out.config_json);
    descriptor.size = out.config_json.size();
    if (const auto stated = stated_digest(item.config); stated && *stated != descriptor.digest)
        return fail(Errc::DataLoss, fmt::format("config \"{}\" has digest {}", item.config, descriptor.digest.text()));
    out.config = TRY(parse_config(out.config_json, item.layers.size()));

    std::vector<Descriptor> layers;
    for (const std::string &name : item.layers) {
        BlobView view = TRY(in_context(members.resolve(name), [] { return std::string("layer"); }));
        const auto compression =
            TRY(in_context(view_compression(view), [&] { return fmt::format("layer \"{}\"", name); }));
        Descriptor layer;
        layer.media_type = layer_type(compression);
        layer.size = view.size;
        // A plain layer's digest is its diff id, which the unpacker verifies; reading it here would read it twice.
        layer.digest = out.config.diff_ids[layers.size()];
        if (compression != archive::Compression::none) layer.digest = TRY(digest_of(view, hashed));
        layers.push_back(std::move(layer));
        out.layers.push_back(std::move(view));
    }
    out.manifest_json = write_manifest(descriptor, layers);
    out.manifest = TRY(parse_manifest(out.manifest_json));
    return out;
}

} // namespace

Result<std::map<Digest, std::vector<std::string>>> docker_names(const TarIndex &members) {
    std::map<Digest, std::vector<std::string>> out;
    if (!members.has("manifest.json")) return out;
    for (const Item &item : TRY(read_items(members)))
        if (const auto digest = stated_digest(item.config)) {
            auto names = TRY(names_of(item));
            auto &all = out[*digest];
            all.insert(all.end(), names.begin(), names.end());
        }
    return out;
}

Result<std::vector<SourceImage>> read_docker_archive(const TarIndex &members, const SourceOptions &options) {
    std::vector<SourceImage> out;
    std::string offered;
    Hashed hashed;
    for (const Item &item : TRY(read_items(members))) {
        std::vector<std::string> names = TRY(names_of(item));
        if (!wanted(names, options.reference)) {
            offered += fmt::format("{}{}", offered.empty() ? "" : ", ", names.empty() ? "(no name)" : names.front());
            continue;
        }
        SourceImage image = TRY(load_item(members, item, hashed));
        image.names = std::move(names);
        out.push_back(std::move(image));
    }
    if (out.empty())
        return fail(Errc::NotFound, options.reference.empty()
                                        ? std::string("manifest.json names no image")
                                        : fmt::format("no image \"{}\" here; there is: {}", options.reference,
                                                      offered.empty() ? "nothing" : offered));
    return out;
}

} // namespace shale::oci
