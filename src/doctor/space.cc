// SPDX-License-Identifier: Apache-2.0
#include "doctor/space.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <limits>
#include <map>
#include <string_view>
#include <utility>

#include "doctor/checks/common.h"
#include "probe/usage.h"

namespace shale::doctor {

namespace {

using probe::Facts;
using probe::FileSystem;

void add(SpaceNode &to, SpaceNode part) {
    to.bytes += part.bytes;
    to.inodes += part.inodes;
    if (part.bytes != 0 || part.inodes != 0) to.parts.push_back(std::move(part));
}

void sort_parts(std::vector<SpaceNode> &parts) {
    std::ranges::sort(parts, std::ranges::greater{}, &SpaceNode::bytes);
    for (SpaceNode &part : parts)
        sort_parts(part.parts);
}

/// By what keeps it: the group's name comes first in the report.
std::string group_of(const probe::StoreLayer &layer) {
    if (!layer.recorded) return layer.kind == "ingest" ? "being made" : "without a record";
    const auto used_by = [&](std::string_view what) {
        return std::ranges::any_of(layer.used_by, [&](const std::string &user) { return user.starts_with(what); });
    };
    if (layer.kind == "active" || layer.kind == "init" || layer.kind == "view") return "containers";
    if (used_by("image ")) return "images";
    if (used_by("build cache ") || layer.kind == "cache") return "build cache";
    if (used_by("container ") || used_by("layer ")) return "images";
    return "used by nothing";
}

std::string name_of_layer(const probe::StoreLayer &layer) {
    const std::string users = layer.used_by.empty() ? "" : ", " + layer.used_by.front();
    return fmt::format("{}{}{}", layer.id.substr(0, 24), users,
                       layer.used_by.size() > 1 ? fmt::format(" and {} more", layer.used_by.size() - 1) : "");
}

SpaceNode layers_of(const Facts &facts, const probe::Store &store, const FileSystem &fs) {
    std::map<std::string, SpaceNode> groups;
    for (const auto &layer : store.layers) {
        if (!layer.usage || checks::file_system_of(facts, layer.path) != &fs) continue;
        SpaceNode &group = groups[group_of(layer)];
        add(group, {.name = name_of_layer(layer), .bytes = layer.usage->bytes, .inodes = layer.usage->inodes});
    }
    SpaceNode out{.name = checks::name_of(store)};
    for (auto &[name, group] : groups) {
        group.name = name;
        add(out, std::move(group));
    }
    return out;
}

/// Without its volumes.
SpaceNode store_of(const Facts &facts, const probe::Store &store, const FileSystem &fs) {
    SpaceNode out = layers_of(facts, store, fs);
    SpaceNode logs{.name = "container logs"};
    for (const auto &container : store.containers)
        if (!container.log_path.empty() && checks::file_system_of(facts, container.log_path) == &fs)
            add(logs, {.name = container.name.empty() ? container.id : container.name, .bytes = container.log_bytes});
    add(out, std::move(logs));
    if (checks::file_system_of(facts, store) == &fs)
        for (const auto &[name, bytes] : store.other_bytes)
            add(out, {.name = name, .bytes = bytes});
    return out;
}

struct Amount {
    uint64_t bytes = 0, inodes = 0;
};
void take_off(Amount &from, uint64_t bytes, uint64_t inodes) {
    from.bytes -= std::min(from.bytes, bytes);
    from.inodes -= std::min(from.inodes, inodes);
}

/// Where the driver btrfs keeps its layers, each in a subvolume: in a snapshotter of containerd's own directory, in a
/// worker's of buildkitd (hosts/buildkit_standalone.cc), else in that of the driver's name.
std::string subvolumes_of(const probe::Store &store) {
    if (store.engine == "containerd") return store.root;
    return store.root + (store.engine == "buildkit" ? "/runc-btrfs/snapshots" : "/btrfs");
}

/// What of a store lies in subvolumes, which no walk from above enters. Other trees of it are plain directories (what
/// Docker unpacks in tmp, what a build left).
Amount in_subvolumes(const Facts &facts, const probe::Store &store, const FileSystem &fs) {
    Amount out;
    if (store.driver != "btrfs") return out;
    const std::string directory = subvolumes_of(store);
    for (const auto &layer : store.layers) {
        if (!layer.usage || !checks::lies_in(layer.path, directory)) continue;
        if (checks::file_system_of(facts, layer.path) != &fs) continue;
        out.bytes += layer.usage->bytes;
        out.inodes += layer.usage->inodes;
    }
    return out;
}

struct Volume {
    Amount whole; ///< as it was counted
    Amount rest;  ///< without the stores and volumes that lie in it
};
/// Those of all stores on one file system, by path.
using Volumes = std::map<std::string_view, Volume>;

/// "/a/b" -> "/a" -> "".
std::string_view above(std::string_view path) {
    return path.substr(0, path.contains('/') ? path.rfind('/') : 0);
}

/// The innermost one that `path` is or lies in; nullptr: none.
Volume *volume_around(Volumes &volumes, std::string_view path) {
    constexpr size_t longest = 4096; // PATH_MAX
    if (path.size() > longest) return nullptr;
    for (; !path.empty(); path = above(path))
        if (const auto found = volumes.find(path); found != volumes.end()) return &found->second;
    return nullptr;
}

/// A store may lie in a volume of another (docker buildx: BuildKit's root is a volume of Docker): `stores` has what
/// each of the facts' is by itself.
Volumes volumes_on(const Facts &facts, const FileSystem &fs, const std::vector<SpaceNode> &stores) {
    Volumes out;
    for (const auto &store : facts.stores)
        for (const auto &volume : store.volumes) {
            if (!volume.usage || checks::file_system_of(facts, volume.path) != &fs) continue;
            const Amount whole{volume.usage->bytes, volume.usage->inodes};
            out.try_emplace(volume.path, Volume{whole, whole});
        }
    for (const auto &[path, volume] : out)
        if (Volume *outer = volume_around(out, above(path)))
            take_off(outer->rest, volume.whole.bytes, volume.whole.inodes);
    for (size_t i = 0; i < stores.size(); ++i)
        if (Volume *outer = volume_around(out, facts.stores[i].root)) {
            const Amount apart = in_subvolumes(facts, facts.stores[i], fs);
            take_off(outer->rest, stores[i].bytes - apart.bytes, stores[i].inodes - apart.inodes);
        }
    return out;
}

void add_volumes(SpaceNode &to, const probe::Store &store, Volumes &volumes) {
    SpaceNode all{.name = "volumes"};
    for (const auto &volume : store.volumes) {
        const auto found = volumes.find(volume.path);
        if (found == volumes.end()) continue;
        const Amount rest = std::exchange(found->second.rest, Amount()); // where two stores have it, it counts once
        add(all, {.name = volume.name, .bytes = rest.bytes, .inodes = rest.inodes});
    }
    add(to, std::move(all));
}

SpaceNode deleted_on(const Facts &facts, const FileSystem &fs) {
    SpaceNode out{.name = "deleted files that are still open"};
    std::map<std::pair<int, std::string>, SpaceNode> processes;
    std::map<uint64_t, bool> seen; // one file may be open in several
    for (const auto &file : facts.deleted_files)
        if (file.device == fs.device && !std::exchange(seen[file.inode], true))
            add(processes[{file.pid, file.command}], {.name = file.path, .bytes = file.bytes, .inodes = 1});
    for (auto &[process, node] : processes) {
        node.name = checks::process_name(process.first, process.second);
        add(out, std::move(node));
    }
    return out;
}

bool is_among(const std::vector<std::string> &all, const std::string &one) {
    return std::ranges::find(all, one) != all.end();
}

/// `others` of this file system without what its stores have in them.
SpaceNode other_files(const FileSystem &fs, const Facts &facts, const std::vector<OtherTree> &others,
                      const std::map<std::string, SpaceNode> &stores_by_root) {
    SpaceNode out{.name = "other files"};
    for (const OtherTree &tree : others) {
        if (checks::file_system_of(facts, tree.path) != &fs) continue;
        SpaceNode node{.name = tree.path, .bytes = tree.bytes, .inodes = tree.inodes};
        for (const auto &[root, store] : stores_by_root) {
            if (!checks::lies_in(root, tree.path) || is_among(tree.without, root)) continue;
            node.bytes -= std::min(node.bytes, store.bytes);
            node.inodes -= std::min(node.inodes, store.inodes);
        }
        add(out, std::move(node));
    }
    return out;
}

/// Roots of stores below `path` with another device number than it has.
std::vector<std::string> stores_apart(const probe::Host &host, const Facts &facts, const std::string &path) {
    std::vector<std::string> out;
    const auto top = host.stat(path);
    for (const auto &store : facts.stores) {
        if (!checks::lies_in(store.root, path)) continue;
        const auto root = host.stat(store.root);
        if (top && *top && root && *root && (*root)->st_dev != (*top)->st_dev) out.push_back(store.root);
    }
    return out;
}

/// Facts may say anything: what is beyond the range stays at its end.
int64_t difference(uint64_t whole, uint64_t part) {
    constexpr uint64_t most = std::numeric_limits<int64_t>::max();
    return whole >= part ? static_cast<int64_t>(std::min(whole - part, most))
                         : -static_cast<int64_t>(std::min(part - whole, most));
}

} // namespace

std::vector<OtherTree> count_others(const probe::Host &host, const Facts &facts, unsigned threads,
                                    const std::function<void(uint64_t)> &on_progress) {
    std::vector<std::string> paths;
    for (const FileSystem &fs : facts.file_systems) {
        if (std::ranges::none_of(facts.stores,
                                 [&](const auto &store) { return checks::file_system_of(facts, store) == &fs; }))
            continue;
        const auto root = host.stat(fs.target);
        const auto top = host.list_if_there(fs.target);
        if (!top || !root || !*root) continue;
        const auto dir = host.open_path(fs.target, O_PATH | O_DIRECTORY);
        for (const auto &entry : *top) {
            const auto st =
                dir ? sys::stat_at(dir->get(), entry.name.c_str()) : Result<struct stat>(std::unexpected(dir.error()));
            if (st && st->st_dev == (*root)->st_dev) // else something else is mounted there
                paths.push_back((fs.target == "/" ? "" : fs.target) + "/" + entry.name);
        }
    }
    std::vector<OtherTree> out;
    probe::CountOptions options;
    options.threads = threads;
    options.on_progress = on_progress;
    for (const auto &tree : probe::count_trees(host, paths, options))
        out.push_back({tree.path, tree.usage.bytes, tree.usage.inodes, stores_apart(host, facts, tree.path)});
    return out;
}

std::vector<Space> account(const Facts &facts, const std::vector<OtherTree> &others) {
    std::vector<Space> out;
    for (const FileSystem &fs : facts.file_systems) {
        Space space;
        space.file_system = &fs;
        space.used_bytes = fs.total_bytes - std::min(fs.free_bytes, fs.total_bytes);
        space.used_inodes = fs.total_inodes - std::min(fs.free_inodes, fs.total_inodes);
        std::vector<SpaceNode> stores;
        stores.reserve(facts.stores.size());
        for (const auto &store : facts.stores)
            stores.push_back(store_of(facts, store, fs));
        Volumes volumes = volumes_on(facts, fs, stores);
        std::map<std::string, SpaceNode> by_root;
        SpaceNode all;
        for (size_t i = 0; i < stores.size(); ++i) {
            add_volumes(stores[i], facts.stores[i], volumes);
            SpaceNode &root = by_root[facts.stores[i].root];
            const Amount apart = in_subvolumes(facts, facts.stores[i], fs);
            root.bytes += stores[i].bytes - apart.bytes;
            root.inodes += stores[i].inodes - apart.inodes;
            add(all, std::move(stores[i]));
        }
        if (all.parts.empty()) continue;
        add(all, deleted_on(facts, fs));
        add(all, other_files(fs, facts, others, by_root));
        space.parts = std::move(all.parts);
        sort_parts(space.parts);
        space.rest_bytes = difference(space.used_bytes, all.bytes);
        space.rest_inodes = fs.total_inodes == 0 ? 0 : difference(space.used_inodes, all.inodes);
        out.push_back(std::move(space));
    }
    return out;
}

} // namespace shale::doctor
