// SPDX-License-Identifier: Apache-2.0
// What a driver costs on this host, by doing it: the figures of `shale drivers --measure`.
#pragma once

#include <atomic>
#include <chrono>

#include "drivers/driver.h"

namespace shale::drivers {

/// Medians of a few rounds, in wall time. Each round is a container over one layer that holds one file, which does not
/// compress.
struct Measurement {
    using Time = std::chrono::nanoseconds;
    Time create{};  ///< a writable layer made and mounted (detached)
    Time copy_up{}; ///< the file opened for writing and one byte of it written
    Time write{};   ///< one of 2,000 writes of 4 KiB at random places of the file, with the fsync that ends them
    Time remove{};  ///< the writable layer unmounted, removed, and its space given back
};

/// `driver` is an open one that holds no layers; it holds none afterwards, on an error too. `bytes`: of the file, a
/// multiple of 1 MiB; takes up to twice that on disk. Canceled when `cancel` is
/// set between two rounds.
Result<Measurement> measure(Driver &driver, uint64_t bytes, const std::atomic<bool> *cancel);

} // namespace shale::drivers
