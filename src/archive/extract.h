// SPDX-License-Identifier: Apache-2.0
// Unpacking a layer archive into its "upper form": a directory tree that holds just this layer's entries, with
// deletions as whiteouts. Independent of parent layers, so layers unpack in parallel; what needs parents (owner and
// mode of implied directories, hard links to files of a lower layer) is reported and mended by the driver's apply step.
//
// Safety: every path is resolved inside the root descriptor (".." and absolute names and symlinks of this layer
// are scoped to the root, never followed out of it); nothing outside is ever created, changed or read.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "archive/tar.h"
#include "base/error.h"

namespace shale::archive {

/// Names of deletions in the archive's form (OCI image-spec, layer.md): a deleted entry, and the mark of an opaque
/// directory.
inline constexpr std::string_view whiteout_prefix = ".wh.";
inline constexpr char opaque_marker[] = ".wh..wh..opq";

/// How deletions are kept in an upper-form tree.
enum class WhiteoutForm : uint8_t {
    overlay_trusted, ///< char device 0/0; opaque = xattr trusted.overlay.opaque "y"
    overlay_user,    ///< char device 0/0 (Linux 5.8+ unprivileged); opaque = xattr user.overlay.opaque "y"
    oci_names,       ///< empty files ".wh.NAME" and ".wh..wh..opq": needs no privilege (vfs staging)
};

struct IdMapEntry {
    uint32_t container_id = 0, host_id = 0, count = 0;
};
/// Empty = identity.
using IdMap = std::vector<IdMapEntry>;

enum class OwnerPolicy : uint8_t {
    keep,   ///< chown as the archive says; failure is an error
    squash, ///< all to the caller's ids (no privilege); entries that differ are counted in the report
};

struct ExtractOptions {
    WhiteoutForm whiteouts = WhiteoutForm::overlay_trusted;
    OwnerPolicy owners = OwnerPolicy::keep;
    IdMap uid_map, gid_map;
    TarLimits limits;
    uint64_t max_deferred_links = 100'000;
    bool allow_devices = true; ///< false: device nodes are skipped and counted (user namespace)
};

/// A hard link whose target this layer did not have when the link came: it means the parents' file, whatever the layer
/// does to that name later. Links to a deferred link are deferred too, with its target.
struct DeferredLink {
    std::string path; ///< clean, relative to the root; its directory is in the tree, the name is not
    /// Relative to the root. This layer's symlinks on the way are resolved; what follows the first component that the
    /// layer lacks is to be resolved in the parents, and may hold ".." from a symlink of this layer.
    std::string target;
    /// So many leading components of `target` are directories that the layer states itself: what the parents have in
    /// their place (a symlink) does not count.
    size_t stated_depth = 0;
};

struct ExtractReport {
    uint64_t entries = 0;
    uint64_t bytes = 0;  ///< file data written
    uint64_t inodes = 0; ///< created in the tree, root excluded
    uint64_t whiteouts = 0, opaque_dirs = 0;
    uint64_t skipped_devices = 0, squashed_owners = 0, skipped_xattrs = 0;
    bool has_root_entry = false; ///< the archive stated the root's own mode and owner
    /// Directories that the archive did not state but its paths imply: created 0755, root-owned;
    /// parents before children. Only the ones never stated later and for which the layer does not delete what the
    /// parents have there.
    std::vector<std::string> implied_dirs;
    std::vector<DeferredLink> deferred_links;
    std::vector<std::string> warnings; ///< at most 100
};

class Tree; // archive/tree.h

/// Reads `tar` to its end and builds the tree in `tree`, which is empty.
/// On error the caller throws the tree away. Errors name the entry (escaped) and its number.
Result<ExtractReport> extract_tar(TarReader &tar, Tree &tree, const ExtractOptions &options,
                                  const std::atomic<bool> *cancel = nullptr);
/// The same below `root_dir`, an open, empty directory.
Result<ExtractReport> extract_tar(TarReader &tar, int root_dir, const ExtractOptions &options,
                                  const std::atomic<bool> *cancel = nullptr);

} // namespace shale::archive
