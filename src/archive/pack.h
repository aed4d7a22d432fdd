// SPDX-License-Identifier: Apache-2.0
// Trees to canonical layer archives (sorted by bytes per directory, depth first; equal trees give equal bytes).
// Rules (docs/formats/layer-tar.md): a changed entry's parent directories come first; whiteouts are empty regular
// files ".wh.NAME" mode 0, mtime 0; an opaque directory has ".wh..wh..opq" as first child; hard links: first name in
// order carries the data; sockets are skipped and counted; xattrs of overlay itself (trusted.overlay.*, user.overlay.*)
// never leave.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "archive/extract.h"
#include "archive/tar.h"

namespace shale::archive {

enum class ChangeKind : uint8_t { added, modified, deleted };
struct Change {
    ChangeKind kind = ChangeKind::modified;
    std::string path; ///< absolute in the container: "/etc/passwd"
};

struct PackReport {
    uint64_t entries = 0, bytes = 0;
    uint64_t skipped_sockets = 0;
    std::vector<std::string> warnings; ///< at most 100
};

struct PackOptions {
    IdMap uid_map, gid_map; ///< host -> container (reverse of extraction)
    /// pack_diff: the upper tree began as a snapshot of the lower one, inode numbers and change times included, so a
    /// file that has both as before was not touched (every change sets the change time, which no call can choose).
    bool snapshot = false;
};

/// Native diff: the tree below `upper_dir` is in upper form already. Cost: entries of the upper only.
/// Fails with FailedPrecondition when the tree holds redirect or metacopy xattrs (the upper alone does not tell the
/// truth then).
Result<PackReport> pack_upper(int upper_dir, WhiteoutForm form, const PackOptions &options, const Sink &sink);
/// Whole tree as a layer with no parent.
Result<PackReport> pack_tree(int root_dir, const PackOptions &options, const Sink &sink);
/// Walk diff: what turns `lower_dir` into `upper_dir`, both complete trees. Size and mtime (ns), mode, owner, type,
/// link target, xattrs, device are compared; equal size and mtime but other inode: content is compared unless both are
/// the same inode.
Result<PackReport> pack_diff(int lower_dir, int upper_dir, const PackOptions &options, const Sink &sink);

/// The same differences as lists (docker diff's A, C, D); sorted by path. `lower_dir` -1: everything is added.
using ChangeSink = std::function<Status(const Change &)>;
/// `lower_exists` tells whether a path exists in the parents (added or modified), from the merged lower view.
Status upper_changes(int upper_dir, WhiteoutForm form, int lower_dir, const ChangeSink &sink);
/// `snapshot`: as in PackOptions.
Status tree_changes(int lower_dir, int upper_dir, const ChangeSink &sink, bool snapshot = false);

/// Applies an upper-form tree onto a complete tree by renames within one file system (whiteouts delete, opaque
/// directories empty first, directories' metadata replaced). `staged_dir` is empty afterwards; it may lie in the root
/// of the tree itself. For vfs, btrfs, zfs, devicemapper.
Status merge_upper(int staged_dir, WhiteoutForm form, int target_dir);

/// Copies a whole tree into the empty `to_dir`: modes, owners, times (ns), xattrs, hard links, devices, holes.
/// Data by reflink, copy_file_range, read/write, whichever the file system takes first.
struct CopyReport {
    uint64_t entries = 0, bytes = 0, reflinked_bytes = 0;
};
/// links: directories are made anew, everything else gets a second name (a copy where the file system allows no more
/// names); both trees then share what neither writes to in place.
enum class CopyFiles : uint8_t { copies, links };
Result<CopyReport> copy_tree(int from_dir, int to_dir, CopyFiles files = CopyFiles::copies);

} // namespace shale::archive
