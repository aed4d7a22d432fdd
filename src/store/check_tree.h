// SPDX-License-Identifier: Apache-2.0
// A tree against the layer archive it came from.
#pragma once

#include <string>
#include <vector>

#include "archive/extract.h"
#include "base/digest.h"
#include "base/error.h"
#include "oci/image.h"

namespace shale::store {

struct TreeComparison {
    uint64_t entries = 0;
    std::vector<std::string> differences; ///< at most 100, then "... and N more"
};

/// Reads the archive `blob` and compares each entry that still stands (later entries win) with the complete tree at
/// `root_dir`. `contents`: file bytes too. Owners are compared only when `options` keep them; device nodes only when
/// they are made. `parent_dir`, where the driver links unchanged files to the parent's tree (else -1): a regular file
/// that the archive does not state must be one of that tree's inodes.
Result<TreeComparison> compare_tree(const oci::BlobView &blob, int root_dir, bool contents,
                                    const archive::ExtractOptions &options, int parent_dir = -1);

/// Digest of all bytes of a file.
Result<Digest> digest_of_fd(int fd);

} // namespace shale::store
