// SPDX-License-Identifier: Apache-2.0
// What a thin pool says about itself (Documentation/admin-guide/device-mapper/thin-provisioning.rst, "Status"),
// taken apart. A pure function of the text behind the target's name.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "base/error.h"

namespace shale::sys {

enum class PoolMode : uint8_t {
    read_write,
    read_only, ///< mapped blocks can be written, no new ones be given; no messages are taken
    out_of_data_space,
    failed, ///< "Fail": the kernel gave it up; all I/O is refused
    error,  ///< "Error": the kernel could not read its own metadata for the status
};

struct ThinPoolStatus {
    PoolMode mode = PoolMode::failed; ///< failed and error: nothing else is known
    uint64_t transaction = 0;
    uint64_t used_metadata_blocks = 0, total_metadata_blocks = 0; ///< of 4 KiB
    uint64_t used_data_blocks = 0, total_data_blocks = 0;         ///< of the pool's block size
    std::optional<uint64_t> held_root;                            ///< of a metadata snapshot
    enum class Discard : uint8_t { ignored, not_passed_down, passed_down } discard = Discard::ignored;
    bool error_if_no_space = false; ///< else writers wait for space
    bool needs_check = false;
    std::optional<uint64_t> metadata_low_water_blocks; ///< Linux 4.19
};

/// InvalidArgument: not such a line (the text is in the error).
Result<ThinPoolStatus> parse_thin_pool_status(std::string_view text);

} // namespace shale::sys
