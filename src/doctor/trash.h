// SPDX-License-Identifier: Apache-2.0
// Orphans on their way out. What is reclaimed is renamed into a directory on its own file system and can be put back
// until it is purged; that directory is its own journal:
//
//   STORE/.shale-trash/N/record.json   what it was, where, and why it could go; synced before anything moves
//   STORE/.shale-trash/N/tree          the orphan
//   STORE/.shale-trash/N/link          overlay2: its short name, a symlink of l/
//
// An item without a tree was cut short, going in or going out: nothing is lost by forgetting it. N is never taken from
// outside, and not used again while an item of that number is there.
//
// The trash lies as high in the store as its file system goes, where no engine looks: containerd's overlayfs
// snapshotter removes what it does not know from snapshots/.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"
#include "doctor/orphans.h"
#include "probe/host.h"

namespace shale::doctor {

inline constexpr std::string_view trash_name = ".shale-trash";

struct TrashItem {
    std::string place; ///< STORE/.shale-trash
    uint64_t number = 0;
    bool has_tree = false;
    std::string path, link; ///< where it was; link: may be empty
    std::string engine, driver, layer;
    uint64_t bytes = 0, inodes = 0; ///< exclusive, as counted before
    uint64_t moved_s = 0;
    std::vector<std::string> proof;
};

/// All that lie in the trash of the stores of these facts, the oldest first. An item whose record cannot be read is an
/// error in `problems`, and stays where it is.
std::vector<TrashItem> list_trash(const probe::Host &host, const probe::Facts &facts,
                                  std::vector<std::string> &problems);

/// Moves an orphan without obstacles; synced when it returns. FailedPrecondition: it has obstacles, or it changed since
/// (another inode lies at its path); InvalidArgument: it is on another file system than its store's directories.
/// After an error it is where it was.
Result<TrashItem> move_to_trash(const probe::Host &host, const Orphan &orphan);
/// AlreadyExists: something lies at its old path again; then it stays in the trash. Works again after it was cut short.
Status put_back(const probe::Host &host, const TrashItem &item);
/// Frees it. Works again after it was cut short.
Status purge(const probe::Host &host, const TrashItem &item);

} // namespace shale::doctor
