// SPDX-License-Identifier: Apache-2.0
// Where the space is. Rows are disjoint and sum up to what statfs calls used; what no row explains stands as such.
// Layers and containers are walked (st_blocks, hard links once) unless the driver counts in O(1).
#include <fmt/format.h>
#include <sys/statfs.h>

#include <algorithm>
#include <charconv>
#include <unordered_map>
#include <unordered_set>

#include "store/records.h"
#include "store/reserve.h"
#include "store/store.h"
#include "sys/fs.h"

namespace shale::store {
namespace {

struct Tally {
    uint64_t bytes = 0, inodes = 0;
};

/// Allocated bytes and inodes of one flat directory (itself included).
Result<Tally> tally_flat(int dir) {
    Tally tally{static_cast<uint64_t>(TRY(sys::stat_at(dir, "")).st_blocks) * 512, 1};
    for (const auto &entry : TRY(sys::list_dir(dir))) {
        const auto info = TRY(sys::stat_if_exists(dir, entry.name.c_str()));
        if (!info) continue;
        tally.bytes += static_cast<uint64_t>(info->st_blocks) * 512;
        ++tally.inodes;
    }
    return tally;
}

/// Files of this file system that are unlinked but still open somewhere: they use space that no name shows.
Tally deleted_but_open(dev_t device) {
    Tally tally;
    std::unordered_set<uint64_t> seen;
    auto proc = sys::open_dir(AT_FDCWD, "/proc");
    if (!proc) return tally;
    const auto processes = sys::list_dir(proc->get());
    if (!processes) return tally;
    for (const auto &process : *processes) {
        if (process.name[0] < '0' || process.name[0] > '9') continue;
        auto fds = sys::open_at(proc->get(), (process.name + "/fd").c_str(), O_RDONLY | O_DIRECTORY);
        if (!fds) continue; // gone, or not ours to see
        const auto entries = sys::list_dir(fds->get());
        if (!entries) continue;
        for (const auto &entry : *entries) {
            struct stat info{};
            if (fstatat(fds->get(), entry.name.c_str(), &info, 0) != 0 || info.st_dev != device || info.st_nlink != 0 ||
                !S_ISREG(info.st_mode) || !seen.insert(info.st_ino).second)
                continue;
            tally.bytes += static_cast<uint64_t>(info.st_blocks) * 512;
            ++tally.inodes;
        }
    }
    return tally;
}

} // namespace

Result<uint64_t> Store::deepest_stack() {
    auto deepest = TRY(records_->prepare("SELECT coalesce(max(position) + 1, 0) FROM image_layers"));
    return TRY(deepest.step()) ? static_cast<uint64_t>(deepest.integer(0)) : 0;
}

Result<SpaceReport> Store::space() {
    SpaceReport report;
    report.root = options_.root;
    const auto fs = TRY(sys::statfs_fd(root_fd_.get()));
    const auto block = static_cast<uint64_t>(fs.f_frsize != 0 ? fs.f_frsize : fs.f_bsize);
    report.file_system = sys::file_system_name(fs);
    report.fs_bytes = fs.f_blocks * block;
    report.fs_used = (fs.f_blocks - fs.f_bfree) * block;
    report.fs_available = fs.f_bavail * block;
    report.fs_inodes = fs.f_files;
    report.fs_inodes_used = fs.f_files - fs.f_ffree;

    Tally layers;
    std::unordered_map<LayerId, uint64_t> layer_bytes;
    std::unordered_set<LayerId> owned;
    for (const auto &layer : TRY(list_layers())) {
        const auto chain = TRY(chain_of(layer.id));
        owned.insert(layer.id);
        if (chain.empty()) continue; // a snapshot that was removed just now
        auto usage = driver_->usage(layer.id, std::span(chain).subspan(1));
        if (!usage) continue; // a damaged layer is check's business
        layer_bytes[layer.id] = usage->bytes;
        layers.bytes += usage->bytes;
        layers.inodes += usage->inodes;
    }
    Tally containers;
    for (const auto &container : TRY(list_containers())) {
        owned.insert(container.id);
        auto usage = driver_->usage(container.id, container.parents);
        if (!usage) continue;
        containers.bytes += usage->bytes;
        containers.inodes += usage->inodes;
    }
    Tally snapshots;
    std::vector<std::pair<LayerId, std::optional<LayerId>>> active; // and what it stands on
    auto rows =
        TRY(records_->prepare("SELECT s.layer, p.layer FROM snapshots s LEFT JOIN snapshots p ON p.id = s.parent "
                              "WHERE s.kind <> 3 AND s.layer IS NOT NULL"));
    while (TRY(rows.step()))
        active.emplace_back(rows.id(0), rows.is_null(1) ? std::nullopt : std::optional(rows.id(1)));
    for (const auto &[id, parent] : active) {
        owned.insert(id);
        auto usage = driver_->usage(id, TRY(container_chain(parent)));
        if (!usage) continue;
        snapshots.bytes += usage->bytes;
        snapshots.inodes += usage->inodes;
    }
    Tally orphans;
    for (const LayerId id : TRY(driver_->list())) {
        if (owned.contains(id)) continue;
        auto usage = driver_->usage(id, {});
        if (!usage) continue;
        orphans.bytes += usage->bytes;
        orphans.inodes += usage->inodes;
    }
    const Tally blobs = TRY(tally_flat(blobs_fd_.get()));
    Tally records = TRY(tally_flat(root_fd_.get()));
    Tally reserve;
    if (const auto file = TRY(sys::stat_if_exists(root_fd_.get(), reserve_name))) {
        reserve = {static_cast<uint64_t>(file->st_blocks) * 512, 1};
        records.bytes -= std::min(records.bytes, reserve.bytes);
        --records.inodes;
    }
    if (auto tmp = sys::open_dir(root_fd_.get(), "tmp")) {
        const Tally flat = TRY(tally_flat(tmp->get()));
        records.bytes += flat.bytes;
        records.inodes += flat.inodes;
    }
    const auto trash = TRY(driver_->trash());
    const Tally trashed{trash.bytes, trash.inodes};
    const auto root = TRY(sys::stat_at(root_fd_.get(), ""));
    const Tally open_deleted = deleted_but_open(root.st_dev);

    report.rows = {{"layers", layers.bytes, layers.inodes},
                   {"containers", containers.bytes, containers.inodes},
                   {"active snapshots", snapshots.bytes, snapshots.inodes},
                   {"blobs", blobs.bytes, blobs.inodes},
                   {"records and directories", records.bytes, records.inodes},
                   {"reserve", reserve.bytes, reserve.inodes},
                   {"trash", trashed.bytes, trashed.inodes},
                   {"orphans (shale gc)", orphans.bytes, orphans.inodes}};
    Tally sum;
    for (const auto &row : report.rows) {
        sum.bytes += row.bytes;
        sum.inodes += row.inodes;
    }
    report.store_bytes = sum.bytes;
    report.rows.push_back({"deleted but open", open_deleted.bytes, open_deleted.inodes});
    sum.bytes += open_deleted.bytes;
    sum.inodes += open_deleted.inodes;
    // On a file system of its own the rest is the file system's own metadata; elsewhere it is other people's files too.
    const bool own_fs = sys::is_mount_point(options_.root).value_or(false);
    report.rows.push_back({own_fs ? "unaccounted (file system metadata)" : "everything else on this file system",
                           report.fs_used > sum.bytes ? report.fs_used - sum.bytes : 0,
                           report.fs_inodes_used > sum.inodes ? report.fs_inodes_used - sum.inodes : 0});

    for (const auto &image : TRY(list_images())) {
        SpaceReport::ImageRow row;
        row.name = image.names.empty() ? image.manifest.text().substr(0, 19) : image.names.front();
        for (const auto &layer : image.layers) {
            const uint64_t bytes = layer_bytes[layer.id];
            row.bytes += bytes;
            (layer.images <= 1 ? row.exclusive : row.shared) += bytes;
        }
        report.images.push_back(std::move(row));
    }
    return report;
}

} // namespace shale::store
