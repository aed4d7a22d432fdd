// SPDX-License-Identifier: Apache-2.0
// Thin pools of device-mapper, their thin devices, and what LVM would do when one fills up.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "probe/facts.h"
#include "probe/host.h"
#include "sys/dm.h"

namespace shale::probe {

/// By name; thin devices by their number in the pool. `devices` and `processes` are of the same host: they tell what a
/// pool stands on, and whether dmeventd runs. Empty without device-mapper, and for a host that is not this one. No
/// pool commits its metadata for this, and none that is suspended is waited for.
std::vector<ThinPool> read_thin_pools(const Host &host, std::span<const BlockDevice> devices,
                                      std::span<const Process> processes, std::vector<Problem> &problems);

/// By the name that a store has for it: LVM has a layer of its own below a pool that has volumes of LVM's
/// ("vg-pool-tpool" below "vg-pool").
bool is_named(const ThinPool &pool, std::string_view name);

/// A device whose target is "thin-pool" or "thin", as device-mapper shows it.
struct DmDevice {
    std::string name, number, uuid;
    unsigned openers = 0;
    sys::DmTarget table;
    std::string status; ///< "": could not be read
};
/// The pools among them with their thin devices, as a pure function. A thin device whose pool is not there, and a line
/// that is not understood, is a problem.
std::vector<ThinPool> assemble_thin_pools(std::span<const DmDevice> thin, std::span<const BlockDevice> devices,
                                          std::vector<Problem> &problems);

/// Parameters of the targets (Documentation/admin-guide/device-mapper/thin-provisioning.rst).
struct ThinPoolTable {
    std::string metadata_device, data_device; ///< "major:minor"
    uint64_t block_sectors = 0, low_water_blocks = 0;
    bool ignore_discard = false, no_discard_passdown = false, error_if_no_space = false;
};
Result<ThinPoolTable> parse_thin_pool_table(std::string_view parameters);
struct ThinTable {
    std::string pool; ///< "major:minor"
    uint64_t device_id = 0;
};
Result<ThinTable> parse_thin_table(std::string_view parameters);
/// Bytes that are mapped; nullopt: it does not say ("-", "Fail", "Error").
Result<std::optional<uint64_t>> parse_thin_status(std::string_view text);

/// The device "major:minor", or one that it stands on, is a loop device.
bool stands_on_loop(std::string_view number, std::span<const BlockDevice> devices);

} // namespace shale::probe
