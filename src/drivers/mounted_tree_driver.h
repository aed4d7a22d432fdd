// SPDX-License-Identifier: Apache-2.0
// Tree drivers whose layers are file systems of their own ("volumes": a thin device, a dataset). The root of a volume
// is the layer's tree, so that a container's mount is one mount of the volume. Volumes have numbers of their own, never
// used twice, so that a layer's directory can move (trash, exchange) and take its volume along. Layout below ROOT:
//   <id>/volume   symlink whose text is the number: on stable storage before the volume is made, there until it is gone
//   <id>/stage    an import in progress: a file with the name of the directory, in the volume's root, that takes the
//                 archive's entries. The name is random, so that no archive can mean it.
//   volumes       the first number that was never given out; its lock is held while it is raised
// The driver itself works in detached mounts only: they go with their descriptors, so a killed process leaves none.
#pragma once

#include <compare>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "drivers/tree_driver.h"

namespace shale::drivers {

struct VolumeId {
    uint64_t value = 0;
    auto operator<=>(const VolumeId &) const = default;
};

class MountedTreeDriver : public TreeDriver {
public:
    [[nodiscard]] bool stages_alone() const noexcept override { return false; }
    Status create(LayerId id, Parents parents, const Quota &quota) override;
    Status prove_mount(LayerId id, const std::string &target) override;
    Result<bool> is_sealed(LayerId id, Parents parents) override;
    Status reopen(LayerId id, Parents parents) override;
    Result<std::vector<sys::MountSpec>> mounts(LayerId id, Parents parents, Access access) override;
    Status sync(std::span<const LayerId> ids) override;
    /// Unavailable while volumes wait in the trash: their marks are all that names them.
    Status dismantle() override;
    Result<uint64_t> reap(const std::atomic<bool> *cancel) override;
    Result<std::vector<std::string>> check(LayerId id, Parents parents) override;

protected:
    using TreeDriver::TreeDriver;
    /// What make_volume() is going to do is possible; nothing needs to be on stable storage.
    virtual Status plan_volume(VolumeId /*volume*/, std::optional<VolumeId> /*parent*/) { return {}; }
    /// A new volume (from its first use on, at the latest): a snapshot of the (sealed) parent's, or an empty file
    /// system (root 0755 root:root). An error with EEXIST says that there is a volume of that number, which is not this
    /// layer's.
    virtual Status make_volume(VolumeId volume, std::optional<VolumeId> parent) = 0;
    /// The volume to read instead: one that was not made yet is its parent's still.
    virtual Result<VolumeId> content_of(VolumeId volume) { return volume; }
    /// How to mount the volume, ready to be mounted (an inactive device is activated). NotFound: there is none.
    virtual Result<sys::MountSpec> volume_spec(VolumeId volume, Access access) = 0;
    /// First of `count` numbers that were never given out, and are not from now on. Default: counted in ROOT/volumes.
    virtual Result<uint64_t> reserve_volumes(uint64_t count);
    /// Proves that the mount whose root is `root` is the volume, or says what it is instead.
    virtual Status prove(VolumeId volume, int root) = 0;
    /// Will not change any more, and is mounted nowhere.
    virtual Status freeze_volume(VolumeId volume) = 0;
    /// Where a frozen volume differs from one that is not mounted: whether it is frozen, and the undo of that.
    virtual Result<bool> is_frozen(VolumeId /*volume*/) { return false; }
    virtual Status thaw_volume(VolumeId /*volume*/) { return {}; }
    /// What holds these volumes together (pool) is on stable storage; what was written into them is when this is
    /// called.
    virtual Status sync_volumes(std::span<const VolumeId> volumes) = 0;
    /// Deletes the volume. Missing = done. Unavailable: in use, or others depend on it; it stays in the trash for the
    /// next reaper.
    virtual Status destroy_volume(VolumeId volume) = 0;
    /// A detached mount of the volume.
    Result<View> open_volume(VolumeId volume, Access access);
    /// The volume of a layer. NotFound: the layer has none.
    Result<VolumeId> volume_of(LayerId id) const;
    /// Those whose layers lie in the trash.
    Result<std::vector<VolumeId>> trashed_volumes() const;

    [[nodiscard]] bool trees_are_snapshots() const noexcept override { return true; }

private:
    Status make_layer(LayerId id, Parents parents) final;
    Status make_immutable(LayerId id) final;
    Result<View> make_tree(LayerId id, Parents parents) final;
    Result<View> open_tree(LayerId id) final;
    Result<View> make_stage(LayerId id) final;
    Result<View> open_stage(LayerId id, int tree) final;
    Status remove_stage(LayerId id, int tree) final;
    Result<std::string> stage_name(LayerId id) const;
    Result<UniqueFd> mount_volume(VolumeId volume, Access access);
    Result<VolumeId> next_volume();

    std::mutex mutex_;
    uint64_t next_ = 0, end_ = 0; ///< numbers reserved by this process: [next_, end_)
    uint64_t reserve_ = 1;        ///< how many to reserve next
};

} // namespace shale::drivers
