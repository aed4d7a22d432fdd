// SPDX-License-Identifier: Apache-2.0
// The resources that stores stand on, as the guard counts them. Looking is cheap enough for every ten seconds: statfs,
// some ioctls, a status line a thin pool; programs run only where there is ZFS. No tree is walked.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "guard/resource.h"
#include "probe/facts.h"
#include "probe/host.h"

namespace shale::guard {

/// File systems, block devices, thin pools and ZFS of the host; nothing else of the facts is filled. What could not be
/// read is in the problems.
probe::Facts look(const probe::Host &host, const std::vector<std::string> &roots);

/// Of what `look` saw: the file systems that carry one of `roots` (their bytes and inodes, their btrfs, their qgroups
/// and projects that have a limit), every thin pool, every ZFS pool, and the datasets that have a quota. In the order
/// of kinds, then subjects; each resource once. `carriers`: indices into facts.file_systems.
std::vector<Sample> samples_of(const probe::Facts &facts, std::span<const size_t> carriers);
/// Those that carry one of `roots`, each once.
std::vector<size_t> carriers_of(const probe::Host &host, const probe::Facts &facts,
                                const std::vector<std::string> &roots);

} // namespace shale::guard
