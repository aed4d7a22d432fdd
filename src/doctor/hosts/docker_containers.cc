// SPDX-License-Identifier: Apache-2.0
#include "doctor/hosts/docker_containers.h"

#include <dirent.h>
#include <sys/stat.h>

#include <algorithm>
#include <limits>

#include <fmt/format.h>

#include "doctor/hosts/times.h"
#include "oci/json.h"
#include "probe/bolt.h"

namespace shale::doctor::docker {
namespace {

constexpr std::string_view record_kind = "container record";
constexpr std::string_view volumes_kind = "volume records";
constexpr size_t max_mounts = 4096; ///< of one container
constexpr size_t max_logs = 1000;   ///< rotated ones of one container

bool is_true(const oci::Json &object, const char *key) {
    const oci::Json *value = oci::find_member(object, key);
    return value != nullptr && value->is_boolean() && value->get<bool>();
}

/// moby, container/state.go, StateString: what `docker ps` says.
std::string state_of(const oci::Json &state) {
    if (is_true(state, "Running")) {
        if (is_true(state, "Paused")) return "paused";
        return is_true(state, "Restarting") ? "restarting" : "running";
    }
    if (is_true(state, "RemovalInProgress")) return "removing";
    if (is_true(state, "Dead")) return "dead";
    const auto started = oci::string_member(state, "StartedAt", "State");
    return started && rfc3339_s(*started) > 0 ? "exited" : "created";
}

int pid_of(const oci::Json &state) {
    const oci::Json *pid = oci::find_member(state, "Pid");
    if (pid == nullptr || !pid->is_number_unsigned()) return 0;
    const auto value = pid->get<uint64_t>();
    return value <= uint64_t{std::numeric_limits<int>::max()} ? static_cast<int>(value) : 0;
}

/// "MountPoints": destination -> {Source, Destination, Name, Driver, Type} (volume/mounts/mounts.go). One with a name
/// is a volume; records of before 17.06 have no Type.
Status add_mounts(Containers &out, probe::StoreContainer &container, const oci::Json &document,
                  const std::string &path) {
    const oci::Json *mounts = TRY(oci::object_member(document, "MountPoints", path));
    if (mounts == nullptr) return {};
    if (mounts->size() > max_mounts)
        return fail(Errc::ResourceExhausted,
                    fmt::format("{}: {} mounts, more than {}", path, mounts->size(), max_mounts));
    for (const auto &[destination, mount] : mounts->items()) {
        const auto type = TRY(oci::string_member(mount, "Type", path));
        const auto name = TRY(oci::string_member(mount, "Name", path));
        const auto source = TRY(oci::string_member(mount, "Source", path));
        if (!name.empty())
            out.volume_users[name].push_back("container " + container.id);
        else if (!source.empty() && (type == "bind" || type.empty()))
            container.binds.push_back(fmt::format("{}:{}", source, destination));
    }
    return {};
}

Status read_config(const probe::Host &host, Containers &out, probe::StoreContainer &container,
                   const std::string &path) {
    const auto text = TRY(host.read(path, oci::max_document_bytes));
    const auto document = TRY(oci::parse_object(text, path));
    container.name = TRY(oci::string_member(document, "Name", path));
    if (container.name.starts_with('/')) container.name.erase(0, 1);
    container.image = TRY(oci::string_member(document, "Image", path));
    container.driver = TRY(oci::string_member(document, "Driver", path));
    container.log_path = TRY(oci::string_member(document, "LogPath", path));
    container.created_s = rfc3339_s(TRY(oci::string_member(document, "Created", path)));
    if (const oci::Json *state = TRY(oci::object_member(document, "State", path)); state != nullptr) {
        container.state = state_of(*state);
        container.pid = pid_of(*state);
    }
    return add_mounts(out, container, document, path);
}

/// hostconfig.json: the log driver. dockerd does not load a container whose file is broken; it may be missing.
Status read_host_config(const probe::Host &host, Containers &out, const std::string &path) {
    const auto text = TRY(host.read_if_there(path, oci::max_document_bytes));
    if (!text) return {};
    const auto document = TRY(oci::parse_object(*text, path));
    const oci::Json *log = TRY(oci::object_member(document, "LogConfig", path));
    if (log == nullptr || TRY(oci::string_member(*log, "Type", path)) != "json-file") return {};
    const auto options = TRY(oci::map_member(*log, "Config", path));
    if (!options.contains("max-size")) ++out.without_log_limit;
    return {};
}

uint64_t file_bytes(const probe::Host &host, const std::string &path) {
    const auto status = host.stat(path);
    return status && *status && S_ISREG((*status)->st_mode) ? static_cast<uint64_t>((*status)->st_size) : 0;
}

/// What the drivers json-file and local wrote, with the rotated ones (daemon/logger/loggerutils/logfile.go).
uint64_t log_bytes(const probe::Host &host, const std::string &dir, const std::string &id,
                   const std::vector<sys::DirEntry> &entries, std::vector<probe::Problem> &problems) {
    uint64_t out = 0;
    const std::string log = id + "-json.log";
    for (const auto &entry : entries)
        if (entry.type == DT_REG && entry.name.starts_with(log))
            out += file_bytes(host, fmt::format("{}/{}", dir, entry.name));
    const auto local = host.list_if_there(dir + "/local-logs", max_logs);
    if (!local) {
        problems.push_back({.about = dir + "/local-logs", .why = local.error().text()});
        return out;
    }
    for (const auto &entry : *local)
        if (entry.type == DT_REG) out += file_bytes(host, fmt::format("{}/local-logs/{}", dir, entry.name));
    return out;
}

void read_container(const probe::Host &host, Containers &out, const std::string &dir, const std::string &id) {
    const auto entries = host.list(dir, max_entries);
    if (!entries) return out.sources.broken(dir, record_kind, entries.error());
    probe::StoreContainer container;
    container.id = id;
    container.log_bytes = log_bytes(host, dir, id, *entries, out.problems);
    out.log_bytes += container.log_bytes;
    const std::string config = dir + "/config.v2.json", host_config = dir + "/hostconfig.json";
    if (const auto done = read_config(host, out, container, config); !done) {
        // dockerd removes the directory last, and passes over one without the file.
        if (done.error().sys_errno() == ENOENT) return out.sources.missing(config, record_kind);
        return out.sources.broken(config, record_kind, done.error());
    }
    if (const auto done = read_host_config(host, out, host_config); !done)
        out.sources.broken(host_config, record_kind, done.error());
    out.all.push_back(std::move(container));
}

Result<std::map<std::string, std::string>> read_volume_drivers(const probe::Host &host, const std::string &path) {
    std::map<std::string, std::string> out;
    const auto file = TRY(probe::BoltFile::open(host, path));
    const auto volumes = TRY(file.root().bucket("volumes"));
    if (!volumes) return out;
    TRY(volumes->for_each([&](std::string_view name, std::optional<std::string_view> value) -> Status {
        if (!value || name.contains('\0')) return {};
        if (out.size() >= max_entries)
            return fail(Errc::ResourceExhausted, fmt::format("{}: more than {} volumes", path, max_entries));
        std::string driver;
        if (!value->empty()) { // dockerd takes an empty one for one without options
            const auto what = fmt::format("{}: volume {:?}", path, name.substr(0, 100));
            driver = TRY(oci::string_member(TRY(oci::parse_object(*value, what)), "Driver", what));
        }
        out.emplace(name, std::move(driver));
        return {};
    }));
    return out;
}

/// volumes/metadata.db. Nothing there: no volume was ever made.
std::map<std::string, std::string> volume_drivers(Draft &draft, const std::string &path) {
    auto drivers = read_volume_drivers(*draft.host, path);
    if (drivers) {
        draft.sources.read(path, volumes_kind, drivers->size());
        return std::move(*drivers);
    }
    if (drivers.error().sys_errno() == ENOENT)
        draft.sources.missing(path, volumes_kind);
    else
        draft.sources.broken(path, volumes_kind, drivers.error());
    return {};
}

} // namespace

Containers read_containers(const probe::Host &host, const std::string &root) {
    Containers out;
    const std::string dir = root + "/containers";
    const auto entries = host.list(dir, max_entries);
    if (!entries) {
        if (entries.error().sys_errno() == ENOENT)
            out.sources.missing(dir, "container records");
        else
            out.sources.broken(dir, "container records", entries.error());
        return out;
    }
    for (const auto &entry : *entries)
        if (is_directory(entry)) read_container(host, out, fmt::format("{}/{}", dir, entry.name), entry.name);
    out.sources.read(dir, "container records", out.all.size());
    return out;
}

void add_containers(Draft &draft, const Containers &containers, const std::vector<std::string> &known) {
    for (const auto &container : containers.all) {
        const bool of_no_draft = std::ranges::find(known, container.driver) == known.end();
        if (container.driver != draft.driver && !(draft.in_use && of_no_draft)) continue;
        auto &added = draft.store.containers.emplace_back(container);
        const auto mount = draft.mount_of.find(container.id);
        if (mount == draft.mount_of.end()) continue;
        added.layer = mount->second;
        draft.use(added.layer, "container " + container.id);
        const std::string init = draft.layer(added.layer).parent;
        if (const auto *layer = draft.find(init); layer != nullptr && layer->kind == "init")
            draft.use(init, "container " + container.id);
    }
}

void read_volumes(Draft &draft, const Containers &containers) {
    const std::string dir = draft.root + "/volumes";
    auto drivers = volume_drivers(draft, dir + "/metadata.db");
    const auto entries = draft.host->list_if_there(dir, max_entries);
    if (!entries) return draft.sources.broken(dir, "volumes", entries.error());

    std::map<std::string, probe::StoreVolume> volumes;
    for (auto &[name, driver] : drivers) {
        auto &volume = volumes[name];
        volume.recorded = true;
        volume.driver = std::move(driver);
    }
    for (const auto &entry : *entries) {
        if (!is_directory(entry)) continue;
        auto &volume = volumes[entry.name];
        if (volume.driver.empty()) volume.driver = "local";
        volume.path = fmt::format("{}/{}/_data", dir, entry.name);
        volume.on_disk = draft.host->is_dir(volume.path);
    }
    for (auto &[name, volume] : volumes) {
        volume.name = name;
        if (const auto users = containers.volume_users.find(name); users != containers.volume_users.end())
            volume.used_by = users->second;
        draft.store.volumes.push_back(std::move(volume));
    }
}

} // namespace shale::doctor::docker
