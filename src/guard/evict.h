// SPDX-License-Identifier: Apache-2.0
// Ends a container because a resource runs out: whom, and how.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "guard/cgroups.h"
#include "guard/hands.h"
#include "guard/workloads.h"
#include "probe/host.h"

namespace shale::guard {

/// One that can write to the resource.
struct Candidate {
    const Workload *workload = nullptr;
    uint64_t written_bytes = 0; ///< since the last look
};
/// Whom to end first: the lowest class, of equals who has written most of late; nullptr: nobody but critical ones, or
/// nobody at all. With several that are equal in both, `taken` is asked what each takes (bytes).
const Workload *choose_victim(std::span<const Candidate> candidates,
                              const std::function<uint64_t(const Workload &)> &taken);

/// Docker is asked to stop its own (POST /containers/ID/stop; Docker Engine API), so that its restart policy does not
/// begin it anew. Else the first process gets SIGTERM and `grace`, then all that are still there are killed: by
/// cgroup.kill (Linux 5.14, v2), else each by a descriptor that was checked to be in that cgroup. Nothing is frozen: a
/// guard that is killed in between leaves a container that runs or is ending.
Outcome end(const probe::Host &host, const Cgroups &cgroups, const Workload &workload, std::chrono::milliseconds grace);

/// The answer of an engine to one request over its socket: the status ("204"). Unavailable: nobody listens there.
Result<int> ask_engine(const std::string &socket, const std::string &request, std::chrono::milliseconds deadline);

} // namespace shale::guard
