// SPDX-License-Identifier: Apache-2.0
// The trees of overlay2, and of fuse-overlayfs, which has the same (moby, daemon/graphdriver/overlay2/overlay.go):
//
//   ID/diff       the layer's own files, the upper directory of its mount
//   ID/link       name of its short link: 26 letters and digits
//   ID/lower      "l/LINK:l/LINK:...", all layers below, the nearest first; none for the lowest
//   ID/committed  empty; it was used as a layer below another and is mounted read-only since
//   l/LINK        -> ../ID/diff
#pragma once

#include "doctor/hosts/docker_draft.h"

namespace shale::doctor::docker {

/// `entries`: of the driver's directory. Adds the trees, with the recorded layers that are mounted on each by their
/// `lower`, the links that are wrong and the extended attributes of overlayfs that a sample of them has (settings
/// "xattr redirect", "xattr metacopy", "xattr opaque": how many entries had one, of "xattr sample"). Returns how many
/// trees there are.
uint64_t read_overlay2(Draft &draft, const std::vector<sys::DirEntry> &entries);

/// Entries of upper directories whose attributes are looked at.
inline constexpr size_t max_sample = 1000;

} // namespace shale::doctor::docker
