// SPDX-License-Identifier: Apache-2.0
// A root of Docker's as dockerd leaves it: the records of an image, for what the doctor has to say about Docker's
// stores.
#pragma once

#include <string>

#include "base/error.h"

namespace shale::lab {

/// The image NAME ("app:1") of one layer by overlay2, whose data is in ROOT/overlay2/CACHE_ID/diff (64 hex digits),
/// which is the caller's (moby: image/fs.go, layer/filestore.go).
Status write_docker_image(const std::string &root, const std::string &name, const std::string &cache_id);

} // namespace shale::lab
