// SPDX-License-Identifier: Apache-2.0
#include "doctor/hosts/buildkit.h"

#include <algorithm>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "doctor/hosts/containerd_metadata.h"
#include "doctor/hosts/docker_graph.h"
#include "doctor/hosts/places.h"
#include "oci/json.h"
#include "probe/bolt.h"
#include "probe/text.h"

namespace shale::doctor::buildkit {
namespace {

using docker::Draft;

constexpr std::string_view records_kind = "build cache records";
constexpr std::string_view snapshots_kind = "build cache snapshots";
constexpr std::string_view leases_kind = "build cache leases";
constexpr std::string_view our_namespace = "buildkit"; ///< moby, builder-next/controller.go
constexpr std::string_view snapshotter = "default";    ///< snapshot.go, Name

/// The "value" of a key of a record (cache/metadata/metadata.go, type Value). Null: there is none.
Result<oci::Json> value_of(const probe::BoltBucket &bucket, std::string_view key, std::string_view what) {
    const auto text = TRY(bucket.get(key));
    if (!text || text->empty()) return oci::Json();
    const auto document = TRY(oci::parse_object(*text, fmt::format("{}: {}", what, key)));
    const oci::Json *value = oci::find_member(document, "value");
    return value == nullptr ? oci::Json() : *value;
}

Result<std::string> text_of(const probe::BoltBucket &bucket, std::string_view key, std::string_view what) {
    const auto value = TRY(value_of(bucket, key, what));
    return value.is_string() ? value.get<std::string>() : std::string();
}

Result<bool> flag_of(const probe::BoltBucket &bucket, std::string_view key, std::string_view what) {
    const auto value = TRY(value_of(bucket, key, what));
    return value.is_boolean() && value.get<bool>();
}

/// Keys: buildkit, cache/metadata.go.
Result<CacheRecord> read_record(std::string_view id, const probe::BoltBucket &bucket) {
    CacheRecord out;
    out.id = id;
    const auto what = fmt::format("record {:?}", id.substr(0, 100));
    out.parent = TRY(text_of(bucket, "cache.parent", what));
    out.snapshot = TRY(text_of(bucket, "cache.snapshot", what));
    if (out.snapshot.empty()) out.snapshot = id;
    out.equal_mutable = TRY(text_of(bucket, "cache.equalMutable", what));
    out.committed = TRY(flag_of(bucket, "snapshot.committed", what));
    out.blob_only = TRY(flag_of(bucket, "cache.blobonly", what));
    out.deleted = TRY(flag_of(bucket, "cache.deleted", what));
    const auto merged = TRY(value_of(bucket, "cache.mergeParents", what));
    out.composed = (merged.is_array() && !merged.empty()) ||
                   !TRY(text_of(bucket, "cache.lowerDiffParent", what)).empty() ||
                   !TRY(text_of(bucket, "cache.upperDiffParent", what)).empty();
    const auto bytes = TRY(value_of(bucket, "snapshot.size", what)); // -1: not counted yet
    if (bytes.is_number_unsigned()) out.bytes = bytes.get<uint64_t>();
    const auto created_ns = TRY(value_of(bucket, "cache.createdAt", what));
    if (created_ns.is_number_unsigned()) out.created_s = created_ns.get<uint64_t>() / 1'000'000'000;
    return out;
}

/// snapshot.go, getLayer and getGraphDriverID.
Result<Snapshot> read_snapshot(std::string_view key, const probe::BoltBucket &bucket) {
    Snapshot out;
    const auto text = [&](std::string_view name) -> Result<std::string> {
        const auto value = TRY(bucket.get(name));
        return std::string(value.value_or(std::string_view()));
    };
    const auto parent = TRY(bucket.get("parent"));
    out.parent = parent.value_or(std::string_view());
    const std::string chain = key.starts_with("sha256:") ? std::string(key) : TRY(text("chainid"));
    if (!chain.empty()) out.chain = TRY(Digest::parse(chain));
    const std::string committed = TRY(text("committed"));
    out.committed = !committed.empty() || !chain.empty() || TRY(bucket.get("iscommitted")).has_value();
    // One that became a layer that was there already keeps its own tree beside it: both are told.
    if (!committed.empty())
        out.tree = committed;
    else if (parent && out.chain.empty())
        out.tree = key;
    if (!out.tree.empty() && !docker::is_id(out.tree))
        return fail(Errc::DataLoss, fmt::format("{:?} is no name of a tree", out.tree.substr(0, 100)));
    out.bytes = probe::to_number(TRY(text("size")));
    return out;
}

/// Returns false if there is no such file.
Result<bool> read_snapshots(const probe::Host &host, Embedded &out, const std::string &path) {
    const auto file = probe::BoltFile::open(host, path);
    if (!file && file.error().sys_errno() == ENOENT) return false;
    if (!file) return std::unexpected(file.error());
    TRY(file->root().for_each_bucket([&](std::string_view key, const probe::BoltBucket &bucket) -> Status {
        if (out.snapshots.size() >= docker::max_entries)
            return fail(Errc::ResourceExhausted, fmt::format("more than {} snapshots", docker::max_entries));
        auto snapshot = read_snapshot(key, bucket);
        if (snapshot)
            out.snapshots.emplace(key, std::move(*snapshot));
        else
            out.sources.broken(path, "build cache snapshot",
                               fmt::format("{:?}: {}", key.substr(0, 100), snapshot.error().text()));
        return {};
    }));
    return true;
}

void read_leases(const probe::Host &host, Embedded &out, const std::string &path) {
    const auto metadata = containerd::read_metadata(host, path);
    if (!metadata) {
        if (metadata.error().sys_errno() == ENOENT) return out.sources.missing(path, leases_kind);
        return out.sources.broken(path, leases_kind, metadata.error());
    }
    if (metadata->damage) out.sources.broken(path, leases_kind, *metadata->damage);
    const auto space = metadata->namespaces.find(std::string(our_namespace));
    uint64_t leases = 0;
    if (space != metadata->namespaces.end()) {
        leases = space->second.leases.size();
        for (const auto &[id, lease] : space->second.leases) {
            const auto held = lease.snapshots.find(std::string(snapshotter));
            if (held == lease.snapshots.end()) continue;
            for (const auto &key : held->second)
                out.leases[key].push_back(id);
        }
    }
    if (!metadata->damage) out.sources.read(path, leases_kind, leases);
}

/// Id of the docker layer that a snapshot is; "": none.
std::string layer_of(const Draft &draft, const Snapshot &snapshot) {
    if (snapshot.chain.empty()) return snapshot.tree;
    const auto found = draft.layer_of_chain.find(snapshot.chain);
    return found == draft.layer_of_chain.end() ? std::string() : found->second;
}

void add_tree(Draft &draft, const Embedded &cache, const std::string &key, const Snapshot &snapshot) {
    if (snapshot.tree.empty()) return;
    // A driver that was left behind has none of the newer ones.
    if (!draft.in_use && !docker::has_tree(*draft.host, draft.root, draft.driver, snapshot.tree)) return;
    auto &layer = draft.layer(snapshot.tree);
    if (layer.recorded && (key == snapshot.tree || layer.name.starts_with("sha256:"))) return;
    layer.recorded = true;
    layer.name = key;
    layer.kind = snapshot.committed ? "committed" : "active";
    if (!layer.recorded_bytes) layer.recorded_bytes = snapshot.bytes;
    // The parent stands with the tree's own name, where Prepare put it; a committed one has none.
    const auto prepared = cache.snapshots.find(snapshot.tree);
    const std::string &parent = prepared == cache.snapshots.end() ? snapshot.parent : prepared->second.parent;
    if (parent.empty() || !layer.parent.empty() || draft.chain_below.contains(layer.id)) return;
    const auto below = cache.resolve(parent);
    if (!below)
        layer.damage.push_back(fmt::format("the layer below, {}, has no record", parent.substr(0, 100)));
    else if (!below->chain.empty())
        draft.chain_below.emplace(layer.id, below->chain);
    else
        layer.parent = below->tree;
}

/// identity/randomid.go.
bool is_random_id(std::string_view name) {
    constexpr size_t length = 25;
    return name.size() == length &&
           std::ranges::all_of(name, [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z'); });
}

} // namespace

std::optional<Snapshot> Embedded::resolve(const std::string &key) const {
    if (const auto found = snapshots.find(key); found != snapshots.end()) return found->second;
    const auto chain = Digest::parse(key); // needs no record (snapshot.go, getLayer)
    if (!chain) return std::nullopt;
    Snapshot out;
    out.chain = *chain;
    out.committed = true;
    return out;
}

std::optional<Snapshot> Embedded::tree_of(const CacheRecord &record) const {
    auto own = resolve(record.snapshot);
    return own || record.equal_mutable.empty() ? own : resolve(record.equal_mutable);
}

Result<std::vector<CacheRecord>> read_cache_records(const probe::Host &host, const std::string &dir,
                                                    docker::Sources &sources) {
    std::string path = dir + "/metadata_v2.db";
    auto file = probe::BoltFile::open(host, path);
    if (!file && file.error().sys_errno() == ENOENT) {
        path = dir + "/metadata.db";
        file = probe::BoltFile::open(host, path);
    }
    if (!file) {
        if (file.error().sys_errno() == ENOENT)
            sources.missing(dir + "/metadata_v2.db", records_kind);
        else
            sources.broken(path, records_kind, file.error());
        return std::unexpected(file.error());
    }
    std::vector<CacheRecord> out;
    const auto read = [&]() -> Status {
        const auto main = TRY(file->root().bucket("_main"));
        if (!main) return {};
        return main->for_each_bucket([&](std::string_view id, const probe::BoltBucket &bucket) -> Status {
            if (out.size() >= docker::max_entries)
                return fail(Errc::ResourceExhausted, fmt::format("more than {} records", docker::max_entries));
            auto record = read_record(id, bucket);
            if (record)
                out.push_back(std::move(*record));
            else
                sources.broken(path, "build cache record", record.error());
            return {};
        });
    };
    if (const auto done = read(); !done)
        sources.broken(path, records_kind, done.error());
    else
        sources.read(path, records_kind, out.size());
    return out;
}

std::optional<Embedded> read_embedded(const probe::Host &host, const std::string &docker_root) {
    const std::string dir = docker_root + "/buildkit";
    const auto entries = host.list_if_there(dir, docker::max_entries);
    if (entries && entries->empty()) return std::nullopt;
    Embedded out;
    if (!entries) {
        out.sources.broken(dir, records_kind, entries.error());
        return out;
    }
    // Snapshots before records: a record that came in between has a snapshot that is not known here, and the databases
    // are looked at again when they changed; the other way round a snapshot in use would seem to be in no use.
    const auto known = read_snapshots(host, out, dir + "/snapshots.db");
    if (!known)
        out.sources.broken(dir + "/snapshots.db", snapshots_kind, known.error());
    else if (!*known)
        out.containerd = true;
    else {
        out.known = true;
        out.sources.read(dir + "/snapshots.db", snapshots_kind, out.snapshots.size());
    }
    if (auto records = read_cache_records(host, dir, out.sources)) out.records = std::move(*records);
    if (!out.containerd) read_leases(host, out, dir + "/containerdmeta.db");
    return out;
}

void add_to_docker(Draft &draft, const Embedded &cache) {
    for (const auto &[key, snapshot] : cache.snapshots)
        add_tree(draft, cache, key, snapshot);
    std::set<std::string> records;
    const auto use = [&](const Snapshot &snapshot, const std::string &user) {
        const std::string layer = layer_of(draft, snapshot);
        if (!layer.empty() && draft.find(layer) != nullptr) draft.use(layer, user);
    };
    for (const auto &record : cache.records) {
        records.insert(record.id);
        const auto snapshot = cache.tree_of(record);
        if (!snapshot) continue;
        use(*snapshot, "build cache " + record.id);
        if (auto *layer = draft.find(layer_of(draft, *snapshot)); layer != nullptr && layer->created_s == 0)
            layer->created_s = record.created_s;
    }
    for (const auto &[key, leases] : cache.leases)
        for (const auto &lease : leases)
            if (const auto snapshot = cache.resolve(key); snapshot && !records.contains(lease))
                use(*snapshot, "lease " + lease);
}

probe::Store store_of(const Embedded &cache, Draft &docker_draft, std::optional<uint64_t> steps_since_s) {
    const std::string dir = docker_draft.root + "/buildkit";
    Draft draft(*docker_draft.host, dir, docker_draft.driver);
    draft.store.engine = "buildkit";
    draft.sources = cache.sources;
    uint64_t without_tree = 0;
    for (const auto &record : cache.records) {
        const auto snapshot = cache.tree_of(record);
        if (!cache.known || (!snapshot && (record.blob_only || record.composed || record.deleted))) {
            ++without_tree;
            continue;
        }
        auto &layer = draft.layer(record.id);
        layer.recorded = true;
        layer.name = record.snapshot;
        layer.kind = record.deleted ? "removing" : record.committed || record.composed ? "cache" : "active";
        layer.parent = record.parent;
        layer.recorded_bytes = record.bytes;
        layer.created_s = record.created_s;
        const std::string tree = snapshot ? layer_of(docker_draft, *snapshot) : std::string();
        const auto *below = tree.empty() ? nullptr : docker_draft.find(tree);
        layer.on_disk = below != nullptr && below->on_disk;
        if (!snapshot)
            layer.damage.push_back(fmt::format("its snapshot, {}, is unknown", record.snapshot.substr(0, 100)));
        else if (tree.empty())
            layer.damage.push_back(fmt::format("its layer, {}, has no record", snapshot->chain.text()));
    }
    for (auto &step : read_steps(*docker_draft.host, dir + "/executor", steps_since_s, docker_draft.problems))
        draft.layer(step.id) = std::move(step);
    draft.settle();
    draft.store.settings["records without a tree"] = fmt::to_string(without_tree);
    if (cache.containerd) draft.store.settings["snapshots"] = "in containerd";
    draft.store.other_bytes["content"] = bytes_in(*draft.host, dir + "/content", 3);
    draft.store.other_bytes["databases"] = bytes_in(*draft.host, dir, 0);
    return std::move(draft).finish();
}

std::optional<uint64_t> steps_since_s(const probe::Host &host, const std::vector<probe::Process> &processes,
                                      const Builder &builder, uint64_t now_s) {
    constexpr uint64_t clock_s = 5, quiet_s = 600;
    const auto before = [](uint64_t time_s, uint64_t seconds) { return time_s - std::min(time_s, seconds); };
    if (builder.running) return builder.started_s ? std::optional(before(*builder.started_s, clock_s)) : std::nullopt;
    const bool somewhere =
        processes.empty() ? host.live()
                          : std::ranges::find(processes, builder.program, &probe::Process::command) != processes.end();
    return somewhere ? std::nullopt : std::optional(before(now_s, quiet_s));
}

std::vector<probe::StoreLayer> read_steps(const probe::Host &host, const std::string &executor,
                                          std::optional<uint64_t> since_s, std::vector<probe::Problem> &problems) {
    std::vector<probe::StoreLayer> out;
    const auto entries = host.list_if_there(executor, docker::max_entries);
    if (!entries) {
        problems.push_back({.about = executor, .why = entries.error().text()});
        return out;
    }
    for (const auto &entry : *entries) {
        if (!docker::is_directory(entry) || !is_random_id(entry.name)) continue;
        auto &layer = out.emplace_back();
        layer.id = "executor/" + entry.name;
        layer.path = fmt::format("{}/{}", executor, entry.name);
        layer.on_disk = true;
        const uint64_t changed_s = docker::changed_s(host, layer.path);
        const bool left = since_s && changed_s != 0 && changed_s < *since_s;
        layer.kind = left ? "step" : "ingest";
        if (left) layer.created_s = changed_s; // one that runs may do so for days, and is no leftover for that
    }
    return out;
}

} // namespace shale::doctor::buildkit
