// SPDX-License-Identifier: Apache-2.0
#include "drivers/devicemapper/devicemapper.h"

#include <sys/statfs.h>

#include <fmt/format.h>

#include "base/units.h"
#include "sys/block.h"
#include "sys/dm.h"
#include "sys/fs.h"

namespace shale::drivers::devicemapper {
namespace {

constexpr auto idle_age = std::chrono::minutes(10); ///< a mount that was asked for is made within that time

uint64_t more(uint64_t here, uint64_t there) {
    return here > there ? here - there : 0;
}

} // namespace

Result<std::unique_ptr<Driver>> open(const std::string &root, const DriverOptions &given) {
    Config config = TRY(read_config(given));
    LayerRoot layers = TRY(LayerRoot::open(root));
    auto pool = TRY(Pool::open(layers.fd(), std::move(config)));
    return std::make_unique<Devicemapper>(std::move(layers), std::move(pool));
}

Result<uint64_t> deactivate(const std::string &root) {
    const LayerRoot layers = TRY(LayerRoot::open(root));
    return TRY(Pool::open(layers.fd(), {}))->deactivate_all();
}

Devicemapper::Devicemapper(LayerRoot root, std::unique_ptr<Pool> pool)
    : MountedTreeDriver(std::move(root), pool->config().container), pool_(std::move(pool)) {
    counter_ = std::make_unique<SizeLimit>(*this);
    no_quota_reason_.clear();
}

Status Devicemapper::create(LayerId id, Parents parents, const Quota &quota) {
    const Quota limit = TRY(limit_of(id, quota));
    if (limit.bytes != 0 || limit.inodes != 0) {
        TRY(pool_->ready());
        const uint64_t least =
            parents.empty() ? pool_->config().base_bytes : TRY(pool_->size_of(TRY(volume_of(parents.front()))));
        TRY(check_limit(id, limit, least));
    }
    return MountedTreeDriver::create(id, parents, quota);
}

Status Devicemapper::plan_volume(VolumeId volume, std::optional<VolumeId> parent) {
    return pool_->plan(volume, parent.value_or(base_volume));
}

Status Devicemapper::make_volume(VolumeId /*volume*/, std::optional<VolumeId> /*parent*/) {
    return pool_->sync_plans();
}

Result<sys::MountSpec> Devicemapper::volume_spec(VolumeId volume, Access access) {
    return pool_->mount_spec(TRY(pool_->activate(volume)), access == Access::read_only);
}

Result<std::vector<sys::MountSpec>> Devicemapper::mounts(LayerId id, Parents /*parents*/, Access access) {
    return std::vector{pool_->mount_spec(TRY(pool_->hand_out(TRY(volume_of(id)))), access == Access::read_only)};
}

Status Devicemapper::prove(VolumeId volume, int root) {
    const std::string wanted = TRY(pool_->number_of(volume));
    const std::string found = TRY(sys::device_below(root));
    if (found != wanted)
        return fail(Errc::Internal,
                    fmt::format("volume {} is device {} ({}), but what is mounted lies on device {}: that mount is not "
                                "the volume and must not be used",
                                volume.value, wanted, pool_->device_name(volume), found));
    return pool_->release(volume);
}

Status Devicemapper::freeze_volume(VolumeId volume) {
    TRY(pool_->make(volume)); // what others are made from is in the pool
    TRY(in_context(took_all(TRY(pool_->status()), pool_->config(), pool_->name()), [&] {
        return fmt::format("volume {} stays writable: what was written last may be missing in it", volume.value);
    }));
    return pool_->deactivate(volume);
}

/// A full pool drops what the file system writes back, and unmounting tells nobody.
Status Devicemapper::flush(int fs) {
    return sys::syncfs_fd(fs);
}

Status Devicemapper::sync_volumes(std::span<const VolumeId> /*volumes*/) {
    return took_all(TRY(pool_->status(Pool::Figures::committed_now)), pool_->config(), pool_->name());
}

Result<uint64_t> Devicemapper::reap(const std::atomic<bool> *cancel) {
    const auto removed = MountedTreeDriver::reap(cancel);
    if (removed) TRY(pool_->deactivate_idle(idle_age));
    return removed;
}

Status Devicemapper::dismantle() {
    TRY(MountedTreeDriver::dismantle());
    if (const uint64_t active = TRY(pool_->deactivate_all()); active > 0)
        return fail(Errc::Unavailable, fmt::format("driver devicemapper: {} devices of the pool {} are in use still",
                                                   active, pool_->name()));
    return {};
}

Result<Usage> Devicemapper::in_use(VolumeId volume) {
    const View view = TRY(open_volume(volume, Access::read_only));
    const struct statfs info = TRY(sys::statfs_fd(view.root.get()));
    return Usage{static_cast<uint64_t>(info.f_blocks - info.f_bfree) * static_cast<uint64_t>(info.f_bsize),
                 static_cast<uint64_t>(info.f_files - info.f_ffree), true};
}

Result<Usage> Devicemapper::usage(LayerId id, Parents parents) {
    const VolumeId volume = TRY(volume_of(id));
    if (TRY(pool_->content_of(volume)) != volume) return Usage{0, 1, true}; // the root
    const Usage own = TRY(in_use(volume));
    const Usage below = TRY(in_use(parents.empty() ? base_volume : TRY(volume_of(parents.front()))));
    return Usage{more(own.bytes, below.bytes), more(own.inodes, below.inodes) + 1, true}; // + the root
}

Status Devicemapper::check_limit(LayerId id, const Quota &limit, uint64_t now_bytes) const {
    if (limit.inodes != 0)
        return fail(Errc::InvalidArgument,
                    fmt::format("layer {}: a file system in a volume has a size, not a limit of inodes", id.value));
    if (limit.bytes < now_bytes)
        return fail(Errc::FailedPrecondition,
                    fmt::format("layer {}: its file system has {} and cannot be made smaller ({} asked for); a store "
                                "with a smaller base_size allows smaller limits",
                                id.value, format_bytes(now_bytes), format_bytes(limit.bytes)));
    if (limit.bytes % 4096 != 0)
        return fail(Errc::InvalidArgument,
                    fmt::format("layer {}: a size of {} bytes is no multiple of 4 KiB", id.value, limit.bytes));
    return {};
}

Status Devicemapper::set_limit(LayerId id, const Quota &limit) {
    TRY(pool_->ready());
    const VolumeId volume = TRY(volume_of(id));
    const uint64_t now = TRY(pool_->size_of(volume));
    TRY(check_limit(id, limit, now));
    // A raised size may be of an enlargement that did not end: the device and the file system are told again.
    if (limit.bytes == now && now == pool_->config().base_bytes) return {};
    TRY(pool_->enlarge(volume, limit.bytes));
    const View view = TRY(open_volume(volume, Access::read_write));
    return in_context(sys::grow_file_system(view.root.get(), limit.bytes),
                      [&] { return fmt::format("layer {}", id.value); });
}

Result<Quota> SizeLimit::get(LayerId id) {
    TRY(driver_.pool_->ready());
    return Quota{TRY(driver_.pool_->size_of(TRY(driver_.volume_of(id)))), 0};
}

} // namespace shale::drivers::devicemapper
