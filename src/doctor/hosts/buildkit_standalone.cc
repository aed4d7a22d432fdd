// SPDX-License-Identifier: Apache-2.0
// buildkitd by itself. Each worker has a directory below its root, "runc-SNAPSHOTTER" (buildkit, worker/runc/runc.go)
// or "containerd-SNAPSHOTTER" (worker/containerd/containerd.go):
//
//   runc-overlayfs/snapshots/        a snapshotter of containerd's with its metadata.db
//   runc-overlayfs/containerdmeta.db its snapshots by their keys in the namespace "buildkit", and leases
//   runc-overlayfs/metadata_v2.db    cache records
//   runc-overlayfs/content/          blobs
//   runc-overlayfs/executor/ID/      of a step that runs
//
// The snapshots of the other kind are in containerd, where its reader finds them, and so are its steps.
#include "doctor/hosts/buildkit.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "doctor/hosts/containerd_metadata.h"
#include "doctor/hosts/containerd_snapshots.h"
#include "doctor/hosts/docker_daemon.h"
#include "doctor/hosts/places.h"
#include "doctor/hosts/times.h"

namespace shale::doctor::buildkit {
namespace {

constexpr std::string_view default_root = "/var/lib/buildkit"; ///< util/appdefaults/appdefaults_unix.go
constexpr std::string_view config_path = "/etc/buildkit/buildkitd.toml";
constexpr std::string_view own_workers = "runc-", containerd_workers = "containerd-";
constexpr int max_readings = 3;

struct Place {
    std::string root;
    int pid = 0;
    bool running = false;                ///< also in a container, where its pid is not known
    std::optional<uint64_t> started_s{}; ///< when that began
};

/// Each directory once; the first to name it knows most.
class Places {
public:
    explicit Places(const probe::Host &host) : host_(host) {}
    void add(Place place) {
        std::string where = identity(host_, place.root);
        if (!where.empty() && seen_.insert(std::move(where)).second) out_.push_back(std::move(place));
    }
    [[nodiscard]] const std::vector<Place> &all() const noexcept { return out_; }

private:
    const probe::Host &host_;
    std::set<std::string> seen_;
    std::vector<Place> out_;
};

void add_installed(const probe::Host &host, const std::vector<probe::Process> &processes, Places &places,
                   probe::Facts &facts) {
    int without_root = 0; // pid of one that does not say where it is
    bool several = false; // then which of them has which root is not known
    for (const auto &process : processes) {
        if (process.command != "buildkitd" || docker::in_container(process)) continue;
        const std::string root = argument(process.arguments, "root");
        if (root.empty())
            several = std::exchange(without_root, process.pid) != 0;
        else
            places.add({.root = root, .pid = process.pid, .running = true, .started_s = started_s(host, process.pid)});
    }
    // One of a user would have another root; that it is taken for this one only makes the reader more careful.
    places.add({.root = std::string(default_root),
                .pid = without_root,
                .running = without_root != 0,
                .started_s = without_root == 0 || several ? std::nullopt : started_s(host, without_root)});
    for (const auto &home : homes(host, facts.problems))
        places.add({.root = home.path + "/.local/share/buildkit", .pid = 0, .running = without_root != 0});
}

/// docker buildx, driver/docker-container: a container with a volume at /var/lib/buildkit,
/// "buildx_buildkit_NAME0_state".
void add_of_volumes(const probe::Host &host, Places &places, size_t first, const probe::Facts &facts) {
    for (size_t i = first; i < facts.stores.size(); ++i) {
        const auto &store = facts.stores[i];
        for (const auto &volume : store.volumes) {
            if (!volume.on_disk || !host.is_dir(volume.path)) continue;
            const auto lock = host.stat(volume.path + "/buildkitd.lock");
            if (!lock || !*lock) continue;
            const auto runs = std::ranges::find_if(store.containers, [&](const auto &container) {
                return container.state == "running" &&
                       std::ranges::find(volume.used_by, "container " + container.id) != volume.used_by.end();
            });
            const int pid = runs == store.containers.end() ? 0 : runs->pid; // process 1 of the container is buildkitd
            places.add({.root = volume.path,
                        .pid = 0,
                        .running = runs != store.containers.end(),
                        .started_s = pid == 0 ? std::nullopt : started_s(host, pid)});
        }
    }
}

enum class Snapshots : uint8_t { own, in_containerd };

/// One worker of one root.
class Worker {
public:
    Worker(const probe::Host &host, const Place &place, Snapshots snapshots, std::string directory,
           std::string snapshotter, probe::Facts &facts)
        : host_(host), place_(place), snapshots_(snapshots), dir_(std::move(directory)),
          snapshotter_(std::move(snapshotter)), facts_(facts) {}

    /// `steps_since_s` as read_steps() has it.
    probe::Store read(std::optional<uint64_t> steps_since_s);

private:
    [[nodiscard]] std::string state() const;
    void read_once();
    void read_snapshots();
    containerd::Metadata read_metadata();
    void name_users(const std::vector<CacheRecord> &records, const containerd::Metadata &metadata);

    const probe::Host &host_;
    const Place &place_;
    Snapshots snapshots_;
    std::string dir_, snapshotter_;
    probe::Facts &facts_;
    probe::Store store_;
};

/// Of its databases. The snapshotter looks after its directories itself.
std::string Worker::state() const {
    std::string out;
    for (const char *const name : {"metadata_v2.db", "containerdmeta.db", "snapshots/metadata.db"}) {
        const auto status = host_.stat(fmt::format("{}/{}", dir_, name));
        if (status && *status)
            out +=
                fmt::format("{}.{:09} {}, ", (*status)->st_mtim.tv_sec, (*status)->st_mtim.tv_nsec, (*status)->st_size);
        else
            out += "none, ";
    }
    return out;
}

void Worker::name_users(const std::vector<CacheRecord> &records, const containerd::Metadata &metadata) {
    std::map<std::string, std::set<std::string>> users; // name in the snapshotter's database -> users
    std::map<std::string, std::string> name_of;         // key -> that name
    for (const auto &[space, of] : metadata.namespaces) {
        const auto snapshots = of.snapshots.find(snapshotter_);
        if (snapshots == of.snapshots.end()) continue;
        for (const auto &[key, snapshot] : snapshots->second)
            name_of[key] = snapshot.name;
    }
    const auto kept = containerd::snapshot_users(metadata);
    if (!kept.complete)
        store_.sources.push_back({.path = dir_ + "/containerdmeta.db",
                                  .what = "build cache leases",
                                  .state = "unreadable",
                                  .why = "they refer to too much",
                                  .entries = 0});
    for (const auto &[key, kept_by] : kept.users) {
        const auto &[space, snapshotter, name] = key;
        if (snapshotter == snapshotter_) users[name_of[name]].insert(kept_by.begin(), kept_by.end());
    }
    std::map<std::string, const CacheRecord *> of_snapshot;
    for (const auto &record : records) {
        const bool own = name_of.contains(record.snapshot);
        const std::string &key = own || record.equal_mutable.empty() ? record.snapshot : record.equal_mutable;
        const auto name = name_of.find(key);
        if (name == name_of.end()) continue;
        users[name->second].insert("build cache " + record.id);
        users[name->second].erase("lease " + record.id); // the record's own
        of_snapshot[name->second] = &record;
    }
    for (auto &layer : store_.layers) {
        if (const auto found = users.find(layer.name); found != users.end() && !layer.name.empty())
            layer.used_by.insert(layer.used_by.end(), found->second.begin(), found->second.end());
        if (const auto found = of_snapshot.find(layer.name); found != of_snapshot.end() && !layer.recorded_bytes)
            layer.recorded_bytes = found->second->bytes;
    }
}

void Worker::read_snapshots() {
    containerd::Moment moment;
    moment.now_s = docker::time_of(facts_);
    moment.processes_seen = host_.live();
    moment.running = place_.running;
    auto contents = containerd::read_snapshotter(host_, {snapshotter_, dir_ + "/snapshots", {}}, moment, facts_);
    store_.layers = std::move(contents.layers);
    store_.sources = std::move(contents.sources);
    store_.settings = std::move(contents.settings);
    store_.other_bytes = std::move(contents.other_bytes);
}

containerd::Metadata Worker::read_metadata() {
    const std::string path = dir_ + "/containerdmeta.db";
    auto read = containerd::read_metadata(host_, path);
    if (read && !read->damage)
        store_.sources.push_back(containerd::source_of(path, "build cache leases", read->namespaces.size()));
    else
        store_.sources.push_back(
            containerd::source_of(path, "build cache leases", read ? *read->damage : read.error()));
    return read ? std::move(*read) : containerd::Metadata();
}

void Worker::read_once() {
    store_ = {};
    store_.engine = "buildkit";
    store_.root = place_.root;
    store_.driver = snapshotter_;
    store_.pid = place_.pid;
    store_.running = place_.running;
    if (snapshots_ == Snapshots::own)
        read_snapshots();
    else
        store_.settings["snapshots"] = "in containerd";
    // The users after the snapshots: one that has come in between has no snapshot here, which says nothing.
    docker::Sources sources;
    const auto records = read_cache_records(host_, dir_, sources).value_or(std::vector<CacheRecord>());
    if (snapshots_ == Snapshots::own) name_users(records, read_metadata());
    for (auto &source : std::move(sources).finish())
        store_.sources.push_back(std::move(source));
    store_.settings["records"] = fmt::to_string(records.size());
    store_.other_bytes["content"] = bytes_in(host_, dir_ + "/content", 3);
    store_.other_bytes["databases"] = bytes_in(host_, dir_, 0) + bytes_in(host_, place_.root, 0);
}

probe::Store Worker::read(std::optional<uint64_t> steps_since_s) {
    bool stable = false;
    for (int reading = 1; reading <= max_readings && !stable; ++reading) {
        const std::string before = state();
        read_once();
        stable = state() == before;
    }
    for (auto &source : store_.sources) {
        if (stable || source.state != "read") continue;
        source.state = "changing";
        source.why = "its databases changed while they were read";
    }
    if (snapshots_ == Snapshots::own)
        std::ranges::move(read_steps(host_, dir_ + "/executor", steps_since_s, facts_.problems),
                          std::back_inserter(store_.layers));
    return std::move(store_);
}

void read_place(const probe::Host &host, const std::vector<probe::Process> &processes, const Place &place,
                probe::Facts &facts) {
    const auto entries = host.list(place.root, docker::max_entries);
    if (!entries) {
        facts.problems.push_back({.about = place.root, .why = entries.error().text()});
        return;
    }
    const Builder builder{.program = "buildkitd", .running = place.running, .started_s = place.started_s};
    const auto since_s = steps_since_s(host, processes, builder, docker::time_of(facts));
    for (const auto &entry : *entries) {
        const bool own = entry.name.starts_with(own_workers);
        if (!docker::is_directory(entry) || (!own && !entry.name.starts_with(containerd_workers))) continue;
        const std::string snapshotter = entry.name.substr((own ? own_workers : containerd_workers).size());
        if (snapshotter.empty()) continue;
        Worker worker(host, place, own ? Snapshots::own : Snapshots::in_containerd,
                      fmt::format("{}/{}", place.root, entry.name), snapshotter, facts);
        facts.stores.push_back(worker.read(since_s));
    }
}

void add_config(const probe::Host &host, probe::Facts &facts) {
    auto text = host.read_if_there(std::string(config_path), size_t{1} << 20U);
    if (!text)
        facts.problems.push_back({.about = std::string(config_path), .why = text.error().text()});
    else if (*text)
        facts.config_files.push_back(
            {.path = std::string(config_path), .kind = "buildkit buildkitd.toml", .text = std::move(**text)});
}

} // namespace

void read_standalone(const probe::Host &host, const std::vector<probe::Process> &processes, Standalone which,
                     size_t first, probe::Facts &facts) {
    Places places(host);
    if (which == Standalone::all) {
        add_config(host, facts);
        add_installed(host, processes, places, facts);
    }
    add_of_volumes(host, places, first, facts);
    for (const auto &place : places.all())
        read_place(host, processes, place, facts);
}

} // namespace shale::doctor::buildkit
