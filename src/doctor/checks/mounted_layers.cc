// SPDX-License-Identifier: Apache-2.0
#include "doctor/checks/mounted_layers.h"

#include <algorithm>
#include <array>
#include <map>
#include <unordered_map>
#include <utility>

#include <fmt/format.h>

#include "doctor/checks/common.h"

namespace shale::doctor::checks {
namespace {

struct Place {
    const probe::Store *store = nullptr;
    const probe::StoreLayer *layer = nullptr;
};

/// Everything that is looked up by path or id, made once.
class Index {
public:
    explicit Index(const probe::Facts &facts) {
        for (const auto &store : facts.stores) {
            stores_.push_back(&store);
            for (const auto &layer : store.layers)
                if (!layer.path.empty()) layers_.emplace(layer.path, Place{&store, &layer});
            for (const auto &container : store.containers) {
                if (!container.layer.empty())
                    of_layer_.emplace(std::pair(&store, std::string_view(container.layer)), &container);
                if (!container.id.empty()) by_id_.emplace(container.id, &container);
            }
        }
        // A store in a store's root (BuildKit's in Docker's): the inner one is asked first.
        std::ranges::stable_sort(stores_, std::ranges::greater(), [](const auto *store) { return store->root.size(); });
    }

    /// The layer whose directory `path` lies in, else the store alone.
    [[nodiscard]] Place place_of(std::string_view path) const {
        for (std::string_view above = path; above.starts_with('/'); above = above.substr(0, above.rfind('/')))
            if (const auto found = layers_.find(above); found != layers_.end()) return found->second;
        for (const auto *store : stores_)
            if (lies_in(path, store->root)) return {store, nullptr};
        return {};
    }
    [[nodiscard]] const probe::StoreContainer *container_of(const Place &place) const {
        if (place.layer == nullptr) return nullptr;
        const auto found = of_layer_.find({place.store, place.layer->id});
        return found == of_layer_.end() ? nullptr : found->second;
    }
    [[nodiscard]] const probe::StoreContainer *container(std::string_view id) const {
        const auto found = by_id_.find(id);
        return found == by_id_.end() ? nullptr : found->second;
    }

private:
    std::vector<const probe::Store *> stores_;
    std::unordered_map<std::string_view, Place> layers_;
    std::map<std::pair<const probe::Store *, std::string_view>, const probe::StoreContainer *> of_layer_;
    std::unordered_map<std::string_view, const probe::StoreContainer *> by_id_;
};

/// "ID" of "ROOT/containers/ID/..." (docker) and "ROOT/overlay-containers/ID/..." (containers/storage), where a
/// container's shm is mounted.
std::string_view container_directory(std::string_view path, const probe::Store &store) {
    const std::string middle =
        store.engine == "podman" ? fmt::format("/{}-containers/", store.driver) : std::string("/containers/");
    std::string_view rest = path.substr(std::min(store.root.size(), path.size()));
    if (!rest.starts_with(middle)) return {};
    rest.remove_prefix(middle.size());
    const size_t end = rest.find('/');
    return end == std::string_view::npos ? std::string_view() : rest.substr(0, end);
}

bool find(const Index &index, const probe::Mount &mount, MountedLayer &out) {
    const std::string_view path = mount.type == "overlay" ? upper_directory(mount) : std::string_view();
    Place place = path.empty() ? Place() : index.place_of(path);
    if (place.store == nullptr) {
        place = index.place_of(mount.target);
        if (place.store == nullptr) return false;
        if (place.layer ==
            nullptr) { // a mount somewhere in the store's root: only that of a container is ours to judge
            const std::string_view id = container_directory(mount.target, *place.store);
            if (id.empty()) return false;
            out.container = index.container(id);
            if (out.container == nullptr) out.container_id = id;
        }
    }
    out.mount = &mount;
    out.store = place.store;
    out.layer = place.layer;
    if (place.layer != nullptr) out.container = index.container_of(place);
    return true;
}

bool is_engine(std::string_view command) {
    // What /proc/PID/comm says: at most 15 bytes.
    constexpr std::array<std::string_view, 10> names{"dockerd",     "containerd",    "podman",    "conmon",
                                                     "catatonit",   "crio",          "buildkitd", "shaled",
                                                     "rootlesskit", "fuse-overlayfs"};
    return command.starts_with("containerd-shim") || std::ranges::find(names, command) != names.end();
}

std::set<uint64_t> with_engines(const probe::Facts &facts) {
    std::set<uint64_t> out;
    for (const auto &where : facts.mount_namespaces)
        if (is_engine(where.command)) out.insert(where.id);
    for (const auto &process : facts.processes)
        if (is_engine(process.command)) out.insert(process.mount_namespace);
    return out;
}

/// The topmost mount at "/".
const probe::Mount *root_of(const probe::MountNamespace &where) {
    const auto found = std::ranges::find(where.mounts.rbegin(), where.mounts.rend(), "/", &probe::Mount::target);
    return found == where.mounts.rend() ? nullptr : &*found;
}

/// Namespaces of engines that have another root than process 1: Docker in Docker, a node of kind. The paths of their
/// overlays are those in there, and would be taken for the same paths of the host.
std::set<uint64_t> nested_namespaces(const probe::Facts &facts) {
    const auto first = std::ranges::find(facts.mount_namespaces, 1, &probe::MountNamespace::pid);
    const probe::Mount *const root = first == facts.mount_namespaces.end() ? nullptr : root_of(*first);
    std::set<uint64_t> out;
    if (root == nullptr) return out;
    const auto engines = with_engines(facts);
    for (const auto &where : facts.mount_namespaces) {
        const auto *const its = root_of(where);
        if (engines.contains(where.id) && its != nullptr && (its->device != root->device || its->root != root->root))
            out.insert(where.id);
    }
    return out;
}

/// `visit(namespace, mount)` for those whose paths are the host's.
template <class F> void for_each_mount(const probe::Facts &facts, F &&visit) {
    const auto nested = nested_namespaces(facts);
    for (const auto &where : facts.mount_namespaces)
        if (!nested.contains(where.id))
            for (const auto &mount : where.mounts)
                visit(where, mount);
}

} // namespace

std::string_view upper_directory(const probe::Mount &mount) {
    // The kernel writes "lowerdir=...,upperdir=...,workdir=..." in this order (fs/overlayfs/params.c,
    // ovl_show_options); its escapes were undone by the reader, so a path may have commas in it.
    constexpr std::string_view key = ",upperdir=";
    const std::string_view options = mount.super_options;
    const size_t begin = options.find(key);
    if (begin == std::string_view::npos) return {};
    const std::string_view rest = options.substr(begin + key.size());
    const size_t end = rest.find(",workdir=");
    return rest.substr(0, end == std::string_view::npos ? rest.find(',') : end);
}

std::vector<MountedLayer> mounted_layers(const probe::Facts &facts) {
    const Index index(facts);
    std::vector<MountedLayer> out;
    for_each_mount(facts, [&](const probe::MountNamespace &where, const probe::Mount &mount) {
        MountedLayer found;
        found.where = &where;
        if (find(index, mount, found)) out.push_back(found);
    });
    return out;
}

std::vector<MountedLayer> mounts_in_layers(const probe::Facts &facts) {
    const Index index(facts);
    std::vector<MountedLayer> out;
    for_each_mount(facts, [&](const probe::MountNamespace &where, const probe::Mount &mount) {
        const Place place = index.place_of(mount.target);
        if (place.layer == nullptr) return;
        MountedLayer &found = out.emplace_back();
        found.where = &where;
        found.mount = &mount;
        found.store = place.store;
        found.layer = place.layer;
        found.container = index.container_of(place);
    });
    return out;
}

std::vector<const probe::MountNamespace *> namespaces_rooted_in(const probe::Facts &facts,
                                                                const MountedLayer &mounted) {
    const auto is_root = [&](const probe::MountNamespace &where) {
        const auto *const root = root_of(where);
        return root != nullptr && root->device == mounted.mount->device && root->root == mounted.mount->root;
    };
    std::vector<const probe::MountNamespace *> out;
    if (is_root(*mounted.where)) return out; // "/" itself, bound there
    for (const auto &where : facts.mount_namespaces)
        if (is_root(where)) out.push_back(&where);
    return out;
}

std::set<uint64_t> engine_namespaces(const probe::Facts &facts) {
    std::set<uint64_t> out = with_engines(facts);
    for (const auto &where : facts.mount_namespaces)
        if (where.ours || where.pid == 1) out.insert(where.id);
    return out;
}

} // namespace shale::doctor::checks
