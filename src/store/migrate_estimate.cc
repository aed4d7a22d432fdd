// SPDX-License-Identifier: Apache-2.0
// What a copy will take, from records and the old driver's counts, against what the destination has.
#include <fmt/format.h>
#include <unistd.h>

#include <unordered_map>
#include <unordered_set>

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

struct Size {
    uint64_t bytes = 0, inodes = 0;
};

} // namespace

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
    return out;
}

} // namespace shale::store
