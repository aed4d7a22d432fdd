// SPDX-License-Identifier: Apache-2.0
// Mounts with mapped ids as containerd 2 makes them of the options uidmap= and gidmap= (its core/mount/mount_linux.go):
// an overlay gets lowers that are mapped, any other mount is mapped as a whole once it is there.
#pragma once

#include <string>

#include "base/error.h"
#include "sys/mount.h"

namespace shale::test {

/// On `target`; directories for the mapped lowers are made beside it. Two mounts at most are left on `target`, and
/// those of the lowers are gone.
Status mount_mapped(sys::MountSpec spec, const std::string &target);

} // namespace shale::test
