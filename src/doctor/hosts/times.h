// SPDX-License-Identifier: Apache-2.0
// Times as engines and the kernel write them, in seconds since the epoch.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "probe/host.h"

namespace shale::doctor {

/// Of RFC 3339, as Go writes it ("2006-01-02T15:04:05.999Z", "...+07:00"); 0: it is none, or before 1970 (Go's zero
/// time is in the year 1).
uint64_t rfc3339_s(std::string_view text);

/// When a process began: proc(5), /proc/PID/stat, field 22 (ticks since the boot), and btime of /proc/stat. nullopt: it
/// cannot be told.
std::optional<uint64_t> started_s(const probe::Host &host, int pid);

} // namespace shale::doctor
