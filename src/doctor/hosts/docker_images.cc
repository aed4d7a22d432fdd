// SPDX-License-Identifier: Apache-2.0
#include "doctor/hosts/docker_images.h"

#include <dirent.h>

#include <algorithm>
#include <map>
#include <set>

#include <fmt/format.h>

#include "doctor/hosts/times.h"
#include "oci/json.h"

namespace shale::doctor::docker {
namespace {

constexpr std::string_view record_kind = "image record";
constexpr std::string_view names_kind = "image names";
constexpr size_t max_diff_ids = 256; ///< of one image; dockerd makes no more than 125 (layer_store.go, maxLayerDepth)

using Names = std::map<std::string, std::vector<std::string>>; ///< id "sha256:..." -> references

Result<Names> parse_names(const std::string &text, const std::string &path) {
    Names out;
    const auto document = TRY(oci::parse_object(text, path));
    const oci::Json *repositories = TRY(oci::object_member(document, "Repositories", path));
    if (repositories == nullptr) return out;
    for (const auto &[repository, references] : repositories->items()) {
        const auto names = TRY(oci::map_member(*repositories, repository.c_str(), path));
        for (const auto &[reference, id] : names)
            out[id].push_back(reference);
    }
    return out;
}

Names read_names(Draft &draft) {
    const std::string path = draft.image_dir() + "/repositories.json";
    const auto text = draft.host->read_if_there(path, oci::max_document_bytes);
    if (text && !*text) {
        draft.sources.missing(path, names_kind);
        return {};
    }
    auto names = text ? parse_names(**text, path) : std::unexpected(text.error());
    if (!names) {
        draft.sources.broken(path, names_kind, names.error());
        return {};
    }
    draft.sources.read(path, names_kind, names->size());
    return std::move(*names);
}

struct Config {
    std::vector<Digest> diff_ids;
    uint64_t created_s = 0;
};

Result<Config> parse_config(const std::string &text, const std::string &path) {
    Config out;
    const auto document = TRY(oci::parse_object(text, path));
    out.created_s = rfc3339_s(TRY(oci::string_member(document, "created", path)));
    const oci::Json *rootfs = TRY(oci::object_member(document, "rootfs", path));
    if (rootfs == nullptr) return out; // an image without layers
    const auto ids = TRY(oci::list_member(*rootfs, "diff_ids", path));
    if (ids.size() > max_diff_ids)
        return fail(Errc::ResourceExhausted,
                    fmt::format("{}: {} layers, more than {}", path, ids.size(), max_diff_ids));
    for (const auto &id : ids)
        out.diff_ids.push_back(TRY(Digest::parse(id)));
    return out;
}

/// Goes by its bytes: dockerd drops an image whose bytes do not give its id (image/fs.go, get).
Result<Config> read_config(const probe::Host &host, const std::string &path, const Digest &id) {
    const std::string text = TRY(host.read(path, oci::max_document_bytes));
    if (text.empty()) return fail(Errc::DataLoss, fmt::format("{:?} holds nothing (0 bytes)", path));
    if (Digest::of(text) != id)
        return fail(Errc::DataLoss, fmt::format("{:?}: its {} bytes do not give the image's id", path, text.size()));
    return parse_config(text, path);
}

/// The shortest of them that is no digest; else the id.
std::string name_of(const probe::StoreImage &image) {
    std::string out;
    for (const auto &name : image.names)
        if (!name.contains('@') && (out.empty() || name.size() < out.size())) out = name;
    return !out.empty() ? out : !image.names.empty() ? image.names.front() : image.id;
}

void add_image(Draft &draft, const Digest &id, const Config &config, const Names &names) {
    probe::StoreImage image;
    image.id = id.text();
    image.created_s = config.created_s;
    if (const auto found = names.find(image.id); found != names.end()) image.names = found->second;
    const std::string user = "image " + name_of(image);
    Digest chain;
    std::set<std::string> used; // a chain never has a layer twice, but records may lie
    for (const auto &diff : config.diff_ids) {
        chain = chain_id(chain, diff);
        const auto record = draft.layer_of_chain.find(chain);
        if (record == draft.layer_of_chain.end()) {
            ++image.missing_layers;
            continue;
        }
        const std::string &layer = record->second;
        if (used.insert(layer).second) draft.use(layer, user);
        if (draft.layer(layer).on_disk)
            image.layers.push_back(layer);
        else
            ++image.missing_layers;
    }
    draft.store.images.push_back(std::move(image));
}

} // namespace

void read_images(Draft &draft) {
    const Names names = read_names(draft);
    const std::string dir = draft.image_dir() + "/imagedb/content/sha256";
    const auto entries = draft.host->list(dir, max_entries);
    if (!entries) {
        if (entries.error().sys_errno() == ENOENT) return draft.sources.missing(dir, "image records");
        return draft.sources.broken(dir, "image records", entries.error());
    }
    std::set<std::string> there;
    for (const auto &entry : *entries) {
        const auto id = Digest::parse("sha256:" + entry.name);
        if (!id || entry.type != DT_REG) continue; // ".tmp-ID..." of a write that dockerd did not end, for one
        const std::string path = fmt::format("{}/{}", dir, entry.name);
        there.insert(id->text());
        const auto config = read_config(*draft.host, path, *id);
        if (config)
            add_image(draft, *id, *config, names);
        else
            draft.sources.broken(path, record_kind, config.error());
    }
    for (const auto &[id, references] : names)
        if (!there.contains(id))
            draft.sources.missing(fmt::format("{}/{}", dir, id.substr(id.find(':') + 1)), record_kind,
                                  fmt::format("repositories.json names it {}", references.front()));
    draft.sources.read(dir, "image records", there.size());
}

} // namespace shale::doctor::docker
