// SPDX-License-Identifier: Apache-2.0
// What the drivers that stack layers with overlay share.
#pragma once

#include "base/error.h"
#include "base/ids.h"
#include "drivers/common.h"
#include "drivers/driver.h"

namespace shale::drivers {

inline constexpr unsigned max_lowers = 500; ///< OVL_MAX_STACK, fs/overlayfs/params.h

/// An empty directory of a writable layer that has no parents, so that it is an overlay too: containerd puts a layer
/// that it unpacks before its parents into the upper directory that it is told, whiteouts as overlay wants them; into a
/// bind mount it would put none (containerd #13030).
inline constexpr const char *no_parents = "lower";

/// What a writable layer has beside its upper directory: "work", and `no_parents`. What is there stays.
Status make_helpers(const LayerRoot &root, LayerId id, Parents parents);
Result<bool> has_helpers(const LayerRoot &root, LayerId id, Parents parents);
/// To the trash.
Status drop_helpers(const LayerRoot &root, LayerId id, Parents parents);

} // namespace shale::drivers
