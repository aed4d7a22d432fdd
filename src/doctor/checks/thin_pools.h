// SPDX-License-Identifier: Apache-2.0
// What the checks of thin pools share.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "doctor/check.h"

namespace shale::doctor::checks {

inline constexpr uint64_t thin_metadata_block_bytes = 4096;

/// "vg/lv" of a device that LVM made, from its name in device-mapper ("vg-my--pool-tpool": parts are joined by "-", one
/// within a name is doubled; lvm2, libdm/libdm-string.c); empty: no such name.
std::string logical_volume_of(std::string_view dm_name);
/// Path of a device that is known by its number: "/dev/mapper/NAME", "/dev/sdb1", "/dev/block/253:4".
std::string device_path(const probe::Facts &facts, std::string_view number);
/// The stores whose layers are volumes of that pool.
std::vector<const probe::Store *> stores_on(const probe::Facts &facts, const probe::ThinPool &pool);
/// Metadata that fits the pool's size, block size and number of volumes: the larger of 48 bytes a data block (Linux,
/// thin-provisioning.rst) and what thin_metadata_size(8) says; 2 MiB to what the kernel can use. 0: sizes unknown.
uint64_t metadata_wanted(const probe::ThinPool &pool);
/// False: the kernel gives no figures for a pool in that mode ("Fail", "Error").
bool has_figures(const probe::ThinPool &pool);

} // namespace shale::doctor::checks
