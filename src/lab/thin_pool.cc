// SPDX-License-Identifier: Apache-2.0
#include "lab/thin_pool.h"

#include <fmt/format.h>

#include "sys/dm.h"

namespace shale::lab {

Result<ThinPool> ThinPool::make(const World &world, uint64_t metadata_bytes, uint64_t data_bytes) {
    const std::string name = world.name() + "-pool";
    TRY(world.keeper().devices(name));
    // A new loop device over a hole reads as zeros, which is what an empty pool is made from.
    ThinPool out(name, TRY(world.disk({"metadata", "", metadata_bytes})), TRY(world.disk({"data", "", data_bytes})),
                 data_bytes);
    TRY(out.start());
    return out;
}

std::string ThinPool::volume_name(uint64_t volume) const {
    return fmt::format("{}-{}", name_, volume);
}

/// Low water mark 0; no features: writers wait for space (queue_if_no_space).
std::string ThinPool::parameters() const {
    return fmt::format("{} {} {} 0", metadata_.device, data_.device, block_bytes / sys::sector_bytes);
}

Status ThinPool::start() const {
    return sys::dm_create(name_, "", {{0, data_bytes_ / sys::sector_bytes, "thin-pool", parameters()}});
}

Status ThinPool::stop() const {
    return sys::dm_remove(name_, sys::DmRemove::now);
}

Result<std::string> ThinPool::status_text() const {
    const auto targets = TRY(sys::dm_status(name_, sys::DmStatus::commit));
    if (targets.size() != 1) return fail(Errc::Internal, fmt::format("{} has {} targets", name_, targets.size()));
    return targets.front().parameters;
}

Result<sys::ThinPoolStatus> ThinPool::status() const {
    return sys::parse_thin_pool_status(TRY(status_text()));
}

Status ThinPool::create(uint64_t volume) const {
    return sys::dm_message(name_, fmt::format("create_thin {}", volume));
}

Status ThinPool::snapshot(uint64_t volume, uint64_t origin) const {
    return sys::dm_message(name_, fmt::format("create_snap {} {}", volume, origin));
}

Result<std::string> ThinPool::activate(uint64_t volume, uint64_t bytes) const {
    const std::string name = volume_name(volume);
    const auto pool = TRY(sys::dm_find(name_));
    if (!pool) return fail(Errc::NotFound, fmt::format("{} is not active", name_));
    TRY(sys::dm_create(
        name, "", {{0, bytes / sys::sector_bytes, "thin", fmt::format("{}:{} {}", pool->major, pool->minor, volume)}}));
    return sys::dm_node(name);
}

Status ThinPool::deactivate(uint64_t volume) const {
    return sys::dm_remove(volume_name(volume), sys::DmRemove::now);
}

Status ThinPool::suspend(uint64_t volume) const {
    return sys::dm_suspend(volume_name(volume), sys::DmSuspend::frozen);
}

Status ThinPool::resume(uint64_t volume) const {
    return sys::dm_resume(volume_name(volume));
}

Status ThinPool::grow_data(uint64_t bytes) {
    TRY(World::grow(data_, bytes));
    data_bytes_ = bytes;
    TRY(sys::dm_reload(name_, {{0, data_bytes_ / sys::sector_bytes, "thin-pool", parameters()}}));
    TRY(sys::dm_suspend(name_, sys::DmSuspend::as_it_is));
    return sys::dm_resume(name_);
}

Status ThinPool::grow_metadata(uint64_t bytes) {
    return World::grow(metadata_, bytes);
}

} // namespace shale::lab
