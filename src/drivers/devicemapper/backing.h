// SPDX-License-Identifier: Apache-2.0
// What lies below a thin pool: two block devices, one for metadata and one for data.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
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
    /// Both devices, ready for use.
    virtual Result<Attached> attach() = 0;
    /// The devices that an active pool uses ("major:minor") are this store's; else FailedPrecondition says whose.
    virtual Result<Attached> attached(const std::string &metadata, const std::string &data) = 0;
    /// Raises the sizes to the configured ones where that is more. Pool active: `active` are its devices, else null.
    virtual Status grow(const Attached *active) = 0;
    /// After the pool is gone: undoes attach().
    virtual Status detach() = 0;
};

struct PoolName {
    std::string prefix; ///< begins the name of every device of this store on this host
    std::string store;  ///< random, of the store for good: what is not in the store's directory is marked with it
};
/// `directory`: ROOT/pool. Both references must outlive it.
std::unique_ptr<PoolBacking> open_backing(int directory, PoolName name, const Config &config);

} // namespace shale::drivers::devicemapper
