// SPDX-License-Identifier: Apache-2.0
// The options of the devicemapper driver, checked.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "drivers/driver.h"

namespace shale::drivers::devicemapper {

enum class Backing : uint8_t {
    loop,   ///< sparse files below ROOT/pool
    device, ///< one block device, all of it
    volumes ///< two logical volumes of an LVM2 volume group
};
enum class FileSystem : uint8_t { ext4, xfs };
enum class Discard : uint8_t { on, off };

[[nodiscard]] std::string_view name_of(Backing backing) noexcept;
[[nodiscard]] std::string_view name_of(FileSystem fs) noexcept;

struct Config {
    Backing backing = Backing::loop;
    std::string device;          ///< Backing::device: path; Backing::volumes: name of the volume group
    uint64_t data_bytes = 0;     ///< 0: all there is (device, volumes)
    uint64_t metadata_bytes = 0; ///< 0: by metadata_size_for()
    uint64_t block_bytes = 0;    ///< what the pool gives out at once
    uint64_t base_bytes = 0;     ///< size of the file system that layers without parents begin with
    FileSystem fs = FileSystem::ext4;
    std::vector<std::string> mkfs; ///< further arguments
    unsigned data_max_percent = 95, metadata_max_percent = 95;
    Discard discard = Discard::on; ///< a removed volume's space goes back to what is below the pool, where that can
    Quota container;               ///< default size of a container's file system
};

std::span<const OptionInfo> option_infos() noexcept;
Result<Config> read_config(const DriverOptions &given);

inline constexpr uint64_t metadata_block_bytes = 4096;
/// Blocks of metadata that the kernel uses on a device of that size: all whole ones, at most 15.9 GiB.
uint64_t usable_metadata_blocks(uint64_t device_bytes) noexcept;
/// Metadata that a pool of this size needs, so that its data is full first: 64 bytes a block (a mapping takes 16,
/// leaves are at least half full, and shared leaves are copied when one of their users writes), and 8 blocks of 4 KiB
/// for each of `snapshots` volumes (root and details of each). Rounded up to 4 MiB; at least 8 MiB, at most what the
/// kernel uses.
uint64_t metadata_size_for(uint64_t data_bytes, uint64_t block_bytes, uint64_t snapshots = 1000) noexcept;

} // namespace shale::drivers::devicemapper
