// SPDX-License-Identifier: Apache-2.0
// What lies below a thin pool: two block devices, one for metadata and one for data.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "drivers/devicemapper/config.h"
#include "sys/block.h"

namespace shale::drivers::devicemapper {

using sys::BlockDevice;

struct Attached {
    BlockDevice metadata, data;
    std::vector<UniqueFd> keep; ///< loop devices: until the pool uses them, else they are detached
};

class PoolBacking {
public:
    virtual ~PoolBacking() = default;
    /// Makes what is missing for a new pool. Refuses what holds anything that is not this store's.
    virtual Status make() = 0;
    /// For a pool that is not active: both devices, ready for use, raised to the configured sizes where those are more.
    /// FailedPrecondition: they are not this store's, or somebody else uses them, who is named.
    virtual Result<Attached> attach() = 0;
    /// The devices that an active pool uses ("major:minor") are this store's; else FailedPrecondition says whose.
    virtual Result<Attached> attached(const std::string &metadata, const std::string &data) = 0;
    /// Raises the sizes of an active pool's devices to the configured ones where those are more.
    virtual Status grow(const Attached &active) = 0;
    /// There is room for a part of an active pool to become `bytes` large; what it is named. ResourceExhausted with the
    /// figures; FailedPrecondition: it cannot grow while the pool is active.
    virtual Result<std::string> room_for(SpacePool::Part part, uint64_t bytes) = 0;
    /// After the pool is gone: undoes attach().
    virtual Status detach() = 0;
};

/// Ok: a pool of that much metadata (bytes, as its label on `device` says) is what the options ask for, or they name no
/// size. Else FailedPrecondition with both figures.
Status same_metadata(const Config &config, uint64_t labelled_bytes);
/// Whether a volume is in a listing of full names ("vg/lv"), one a line, which LVM2 pads with blanks on both sides.
bool lists_volume(std::string_view listing, std::string_view full_name);

struct PoolName {
    std::string prefix; ///< begins the name of every device of this store on this host
    std::string store;  ///< random, of the store for good: what is not in the store's directory is marked with it
};
/// `directory`: ROOT/pool. Both references must outlive it.
std::unique_ptr<PoolBacking> open_backing(int directory, PoolName name, const Config &config);

} // namespace shale::drivers::devicemapper
