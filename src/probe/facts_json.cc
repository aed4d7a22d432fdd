// SPDX-License-Identifier: Apache-2.0
#include "probe/facts_json.h"

#include <fmt/format.h>

#include <concepts>
#include <limits>
#include <nlohmann/json.hpp>
#include <type_traits>
#include <utility>

namespace shale::probe {

namespace {

using Json = nlohmann::ordered_json;

constexpr int max_depth = 32;

template <class T, class Struct>
concept Of = std::same_as<std::remove_const_t<T>, Struct>;

// ------------------------------------------------------------------------------------------------- the members, by
// name

template <Of<Problem> T> void visit(T &it, auto &&each) {
    each("about", it.about);
    each("why", it.why);
}
template <Of<Kernel> T> void visit(T &it, auto &&each) {
    each("release", it.release);
    each("version", it.version);
    each("architecture", it.architecture);
    each("hostname", it.hostname);
    each("uptime_s", it.uptime_s);
    each("memory_bytes", it.memory_bytes);
    each("processors", it.processors);
    each("file_systems", it.file_systems);
    each("parameters", it.parameters);
    each("sysctls", it.sysctls);
    each("command_line", it.command_line);
}
template <Of<Mount> T> void visit(T &it, auto &&each) {
    each("id", it.id);
    each("parent", it.parent);
    each("device", it.device);
    each("root", it.root);
    each("target", it.target);
    each("type", it.type);
    each("source", it.source);
    each("options", it.options);
    each("super_options", it.super_options);
    each("propagation", it.propagation);
}
template <Of<MountNamespace> T> void visit(T &it, auto &&each) {
    each("id", it.id);
    each("ours", it.ours);
    each("pid", it.pid);
    each("command", it.command);
    each("processes", it.processes);
    each("mounts", it.mounts);
}
template <Of<BtrfsSpace::Group> T> void visit(T &it, auto &&each) {
    each("kind", it.kind);
    each("profile", it.profile);
    each("total_bytes", it.total_bytes);
    each("used_bytes", it.used_bytes);
}
template <Of<BtrfsSpace::Qgroup> T> void visit(T &it, auto &&each) {
    each("level", it.level);
    each("id", it.id);
    each("referenced_bytes", it.referenced_bytes);
    each("exclusive_bytes", it.exclusive_bytes);
    each("limit_referenced_bytes", it.limit_referenced_bytes);
    each("limit_exclusive_bytes", it.limit_exclusive_bytes);
    each("has_subvolume", it.has_subvolume);
}
template <Of<BtrfsSpace> T> void visit(T &it, auto &&each) {
    each("device_bytes", it.device_bytes);
    each("unallocated_bytes", it.unallocated_bytes);
    each("groups", it.groups);
    each("global_reserve_bytes", it.global_reserve_bytes);
    each("quota", it.quota);
    each("quota_inconsistent", it.quota_inconsistent);
    each("qgroups", it.qgroups);
    each("subvolumes", it.subvolumes);
}
template <Of<FileSystem::ProjectQuota> T> void visit(T &it, auto &&each) {
    each("id", it.id);
    each("used_bytes", it.used_bytes);
    each("used_inodes", it.used_inodes);
    each("limit_bytes", it.limit_bytes);
    each("limit_inodes", it.limit_inodes);
}
template <Of<FileSystem> T> void visit(T &it, auto &&each) {
    each("target", it.target);
    each("type", it.type);
    each("source", it.source);
    each("device", it.device);
    each("options", it.options);
    each("total_bytes", it.total_bytes);
    each("free_bytes", it.free_bytes);
    each("available_bytes", it.available_bytes);
    each("total_inodes", it.total_inodes);
    each("free_inodes", it.free_inodes);
    each("read_only", it.read_only);
    each("d_type", it.d_type);
    each("project_quota", it.project_quota);
    each("project_ids", it.project_ids);
    each("projects", it.projects);
    each("btrfs", it.btrfs);
}
template <Of<BlockDevice> T> void visit(T &it, auto &&each) {
    each("name", it.name);
    each("number", it.number);
    each("bytes", it.bytes);
    each("rotational", it.rotational);
    each("read_only", it.read_only);
    each("discard", it.discard);
    each("kind", it.kind);
    each("file", it.file);
    each("file_deleted", it.file_deleted);
    each("dm_name", it.dm_name);
    each("dm_uuid", it.dm_uuid);
    each("level", it.level);
    each("below", it.below);
    each("mounted", it.mounted);
}
template <Of<ThinPool::Thin> T> void visit(T &it, auto &&each) {
    each("name", it.name);
    each("device_id", it.device_id);
    each("mapped_bytes", it.mapped_bytes);
    each("bytes", it.bytes);
    each("open", it.open);
}
template <Of<ThinPool> T> void visit(T &it, auto &&each) {
    each("name", it.name);
    each("metadata_device", it.metadata_device);
    each("data_device", it.data_device);
    each("mode", it.mode);
    each("transaction", it.transaction);
    each("used_metadata_blocks", it.used_metadata_blocks);
    each("total_metadata_blocks", it.total_metadata_blocks);
    each("used_data_blocks", it.used_data_blocks);
    each("total_data_blocks", it.total_data_blocks);
    each("data_block_bytes", it.data_block_bytes);
    each("needs_check", it.needs_check);
    each("error_if_no_space", it.error_if_no_space);
    each("discard_passdown", it.discard_passdown);
    each("held_metadata", it.held_metadata);
    each("on_loop", it.on_loop);
    each("lvm", it.lvm);
    each("autoextend_percent", it.autoextend_percent);
    each("monitored", it.monitored);
    each("devices", it.devices);
}
template <Of<ZfsPool> T> void visit(T &it, auto &&each) {
    each("name", it.name);
    each("health", it.health);
    each("size_bytes", it.size_bytes);
    each("allocated_bytes", it.allocated_bytes);
    each("free_bytes", it.free_bytes);
    each("fragmentation_percent", it.fragmentation_percent);
    each("capacity_percent", it.capacity_percent);
    each("autotrim", it.autotrim);
}
template <Of<ZfsDataset> T> void visit(T &it, auto &&each) {
    each("name", it.name);
    each("type", it.type);
    each("mountpoint", it.mountpoint);
    each("origin", it.origin);
    each("used_bytes", it.used_bytes);
    each("referenced_bytes", it.referenced_bytes);
    each("snapshots_bytes", it.snapshots_bytes);
    each("quota_bytes", it.quota_bytes);
    each("refquota_bytes", it.refquota_bytes);
    each("record_bytes", it.record_bytes);
    each("created_s", it.created_s);
    each("holds", it.holds);
    each("mounted", it.mounted);
    each("volume_of", it.volume_of);
}
template <Of<Pressure> T> void visit(T &it, auto &&each) {
    each("some_10s", it.some_10s);
    each("some_60s", it.some_60s);
    each("some_300s", it.some_300s);
    each("full_10s", it.full_10s);
    each("full_60s", it.full_60s);
    each("full_300s", it.full_300s);
}
template <Of<Cgroups> T> void visit(T &it, auto &&each) {
    each("version", it.version);
    each("hybrid", it.hybrid);
    each("controllers", it.controllers);
}
template <Of<DeletedFile> T> void visit(T &it, auto &&each) {
    each("pid", it.pid);
    each("command", it.command);
    each("path", it.path);
    each("device", it.device);
    each("inode", it.inode);
    each("bytes", it.bytes);
}
template <Of<InotifyWatch> T> void visit(T &it, auto &&each) {
    each("pid", it.pid);
    each("command", it.command);
    each("device", it.device);
    each("inode", it.inode);
    each("watches", it.watches);
    each("path", it.path);
    each("path_inode", it.path_inode);
}
template <Of<Process> T> void visit(T &it, auto &&each) {
    each("pid", it.pid);
    each("command", it.command);
    each("cgroup", it.cgroup);
    each("mount_namespace", it.mount_namespace);
    each("arguments", it.arguments);
    each("uid", it.uid);
    each("inotify_instances", it.inotify_instances);
}
template <Of<Usage> T> void visit(T &it, auto &&each) {
    each("bytes", it.bytes);
    each("inodes", it.inodes);
    each("exclusive_bytes", it.exclusive_bytes);
    each("exclusive_inodes", it.exclusive_inodes);
    each("complete", it.complete);
}
template <Of<RecordSource> T> void visit(T &it, auto &&each) {
    each("path", it.path);
    each("what", it.what);
    each("state", it.state);
    each("why", it.why);
    each("entries", it.entries);
}
template <Of<StoreLayer> T> void visit(T &it, auto &&each) {
    each("id", it.id);
    each("path", it.path);
    each("name", it.name);
    each("kind", it.kind);
    each("parent", it.parent);
    each("recorded", it.recorded);
    each("on_disk", it.on_disk);
    each("used_by", it.used_by);
    each("depth", it.depth);
    each("recorded_bytes", it.recorded_bytes);
    each("recorded_inodes", it.recorded_inodes);
    each("usage", it.usage);
    each("project_id", it.project_id);
    each("created_s", it.created_s);
    each("damage", it.damage);
}
template <Of<StoreImage> T> void visit(T &it, auto &&each) {
    each("id", it.id);
    each("names", it.names);
    each("layers", it.layers);
    each("missing_layers", it.missing_layers);
    each("created_s", it.created_s);
    each("damage", it.damage);
}
template <Of<StoreContainer> T> void visit(T &it, auto &&each) {
    each("id", it.id);
    each("name", it.name);
    each("image", it.image);
    each("state", it.state);
    each("layer", it.layer);
    each("driver", it.driver);
    each("pid", it.pid);
    each("log_bytes", it.log_bytes);
    each("log_path", it.log_path);
    each("binds", it.binds);
    each("created_s", it.created_s);
}
template <Of<StoreVolume> T> void visit(T &it, auto &&each) {
    each("name", it.name);
    each("driver", it.driver);
    each("path", it.path);
    each("recorded", it.recorded);
    each("on_disk", it.on_disk);
    each("used_by", it.used_by);
    each("usage", it.usage);
}
template <Of<Store> T> void visit(T &it, auto &&each) {
    each("engine", it.engine);
    each("root", it.root);
    each("driver", it.driver);
    each("version", it.version);
    each("running", it.running);
    each("pid", it.pid);
    each("sources", it.sources);
    each("layers", it.layers);
    each("images", it.images);
    each("containers", it.containers);
    each("volumes", it.volumes);
    each("other_bytes", it.other_bytes);
    each("settings", it.settings);
    each("file_system", it.file_system);
    each("known_file_system", it.known_file_system);
}
template <Of<ConfigFile> T> void visit(T &it, auto &&each) {
    each("path", it.path);
    each("kind", it.kind);
    each("text", it.text);
}
template <Of<Facts> T> void visit(T &it, auto &&each) {
    each("version", it.version);
    each("shale", it.shale);
    each("taken_s", it.taken_s);
    each("host_root", it.host_root);
    each("live", it.live);
    each("privileged", it.privileged);
    each("kernel", it.kernel);
    each("mount_namespaces", it.mount_namespaces);
    each("file_systems", it.file_systems);
    each("devices", it.devices);
    each("thin_pools", it.thin_pools);
    each("zfs_pools", it.zfs_pools);
    each("zfs_datasets", it.zfs_datasets);
    each("cgroups", it.cgroups);
    each("vmstat", it.vmstat);
    each("memory", it.memory);
    each("pressure", it.pressure);
    each("processes", it.processes);
    each("deleted_files", it.deleted_files);
    each("inotify_watches", it.inotify_watches);
    each("config_files", it.config_files);
    each("stores", it.stores);
    each("problems", it.problems);
}

template <class T> struct IsOptional : std::false_type {};
template <class T> struct IsOptional<std::optional<T>> : std::true_type {};
template <class T> struct IsVector : std::false_type {};
template <class T> struct IsVector<std::vector<T>> : std::true_type {};
template <class T> struct IsMap : std::false_type {};
template <class T> struct IsMap<std::map<std::string, T>> : std::true_type {};

// ---------------------------------------------------------------------------------------------------------------- out

/// Only what is empty when it is missing is left out.
template <class T> bool is_left_out(const T &value) {
    if constexpr (IsOptional<T>::value)
        return !value;
    else if constexpr (IsVector<T>::value || IsMap<T>::value || std::same_as<T, std::string>)
        return value.empty();
    else
        return false;
}

template <class T> Json write(const T &value) {
    if constexpr (IsOptional<T>::value) {
        return write(*value);
    } else if constexpr (IsVector<T>::value) {
        Json out = Json::array();
        for (const auto &item : value)
            out.push_back(write(item));
        return out;
    } else if constexpr (IsMap<T>::value) {
        Json out = Json::object();
        for (const auto &[key, item] : value)
            out[key] = write(item);
        return out;
    } else if constexpr (std::is_class_v<T> && !std::same_as<T, std::string>) {
        Json out = Json::object();
        visit(value, [&out](const char *name, const auto &member) {
            if (!is_left_out(member)) out[name] = write(member);
        });
        return out;
    } else {
        return Json(value);
    }
}

// ----------------------------------------------------------------------------------------------------------------- in

/// Where the reader is: "stores[3].layers[0].depth". Text is made for errors only.
struct Place {
    const Place *above = nullptr;
    std::string_view name; ///< empty: an index
    size_t index = 0;

    [[nodiscard]] std::string text() const {
        std::string out = above != nullptr ? above->text() : std::string();
        if (name.empty()) return above != nullptr ? fmt::format("{}[{}]", out, index) : out;
        return out.empty() ? std::string(name) : fmt::format("{}.{}", out, name);
    }
};

std::unexpected<Error> wrong(const Place &place, std::string_view expected, const Json &found) {
    return fail(Errc::InvalidArgument,
                fmt::format("facts: {} must be {}, and is {}", place.text(), expected, found.type_name()));
}

Status read(const Json &json, bool &out, const Place &place) {
    if (!json.is_boolean()) return wrong(place, "true or false", json);
    out = json.get<bool>();
    return {};
}
Status read(const Json &json, std::string &out, const Place &place) {
    if (!json.is_string()) return wrong(place, "a string", json);
    out = json.get_ref<const std::string &>();
    return {};
}
Status read(const Json &json, double &out, const Place &place) {
    if (!json.is_number()) return wrong(place, "a number", json);
    out = json.get<double>();
    return {};
}
Status read(const Json &json, uint64_t &out, const Place &place) {
    if (!json.is_number_unsigned()) return wrong(place, "a whole number, 0 or more", json);
    out = json.get<uint64_t>();
    return {};
}
Status read(const Json &json, int &out, const Place &place) {
    if (!json.is_number_integer()) return wrong(place, "a whole number", json);
    const bool fits =
        json.is_number_unsigned() ? std::in_range<int>(json.get<uint64_t>()) : std::in_range<int>(json.get<int64_t>());
    if (!fits) return wrong(place, "a number of 32 bits", json);
    out = json.get<int>();
    return {};
}
template <class T> Status read(const Json &json, std::vector<T> &out, const Place &place);
template <class T> Status read(const Json &json, std::map<std::string, T> &out, const Place &place);
template <class T>
    requires std::is_class_v<T>
Status read(const Json &json, T &out, const Place &place);

template <class T> Status read(const Json &json, std::optional<T> &out, const Place &place) {
    if (json.is_null()) return {};
    return read(json, out.emplace(), place);
}
template <class T> Status read(const Json &json, std::vector<T> &out, const Place &place) {
    if (!json.is_array()) return wrong(place, "a list", json);
    for (const Json &item : json) { // nothing is reserved: an item of 2 bytes may be one of hundreds here
        T &member = out.emplace_back();
        TRY(read(item, member, Place{&place, {}, out.size() - 1}));
    }
    return {};
}
template <class T> Status read(const Json &json, std::map<std::string, T> &out, const Place &place) {
    if (!json.is_object()) return wrong(place, "an object", json);
    for (const auto &[key, item] : json.items())
        TRY(read(item, out[key], Place{&place, key}));
    return {};
}
template <class T>
    requires std::is_class_v<T>
Status read(const Json &json, T &out, const Place &place) {
    if (!json.is_object()) return wrong(place, "an object", json);
    Status status;
    visit(out, [&](const char *name, auto &member) {
        if (!status) return;
        if (const auto found = json.find(name); found != json.end()) status = read(*found, member, Place{&place, name});
    });
    return status;
}

/// Nothing of a document is believed before its version is known.
Status check_version(const Json &json) {
    if (!json.is_object() || !json.contains("version"))
        return fail(Errc::InvalidArgument, "this is JSON, but not the facts of a host: it has no \"version\"");
    int version = 0;
    TRY(read(json["version"], version, Place{nullptr, "version"}));
    if (version == facts_version) return {};
    const std::string by = json.contains("shale") && json["shale"].is_string()
                               ? fmt::format(", written by shale {}", json["shale"].get_ref<const std::string &>())
                               : std::string();
    return fail(
        Errc::Unimplemented,
        fmt::format("the facts have version {}{}; this shale ({}) reads version {}: use that shale, or take them "
                    "again with this one",
                    version, by, SHALE_VERSION, facts_version));
}

Result<Json> parse(std::string_view text) {
    bool too_deep = false;
    try {
        Json json = Json::parse(text, [&](int depth, Json::parse_event_t, Json &) {
            too_deep = too_deep || depth > max_depth;
            return !too_deep; // what is deeper is dropped
        });
        if (too_deep)
            return fail(Errc::InvalidArgument, fmt::format("facts: more than {} levels of nesting", max_depth));
        return json;
    } catch (const Json::parse_error &error) {
        return fail(Errc::InvalidArgument,
                    fmt::format("facts: no JSON document: byte {} of {} is wrong, or the file was cut "
                                "off there",
                                error.byte, text.size()));
    } catch (const Json::exception &error) {
        return fail(Errc::InvalidArgument, fmt::format("facts: {}", error.what()));
    }
}

} // namespace

std::string to_json(const Facts &facts) {
    return write(facts).dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

Result<Facts> facts_from_json(std::string_view text) {
    if (text.size() > max_facts_bytes)
        return fail(Errc::ResourceExhausted,
                    fmt::format("facts: {} bytes; at most {} are read", text.size(), max_facts_bytes));
    const Json json = TRY(parse(text));
    TRY(check_version(json));
    Facts facts;
    TRY(read(json, facts, Place{}));
    return facts;
}

} // namespace shale::probe
