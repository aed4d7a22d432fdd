// SPDX-License-Identifier: Apache-2.0
// Tries it out: a small pool in files of a scratch directory, a snapshot, a mount.
#include <fmt/format.h>

#include "drivers/concurrent_writes.h"
#include "drivers/devicemapper/devicemapper.h"
#include "sys/dm.h"
#include "sys/fs.h"
#include "sys/run.h"

namespace shale::drivers::devicemapper {
namespace {

constexpr uint64_t mib = uint64_t{1} << 20U;

/// A detached mount of the volume.
Result<UniqueFd> mount_here(Pool &pool, VolumeId volume) {
    const std::string device = TRY(pool.activate(volume));
    const UniqueFd mounted = TRY(sys::mount_detached(pool.mount_spec(device, false)));
    TRY(pool.release(volume)); // when it is unmounted
    return sys::open_dir(mounted.get(), ".");
}

/// The pool of a dead probe, whose loop devices go with it.
Status put_to_rest(int dir) {
    const uint64_t left = TRY(TRY(Pool::open(dir, {}))->deactivate_all());
    if (left == 0) return {};
    return fail(Errc::Unavailable, fmt::format("{} devices of its pool are in use still", left));
}

std::string percent(uint64_t part, uint64_t whole) {
    return fmt::format("{:.1f} %", whole == 0 ? 0.0 : 100.0 * static_cast<double>(part) / static_cast<double>(whole));
}

} // namespace

Status Devicemapper::probe_pool(std::vector<Fact> &facts) {
    const auto scratch = TRY(root_.scratch(put_to_rest));
    Config config = pool_->config();
    config.backing = Backing::loop;
    config.device.clear();
    config.base_bytes = (config.fs == FileSystem::ext4 ? 64 : 320) * mib;
    config.mkfs.clear();
    config.data_bytes = 1024 * mib;
    config.metadata_bytes = 8 * mib;
    const auto pool = TRY(Pool::open(scratch.dir.get(), config));
    const std::shared_ptr<void> undo(nullptr, [&](void *) { (void)pool->deactivate_all(); });
    TRY(pool->ready());
    facts.push_back({"thin pool", "yes", "made in files of a scratch directory"});
    const uint64_t first = TRY(pool->reserve(2));
    TRY(pool->plan(VolumeId{first}, base_volume));
    {
        const UniqueFd tree = TRY(mount_here(*pool, VolumeId{first}));
        TRY(make_written_files(tree.get()));
        TRY(sys::syncfs_fd(tree.get()));
    }
    TRY(pool->plan(VolumeId{first + 1}, VolumeId{first}));
    auto tree = mount_here(*pool, VolumeId{first + 1});
    facts.push_back({"snapshots", tree ? "yes" : "no", tree ? "" : tree.error().text()});
    facts.push_back({"d_type", tree && TRY(has_d_type(tree->get())) ? "yes" : "no",
                     fmt::format("getdents64 on {} in a volume", name_of(config.fs))});
    const auto status = TRY(pool->status());
    facts.push_back({"space comes back", status.discard == sys::ThinPoolStatus::Discard::passed_down ? "yes" : "no",
                     "discards are passed down to a file of this file system"});
    const bool works = tree.has_value();
    Error error(Errc::Internal, "");
    if (!works) error = tree.error();
    facts.push_back(concurrent_writes(std::move(tree), "first write into a file of 256 KiB that a snapshot shares"));
    if (!works) return std::unexpected(std::move(error));
    return {};
}

Result<ProbeReport> Devicemapper::probe() {
    ProbeReport out;
    const auto fact = [&](std::string name, std::string value, std::string reason = {}) {
        out.facts.push_back({std::move(name), std::move(value), std::move(reason)});
    };
    const auto need = [&](std::string name, const Result<std::string> &found) {
        fact(std::move(name), found ? *found : "no", found ? "" : found.error().text());
        if (!found && out.reason.empty()) out.reason = found.error().text();
    };
    fact("backing file system", sys::file_system_name(TRY(sys::statfs_fd(root_.fd()))), "statfs");
    need("device-mapper", sys::dm_version());
    if (out.reason.empty()) need("thin-pool", sys::dm_target_version("thin-pool"));
    const bool ext4 = pool_->config().fs == FileSystem::ext4;
    need(ext4 ? "mkfs.ext4" : "mkfs.xfs",
         sys::find_tool(ext4 ? "mkfs.ext4" : "mkfs.xfs", ext4 ? "e2fsprogs" : "xfsprogs"));
    need("thin_check", sys::find_tool("thin_check", "thin-provisioning-tools"));
    if (pool_->config().backing == Backing::volumes) need("lvm", sys::find_tool("lvm", "lvm2"));
    if (!out.reason.empty()) return out;
    if (const auto tried = probe_pool(out.facts); !tried) out.reason = tried.error().text();
    if (const auto active = sys::dm_find(pool_->name()); active && *active && (*active)->has_table)
        if (const auto status = pool_->status()) {
            fact("metadata in use", percent(status->used_metadata_blocks, status->total_metadata_blocks),
                 fmt::format("{} of {} blocks of 4 KiB", status->used_metadata_blocks, status->total_metadata_blocks));
            fact("data in use", percent(status->used_data_blocks, status->total_data_blocks),
                 fmt::format("{} of {} blocks of {} KiB", status->used_data_blocks, status->total_data_blocks,
                             pool_->config().block_bytes / 1024));
        }
    fact("quota", "size", "a container's file system has a size of its own, at least base_size");
    fact("max depth", std::to_string(max_depth()), "a layer needs only its own volume");
    out.usable = out.reason.empty();
    return out;
}

} // namespace shale::drivers::devicemapper
