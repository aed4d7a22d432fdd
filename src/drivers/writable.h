// SPDX-License-Identifier: Apache-2.0
// A writable layer's tree, open: what a container would see, without a mount that anyone else sees.
#pragma once

#include "drivers/driver.h"

namespace shale::drivers {

/// `root` is the merged tree; `keep` holds a detached mount, which goes with it, also when the process is killed.
/// Unimplemented when the driver needs more than one mount.
Result<Driver::View> open_writable(Driver &driver, LayerId id, Parents parents);

} // namespace shale::drivers
