// SPDX-License-Identifier: Apache-2.0
#include "doctor/hosts/docker_layers.h"

#include <sys/stat.h>

#include <algorithm>

#include <fmt/format.h>

#include "probe/text.h"

namespace shale::doctor::docker {
namespace {

constexpr std::string_view removing = "-removing";
constexpr std::string_view record_kind = "layer record";
constexpr std::string_view mount_kind = "writable layer record";

/// "CHAIN" of "CHAIN" and of "CHAIN-RANDOM-removing".
Result<Digest> chain_of(std::string_view name) {
    if (name.ends_with(removing)) name = name.substr(0, std::min(name.find('-'), name.size()));
    return Digest::parse(fmt::format("sha256:{}", name));
}

/// A file that has to name a tree.
std::optional<std::string> tree_name(Draft &draft, const std::string &path, std::string_view kind) {
    auto id = read_word(*draft.host, path);
    if (!id) {
        draft.sources.broken(path, kind, id.error());
        return std::nullopt;
    }
    if (is_id(*id)) return std::move(*id);
    draft.sources.broken(path, kind, fmt::format("{:?} is no id of a layer", id->substr(0, 100)));
    return std::nullopt;
}

enum class Presence : uint8_t { required, optional };

/// A file that has to hold a digest. `broken` is told whether it does not; an optional one may be missing.
std::optional<Digest> digest_in(Draft &draft, const std::string &path, std::string_view kind, Presence presence,
                                std::vector<std::string> *damage) {
    const auto text = read_word(*draft.host, path);
    if (!text && text.error().sys_errno() == ENOENT && presence == Presence::optional) return std::nullopt;
    const auto tell = [&](const Error &error) {
        draft.sources.broken(path, kind, error);
        if (damage != nullptr) damage->push_back(error.text());
        return std::nullopt;
    };
    if (!text) return tell(text.error());
    const auto digest = Digest::parse(*text);
    return digest ? std::optional(*digest) : tell(digest.error());
}

/// tar-split.json.gz; its time is when the layer was made.
void look_at_tar_split(Draft &draft, probe::StoreLayer &layer, const std::string &path) {
    const auto status = draft.host->stat(path);
    if (!status) {
        draft.problem(path, status.error().text());
    } else if (!*status) {
        layer.damage.emplace_back("tar-split.json.gz is missing");
    } else {
        layer.created_s = static_cast<uint64_t>(std::max<time_t>((*status)->st_mtim.tv_sec, 0));
        const auto bytes = static_cast<uint64_t>(std::max<off_t>((*status)->st_size, 0));
        if (bytes == 0) layer.damage.emplace_back("tar-split.json.gz: 0 bytes");
        draft.store.other_bytes["tar-split"] += bytes;
    }
}

void read_size(Draft &draft, probe::StoreLayer &layer, const std::string &path) {
    const auto text = read_word(*draft.host, path);
    const auto tell = [&](const std::string &why) {
        draft.sources.broken(path, record_kind, why);
        layer.damage.push_back(why);
    };
    if (!text) return tell(text.error().text());
    layer.recorded_bytes = probe::to_number(*text);
    if (!layer.recorded_bytes) tell(fmt::format("size is not a number: {:?}", text->substr(0, 100)));
}

/// moby, layer_store.go, loadLayer: a layer needs all of these to be known to dockerd.
void read_sealed(Draft &draft, const std::string &dir, const Digest &chain) {
    const auto id = tree_name(draft, dir + "/cache-id", record_kind);
    if (!id) return;
    auto &layer = draft.layer(*id);
    if (layer.recorded) {
        layer.damage.push_back(fmt::format("two layers have it, {} and {}", layer.name, chain.text()));
        return;
    }
    layer.recorded = true;
    layer.kind = "committed";
    layer.name = chain.text();
    draft.layer_of_chain.emplace(chain, *id);
    const auto diff = digest_in(draft, dir + "/diff", record_kind, Presence::required, &layer.damage);
    const auto below = digest_in(draft, dir + "/parent", record_kind, Presence::optional, &layer.damage);
    if (below) draft.chain_below.emplace(*id, *below);
    if (diff && chain_id(below.value_or(Digest()), *diff) != chain)
        layer.damage.push_back(fmt::format("diff and parent do not give its chain id, {}", chain.text()));
    read_size(draft, layer, dir + "/size");
    look_at_tar_split(draft, layer, dir + "/tar-split.json.gz");
}

/// Its record says which tree is to go: dockerd tries again when it starts (layer_store.go, Cleanup).
void read_removing(Draft &draft, const std::string &dir, const Digest &chain) {
    const auto id = tree_name(draft, dir + "/cache-id", record_kind);
    if (!id) return;
    auto &layer = draft.layer(*id);
    if (layer.recorded) return;
    layer.recorded = true;
    layer.kind = "removing";
    layer.name = chain.text();
}

void read_mount(Draft &draft, const std::string &name) {
    const std::string dir = fmt::format("{}/layerdb/mounts/{}", draft.image_dir(), name);
    const auto below = digest_in(draft, dir + "/parent", mount_kind, Presence::optional, nullptr);
    const auto id = tree_name(draft, dir + "/mount-id", mount_kind);
    const uint64_t created_s = changed_s(*draft.host, dir + "/mount-id");
    const auto record = [&](const std::string &tree, std::string_view kind) {
        auto &layer = draft.layer(tree);
        layer.recorded = true;
        layer.kind = kind;
        layer.name = name;
        layer.created_s = created_s;
    };
    const std::string init_path = dir + "/init-id";
    const auto has_init = draft.host->stat(init_path);
    std::optional<std::string> init;
    if (!has_init || *has_init) init = tree_name(draft, init_path, mount_kind); // else: a container of BuildKit
    if (init) {
        record(*init, "init");
        if (below) draft.chain_below.emplace(*init, *below);
    }
    if (!id) return;
    record(*id, "active");
    if (init)
        draft.layer(*id).parent = *init;
    else if (below)
        draft.chain_below.emplace(*id, *below);
    draft.mount_of.emplace(name, *id);
}

/// The newest change of a directory and of what lies in it.
uint64_t last_change_s(const probe::Host &host, const std::string &dir) {
    uint64_t out = changed_s(host, dir);
    if (const auto entries = host.list(dir, 100))
        for (const auto &entry : *entries)
            out = std::max(out, changed_s(host, fmt::format("{}/{}", dir, entry.name)));
    return out;
}

} // namespace

void read_layer_records(Draft &draft) {
    const std::string dir = draft.image_dir() + "/layerdb/sha256";
    const auto entries = draft.host->list(dir, max_entries);
    if (!entries) {
        if (entries.error().sys_errno() == ENOENT) return draft.sources.missing(dir, "layer records");
        return draft.sources.broken(dir, "layer records", entries.error());
    }
    uint64_t records = 0;
    std::vector<std::pair<std::string, Digest>> to_remove;
    for (const auto &entry : *entries) {
        if (!is_directory(entry)) continue;
        const auto chain = chain_of(entry.name);
        if (!chain) continue; // dockerd passes over such, too (filestore.go, List)
        ++records;
        const std::string path = fmt::format("{}/{}", dir, entry.name);
        if (entry.name.ends_with(removing))
            to_remove.emplace_back(path, *chain);
        else
            read_sealed(draft, path, *chain);
    }
    for (const auto &[path, chain] : to_remove)
        read_removing(draft, path, chain);
    draft.sources.read(dir, "layer records", records);
}

void read_mount_records(Draft &draft) {
    const std::string dir = draft.image_dir() + "/layerdb/mounts";
    const auto entries = draft.host->list(dir, max_entries);
    if (!entries) {
        // dockerd makes it with the first container.
        if (entries.error().sys_errno() == ENOENT) return draft.sources.missing(dir, "writable layer records");
        return draft.sources.broken(dir, "writable layer records", entries.error());
    }
    uint64_t records = 0;
    for (const auto &entry : *entries) {
        if (!is_directory(entry)) continue;
        ++records;
        read_mount(draft, entry.name);
    }
    draft.sources.read(dir, "writable layer records", records);
}

void tell_lost_records(Draft &draft) {
    const std::string dir = draft.image_dir() + "/layerdb", sealed = dir + "/sha256", mounts = dir + "/mounts";
    const probe::StoreContainer *own = nullptr, *unmounted = nullptr; // the first of each
    for (const auto &container : draft.store.containers) {
        // Others may have been made before the driver was changed. Very old ones do not name theirs.
        if (container.driver != draft.driver && !(container.driver.empty() && draft.in_use)) continue;
        if (own == nullptr) own = &container;
        if (unmounted == nullptr && !draft.mount_of.contains(container.id)) unmounted = &container;
    }
    const auto tree = std::ranges::find_if(draft.store.layers, [](const auto &layer) {
        return layer.on_disk && !layer.recorded && layer.kind != "ingest";
    });
    for (const auto &path : {sealed, mounts}) {
        if (!draft.sources.is_missing(path)) continue;
        if (own != nullptr)
            draft.sources.lost(path,
                               fmt::format("it is missing, but container {} was made with {}", own->id, draft.driver));
        else if (tree != draft.store.layers.end())
            draft.sources.lost(path, fmt::format("it is missing, and may have named tree {}", tree->id));
    }
    if (unmounted != nullptr)
        draft.sources.lost(mounts, fmt::format("container {} has no record in it that could be read", unmounted->id));
}

void read_write_sets(Draft &draft, uint64_t recent_s) {
    const std::string dir = draft.image_dir() + "/layerdb/tmp";
    const auto entries = draft.host->list_if_there(dir, max_entries);
    if (!entries) return draft.problem(dir, entries.error().text());
    for (const auto &entry : *entries) {
        if (!is_directory(entry)) continue;
        const std::string path = fmt::format("{}/{}", dir, entry.name);
        auto &layer = draft.layer("layerdb/tmp/" + entry.name);
        layer.path = path;
        layer.kind = "ingest";
        layer.on_disk = true;
        layer.created_s = changed_s(*draft.host, path); // files come into it, and stay
        if (last_change_s(*draft.host, path) >= recent_s) draft.being_written = path;
    }
}

} // namespace shale::doctor::docker
