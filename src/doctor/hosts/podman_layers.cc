// SPDX-License-Identifier: Apache-2.0
#include "doctor/hosts/podman_layers.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <set>
#include <string_view>
#include <utility>

#include "doctor/hosts/depths.h"
#include "doctor/hosts/held_lock.h"
#include "doctor/hosts/places.h"

namespace shale::doctor::podman {
namespace {

constexpr size_t max_lower_bytes = size_t{64} << 10U; ///< 500 links of 28 bytes are 14,500 (overlay.go, maxDepth)
constexpr size_t max_link_bytes = 255;
constexpr size_t max_damage = 20;        ///< of one layer
constexpr size_t max_lowers = 1'000'000; ///< of all layers, those below them that are told as theirs

/// A layer while it is put together.
struct Tree {
    probe::StoreLayer layer;
    bool has_diff = true;            ///< overlay: its difference is there
    std::string link;                ///< overlay: name of its own link
    std::vector<std::string> lowers; ///< overlay: names of links
};
using Trees = std::map<std::string, Tree>;
/// Name of a link -> id of the layer that it leads to; "" when it leads elsewhere.
using Links = std::map<std::string, std::string>;

void damaged(probe::StoreLayer &layer, std::string what) {
    if (layer.damage.size() < max_damage) layer.damage.push_back(std::move(what));
}

/// Where a driver has its trees below its directory; "": directly there.
std::string_view trees_of(std::string_view driver) {
    if (driver == "vfs") return "/dir";
    if (driver == "btrfs") return "/subvolumes";
    if (driver == "zfs") return "/graph";
    if (driver == "aufs") return "/diff";
    return "";
}

bool is_overlay(std::string_view driver) {
    return driver == "overlay" || driver == "overlay2";
}

/// Directories of an overlay store that are no layers: overlay.go, ListLayers; the last three are its trials of what
/// the kernel can do, check.go.
bool is_no_layer(std::string_view name) {
    return name == "l" || name == "staging" || name == "tempdirs" || name.starts_with("compat") ||
           name.starts_with("opaque-bug-check") || name.starts_with("metacopy-check") ||
           name.starts_with("volatile-check");
}

void unreadable(probe::Store &store, const std::string &path, std::string why) {
    store.sources.push_back(
        {.path = path, .what = "layer directories", .state = "unreadable", .why = std::move(why), .entries = 0});
}

/// A short file of one line; what is wrong with it becomes damage. "": it holds nothing, or is not there.
Result<std::string> read_line(const probe::Host &host, const char *name, size_t limit, probe::StoreLayer &layer) {
    auto text = host.read_if_there(fmt::format("{}/{}", layer.path, name), limit);
    if (!text) {
        damaged(layer, fmt::format("{}: {}", name, text.error().text()));
        return std::unexpected(std::move(text).error());
    }
    if (!*text) return std::string();
    if ((*text)->empty()) damaged(layer, fmt::format("{}: 0 bytes", name));
    while ((*text)->ends_with('\n'))
        (*text)->pop_back();
    return std::move(**text);
}

bool is_link_name(std::string_view name) {
    return is_plain_name(name) && std::ranges::all_of(name, [](char c) {
               return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' ||
                      c == '_';
           });
}

/// "../ID/diff" -> ID
std::string layer_of_link(std::string_view target) {
    if (!target.starts_with("../") || !target.ends_with("/diff") || target.size() < 9) return {};
    const std::string_view id = target.substr(3, target.size() - 8);
    return is_plain_name(id) ? std::string(id) : std::string();
}

/// The links in `home`/l.
Links read_links(const probe::Host &host, const std::string &home, probe::Store &store) {
    Links out;
    const std::string path = home + "/l";
    const auto dir = host.open_path(path, O_RDONLY | O_DIRECTORY);
    if (!dir && dir.error().sys_errno() == ENOENT) return out;
    const auto entries =
        dir ? sys::list_dir(dir->get(), max_entries) : Result<std::vector<sys::DirEntry>>(std::unexpected(dir.error()));
    if (!entries) {
        unreadable(store, path, entries.error().text());
        return out;
    }
    for (const sys::DirEntry &entry : *entries) {
        const auto target = sys::read_link(dir->get(), entry.name.c_str());
        if (target) out.insert_or_assign(entry.name, layer_of_link(*target));
    }
    return out;
}

/// Names of links from "l/X:l/Y". One that is written otherwise becomes damage.
std::vector<std::string> parse_lower(std::string_view text, probe::StoreLayer &layer) {
    std::vector<std::string> out;
    while (!text.empty()) {
        const size_t end = std::min(text.find(':'), text.size());
        std::string_view word = text.substr(0, end);
        text.remove_prefix(std::min(end + 1, text.size()));
        if (word.empty()) continue;
        if (word.starts_with("l/")) word.remove_prefix(2);
        if (is_link_name(word))
            out.emplace_back(word);
        else
            damaged(layer, fmt::format("lower: {:?} is no link", word.substr(0, 100)));
    }
    return out;
}

/// What a layer's own directory says. Its lowers are looked at when all layers are known.
void look_at_overlay(const probe::Host &host, const Links &links, Tree &tree, probe::Store &store) {
    probe::StoreLayer &layer = tree.layer;
    const bool finished = layer.kind != "ingest";
    const auto diff = host.stat(layer.path + "/diff");
    tree.has_diff = !diff || *diff; // what may not be looked at is not called missing
    if (!tree.has_diff && finished) damaged(layer, "diff is missing");
    const std::string link = read_line(host, "link", max_link_bytes, layer).value_or("");
    const auto lower = read_line(host, "lower", max_lower_bytes, layer);
    if (lower) tree.lowers = parse_lower(*lower, layer);
    // Of one that cannot be read nobody knows what it needs.
    if (!lower && layer.recorded) unreadable(store, layer.path + "/lower", lower.error().text());
    if (is_link_name(link)) tree.link = link;
    if (!finished) return;
    if (link.empty() || !is_link_name(link)) {
        if (layer.damage.empty() || link.size() > 0) damaged(layer, "link is missing or is no name");
        return;
    }
    const auto found = links.find(link);
    if (found == links.end())
        damaged(layer, fmt::format("l/{} is missing", link));
    else if (found->second != layer.id)
        damaged(layer, fmt::format("l/{} leads to {:?}", link, found->second));
}

/// Joins `lower` with the layers that there are.
void follow_lowers(const Trees &trees, const Links &links, const Links &foreign_links, Tree &tree) {
    probe::StoreLayer &layer = tree.layer;
    if (!layer.recorded) layer.depth = tree.lowers.size();
    if (tree.lowers.empty() && layer.recorded && !layer.parent.empty() && layer.kind != "ingest")
        damaged(layer, fmt::format("lower is missing, though its parent is {}", layer.parent));
    bool nearest = true;
    for (const std::string &name : tree.lowers) {
        const bool first = std::exchange(nearest, false);
        const auto link = links.find(name);
        if (link == links.end()) {
            if (!foreign_links.contains(name)) damaged(layer, fmt::format("lower names l/{}, which is missing", name));
            continue;
        }
        const auto below = trees.find(link->second);
        if (below == trees.end() || !below->second.layer.on_disk || !below->second.has_diff)
            damaged(layer, fmt::format("lower names l/{}, which leads to {}: that is missing", name,
                                       link->second.empty() ? "no layer" : link->second));
        if (first && !layer.recorded) layer.parent = link->second;
    }
}

/// Tells trees which recorded layers are mounted on them. A link that leads to no layer is made again from the file
/// `link` of its own (overlay.go, recreateSymlinks).
void tell_lowers(Trees &trees, const Links &links) {
    std::multimap<std::string_view, Tree *> lost;
    const auto led_to = [&](const std::string &name) -> Tree * {
        const auto link = links.find(name);
        const auto tree = link == links.end() ? trees.end() : trees.find(link->second);
        return tree == trees.end() ? nullptr : &tree->second;
    };
    for (auto &[id, tree] : trees)
        if (!tree.link.empty() && led_to(tree.link) == nullptr) lost.emplace(tree.link, &tree);
    size_t told = 0;
    const auto tell = [&](Tree &below, const Tree &above, const std::string &user) {
        auto &users = below.layer.used_by;
        const bool enough = users.size() >= max_lower_users || told >= max_lowers;
        if (&below == &above || (!users.empty() && (enough || users.back() == user))) return;
        users.push_back(user);
        ++told;
    };
    for (const auto &[id, above] : trees) {
        if (!above.layer.recorded) continue;
        const std::string user = "layer " + id;
        for (const std::string &name : above.lowers) {
            if (Tree *below = led_to(name)) {
                tell(*below, above, user);
                continue;
            }
            const auto [begin, end] = lost.equal_range(name);
            for (auto each = begin; each != end; ++each)
                tell(*each->second, above, user);
        }
    }
}

/// Links of layers that are not there are in nobody's way, but tell of a deletion that was cut short.
uint64_t count_dangling(const Links &links, const Trees &trees) {
    return static_cast<uint64_t>(std::ranges::count_if(links, [&](const auto &link) {
        const auto tree = trees.find(link.second);
        return tree == trees.end() || !tree->second.layer.on_disk;
    }));
}

void look_at_overlays(const probe::Host &host, const Places &places, Trees &trees, probe::Store &store) {
    Links links, foreign_links;
    for (const std::string &base : places.bases())
        links.merge(read_links(host, places.home(base), store));
    for (const std::string &base : places.additional)
        foreign_links.merge(read_links(host, places.home(base), store));
    for (auto &[id, tree] : trees)
        if (tree.layer.on_disk) look_at_overlay(host, links, tree, store);
    for (auto &[id, tree] : trees)
        if (tree.layer.on_disk) follow_lowers(trees, links, foreign_links, tree);
    tell_lowers(trees, links);
    if (const uint64_t dangling = count_dangling(links, trees); dangling != 0)
        store.settings["links to missing layers"] = fmt::format("{}", dangling);
}

/// A directory of leftovers or of work in hand: DRIVER/staging, DRIVER/tempdirs. Its entries count as being made or
/// removed while their lock is held; else they are what an interrupted process left, and go when the store is used
/// next.
void read_scratch(const probe::Host &host, const std::string &home, const std::string &name, probe::Store &store) {
    const std::string dir = fmt::format("{}/{}", home, name);
    const auto entries = host.list_if_there(dir, max_entries);
    if (!entries) return unreadable(store, dir, entries.error().text());
    for (const sys::DirEntry &entry : *entries) {
        if (entry.type != DT_DIR || entry.name == trash_name) continue;
        const std::string path = fmt::format("{}/{}", dir, entry.name);
        const std::string lock = entry.name.starts_with("temp-dir-")
                                     ? fmt::format("{}/lock-{}", dir, entry.name.substr(9))
                                     : path + "/staging.lock";
        const bool in_use = is_locked(host, lock, sys::LockMode::shared).value_or(true);
        probe::StoreLayer layer;
        layer.id = fmt::format("{}/{}", name, entry.name);
        layer.path = path;
        layer.kind = in_use ? "ingest" : "removing";
        layer.on_disk = true;
        store.layers.push_back(std::move(layer));
    }
}

/// The directories of layers below `base`.
void read_directories(const probe::Host &host, const Places &places, const std::string &base, Trees &trees,
                      probe::Store &store) {
    const std::string dir = places.home(base) + std::string(trees_of(places.driver));
    const auto entries = host.list_if_there(dir, max_entries);
    if (!entries) return unreadable(store, dir, entries.error().text());
    for (const sys::DirEntry &entry : *entries) {
        const bool is_other = is_overlay(places.driver) && is_no_layer(entry.name) && !trees.contains(entry.name);
        if (entry.type != DT_DIR || entry.name == trash_name || is_other) continue;
        const auto [found, fresh] = trees.try_emplace(entry.name);
        probe::StoreLayer &layer = found->second.layer;
        if (fresh) {
            layer.id = entry.name;
            layer.kind = "committed";
        }
        layer.path = fmt::format("{}/{}", dir, entry.name);
        layer.on_disk = true;
    }
}

/// ZFS: a layer is a dataset, whatever directory it is mounted on.
void read_datasets(const Places &places, const std::vector<probe::ZfsDataset> &datasets, Trees &trees,
                   probe::Store &store) {
    if (datasets.empty())
        return unreadable(store, places.home(places.root), "which ZFS datasets there are is not known");
    std::set<std::string_view> names;
    for (const probe::ZfsDataset &dataset : datasets)
        if (dataset.type == "filesystem")
            names.insert(std::string_view(dataset.name).substr(dataset.name.rfind('/') + 1));
    for (auto &[id, tree] : trees)
        tree.layer.on_disk = names.contains(id);
}

void look_at_tar_split(const probe::Host &host, const Places &places, const LayerRecord &record,
                       probe::StoreLayer &layer) {
    const std::string name = record.id + ".tar-split.gz";
    const auto status = host.stat(fmt::format("{}/{}", places.records(record.base, "layers"), name));
    if (status && *status && (*status)->st_size == 0)
        damaged(layer, fmt::format("{}: 0 bytes, so that the layer cannot be pushed as it was pulled", name));
}

Trees from_records(const Records &records, const Foreign &foreign) {
    Depths depths;
    for (const LayerRecord &record : records.layers)
        depths.add(record.id, record.parent);
    for (const auto &[id, record] : foreign.layers)
        depths.add(id, record.parent);
    std::set<std::string_view> active;
    for (const ContainerRecord &container : records.containers)
        active.insert(container.layer);
    Trees out;
    for (const LayerRecord &record : records.layers) {
        probe::StoreLayer &layer = out[record.id].layer;
        layer.id = record.id;
        layer.name = record.name;
        layer.parent = record.parent;
        layer.recorded = true;
        layer.recorded_bytes = record.diff_bytes;
        layer.created_s = record.created_s;
        layer.depth = depths.of(record.id);
        layer.kind = record.incomplete ? "ingest" : active.contains(record.id) ? "active" : "committed";
        if (!record.parent.empty() && foreign.complete && !depths.knows(record.parent))
            damaged(layer, fmt::format("its parent {} is not recorded", record.parent));
    }
    return out;
}

} // namespace

void read_layers(const probe::Host &host, const Places &places, const Records &records, const Foreign &foreign,
                 const std::vector<probe::ZfsDataset> &datasets, probe::Store &store) {
    Trees trees = from_records(records, foreign);
    for (const std::string &base : places.bases())
        read_directories(host, places, base, trees, store);
    if (places.driver == "zfs") read_datasets(places, datasets, trees, store);
    if (is_overlay(places.driver)) look_at_overlays(host, places, trees, store);
    for (const LayerRecord &record : records.layers) {
        probe::StoreLayer &layer = trees.at(record.id).layer;
        if (!layer.on_disk && !record.incomplete && (places.driver != "zfs" || !datasets.empty()))
            damaged(layer,
                    fmt::format("{}{}/{} is missing", places.home(record.base), trees_of(places.driver), record.id));
        if (!record.incomplete) look_at_tar_split(host, places, record, layer);
    }
    for (auto &[id, tree] : trees) {
        if (!tree.layer.recorded) tree.layer.damage.clear(); // nobody wants it
        store.layers.push_back(std::move(tree.layer));
    }
    for (const std::string &base : places.bases())
        for (const char *name : {"staging", "tempdirs"})
            read_scratch(host, places.home(base), name, store);
}

} // namespace shale::doctor::podman
