// SPDX-License-Identifier: Apache-2.0
#include "doctor/hosts/containerd_devices.h"

#include <algorithm>
#include <charconv>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "doctor/hosts/containerd_records.h"
#include "oci/json.h"
#include "probe/bolt.h"

namespace shale::doctor::containerd {
namespace {

/// Reads ROOT/metadata.db into layers that are not on disk yet.
std::optional<Records> read_layers(const probe::Host &host, const Snapshotter &which, SnapshotterContents &out) {
    const std::string path = which.root + "/metadata.db";
    auto records = read_records(host, path);
    if (!records) {
        out.sources.push_back(source_of(path, "snapshot metadata", records.error()));
        return std::nullopt;
    }
    out.sources.push_back(source_of(path, "snapshot metadata", records->by_key.size()));
    out.layers = layers_of(*records);
    return std::move(*records);
}

/// The dataset that is mounted at `path` for this process; empty: none.
std::string dataset_at(const probe::Facts &facts, const std::string &path) {
    std::string out;
    for (const probe::MountNamespace &space : facts.mount_namespaces)
        for (const probe::Mount &mount : space.mounts)
            if (space.ours && mount.target == path && mount.type == "zfs") out = mount.source; // the last is on top
    if (!out.empty()) return out;
    const auto set = std::ranges::find(facts.zfs_datasets, path, &probe::ZfsDataset::mountpoint);
    return set == facts.zfs_datasets.end() ? "" : set->name;
}

/// device_info.go, DeviceState, by number.
enum class DeviceState : uint64_t { created = 2, removing = 10, removed = 11, faulty = 12 };

struct Device {
    uint64_t state = 0;
    std::string error;
};
using Devices = std::map<std::string, Device>; ///< by name

Result<Devices> read_devices(const probe::Host &host, const std::string &path) {
    Devices out;
    const auto file = TRY(probe::BoltFile::open(host, path));
    const auto devices = TRY(file.root().bucket("devices"));
    if (!devices) return out;
    TRY(devices->for_each([&](std::string_view name, std::optional<std::string_view> value) -> Status {
        if (!value) return {};
        const auto document = TRY(oci::parse_object(*value, fmt::format("device {:?}", name)));
        Device device;
        device.error = TRY(oci::string_member(document, "error", name));
        if (const oci::Json *state = oci::find_member(document, "state"); state != nullptr)
            if (const auto *number = state->get_ptr<const oci::Json::number_unsigned_t *>()) device.state = *number;
        out.emplace(name, std::move(device));
        return {};
    }));
    return out;
}

/// pool_name of the configuration, else the databases that are there.
std::vector<std::string> pools_of(const probe::Host &host, const Snapshotter &which) {
    if (const auto option = which.options.find("pool_name"); option != which.options.end()) return {option->second};
    std::vector<std::string> out;
    constexpr std::string_view suffix = ".db";
    const auto entries = host.list(which.root, 10'000);
    if (!entries) return out;
    for (const auto &entry : *entries)
        if (entry.name.ends_with(suffix) && entry.name != "metadata.db" && out.size() < 16)
            out.push_back(entry.name.substr(0, entry.name.size() - suffix.size()));
    return out;
}

void judge_device(const Device &device, const std::string &name, probe::StoreLayer &layer) {
    const auto state = static_cast<DeviceState>(device.state);
    if (state == DeviceState::faulty)
        layer.damage.push_back(
            fmt::format("thin device {} is faulty{}{}", name, device.error.empty() ? "" : ": ", device.error));
    if (state == DeviceState::removed || state == DeviceState::removing) layer.kind = "removing";
}

struct ThinDevices {
    std::vector<std::string> pools;
    Devices devices;
    std::vector<probe::RecordSource> sources;
    bool known = false; ///< all of them
};

ThinDevices read_pools(const probe::Host &host, const Snapshotter &which) {
    ThinDevices out;
    out.pools = pools_of(host, which);
    out.known = !out.pools.empty();
    for (const std::string &pool : out.pools) {
        const std::string path = fmt::format("{}/{}.db", which.root, pool);
        auto found = read_devices(host, path);
        out.known = out.known && found;
        out.sources.push_back(found ? source_of(path, "thin devices", found->size())
                                    : source_of(path, "thin devices", found.error()));
        if (found) out.devices.merge(std::move(*found));
    }
    return out;
}

/// The devices of recorded snapshots. Returns their names.
std::set<std::string> find_devices(const ThinDevices &thin, const Moment &moment, SnapshotterContents &out) {
    std::map<std::string, uint64_t> whole; // what is recorded of a layer is with all below it (snapshotter.go, Usage)
    for (const probe::StoreLayer &layer : out.layers)
        whole[layer.id] = layer.recorded_bytes.value_or(0);
    std::set<std::string> recorded;
    for (probe::StoreLayer &layer : out.layers) {
        if (layer.recorded_bytes && !layer.parent.empty())
            *layer.recorded_bytes -= std::min(*layer.recorded_bytes, whole[layer.parent]);
        for (const std::string &pool : thin.pools) {
            const std::string name = fmt::format("{}-snap-{}", pool, layer.id);
            const auto found = thin.devices.find(name);
            if (found == thin.devices.end()) continue;
            recorded.insert(name);
            layer.on_disk = true;
            judge_device(found->second, name, layer);
        }
        // A young one may have been made after the devices were read.
        if (!thin.known || moment.young(layer.created_s)) layer.on_disk = true;
        if (!layer.on_disk)
            layer.damage.push_back(fmt::format("thin device {}-snap-{} has no record", thin.pools.front(), layer.id));
    }
    return recorded;
}

SnapshotterContents read_thin_once(const probe::Host &host, const Snapshotter &which, const Moment &moment) {
    SnapshotterContents out;
    // The devices first: one is there before its snapshot's record is committed (snapshotter.go, createSnapshot).
    ThinDevices thin = read_pools(host, which);
    const auto records = read_layers(host, which, out);
    if (thin.pools.empty() && !out.layers.empty())
        out.sources.push_back({which.root, "thin devices", "unreadable", "there is no POOL.db", 0});
    std::ranges::move(thin.sources, std::back_inserter(out.sources));
    if (!thin.pools.empty()) out.settings["thin pool"] = thin.pools.front();
    const auto recorded = find_devices(thin, moment, out);

    const uint64_t sequence = records ? records->sequence : 0;
    for (const auto &[name, device] : thin.devices) {
        if (recorded.contains(name)) continue;
        const std::string id = name.substr(name.rfind('-') + 1); // all of it where there is none
        probe::StoreLayer layer;
        layer.id = id;
        layer.name = name;
        layer.on_disk = true;
        judge_device(device, name, layer);
        const auto number = number_of(id);
        if (layer.kind.empty() && (!number || *number > sequence)) layer.kind = "ingest";
        out.layers.push_back(std::move(layer));
    }
    return out;
}

} // namespace

SnapshotterContents read_zfs_snapshotter(const probe::Host &host, const Snapshotter &which, const Moment &moment,
                                         const probe::Facts &facts) {
    SnapshotterContents out;
    const auto records = read_layers(host, which, out);
    const std::string dataset = dataset_at(facts, which.root);
    if (dataset.empty()) {
        // Nothing is known of what there is: no layer counts as missing, and nothing may be concluded.
        for (probe::StoreLayer &layer : out.layers)
            layer.on_disk = true;
        if (!out.layers.empty())
            out.sources.push_back(
                {which.root, "zfs datasets", "unreadable", "no dataset is known to be mounted here", 0});
        return out;
    }
    out.settings["zfs dataset"] = dataset;
    std::set<std::string> there; // below `dataset`: "12", "12@snapshot"
    for (const probe::ZfsDataset &one : facts.zfs_datasets)
        if (one.name.starts_with(dataset + "/")) there.insert(one.name.substr(dataset.size() + 1));
    out.sources.push_back(source_of(dataset, "zfs datasets", there.size()));

    std::set<std::string> recorded;
    for (probe::StoreLayer &layer : out.layers) {
        recorded.insert(layer.id);
        layer.on_disk = there.contains(layer.id) || moment.young(layer.created_s);
        if (!layer.on_disk) layer.damage.push_back(fmt::format("dataset {}/{} is missing", dataset, layer.id));
        if (layer.on_disk && layer.kind == "committed" && !there.contains(layer.id + "@snapshot") &&
            !moment.young(layer.created_s))
            layer.damage.push_back(fmt::format("{}/{}@snapshot is missing", dataset, layer.id));
    }
    const uint64_t sequence = records ? records->sequence : 0;
    for (const std::string &name : there) {
        const auto number = number_of(name);
        if (!number || recorded.contains(name)) continue; // somebody else's, or a snapshot
        probe::StoreLayer layer;
        layer.id = name;
        layer.kind = *number > sequence ? "ingest" : "";
        layer.on_disk = true;
        out.layers.push_back(std::move(layer));
    }
    return out;
}

SnapshotterContents read_thin_snapshotter(const probe::Host &host, const Snapshotter &which, const Moment &moment) {
    SnapshotterContents out = read_thin_once(host, which, moment);
    // The record of a device goes shortly before its snapshot's: what is missing is believed when it is so twice.
    const bool missing = std::ranges::any_of(out.layers, [](const auto &layer) { return !layer.on_disk; });
    return missing ? read_thin_once(host, which, moment) : out;
}

std::optional<uint64_t> number_of(std::string_view name) {
    uint64_t out = 0;
    const auto [end, bad] = std::from_chars(name.data(), name.data() + name.size(), out);
    const bool plain = bad == std::errc() && end == name.data() + name.size();
    return plain ? std::optional(out) : std::nullopt;
}

} // namespace shale::doctor::containerd
