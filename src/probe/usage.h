// SPDX-License-Identifier: Apache-2.0
// What trees take on their file systems: bytes and inodes, as `du` would count them, but of many trees at once and by
// all processors, since a store has a million files and its owner waits.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/error.h"
#include "probe/facts.h"
#include "probe/host.h"

namespace shale::probe {

struct CountedTree {
    std::string path;              ///< the host's
    Usage usage;                   ///< not complete: `problems` says what could not be read
    uint64_t resident_bytes = 0;   ///< in the page cache, if that was asked for
    std::vector<Problem> problems; ///< at most max_tree_problems
};
inline constexpr size_t max_tree_problems = 5;

/// Counts the trees at `paths`. Mounts and btrfs subvolumes in them are not entered, nor are symlinks followed; a path
/// that is no directory is counted as one file; one that is not there is nothing. The directories of a tree that others
/// change meanwhile may be missed or counted as they were. Trees that lie in one another are each counted whole.
/// Memory: 24 bytes for each name of a file with several names, and a descriptor for every level of the deepest branch
/// that is being walked; where the process may not open more, that tree is not complete.
struct CountOptions {
    unsigned threads = 1;
    /// Of regular files, each opened for it: their pages in the page cache are counted, or counted and dropped, as far
    /// as they are clean and nobody maps them. A file with several names counts once a name.
    enum class PageCache : uint8_t { ignored, counted, dropped } page_cache = PageCache::ignored;
    /// Called now and then, from one thread at a time, with the inodes counted so far. May be empty.
    std::function<void(uint64_t inodes)> on_progress;
};
std::vector<CountedTree> count_trees(const Host &host, const std::vector<std::string> &paths,
                                     const CountOptions &options);

} // namespace shale::probe
