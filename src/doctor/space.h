// SPDX-License-Identifier: Apache-2.0
// Where the space of a host has gone: each file system with a store on it, taken apart until the sum is what statfs(2)
// says is used.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "probe/facts.h"
#include "probe/host.h"

namespace shale::doctor {

struct SpaceNode {
    std::string name;
    uint64_t bytes = 0, inodes = 0;
    std::vector<SpaceNode> parts = {}; ///< the largest first; their sums are its own
};

/// One file system.
struct Space {
    const probe::FileSystem *file_system = nullptr; ///< of the facts
    uint64_t used_bytes = 0, used_inodes = 0;       ///< statfs: total less free
    std::vector<SpaceNode> parts;                   ///< stores, deleted files, other files
    /// What no part explains: the file system's own (journal, inode tables, B-trees), files that nobody was asked
    /// about, subvolumes that are no layers. Negative: parts share extents or were written meanwhile, and are counted
    /// more than once.
    int64_t rest_bytes = 0, rest_inodes = 0;
};

/// A tree beside the stores, for account().
struct OtherTree {
    std::string path;
    uint64_t bytes = 0, inodes = 0;        ///< with the stores that lie in it, but for
    std::vector<std::string> without = {}; ///< the roots of those that lie in a btrfs subvolume of their own
};

/// The top level of each file system with stores, counted whole: every inode there is looked at. Subvolumes of btrfs
/// are not entered (probe/usage.h): snapshots would count once more for each.
std::vector<OtherTree> count_others(const probe::Host &host, const probe::Facts &facts, unsigned threads,
                                    const std::function<void(uint64_t inodes)> &on_progress = {});

/// The file systems that carry stores. Without `others` what lies beside the stores is part of the rest.
std::vector<Space> account(const probe::Facts &facts, const std::vector<OtherTree> &others = {});

} // namespace shale::doctor
