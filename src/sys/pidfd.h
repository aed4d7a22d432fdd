// SPDX-License-Identifier: Apache-2.0
// A process that stays the same one when its number is given to another (pidfd_open(2), Linux 5.3).
#pragma once

#include <sys/types.h>

#include "base/error.h"
#include "base/fd.h"

namespace shale::sys {

/// NotFound (ESRCH): there is no such process. The descriptor is close-on-exec, and readable once the process has
/// ended.
Result<UniqueFd> open_process(pid_t pid);
/// pidfd_send_signal(2), Linux 5.1. Signal 0 only asks whether it may be done.
Status signal_process(int process, int signal);
/// Of a process by its descriptor; false while it runs.
bool has_ended(int process);

} // namespace shale::sys
