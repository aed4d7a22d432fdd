// SPDX-License-Identifier: Apache-2.0
// Containers as the host sees them: processes whose root is another than the host's, told apart by their cgroups, with
// the file systems that they can write to and their class of service. Whatever started them.
//
// What is never among them: processes of this mount namespace, those whose root is the host's (services with a mount
// namespace of their own have that), and those that share their cgroup with any of these.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "guard/cgroups.h"
#include "guard/qos.h"
#include "probe/facts.h"
#include "probe/host.h"

namespace shale::guard {

/// A place on a file system of the host that a container can write to.
struct Seat {
    std::string device;        ///< of mountinfo
    std::string type, source;  ///< of the file system
    std::string super_options; ///< of the mount: "subvolid=257"
    std::string inside;        ///< from the top of the file system
    std::string path;          ///< of an overlay's upper directory, as this process sees it; else empty
};

struct Workload {
    std::string cgroup;                                          ///< that tells it apart
    enum class Of : uint8_t { io, memory, unified } of = Of::io; ///< the hierarchy of that: the first that does
    /// Whose limit counts for it: with v1, where a limit is of one group alone, each that has a process of it; with v2
    /// the upper one.
    std::vector<std::string> io_groups;
    std::string memory_group, unified_group;
    std::string id; ///< by the path of the cgroup: the engine's, 64 hexadecimal digits; or empty
    Qos qos = Qos::standard;
    std::string qos_from; ///< where its class is from: "label of the container", "cgroup", "by default"
    int init = 0;         ///< its first process
    std::vector<int> pids;
    std::string command; ///< of that
    std::vector<Seat> seats;
    uint64_t written_bytes = 0; ///< so far, to all devices, as its io controller counts, or else its processes
};
/// "container 0123456789ab (batch; cgroup /x/y, process 12 \"dd\")"
std::string text_of(const Workload &workload);

/// By cgroup. What could not be told apart or read is a problem.
std::vector<Workload> read_workloads(const probe::Host &host, const Cgroups &cgroups,
                                     std::vector<probe::Problem> &problems);
/// The process is in its cgroup, or in one beneath it, and not in this process' mount namespace (a runtime that is
/// about to enter the container is).
bool is_in(const probe::Host &host, const Cgroups &cgroups, const Workload &workload, int pid);
/// Those of one cgroup that are there now, that of processes beneath it included.
std::vector<int> processes_of(const probe::Host &host, const Cgroups &cgroups, const Workload &workload);

} // namespace shale::guard
