// SPDX-License-Identifier: Apache-2.0
// How full a btrfs is: its block groups by kind, what no block group has taken yet, its quota groups and whether the
// subvolume of each still exists. By ioctls (linux/btrfs.h) and /sys/fs/btrfs/<uuid>/qgroups (Linux 5.9).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "probe/facts.h"
#include "probe/host.h"

namespace shale::probe {

inline constexpr size_t max_qgroups = 100'000;
inline constexpr size_t max_subvolumes = 1'000'000;

/// `fd`: an open directory on it (no O_PATH); `target`: how problems call it. `kernel`: the host whose /sys tells about
/// the kernel that has it mounted. Subvolumes can be counted, and qgroups told from left-over ones, with CAP_SYS_ADMIN
/// only; without, that is a problem and every qgroup counts as in use.
BtrfsSpace read_btrfs_space(int fd, const Host &kernel, const std::string &target, std::vector<Problem> &problems);

/// The parts that need no btrfs. Kind and profile of a block group's flags (linux/btrfs_tree.h).
BtrfsSpace::Group block_group(uint64_t flags, uint64_t total_bytes, uint64_t used_bytes);
/// Level and id of a directory below qgroups: "0_257"; nullopt: it is none.
std::optional<BtrfsSpace::Qgroup> qgroup_of_name(std::string_view name);
/// Mode, inconsistency and the groups of the directory `dir`, which is there; a group that goes meanwhile is left out.
void read_qgroups(const Host &kernel, const std::string &dir, BtrfsSpace &out, std::vector<Problem> &problems);
/// Fills in `has_subvolume`. `subvolumes`: the numbers of those that exist, ascending, read after the qgroups: else one
/// that was made in between would look left over.
void mark_left_over_qgroups(const std::vector<uint64_t> &subvolumes, BtrfsSpace &out);

} // namespace shale::probe
