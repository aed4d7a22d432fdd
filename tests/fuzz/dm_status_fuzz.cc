// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "sys/dm_status.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const std::string_view text(reinterpret_cast<const char *>(data), size);
    if (const auto pool = shale::sys::parse_thin_pool_status(text);
        pool &&
        (pool->used_metadata_blocks > pool->total_metadata_blocks || pool->used_data_blocks > pool->total_data_blocks))
        __builtin_trap();
    return 0;
}
