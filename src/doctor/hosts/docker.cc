// SPDX-License-Identifier: Apache-2.0
// One root at a time: its parts in an order that makes what comes later able to say what it means, again if dockerd
// changed something meanwhile, and then as stores.
#include "doctor/hosts/docker.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <optional>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include <fmt/format.h>

#include "doctor/hosts/buildkit.h"
#include "doctor/hosts/docker_containers.h"
#include "doctor/hosts/docker_daemon.h"
#include "doctor/hosts/docker_draft.h"
#include "doctor/hosts/docker_graph.h"
#include "doctor/hosts/docker_images.h"
#include "doctor/hosts/docker_layers.h"
#include "doctor/hosts/places.h"
#include "sys/fs.h"

namespace shale::doctor {
namespace {

using docker::Draft;
using docker::Place;

constexpr int max_readings = 3;
/// A layer has a write set until its record is written, at last. One that came while this dockerd runs may be its work
/// however long it has not grown: an import waits for its archive, a large file of it is unpacked. Where no dockerd was
/// found, one that has not grown for this time is nobody's.
constexpr uint64_t write_set_s = 600;
/// Between a tree and its record lie a few system calls; this leaves room for a slow disk.
constexpr uint64_t unrecorded_s = 60;

/// What is compared before and after: a directory by its time and how many entries it has, a file by time and size.
/// One of bbolt is compared by what BoltFile reads, so for it this tells of a transaction in between only.
using Signature = std::vector<std::pair<std::string, std::string>>;

std::string signature_of(const probe::Host &host, const std::string &path) {
    const auto fd = host.open_path(path, O_RDONLY);
    if (!fd) return fd.error().sys_errno() == ENOENT ? std::string("none") : fd.error().text();
    const auto status = sys::stat_at(fd->get(), "");
    if (!status) return status.error().text();
    const auto time = fmt::format("{}.{:09}", status->st_mtim.tv_sec, status->st_mtim.tv_nsec);
    if (!S_ISDIR(status->st_mode)) return fmt::format("{}, {} bytes", time, status->st_size);
    const auto entries = sys::list_dir(fd->get(), docker::max_entries);
    return entries ? fmt::format("{}, {} entries", time, entries->size()) : entries.error().text();
}

Signature signature_of(const probe::Host &host, const std::string &root, const std::vector<std::string> &drivers) {
    std::vector<std::string> paths = {root + "/containers",
                                      root + "/volumes",
                                      root + "/volumes/metadata.db",
                                      root + "/buildkit/snapshots.db",
                                      root + "/buildkit/metadata_v2.db",
                                      root + "/buildkit/containerdmeta.db"};
    for (const auto &driver : drivers) {
        const std::string image = fmt::format("{}/image/{}", root, driver);
        for (const char *const path :
             {"/layerdb/sha256", "/layerdb/mounts", "/layerdb/tmp", "/imagedb/content/sha256", "/repositories.json"})
            paths.push_back(image + path);
        paths.push_back(docker::trees_dir(root, driver));
    }
    Signature out;
    for (auto &path : paths) {
        std::string value = signature_of(host, path);
        out.emplace_back(std::move(path), std::move(value));
    }
    return out;
}

std::vector<std::string> changed_paths(const Signature &before, const Signature &after) {
    std::vector<std::string> out;
    for (size_t i = 0; i < before.size(); ++i)
        if (before[i] != after[i]) out.push_back(before[i].first);
    return out;
}

/// All that one reading of a root gives.
struct Reading {
    std::vector<Draft> drafts; ///< at most one of them in use
    docker::Containers containers;
    std::optional<buildkit::Embedded> cache;
    std::vector<std::string> changed; ///< paths
};

bool is_on(const docker::Settings &settings, const char *name) {
    const auto found = settings.find(name);
    return found != settings.end() && found->second == "true";
}

bool is_graph_driver(const std::string &name) {
    return std::ranges::find(docker::drivers, name) != std::end(docker::drivers);
}

/// Where dockerd keeps images and layers.
enum class Images : uint8_t { graph_driver, containerd, probably_containerd };

/// In containerd: moby 23 and later, "containerd-snapshotter". Where nobody says so, its containers do: they have a
/// snapshotter for a driver; or there are neither trees nor records of a graph driver.
Images where_images_are(const Place &place, const docker::Containers &containers,
                        const std::vector<std::string> &drivers) {
    if (place.settings.contains("features.containerd-snapshotter"))
        return is_on(place.settings, "features.containerd-snapshotter") ? Images::containerd : Images::graph_driver;
    const bool of_snapshotter = std::ranges::any_of(containers.all, [&](const auto &container) {
        return !container.driver.empty() && !is_graph_driver(container.driver);
    });
    if (of_snapshotter) return Images::containerd;
    return drivers.empty() ? Images::probably_containerd : Images::graph_driver;
}

/// The one that the configuration names, if there is something of it; else the first that has layers, else the first
/// (they are in dockerd's order).
std::string driver_in_use(const Place &place, const std::vector<Draft> &drafts) {
    const auto said = place.settings.find("storage-driver");
    for (const auto &draft : drafts)
        if (said != place.settings.end() && draft.driver == said->second) return draft.driver;
    for (const auto &draft : drafts)
        if (!draft.layer_of_chain.empty()) return draft.driver;
    return drafts.empty() ? std::string() : drafts.front().driver;
}

/// Leftovers of pulls, loads and builds: GetImageBlob*, docker-import-*, docker-builder* (moby, daemon.go,
/// prepareTempDir: dockerd empties it when it starts).
void add_temporary(Draft &draft) {
    const std::string dir = draft.root + "/tmp";
    const auto entries = draft.host->list_if_there(dir, docker::max_entries);
    if (!entries) return draft.problem(dir, entries.error().text());
    for (const auto &entry : *entries) {
        auto &layer = draft.layer("tmp/" + entry.name);
        layer.path = fmt::format("{}/{}", dir, entry.name);
        layer.kind = "ingest";
        layer.on_disk = true;
        layer.created_s = docker::changed_s(*draft.host, layer.path);
    }
}

/// The file is there from when the node joins a swarm until it leaves (moby, daemon/cluster/utils.go). One of another
/// time, from before userns-remap was set or taken out, binds no daemon.
void tell_swarm(Draft &draft, const Place &place) {
    if (!place.serves) return;
    const std::string file = draft.root + "/swarm/docker-state.json";
    const auto state = draft.host->stat(file);
    if (!state) return draft.problem(file, state.error().text());
    if (*state) draft.store.settings["swarm"] = "active";
}

void read_records(Draft &draft) {
    docker::read_layer_records(draft);
    docker::read_mount_records(draft);
}

/// What of the root belongs to the driver in use, whatever it is.
void read_shared(Draft &draft, const Place &place, const Reading &reading) {
    docker::read_volumes(draft, reading.containers);
    add_temporary(draft);
    tell_swarm(draft, place);
    draft.store.other_bytes["logs"] = reading.containers.log_bytes;
    draft.store.settings["containers without a log limit"] = fmt::to_string(reading.containers.without_log_limit);
    draft.problems.insert(draft.problems.end(), reading.containers.problems.begin(), reading.containers.problems.end());
}

/// A draft for each driver, and one for the images in containerd, of which there is nothing here.
void begin_drafts(const probe::Host &host, const Place &place, const std::vector<std::string> &drivers, Reading &out) {
    for (const auto &driver : drivers)
        read_records(out.drafts.emplace_back(host, place.root, driver));
    const Images images = where_images_are(place, out.containers, drivers);
    if (images == Images::graph_driver) {
        const std::string in_use = driver_in_use(place, out.drafts);
        for (auto &draft : out.drafts)
            draft.in_use = draft.driver == in_use;
        return;
    }
    const bool anything =
        !drivers.empty() || out.cache || !out.containers.all.empty() || host.is_dir(place.root + "/volumes");
    if (!anything) return;
    const auto said = place.settings.find("storage-driver");
    const bool says_snapshotter = said != place.settings.end() && !is_graph_driver(said->second);
    auto &draft = out.drafts.emplace_back(host, place.root, says_snapshotter ? said->second : "overlayfs");
    draft.in_use = true;
    draft.store.settings["containerd-snapshotter"] = images == Images::containerd ? "true" : "probably";
}

/// From when on what changed may be under way.
struct Recent {
    uint64_t write_set_s = 0, unrecorded_s = 0;
};

Reading read_once(const probe::Host &host, const Place &place, const std::vector<std::string> &drivers,
                  const Recent &recent, const probe::Facts &facts) {
    Reading out;
    out.containers = docker::read_containers(host, place.root);
    out.cache = buildkit::read_embedded(host, place.root);
    begin_drafts(host, place, drivers, out);
    for (auto &draft : out.drafts) {
        const bool has_trees = std::ranges::find(drivers, draft.driver) != drivers.end();
        draft.sources.append(out.containers.sources);
        if (has_trees) {
            if (out.cache) {
                buildkit::add_to_docker(draft, *out.cache);
                draft.sources.append(out.cache->sources);
            }
            docker::read_graph(draft, facts.zfs_datasets);
            docker::read_images(draft);
            docker::read_write_sets(draft, recent.write_set_s);
        }
        docker::add_containers(draft, out.containers, drivers);
        if (has_trees) docker::tell_lost_records(draft);
        if (draft.in_use) read_shared(draft, place, out);
        draft.settle();
    }
    return out;
}

bool any_broken(const Reading &reading) {
    return std::ranges::any_of(reading.drafts, [](const Draft &draft) { return draft.sources.any_broken(); });
}

/// Of something that never stands still: damage counts, and trees and layers are missing, if it was so twice.
void keep_what_lasted(Draft &now, Draft &before) {
    std::unordered_set<std::string> going;
    for (auto &layer : now.store.layers) {
        const auto *was = before.find(layer.id);
        std::erase_if(layer.damage, [&](const std::string &damage) {
            return was == nullptr || std::ranges::find(was->damage, damage) == was->damage.end();
        });
        if (layer.recorded && !layer.on_disk && (was == nullptr || was->on_disk)) going.insert(layer.id);
    }
    now.forget(going);
    std::unordered_map<std::string, uint64_t> missed;
    for (const auto &image : before.store.images)
        missed.emplace(image.id, image.missing_layers);
    std::erase_if(now.store.images,
                  [&](const probe::StoreImage &image) { return image.missing_layers > missed[image.id]; });
}

void keep_what_lasted(Reading &now, Reading &before) {
    for (auto &draft : now.drafts)
        for (auto &was : before.drafts)
            if (was.driver == draft.driver) keep_what_lasted(draft, was);
}

/// A record may also be half written: dockerd does not write those of layerdb/mounts atomically.
Reading read_stable(const probe::Host &host, const Place &place, const Recent &recent, const probe::Facts &facts) {
    std::vector<std::string> drivers;
    for (const auto driver : docker::drivers)
        if (docker::has_driver(host, place.root, driver)) drivers.emplace_back(driver);
    Reading out;
    for (int reading = 1; reading <= max_readings; ++reading) {
        Reading before = std::move(out);
        const Signature signature = signature_of(host, place.root, drivers);
        out = read_once(host, place, drivers, recent, facts);
        out.changed = changed_paths(signature, signature_of(host, place.root, drivers));
        if (out.changed.empty() && (place.pid == 0 || !any_broken(out))) break;
        if (reading == max_readings && !out.changed.empty()) keep_what_lasted(out, before);
    }
    return out;
}

/// What came too late to be believed.
void tell_changes(Draft &draft, const Reading &reading, const Place &place, const Recent &recent) {
    for (const auto &path : reading.changed) {
        const std::string why = fmt::format("{} changed while it was read", path);
        draft.sources.changing(path, why);
        if (path.ends_with("/layerdb/tmp")) draft.sources.changing(draft.image_dir() + "/layerdb/sha256", why);
        if (path.ends_with("/volumes")) draft.sources.changing(path + "/metadata.db", why);
    }
    if (!draft.being_written.empty())
        draft.sources.changing(draft.image_dir() + "/layerdb/sha256",
                               fmt::format("{} is being written", draft.being_written));
    if (place.pid == 0) return;
    const std::string made = docker::recent_unrecorded(draft, recent.unrecorded_s);
    if (!made.empty())
        draft.sources.changing(docker::trees_dir(draft.root, draft.driver), fmt::format("{} is being made", made));
}

bool says_nothing(const probe::Store &store) {
    return store.layers.empty() && store.images.empty() && store.containers.empty() && store.volumes.empty();
}

void take(Draft &&draft, const Place &place, const buildkit::Embedded *cache, std::optional<uint64_t> steps_since_s,
          probe::Facts &facts) {
    const bool in_use = draft.in_use;
    std::optional<probe::Store> cache_store;
    if (cache != nullptr && in_use) cache_store = buildkit::store_of(*cache, draft, steps_since_s);
    facts.problems.insert(facts.problems.end(), draft.problems.begin(), draft.problems.end());
    auto store = std::move(draft).finish();
    store.settings.insert(place.settings.begin(), place.settings.end());
    for (auto *const each : {&store, cache_store ? &*cache_store : nullptr}) {
        if (each == nullptr || !in_use) continue;
        each->pid = place.pid;
        each->running = place.pid != 0;
    }
    if (in_use) store.version = place.version;
    if (in_use || !says_nothing(store)) facts.stores.push_back(std::move(store));
    if (cache_store) facts.stores.push_back(std::move(*cache_store));
}

Recent recent_of(const Place &place, const probe::Facts &facts) {
    const uint64_t now_s = docker::time_of(facts);
    const auto ago = [&](uint64_t seconds) { return now_s - std::min(now_s, seconds); };
    // Nobody is at work, or one that was not found: that one's write set would have grown.
    if (place.pid == 0) return {.write_set_s = ago(write_set_s), .unrecorded_s = UINT64_MAX};
    // What came before the daemon was started was left over by an earlier one. (Less a little: the clock may have been
    // set since the boot.) Where that time is not known, nothing was.
    constexpr uint64_t clock_s = 5;
    const uint64_t started_s = place.started_s.value_or(0);
    const uint64_t since_s = started_s - std::min(started_s, clock_s);
    return {.write_set_s = since_s, .unrecorded_s = std::max(ago(unrecorded_s), since_s)};
}

void read_root(const probe::Host &host, const std::vector<probe::Process> &processes, const Place &place,
               probe::Facts &facts) {
    const Recent recent = recent_of(place, facts);
    const buildkit::Builder builder{.program = "dockerd", .running = place.pid != 0, .started_s = place.started_s};
    const auto steps_since_s = buildkit::steps_since_s(host, processes, builder, docker::time_of(facts));
    Reading reading = read_stable(host, place, recent, facts);
    for (auto &draft : reading.drafts) {
        tell_changes(draft, reading, place, recent);
        take(std::move(draft), place, reading.cache ? &*reading.cache : nullptr, steps_since_s, facts);
    }
}

} // namespace

void read_docker(const probe::Host &host, const std::vector<probe::Process> &processes, const std::string &data_root,
                 probe::Facts &facts) {
    const size_t first = facts.stores.size();
    for (const auto &place : docker::find_places(host, processes, data_root, facts))
        read_root(host, processes, place, facts);
    const auto which = data_root.empty() ? buildkit::Standalone::all : buildkit::Standalone::only_volumes;
    buildkit::read_standalone(host, processes, which, first, facts);
}

} // namespace shale::doctor
