// SPDX-License-Identifier: Apache-2.0
#include "doctor/hosts/docker_graph.h"

#include <dirent.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <map>

#include <fmt/format.h>

#include "doctor/hosts/docker_overlay2.h"
#include "doctor/hosts/places.h"
#include "oci/json.h"
#include "probe/text.h"

namespace shale::doctor::docker {
namespace {

constexpr std::string_view trees_kind = "trees";
constexpr std::string_view removing = "-removing";

/// The tree's StoreLayer, with a kind if no record gave one.
probe::StoreLayer &tree(Draft &draft, const std::string &id, const std::string &path) {
    auto &layer = draft.layer(id);
    layer.on_disk = true;
    layer.path = path;
    if (!layer.recorded) {
        if (id.ends_with(removing))
            layer.kind = "removing";
        else
            layer.kind = id.ends_with("-init") ? "init" : "active";
    }
    return layer;
}

void read_overlay(Draft &draft, const std::string &id, const std::string &path) {
    const auto entries = draft.host->list(path, max_entries);
    if (!entries && entries.error().sys_errno() == ENOENT) return; // it went meanwhile
    auto &layer = tree(draft, id, path);
    if (!entries) return draft.problem(path, entries.error().text());
    const auto has = [&](std::string_view name) {
        return std::ranges::any_of(*entries, [&](const auto &entry) { return entry.name == name; });
    };
    if (has("root")) return;
    if (!has("upper")) layer.damage.emplace_back("root and upper are missing");
    const auto lower = read_word(*draft.host, path + "/lower-id");
    if (!lower)
        layer.damage.push_back(lower.error().text());
    else if (layer.parent.empty() && !layer.recorded && is_id(*lower))
        layer.parent = *lower;
}

void read_aufs(Draft &draft, const std::string &id, const std::string &path) {
    auto &layer = tree(draft, id, path);
    if (id.ends_with(removing)) return;
    // The ids of all layers below, the nearest first; empty for the lowest (aufs/dirs.go).
    const std::string list = fmt::format("{}/layers/{}", draft.graph_dir(), id);
    const auto below = draft.host->read(list, max_lower_bytes);
    if (!below) {
        layer.damage.push_back(below.error().text());
        return;
    }
    const std::string_view first = probe::trimmed(std::string_view(*below).substr(0, below->find('\n')));
    if (layer.parent.empty() && !layer.recorded && is_id(first)) layer.parent = first;
}

/// devmapper/deviceset.go, devInfo: one JSON object a device; "base" is the empty file system that all start from.
void read_device(Draft &draft, const std::string &id, const std::string &path) {
    const auto text = draft.host->read(path, max_record_bytes);
    const auto info = text ? oci::parse_object(*text, path) : std::unexpected(text.error());
    if (!info) return draft.sources.broken(path, "device record", info.error());
    const oci::Json *deleted = oci::find_member(*info, "deleted");
    const oci::Json *size = oci::find_member(*info, "size");
    auto &layer = tree(draft, id, "");
    if (deleted != nullptr && deleted->is_boolean() && deleted->get<bool>()) layer.kind = "removing";
    if (id == "base") {
        layer.recorded = true;
        layer.kind = "committed";
        layer.name = "base";
        if (size != nullptr && size->is_number_unsigned()) draft.store.settings["base device bytes"] = size->dump();
    }
}

void read_devices(Draft &draft, const std::string &dir, const std::vector<sys::DirEntry> &entries) {
    uint64_t devices = 0;
    for (const auto &entry : entries) {
        if (entry.type != DT_REG || entry.name.starts_with('.') || entry.name.ends_with(".migrated") ||
            entry.name == "deviceset-metadata" || entry.name == "transaction-metadata")
            continue; // deviceset.go, deviceFileWalkFunction
        ++devices;
        read_device(draft, entry.name, fmt::format("{}/{}", dir, entry.name));
    }
    draft.sources.read(dir, trees_kind, devices);
}

/// dockerd's datasets are all in one: the one that most of the recorded trees are in (zfs.go, zfsPath).
std::string docker_dataset(Draft &draft, std::span<const probe::ZfsDataset> datasets) {
    std::map<std::string, uint64_t> votes;
    for (const auto &dataset : datasets) {
        const size_t slash = dataset.name.rfind('/');
        if (slash == std::string::npos || dataset.type != "filesystem") continue;
        const auto *layer = draft.find(dataset.name.substr(slash + 1));
        if (layer != nullptr && layer->recorded) ++votes[dataset.name.substr(0, slash)];
    }
    const auto best = std::ranges::max_element(votes, {}, [](const auto &vote) { return vote.second; });
    return best == votes.end() ? std::string() : best->first;
}

void read_zfs(Draft &draft, std::span<const probe::ZfsDataset> datasets) {
    const std::string dir = draft.graph_dir();
    const std::string parent = docker_dataset(draft, datasets);
    if (parent.empty()) return draft.sources.broken(dir, trees_kind, "none of its datasets was found on this host");
    draft.store.settings["zfs.fsname"] = parent;
    uint64_t trees = 0;
    for (const auto &dataset : datasets) {
        if (dataset.type != "filesystem" || dataset.name.rfind('/') != parent.size() ||
            !dataset.name.starts_with(parent))
            continue;
        const std::string id = dataset.name.substr(parent.size() + 1);
        auto &layer = tree(draft, id, "");
        if (layer.created_s == 0) layer.created_s = dataset.created_s;
        ++trees;
    }
    draft.sources.read(dir, trees_kind, trees);
}

void read_directories(Draft &draft, const std::string &dir, const std::vector<sys::DirEntry> &entries) {
    uint64_t trees = 0;
    for (const auto &entry : entries) {
        if (!is_directory(entry) || entry.name == trash_name) continue;
        const std::string path = fmt::format("{}/{}", dir, entry.name);
        if (draft.driver == "overlay")
            read_overlay(draft, entry.name, path);
        else if (draft.driver == "aufs")
            read_aufs(draft, entry.name, path);
        else
            tree(draft, entry.name, path);
        ++trees;
    }
    draft.sources.read(dir, trees_kind, trees);
}

} // namespace

std::string trees_dir(const std::string &root, std::string_view driver) {
    const auto below = [&](std::string_view name) { return fmt::format("{}/{}/{}", root, driver, name); };
    if (driver == "vfs") return below("dir");
    if (driver == "btrfs") return below("subvolumes");
    if (driver == "aufs") return below("diff");
    if (driver == "devicemapper") return below("metadata");
    if (driver == "zfs") return below("graph");
    return fmt::format("{}/{}", root, driver);
}

bool has_driver(const probe::Host &host, const std::string &root, std::string_view driver) {
    if (host.is_dir(fmt::format("{}/image/{}", root, driver))) return true;
    const auto trees = host.list(trees_dir(root, driver), max_entries);
    if (!trees) return trees.error().sys_errno() != ENOENT; // else it is there and cannot be read: that has to be told
    return std::ranges::any_of(*trees, [&](const auto &entry) {
        if (driver == "devicemapper") return entry.type == DT_REG;
        return is_directory(entry) && entry.name != "l" && entry.name != trash_name;
    });
}

bool has_tree(const probe::Host &host, const std::string &root, std::string_view driver, const std::string &id) {
    const std::string path = fmt::format("{}/{}", trees_dir(root, driver), id);
    if (driver != "devicemapper") return host.is_dir(path);
    const auto status = host.stat(path);
    return status && *status;
}

void read_graph(Draft &draft, std::span<const probe::ZfsDataset> datasets) {
    if (draft.driver == "zfs") return read_zfs(draft, datasets);
    const std::string dir = trees_dir(draft.root, draft.driver);
    const auto entries = draft.host->list(dir, max_entries);
    if (!entries) {
        if (entries.error().sys_errno() == ENOENT) return draft.sources.missing(dir, trees_kind);
        return draft.sources.broken(dir, trees_kind, entries.error());
    }
    if (draft.driver == "overlay2" || draft.driver == "fuse-overlayfs")
        draft.sources.read(dir, trees_kind, read_overlay2(draft, *entries));
    else if (draft.driver == "devicemapper")
        read_devices(draft, dir, *entries);
    else
        read_directories(draft, dir, *entries);
}

std::string recent_unrecorded(const Draft &draft, uint64_t recent_s) {
    for (const auto &layer : draft.store.layers) {
        if (layer.recorded || layer.path.empty() || layer.kind == "ingest" || layer.kind == "removing") continue;
        const auto status = draft.host->stat(layer.path);
        if (!status || !*status) return layer.path; // it went meanwhile
        if (static_cast<uint64_t>(std::max<time_t>((*status)->st_ctim.tv_sec, 0)) >= recent_s) return layer.path;
    }
    return {};
}

} // namespace shale::doctor::docker
