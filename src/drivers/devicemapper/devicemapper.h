// SPDX-License-Identifier: Apache-2.0
// devicemapper: every layer is a thin volume of one pool, a snapshot of its parent's, with a file system in it. Layout
// and states in FORMAT.md beside this file; the pool in pool.h.
//
// Life of a volume's device: inactive -> active (volume_spec) -> mounted (proved: the mount's device number is the
// volume's) -> removed by the kernel at its last close. What was handed out by mounts() stays active, because the
// driver is not told when it is mounted and unmounted; a reaper deactivates it when nothing has it open any more.
#pragma once

#include <memory>
#include <string>

#include "drivers/devicemapper/pool.h"
#include "drivers/mounted_tree_driver.h"

namespace shale::drivers::devicemapper {

Result<std::unique_ptr<Driver>> open(const std::string &root, const DriverOptions &options);
/// Deactivates the devices of the store's driver directory ROOT that nothing has open, the pool after its volumes;
/// returns how many stay. Nothing is lost: the next use activates them again.
Result<uint64_t> deactivate(const std::string &root);

class Devicemapper final : public MountedTreeDriver, public SpacePool {
public:
    Devicemapper(LayerRoot root, std::unique_ptr<Pool> pool);
    [[nodiscard]] std::string_view name() const noexcept override { return "devicemapper"; }
    Status create(LayerId id, Parents parents, const Quota &quota) override;
    Result<std::vector<sys::MountSpec>> mounts(LayerId id, Parents parents, Access access) override;
    Result<uint64_t> reap(const std::atomic<bool> *cancel) override;
    /// The pool is inactive afterwards; logical volumes and what is on a device stay, for their owner to reuse.
    Status dismantle() override;
    /// Blocks and inodes that the file system has in use more than the parent's: O(1), and less than what the layer
    /// wrote where it replaced the parent's.
    Result<Usage> usage(LayerId id, Parents parents) override;
    Result<ProbeReport> probe() override;

    [[nodiscard]] Pool &pool() noexcept { return *pool_; }
    SpacePool *space_pool() noexcept override { return this; }
    [[nodiscard]] std::string pool_name() const override { return pool_->name(); }
    Result<Growth> extend(Part part, unsigned percent, uint64_t most_bytes) override {
        return pool_->extend(part, percent, most_bytes);
    }

private:
    friend class SizeLimit;
    Status plan_volume(VolumeId volume, std::optional<VolumeId> parent) override;
    Result<VolumeId> content_of(VolumeId volume) override { return pool_->content_of(volume); }
    Status make_volume(VolumeId volume, std::optional<VolumeId> parent) override;
    Result<sys::MountSpec> volume_spec(VolumeId volume, Access access) override;
    Result<uint64_t> reserve_volumes(uint64_t count) override { return pool_->reserve(count); }
    Status prove(VolumeId volume, int root) override;
    Status freeze_volume(VolumeId volume) override;
    Status flush(int fs) override;
    Status sync_volumes(std::span<const VolumeId> volumes) override;
    Status destroy_volume(VolumeId volume) override { return pool_->destroy(volume); }
    Result<Usage> in_use(VolumeId volume);
    /// Of the limit that a container is to get: InvalidArgument, FailedPrecondition.
    Status check_limit(LayerId id, const Quota &limit, uint64_t now_bytes) const;
    Status set_limit(LayerId id, const Quota &limit);
    Status probe_pool(std::vector<Fact> &facts);

    std::unique_ptr<Pool> pool_;
};

/// A container's limit is the size of its file system: it can be raised only.
class SizeLimit final : public LayerCounter {
public:
    explicit SizeLimit(Devicemapper &driver) : driver_(driver) {}
    [[nodiscard]] std::string_view kind() const noexcept override { return "size of the file system"; }
    Status adopt(LayerId /*id*/) override { return {}; }
    Status set(LayerId id, const Quota &quota) override { return driver_.set_limit(id, quota); }
    Result<Quota> get(LayerId id) override;
    Result<std::optional<Usage>> usage(LayerId /*id*/) override { return std::nullopt; }

private:
    Devicemapper &driver_;
};

} // namespace shale::drivers::devicemapper
