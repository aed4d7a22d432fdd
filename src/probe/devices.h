// SPDX-License-Identifier: Apache-2.0
// Block devices as sysfs shows them (Documentation/ABI/stable/sysfs-block, testing/sysfs-block-loop, -dm), partitions
// among them, with what they stand on and where they are mounted.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "probe/facts.h"
#include "probe/host.h"

namespace shale::probe {

/// By name. `mounted` is of this process' mount namespace. A device that goes away meanwhile is left out.
std::vector<BlockDevice> read_block_devices(const Host &host, std::vector<Problem> &problems);

/// "loop0" -> "loop", "sda" -> "disk", by the names that drivers give; partitions are known otherwise.
std::string_view block_device_kind(std::string_view name) noexcept;

} // namespace shale::probe
