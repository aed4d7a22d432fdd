// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

#include "base/error.h"

namespace shale::daemon {

/// Tells the service manager a state in the words of sd_notify(3) ("READY=1", "STOPPING=1"; "RELOADING=1" gets the
/// time that systemd wants with it). Without NOTIFY_SOCKET in the environment: nothing to do.
Status notify(std::string_view state);

} // namespace shale::daemon
