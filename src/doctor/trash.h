// SPDX-License-Identifier: Apache-2.0
// Orphans on their way out. What is reclaimed is renamed into a directory on its own file system and can be put back
// until it is purged; that directory is its own journal:
//
//   STORE/.shale-trash/N/record.json   what it was, where, and why it could go; synced before anything moves
//   STORE/.shale-trash/N/tree          the orphan
//   STORE/.shale-trash/N/link          overlay2: its short name, a symlink of l/
//   STORE/.shale-trash/N/gone          the orphan while it is being purged: it is not put back any more
//
// States: record only (was being moved, or has been put back: to be forgotten); record and tree (whole); record and
// gone (to be purged). N is never taken from outside, and not used again while an item of that number is there. Whoever
// changes the trash holds a lock on it (flock); nothing but a tree called "gone" is ever deleted with what is in it.
//
// The trash lies as high in the store as its file system goes, where no engine looks: containerd's overlayfs
// snapshotter removes what it does not know from snapshots/. It is believed only when nobody else could have written
// it.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <sys/types.h>

#include "base/error.h"
#include "doctor/orphans.h"
#include "probe/host.h"

namespace shale::doctor {

struct TrashItem {
    std::string place; ///< STORE/.shale-trash, canonical
    uint64_t number = 0;
    enum class State : uint8_t { empty, whole, going } state = State::empty;
    std::string path, link; ///< where it was, canonical; link: may be empty
    std::string engine, driver, root, layer;
    uint64_t bytes = 0, inodes = 0; ///< exclusive, as counted before
    uint64_t moved_s = 0;
    std::pair<dev_t, ino_t> inode; ///< of the tree
    std::vector<std::string> proof;

    /// Where the orphan lies now.
    [[nodiscard]] std::string tree() const;
};

/// All that lie in the trash of the stores of these facts, the oldest first. What is there and cannot be believed is
/// told in `problems`, and stays.
std::vector<TrashItem> list_trash(const probe::Host &host, const probe::Facts &facts,
                                  std::vector<std::string> &problems);

/// Moves an orphan without obstacles; synced when it returns. FailedPrecondition: it has obstacles, another directory
/// lies at its path than the one that was judged, or its file system has no place for a trash that its engine leaves
/// alone. After an error it is where it was.
Result<TrashItem> move_to_trash(const Orphan &orphan);
/// Works again after it was cut short. AlreadyExists: something lies at its old path again; it stays in the trash.
/// FailedPrecondition: it is being purged.
Status put_back(const TrashItem &item);
/// Frees it. Works again after it was cut short.
Status purge(const TrashItem &item);

} // namespace shale::doctor
