// SPDX-License-Identifier: Apache-2.0
#include "doctor/hosts/libpod.h"

#include <dirent.h>
#include <fmt/format.h>

#include <array>
#include <cerrno>
#include <limits>
#include <string_view>
#include <utility>

#include "doctor/hosts/sqlite_copy.h"
#include "doctor/hosts/times.h"
#include "oci/json.h"
#include "probe/bolt.h"

namespace shale::doctor::podman {
namespace {

using oci::Json;

constexpr size_t max_binds = 1000;

/// libpod/define/containerstate.go, in its order; what `podman ps` says.
constexpr std::array<std::string_view, 9> states{"unknown", "created", "initialized", "running", "stopped",
                                                 "paused",  "exited",  "removing",    "stopping"};

std::string text_of(const Json &object, const char *key) {
    return oci::string_member(object, key, "").value_or(std::string());
}

uint64_t number_of(const Json &object, const char *key) {
    const Json *value = oci::find_member(object, key);
    const auto *number = value == nullptr ? nullptr : value->get_ptr<const Json::number_unsigned_t *>();
    return number == nullptr ? 0 : *number;
}

int pid_of(const Json &object, const char *key) {
    const uint64_t pid = number_of(object, key);
    return pid <= uint64_t{std::numeric_limits<int>::max()} ? static_cast<int>(pid) : 0;
}

/// The directories of the host among the mounts of an OCI runtime specification.
std::vector<std::string> binds_of(const Json &config) {
    std::vector<std::string> out;
    const Json *spec = oci::find_member(config, "spec");
    const Json *mounts = spec == nullptr ? nullptr : oci::find_member(*spec, "mounts");
    if (mounts == nullptr || !mounts->is_array()) return out;
    for (const Json &mount : *mounts) {
        if (text_of(mount, "type") != "bind" || out.size() >= max_binds) continue;
        out.push_back(fmt::format("{}:{}", text_of(mount, "source"), text_of(mount, "destination")));
    }
    return out;
}

std::vector<std::string> volumes_of(const Json &config) {
    std::vector<std::string> out;
    const Json *volumes = oci::find_member(config, "namedVolumes");
    if (volumes == nullptr || !volumes->is_array()) return out;
    for (const Json &volume : *volumes)
        if (std::string name = text_of(volume, "volumeName"); !name.empty() && out.size() < max_binds)
            out.push_back(std::move(name));
    return out;
}

Status add_container(std::string_view id, std::string_view config_text, std::string_view state_text, Libpod &out) {
    const std::string what = fmt::format("container {}", id.substr(0, 64));
    const Json config = TRY(oci::parse_object(config_text, what + ": configuration"));
    const Json state = TRY(oci::parse_object(state_text, what + ": state"));
    LibpodContainer container;
    container.name = text_of(config, "name");
    container.image = text_of(config, "rootfsImageID");
    container.log_path = text_of(config, "logPath");
    container.binds = binds_of(config);
    container.volumes = volumes_of(config);
    container.created_s = rfc3339_s(text_of(config, "createdTime"));
    const uint64_t number = number_of(state, "state");
    container.state = number < states.size() ? states.at(number) : states[0];
    container.pid = pid_of(state, "pid");
    out.containers.insert_or_assign(std::string(id), std::move(container));
    return {};
}

Status add_volume(std::string_view name, std::string_view config_text, Libpod &out) {
    const Json config =
        TRY(oci::parse_object(config_text, fmt::format("volume {}: configuration", name.substr(0, 64))));
    LibpodVolume volume;
    volume.driver = text_of(config, "volumeDriver");
    volume.path = text_of(config, "mountPoint");
    if (volume.driver.empty()) volume.driver = "local";
    out.volumes.insert_or_assign(std::string(name), std::move(volume));
    return {};
}

/// The values "config" and "state" of each bucket below `top`; a missing one is "".
using Documents = std::function<Status(std::string_view name, std::string_view config, std::string_view state)>;
Status for_each_document(const probe::BoltFile &file, const char *top, const Documents &visit) {
    const auto bucket = TRY(file.root().bucket(top));
    if (!bucket) return {};
    size_t count = 0;
    return bucket->for_each_bucket([&](std::string_view name, const probe::BoltBucket &one) -> Status {
        if (++count > max_entries)
            return fail(Errc::ResourceExhausted, fmt::format("more than {} entries", max_entries));
        const auto config = TRY(one.get("config"));
        const auto state = TRY(one.get("state"));
        return visit(name, config.value_or(""), state.value_or(""));
    });
}

Status read_bolt(const probe::Host &host, const std::string &path, Libpod &out) {
    const auto file = TRY(probe::BoltFile::open(host, path));
    TRY(for_each_document(file, "ctr", [&](std::string_view id, std::string_view config, std::string_view state) {
        return add_container(id, config, state, out);
    }));
    TRY(for_each_document(file, "vol", [&](std::string_view name, std::string_view config, std::string_view /*state*/) {
        return add_volume(name, config, out);
    }));
    const auto runtime = TRY(file.root().bucket("runtime-config"));
    if (!runtime) return {};
    if (const auto directory = TRY(runtime->get("volume-path"))) out.volume_directory = *directory;
    return {};
}

Status read_sqlite(const probe::Host &host, const std::string &path, Libpod &out) {
    const SqliteCopy db = TRY(SqliteCopy::read(host, path));
    if (!TRY(db.has_table("DBConfig"))) return {}; // just made
    TRY(db.for_each("SELECT c.ID, c.JSON, s.JSON FROM ContainerConfig c JOIN ContainerState s ON s.ID = c.ID",
                    [&](const SqliteRow &row) { return add_container(row.text(0), row.text(1), row.text(2), out); }));
    TRY(db.for_each("SELECT Name, JSON FROM VolumeConfig",
                    [&](const SqliteRow &row) { return add_volume(row.text(0), row.text(1), out); }));
    return db.for_each("SELECT VolumeDir FROM DBConfig", [&](const SqliteRow &row) {
        out.volume_directory = row.text(0);
        return Status();
    });
}

/// A database that is not there is not told: podman has one of them, CRI-O none.
void read_database(const probe::Host &host, const std::string &path,
                   Status (*read)(const probe::Host &, const std::string &, Libpod &), Libpod &out) {
    const auto status = host.stat(path);
    if (status && !*status) return;
    const size_t before = out.containers.size() + out.volumes.size();
    const Status done = status ? read(host, path, out) : Status(std::unexpected(status.error()));
    probe::RecordSource source{.path = path, .what = "podman's database", .state = "read", .why = {}, .entries = 0};
    source.entries = out.containers.size() + out.volumes.size() - before;
    if (!done) {
        source.state = done.error().code() == Errc::Aborted ? "changing" : "unreadable";
        source.why = done.error().text();
    }
    out.sources.push_back(std::move(source));
}

} // namespace

Libpod read_libpod(const probe::Host &host, const Places &places) {
    Libpod out;
    for (const char *name : {"/libpod/bolt_state.db", "/bolt_state.db"})
        read_database(host, places.root + name, read_bolt, out);
    for (const char *name : {"/libpod/db.sql", "/db.sql"})
        read_database(host, places.root + name, read_sqlite, out);
    if (!places.run_root.empty()) read_database(host, places.run_root + "/db.sql", read_sqlite, out);
    if (out.volume_directory.empty()) out.volume_directory = places.root + "/volumes";
    return out;
}

void read_crio_state(const probe::Host &host, const Places &places, probe::StoreContainer &container) {
    const auto text = host.read_if_there(
        fmt::format("{}/{}/userdata/state.json", places.records(places.root, "containers"), container.id));
    if (!text || !*text) return;
    const auto state = oci::parse_object(**text, "state.json");
    if (!state) return;
    container.state = text_of(*state, "status");
    if (container.state == "running") container.pid = pid_of(*state, "pid");
}

std::vector<probe::StoreVolume> join_volumes(const probe::Host &host, const Libpod &libpod,
                                             std::vector<probe::RecordSource> &sources) {
    std::map<std::string, probe::StoreVolume> out;
    for (const auto &[name, volume] : libpod.volumes) {
        probe::StoreVolume &one = out[name];
        one.driver = volume.driver;
        one.recorded = true;
        one.path = volume.path;
        if (one.path.empty() && volume.driver == "local" && is_plain_name(name))
            one.path = fmt::format("{}/{}/_data", libpod.volume_directory, name);
        one.on_disk = !one.path.empty() && host.is_dir(one.path);
    }
    const auto entries = host.list_if_there(libpod.volume_directory, max_entries);
    if (!entries)
        sources.push_back({.path = libpod.volume_directory,
                           .what = "volumes",
                           .state = "unreadable",
                           .why = entries.error().text(),
                           .entries = 0});
    else
        for (const sys::DirEntry &entry : *entries) {
            if (entry.type != DT_DIR || out.contains(entry.name)) continue;
            probe::StoreVolume &one = out[entry.name];
            one.driver = "local";
            one.path = fmt::format("{}/{}", libpod.volume_directory, entry.name);
            one.on_disk = true;
        }
    for (const auto &[id, container] : libpod.containers)
        for (const std::string &name : container.volumes)
            if (const auto found = out.find(name); found != out.end())
                found->second.used_by.push_back("container " + id);
    std::vector<probe::StoreVolume> list;
    for (auto &[name, volume] : out) {
        volume.name = name;
        list.push_back(std::move(volume));
    }
    return list;
}

} // namespace shale::doctor::podman
