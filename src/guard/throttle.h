// SPDX-License-Identifier: Apache-2.0
// Writers that are slowed while a resource is under pressure: limits in files of their cgroups, journalled
// (guard/measures.h) before they are set, and set back when the pressure ends, when the guard ends, and at its next
// start after it was killed.
//
// With cgroup v1 a limit holds what a process writes itself (O_DIRECT, and what it syncs): what the kernel writes back
// from the page cache it writes for nobody there (Linux, blkio-controller.rst, "Current Limitations"). With v2 it holds
// that, too, on ext4, btrfs and XFS.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "guard/cgroups.h"
#include "guard/hands.h"
#include "guard/measures.h"
#include "probe/host.h"

namespace shale::guard {

/// A limit that is to be in force.
struct Limit {
    Kind kind = Kind::bytes;
    std::string subject;
    std::string file, key; ///< as of Measure
    uint64_t value = 0;    ///< bytes a second, or bytes of memory
    std::string who;       ///< for people: "container ..."
};

/// The limit of a writer's cgroup on a device; an empty file: the group is outside of what is mounted.
Limit write_limit(const Hierarchy &io, const std::string &group, const std::string &device, uint64_t bytes_per_second);
/// memory.high (v1: memory.soft_limit_in_bytes) of a cgroup, rounded down to whole pages.
Limit memory_limit(const Hierarchy &memory, const std::string &group, uint64_t bytes);

class Throttle {
public:
    /// `dir`: where the journal is. What was left there by a guard that was killed is active() until undo_all().
    static Result<Throttle> open(const probe::Host &host, UniqueFd dir);

    [[nodiscard]] std::span<const Measure> active() const noexcept { return measures_.active(); }
    [[nodiscard]] std::span<const std::string> problems() const noexcept { return measures_.problems(); }
    /// These are in force from now on, and no others: what is new is journalled and set, what is not among them is set
    /// back, the last first. A group that has a lower limit of its own keeps it. What fails is tried again at the next
    /// call.
    Slowed hold(std::span<const Limit> wanted, Time now);
    Slowed undo_all() { return hold({}, Time()); }

private:
    Throttle(const probe::Host &host, Measures measures) : host_(&host), measures_(std::move(measures)) {}
    void undo_one(const Cgroups &cgroups, const Measure &measure, Slowed &report);
    Status set_one(const Cgroups &cgroups, const Limit &limit, Time now, Slowed &report);

    const probe::Host *host_;
    Measures measures_;
};

} // namespace shale::guard
