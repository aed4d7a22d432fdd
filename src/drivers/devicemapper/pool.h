// SPDX-License-Identifier: Apache-2.0
// One thin pool and its volumes. Layout of ROOT/pool is in FORMAT.md; the states:
//   no record      nothing was ever made
//   "begun"        being made: whatever is there is made anew
//   "ready"        volume 0, the base (an empty file system), is complete
// Invariants: volume numbers come from ROOT/volumes, whose last change the pool's transaction id repeats; a number that
// is in the pool and in no layer is a crash's and goes with the trash entry that names it.
// Locks (of ROOT/pool/lock): byte 0 the pool (making, activating, growing it, the transaction id); byte 1+N volume N
// (activating, deactivating, deleting it). The first before the second.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "base/error.h"
#include "base/fd.h"
#include "drivers/devicemapper/backing.h"
#include "drivers/devicemapper/config.h"
#include "drivers/mounted_tree_driver.h"
#include "sys/dm.h"
#include "sys/dm_status.h"
#include "sys/mount.h"

namespace shale::drivers::devicemapper {

inline constexpr VolumeId base_volume{0};
inline constexpr uint64_t volume_limit = uint64_t{1} << 24U; ///< drivers/md/dm-thin.c: ids of 24 bits

/// Ok: the pool takes new volumes and writes. Else the state is named with what to do about it.
Status usable(const sys::ThinPoolStatus &status, const Config &config, const std::string &pool);
/// Ok: there is room for one more volume below both marks. Else ResourceExhausted with the figures.
Status has_room(const sys::ThinPoolStatus &status, const Config &config, const std::string &pool);
/// Ok: the pool took all that was written to it. Else as usable(), or ResourceExhausted with the figures: it drops what
/// it has no room for, and tells only those who were writing just then.
Status took_all(const sys::ThinPoolStatus &status, const Config &config, const std::string &pool);

/// The size to which a part of `now_bytes` grows: by `percent`, in whole units, at most `most_bytes` and what the
/// kernel uses of metadata. ResourceExhausted: that is no more than it has.
Result<uint64_t> size_after(SpacePool::Part part, uint64_t now_bytes, unsigned percent, uint64_t most_bytes,
                            uint64_t block_bytes);
/// The table of a pool on these devices: as many whole blocks as the data device has.
sys::DmTarget pool_target(const Attached &devices, uint64_t block_bytes);

class Pool {
public:
    /// Touches nothing yet: the pool is made or activated at its first use. `root`: the driver's directory.
    static Result<std::unique_ptr<Pool>> open(int root, Config config);

    /// The pool is active, checked and of the transaction that the store's records name. Makes a new one.
    Status ready();
    [[nodiscard]] const Config &config() const noexcept { return config_; }
    [[nodiscard]] const std::string &prefix() const noexcept { return prefix_; } ///< begins every device's name
    [[nodiscard]] std::string name() const { return prefix_ + "-pool"; }
    [[nodiscard]] std::string device_name(VolumeId volume) const;

    enum class Figures : uint8_t { of_last_commit, committed_now };
    Result<sys::ThinPoolStatus> status(Figures figures = Figures::of_last_commit);

    /// As SpacePool says.
    Result<SpacePool::Growth> extend(SpacePool::Part part, unsigned percent, uint64_t most_bytes);

    /// First of `count` fresh numbers; recorded in the store, then in the pool.
    Result<uint64_t> reserve(uint64_t count);
    /// The volume is going to be a snapshot of `from`, which nothing writes to: made when it is first used, so that
    /// what is never used takes nothing of the pool. Refused above the marks. On stable storage with sync_plans().
    Status plan(VolumeId volume, VolumeId from);
    Status sync_plans();
    /// The volume itself, or its origin while it is planned.
    Result<VolumeId> content_of(VolumeId volume);
    /// Makes it, unless that was done. Refused above the marks; EEXIST: the pool has another volume of that number.
    Status make(VolumeId volume);
    /// Size of the volume's device and file system.
    Result<uint64_t> size_of(VolumeId volume) const;
    /// Makes the volume's device larger; the file system is the caller's business.
    Status enlarge(VolumeId volume, uint64_t bytes);

    /// Activates it; path of its node. NotFound: the pool has no such volume. What others have open may go meanwhile:
    /// whoever mounts it is ready to ask again.
    Result<std::string> activate(VolumeId volume);
    /// Activates it for somebody who mounts it some time: it stays until deactivate() or deactivate_idle().
    Result<std::string> hand_out(VolumeId volume);
    /// Removed at its last close, unless it was handed out.
    Status release(VolumeId volume);
    /// Removed now, or at its last close.
    Status deactivate(VolumeId volume);
    /// "major:minor" of the active device.
    Result<std::string> number_of(VolumeId volume) const;
    /// Deletes it; its blocks go back to the pool, and below it when configured. Unavailable: still in use.
    Status destroy(VolumeId volume);
    /// Deactivates volumes that nothing has open and that were activated or handed out `age` ago or earlier.
    Status deactivate_idle(std::chrono::seconds age);
    /// Deactivates what nothing has open, the pool last; how many devices stay.
    Result<uint64_t> deactivate_all();

    sys::MountSpec mount_spec(const std::string &device, bool read_only) const;

private:
    Pool(UniqueFd root, Config config, std::string prefix)
        : root_(std::move(root)), config_(std::move(config)), prefix_(std::move(prefix)) {}
    Status ready_locked();
    Status read_record(bool &begun);
    Status write_record(std::string_view state) const;
    Status make_base();
    Status format_base(const std::string &device) const;
    Status activate_pool(bool begun);
    Status check_metadata(const BlockDevice &metadata) const;
    Status adopt_active();
    Result<Attached> active_devices() const;
    Result<sys::ThinPoolStatus> status_now(Figures figures) const;
    Status check_transaction();
    Result<UniqueFd> lock(uint64_t byte) const;
    Status remove_device(const std::string &device) const;
    Result<std::string> activate_locked(VolumeId volume);
    Result<std::string> activate_made(VolumeId volume);
    Status discard_all(VolumeId volume);
    Status make_locked(VolumeId volume);
    Status create_snapshot(VolumeId volume, VolumeId from);
    Status make_children_of(VolumeId volume);
    /// What the mark says; nullopt: there is none.
    Result<std::optional<VolumeId>> origin_in(const std::string &mark) const;
    [[nodiscard]] std::string size_mark(VolumeId volume) const;
    [[nodiscard]] bool is_written_to(VolumeId volume) const;       ///< active, and mounted for writing
    [[nodiscard]] std::string held_mark(VolumeId volume) const;    ///< handed out; as old as that
    [[nodiscard]] std::string planned_mark(VolumeId volume) const; ///< not in the pool
    [[nodiscard]] std::string making_mark(VolumeId volume) const;  ///< perhaps in the pool
    Status forget_mark(const std::string &mark) const;
    Status remove_when_unused(VolumeId volume) const;

    UniqueFd root_;
    UniqueFd directory_; ///< ROOT/pool
    Config config_;
    std::string prefix_;
    std::string store_;
    std::unique_ptr<PoolBacking> backing_;
    std::mutex mutex_; ///< ready_ and what ready() sets
    bool ready_ = false;
    std::string pool_number_; ///< "major:minor"
};

} // namespace shale::drivers::devicemapper
