// SPDX-License-Identifier: Apache-2.0
// Every mount namespace that a process is in, with its mounts as one of its processes sees them (proc(5),
// /proc/PID/mountinfo). A namespace that only a thread, an open file or a bind mount keeps alive is not found.
#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

#include "probe/facts.h"
#include "probe/host.h"

namespace shale::probe {

/// Of all namespaces together; a host with 500 containers has some 30,000. What is more is cut, with a problem.
inline constexpr size_t max_mounts = 300'000;
/// Processes of one namespace that are asked for its mounts, one after the other, until one answers.
inline constexpr size_t max_mount_witnesses = 8;

/// Sorted by `pid`. Empty unless the host is live. A process that ends meanwhile is no problem; one whose namespace may
/// not be read (another user's) is counted in one.
std::vector<MountNamespace> read_mount_namespaces(const Host &host, std::vector<Problem> &problems);
/// The same for whatever lies at /proc in `host`.
std::vector<MountNamespace> mount_namespaces_in_proc(const Host &host, std::vector<Problem> &problems);

/// Mounts of the text of one mountinfo, at most `limit`; lines that are not understood, and what was cut, become one
/// problem each, about `about`.
std::vector<Mount> parse_mounts(std::string_view text, size_t limit, std::string_view about,
                                std::vector<Problem> &problems);
/// Inode number of a namespace link: "mnt:[4026531841]"; 0: it is none.
uint64_t namespace_id(std::string_view link);

} // namespace shale::probe
