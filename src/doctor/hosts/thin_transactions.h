// SPDX-License-Identifier: Apache-2.0
// How many transactions the stores on thin pools say they have made. Docker and shale write the number down before they
// tell it the pool, so that the two of one moment tell whether store and pool belong together.
#pragma once

#include <functional>
#include <vector>

#include "probe/facts.h"
#include "probe/host.h"

namespace shale::doctor {

/// The pools, and what could not be read of them.
struct PoolReading {
    std::vector<probe::ThinPool> pools;
    std::vector<probe::Problem> problems;
};
using ReadPools = std::function<PoolReading()>;

/// Adds to each store of Docker's or shale's driver devicemapper the settings "thin pool", its pool's name, and
/// "transaction". A record and its pool go on while containers and images are made: where there are pools, they are
/// read again, between two readings of the records, up to three times until no record has changed and each is its
/// pool's number; `facts` gets them as they were last. A reading with problems that `facts` does not have yet replaces
/// none, and is made again. A store whose record changed meanwhile, or whose pool could not be read again, has no
/// "transaction", which is told in a problem.
void read_thin_transactions(const probe::Host &host, const ReadPools &read_pools, probe::Facts &facts);

} // namespace shale::doctor
