// SPDX-License-Identifier: Apache-2.0
// The first overlay driver, Docker's and shale's, keeps a whole tree for each layer; what a layer leaves as it was is a
// hard link to its parent's file. A copy of the store without hard links, or a restore, makes a file of each link.
//
// A layer has files of its own by right, too: those that its archive states. One of them may even look like the
// parent's (a container opened it for writing and wrote nothing). So a layer is only told of when its own files are
// more than its record says that it brought.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_set>
#include <vector>

#include <sys/types.h>

#include "base/error.h"
#include "probe/facts.h"
#include "probe/host.h"

namespace shale::doctor {

struct LinkReport {
    uint64_t files = 0;  ///< regular ones that were compared
    bool cut = false;    ///< there are more
    uint64_t copies = 0; ///< no link, and yet with the type, mode, owner, size, time and first 64 KiB of the parent's at that path
    uint64_t copied_bytes = 0; ///< of those; an inode counts once
    uint64_t own_bytes = 0; ///< of all that are not the parent's, likewise, without those that have holes: their blocks
                            ///< are no measure of what was written
    std::vector<std::string> names; ///< of copies, "/etc/passwd"; at most max_named_copies
};
inline constexpr size_t max_named_copies = 5;

/// The regular files of a layer.
struct LayerInodes {
    dev_t device = 0;
    std::unordered_set<uint64_t> numbers;
};

/// Nothing that lies on another file system than `tree` itself is looked at or entered, be it mounted there or a
/// subvolume. `left`: how many entries (of directories: files, directories, links and all others) may still be looked
/// at; it goes down with each, also where an error is returned. ResourceExhausted: there are more.
Result<LayerInodes> inodes_of_files(int tree, uint64_t &left);
/// The same, but that `cut` says when there are more. Only files that look like copies are opened. `inodes`: those of `parent`.
Result<LinkReport> compare_with_parent(int tree, int parent, const LayerInodes &inodes, uint64_t &left);

/// How many entries are looked at.
struct LinkLimits {
    uint64_t of_layer = 2'000'000, of_all = 20'000'000;
};

/// All recorded layers of stores of that driver whose record says their size; what is found is added to their damage:
/// "hard link: 3 of 120 files are copies of the parent's, 12.0 KiB: /etc/passwd, ...". Every entry is looked at once,
/// and once more for a layer that has layers on it. What is beyond the limits is left out, and told in problems.
void look_for_broken_links(const probe::Host &host, probe::Facts &facts, const LinkLimits &limits = {});

} // namespace shale::doctor
