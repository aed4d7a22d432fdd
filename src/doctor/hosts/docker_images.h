// SPDX-License-Identifier: Apache-2.0
// Images and their names (moby, image/fs.go and reference/store.go):
//
//   image/DRIVER/imagedb/content/sha256/ID   the image's configuration; ID is the digest of these bytes
//   image/DRIVER/repositories.json           {"Repositories": {"debian": {"debian:12": "sha256:ID", ...}, ...}}
#pragma once

#include "doctor/hosts/docker_draft.h"

namespace shale::doctor::docker {

/// Adds the images, and "image NAME" to all layers of each. The records of layers and the trees have to be read.
void read_images(Draft &draft);

} // namespace shale::doctor::docker
