// SPDX-License-Identifier: Apache-2.0
#include "doctor/gather.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <utility>

#include "doctor/hosts/containerd.h"
#include "doctor/hosts/docker.h"
#include "doctor/hosts/hard_links.h"
#include "doctor/hosts/podman.h"
#include "doctor/hosts/shale.h"
#include "doctor/hosts/tar_split.h"
#include "doctor/hosts/thin_transactions.h"
#include "probe/devices.h"
#include "probe/file_systems.h"
#include "probe/kernel.h"
#include "probe/mounts.h"
#include "probe/processes.h"
#include "probe/thin_pools.h"
#include "probe/usage.h"
#include "probe/zfs.h"
#include "sys/quota.h"

namespace shale::doctor {

namespace {

using probe::Facts;
using probe::Host;

using ReadStores = void (*)(const Host &, const std::vector<probe::Process> &, const std::string &, Facts &);
struct Engine {
    std::string_view name;
    ReadStores read;
};
constexpr std::array engines = {Engine{"docker", read_docker}, Engine{"containerd", read_containerd},
                                Engine{"podman", read_podman}, Engine{"shale", read_shale}};

/// Configurations whose thresholds meet those of the stores; a store's own file is its reader's.
struct KnownFile {
    std::string_view path, kind;
};
constexpr std::array known_files = {KnownFile{"/var/lib/kubelet/config.yaml", "kubelet config"},
                                    KnownFile{"/etc/kubernetes/kubelet/kubelet-config.json", "kubelet config"},
                                    KnownFile{"/etc/buildkit/buildkitd.toml", "buildkit config"},
                                    KnownFile{"/etc/shale/shale.toml", "shale config"}};

void read_config_files(const Host &host, Facts &facts) {
    for (const auto &[path, kind] : known_files) {
        auto text = host.read_if_there(std::string(path));
        if (!text)
            facts.problems.push_back({std::string(path), text.error().text()});
        else if (*text)
            facts.config_files.push_back({std::string(path), std::string(kind), std::move(**text)});
    }
}

/// What only a running host has.
void read_live(const Host &host, Facts &facts) {
    facts.cgroups = probe::read_cgroups(host, facts.problems);
    facts.pressure = probe::read_pressure(host, facts.problems);
    facts.vmstat = probe::read_vmstat(host, facts.problems);
    facts.memory = probe::read_memory(host, facts.problems);
    facts.mount_namespaces = probe::read_mount_namespaces(host, facts.problems);
    auto processes = probe::read_processes(host, facts.problems);
    facts.processes = std::move(processes.processes);
    facts.deleted_files = std::move(processes.deleted_files);
    facts.inotify_watches = std::move(processes.inotify_watches);
    facts.devices = probe::read_block_devices(host, facts.problems);
    facts.thin_pools = probe::read_thin_pools(host, facts.devices, facts.processes, facts.problems);
    auto zfs = probe::read_zfs(host, facts.problems);
    facts.zfs_pools = std::move(zfs.pools);
    facts.zfs_datasets = std::move(zfs.datasets);
}

void read_stores(const Host &host, const GatherOptions &options, Facts &facts) {
    for (const Engine &engine : engines) {
        if (options.on_progress) options.on_progress(engine.name, 0);
        if (options.only.empty()) engine.read(host, facts.processes, {}, facts);
        for (const auto &place : options.only)
            if (place.engine == engine.name) engine.read(host, facts.processes, place.root, facts);
    }
    const auto read_pools = [&] {
        PoolReading out;
        out.pools = probe::read_thin_pools(host, facts.devices, facts.processes, out.problems);
        return out;
    };
    read_thin_transactions(host, read_pools, facts);
}

/// Where the file system counts projects. The number is on the layer's directory (moby, quota/projectquota.go;
/// containers/storage, drivers/quota), or on the tree in it.
void read_project_ids(const Host &host, Facts &facts) {
    for (auto &store : facts.stores) {
        if (!store.known_file_system || facts.file_systems[store.file_system].project_quota.empty()) continue;
        for (auto &layer : store.layers) {
            if (!layer.on_disk || layer.path.empty()) continue;
            for (const std::string_view below : {"", "/diff"}) {
                if (layer.project_id.value_or(0) != 0) break;
                const auto fd = host.open_path(layer.path + std::string(below), O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
                const auto id = fd ? sys::project_of(fd->get()) : Result<uint32_t>(std::unexpected(fd.error()));
                if (id) layer.project_id = *id;
            }
        }
    }
}

void count(const Host &host, const GatherOptions &options, Facts &facts) {
    std::vector<std::string> paths;
    std::vector<std::optional<probe::Usage> *> into;
    const auto add = [&](const std::string &path, bool on_disk, std::optional<probe::Usage> &usage) {
        if (!on_disk || path.empty() || usage) return;
        paths.push_back(path);
        into.push_back(&usage);
    };
    for (auto &store : facts.stores) {
        for (auto &layer : store.layers)
            add(layer.path, layer.on_disk, layer.usage);
        for (auto &volume : store.volumes)
            add(volume.path, volume.on_disk, volume.usage);
    }
    probe::CountOptions how;
    how.threads = options.threads;
    how.on_progress = [&](uint64_t inodes) {
        if (options.on_progress) options.on_progress("inodes", inodes);
    };
    auto counted = probe::count_trees(host, paths, how);
    for (size_t i = 0; i < counted.size(); ++i) {
        *into[i] = counted[i].usage;
        std::ranges::move(counted[i].problems, std::back_inserter(facts.problems));
    }
}

} // namespace

Result<GatherOptions::Place> parse_place(std::string_view text) {
    const size_t equals = text.find('=');
    const std::string_view engine = text.substr(0, equals);
    if (equals == std::string_view::npos || std::ranges::find(engines, engine, &Engine::name) == engines.end())
        return fail(
            Errc::InvalidArgument,
            fmt::format("\"{}\" must be ENGINE=DIRECTORY; the engines are docker, containerd, podman and shale", text));
    const std::string_view root = text.substr(equals + 1);
    if (!root.starts_with('/'))
        return fail(Errc::InvalidArgument, fmt::format("\"{}\": the directory must be an absolute path", text));
    return GatherOptions::Place{std::string(engine), std::string(root)};
}

Facts gather(const Host &host, const GatherOptions &options) {
    Facts facts;
    facts.shale = SHALE_VERSION;
    facts.taken_s = static_cast<uint64_t>(std::time(nullptr));
    facts.host_root = host.root();
    facts.live = host.live();
    facts.privileged = ::geteuid() == 0;
    if (options.on_progress) options.on_progress("host", 0);
    facts.kernel = probe::read_kernel(host, facts.problems);
    if (facts.live) read_live(host, facts);
    read_config_files(host, facts);
    read_stores(host, options, facts);
    std::vector<std::string> roots;
    roots.reserve(facts.stores.size());
    for (const auto &store : facts.stores)
        roots.push_back(store.root);
    facts.file_systems = probe::read_file_systems(host, roots, facts.problems);
    for (auto &store : facts.stores)
        if (const auto at = probe::file_system_of(host, facts.file_systems, store.root)) {
            store.file_system = *at;
            store.known_file_system = true;
        }
    read_project_ids(host, facts);
    if (options.usage) {
        count(host, options, facts);
        if (options.on_progress) options.on_progress("archives of layers", 0);
        compare_layers_with_archives(host, facts);
        if (options.on_progress) options.on_progress("hard links of layers", 0);
        look_for_broken_links(host, facts);
    }
    return facts;
}

} // namespace shale::doctor
