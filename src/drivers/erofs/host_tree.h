// SPDX-License-Identifier: Apache-2.0
// From a directory of the host into an image: what a container wrote, and parents' files that a layer links to.
#pragma once

#include "drivers/erofs/image_tree.h"

namespace shale::drivers::erofs {

/// Copies what is no directory, opened as `from` (O_PATH will do), to a new name.
Status copy_in(ImageTree &tree, int from, int to_dir, const char *name);
/// Copies an overlay upper directory into the empty tree; deletions and opaque directories stay what they are. Sockets
/// are left out.
Status copy_upper(ImageTree &tree, int upper);

} // namespace shale::drivers::erofs
