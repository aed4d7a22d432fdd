// SPDX-License-Identifier: Apache-2.0
// What a copy will take, from records and the old driver's counts, against what the destination has.
#include <fmt/format.h>
#include <unistd.h>

#include <unordered_map>
#include <unordered_set>

#include "base/units.h"
#include "store/migration.h"
#include "store/records.h"
#include "sys/fs.h"

namespace shale::store {
namespace {

/// The nearest directory that exists: what is made below lies on the same file system.
std::string existing_parent(std::string path) {
    while (access(path.c_str(), F_OK) != 0) {
        const size_t slash = path.rfind('/');
        if (slash == 0 || slash == std::string::npos) return "/";
        path.resize(slash);
    }
    return path;
}

/// Where a driver puts layers' data, as far as free space goes.
enum class Room : uint8_t {
    root,      ///< files of the root
    root_pool, ///< a pool in files of the root: bytes of it, hardly an inode
    elsewhere, ///< on a device, in a dataset: the driver alone knows how much there is, and refuses before it is full
};

Room room_of(std::string_view driver, const drivers::DriverOptions &options) {
    const auto option = [&](std::string_view key) {
        const auto found = options.find(key);
        return found == options.end() ? std::string_view() : std::string_view(found->second);
    };
    if (driver == "zfs" && !option("dataset").empty()) return Room::elsewhere;
    if (driver != "devicemapper") return Room::root;
    return option("pool").empty() || option("pool") == "loop" ? Room::root_pool : Room::elsewhere;
}

/// Below the driver's directory for each layer: its own, the number and the size of its volume.
constexpr uint64_t names_of_volume = 3;

struct Size {
    uint64_t bytes = 0, inodes = 0;
};

} // namespace

Status MigrateEstimate::refuse() const {
    if (fits()) return {};
    return fail(
        Errc::ResourceExhausted,
        fmt::format("the copy needs {} bytes and {} inodes, {} ({}) has {} and {} free; make room, name another "
                    "--to-root, or use --force (the estimate is an upper bound)",
                    bytes_here(), inodes, where, file_system, free_bytes, free_inodes));
}

Result<MigrateEstimate> Store::estimate_migration(const MigrateRequest &request) {
    MigrateEstimate out;
    const auto *info = TRY(drivers::find_driver(request.driver));
    const auto plan = TRY(read_plan(*records_));
    std::unordered_set<std::string> done;
    if (plan.phase == MigratePhase::copying) {
        auto rows = TRY(records_->prepare("SELECT item FROM migration"));
        while (TRY(rows.step()))
            done.insert(rows.text(0));
    }
    const auto add = [&](const Size &own, std::span<const LayerId> parents,
                         const std::unordered_map<LayerId, Size> &sizes) {
        out.bytes += own.bytes;
        out.inodes += own.inodes;
        for (const LayerId parent : parents) {
            const auto size = sizes.find(parent);
            if (size == sizes.end()) continue;
            if (info->footprint.parents_bytes) out.bytes += size->second.bytes;
            if (info->footprint.parents_inodes) out.inodes += size->second.inodes;
        }
    };
    std::unordered_map<LayerId, Size> sizes;
    const auto layers = TRY(list_layers());
    for (const auto &layer : layers)
        sizes.emplace(layer.id, Size{layer.bytes, layer.inodes + 1});
    for (const auto &layer : layers) {
        if (done.contains(fmt::format("layer:{}", layer.id.value))) continue;
        const auto chain = TRY(chain_of(layer.id));
        if (chain.empty()) continue; // a snapshot that was removed just now
        add(sizes[layer.id], std::span(chain).subspan(1), sizes);
        ++out.layers;
    }
    for (const auto &container : TRY(list_containers())) {
        if (done.contains(fmt::format("container:{}", container.id.value))) continue;
        // A driver that keeps whole trees counts the parents' share as the container's own.
        const auto usage = driver_->usage(container.id, container.parents);
        add(usage ? Size{usage->bytes, usage->inodes} : Size{}, container.parents, sizes);
        ++out.containers;
    }
    const auto &options =
        plan.phase == MigratePhase::copying && request.options.empty() ? plan.options : request.options;
    const Room room = room_of(request.driver, options);
    if (room != Room::root) out.inodes = names_of_volume * (out.layers + out.containers);
    out.where = existing_parent(request.root.empty() ? options_.root + "/" + request.driver : request.root);
    const auto where = TRY(sys::open_dir(AT_FDCWD, out.where.c_str()));
    if (!request.root.empty() && request.root != options_.root) {
        const bool linked = TRY(sys::stat_at(where.get(), "")).st_dev == TRY(sys::stat_at(blobs_fd_.get(), "")).st_dev;
        auto blobs = TRY(records_->prepare("SELECT digest, bytes FROM blobs"));
        while (TRY(blobs.step())) {
            if (done.contains("blob:" + blobs.text(0))) continue;
            ++out.blobs;
            if (linked) continue; // a second name of the same file
            out.blob_bytes += blobs.count(1);
            ++out.inodes;
        }
        out.bytes += out.blob_bytes;
    }
    const auto fs = TRY(sys::statfs_fd(where.get()));
    out.file_system = sys::file_system_name(fs);
    out.free_bytes = fs.f_bavail * static_cast<uint64_t>(fs.f_frsize != 0 ? fs.f_frsize : fs.f_bsize);
    out.free_inodes = fs.f_ffree;
    out.inodes_limited = fs.f_files != 0;
    out.elsewhere = room == Room::elsewhere;
    if (room == Room::root_pool) {
        const auto given = options.find("data_size");
        const uint64_t pool = given == options.end() ? uint64_t{100} << 30U : TRY(parse_bytes(given->second));
        if (pool + out.blob_bytes < out.free_bytes) {
            out.free_bytes = pool + out.blob_bytes;
            out.file_system += fmt::format(", a pool of data_size={}", format_bytes(pool));
        }
    }
    return out;
}

} // namespace shale::store
