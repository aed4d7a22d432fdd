// SPDX-License-Identifier: Apache-2.0
// Who does what as a disk fills: the marks of kubelet, dockerd, LVM, BuildKit and shale, each turned into the free
// space at which it acts.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "doctor/check.h"

namespace shale::doctor::checks {

enum class Act : uint8_t {
    evict,   ///< ends containers
    refuse,  ///< lets nothing new be made
    collect, ///< deletes what nothing uses
    grow,    ///< makes the disk larger
};
struct Mark {
    uint64_t free_bytes = 0; ///< acts when less than this is free
    Act act = Act::collect;
    std::string who;  ///< "kubelet"
    std::string text; ///< "kubelet evicts pods (nodefs.available<10%)"
};
/// A file system or the data space of a thin pool.
struct Disk {
    std::string name;
    uint64_t total_bytes = 0, free_bytes = 0; ///< free: to others than root
    std::vector<Mark> marks;                  ///< the first to act first; of two at once, the one that does harm
    std::vector<std::string> remarks;         ///< what is not a mark of free space
    std::vector<std::string> contradictions;  ///< found while the marks were read
};

/// Those that anybody has a mark on. What could not be read goes to `unable`.
std::vector<Disk> read_marks(const probe::Facts &facts, std::vector<std::string> &unable);

} // namespace shale::doctor::checks
