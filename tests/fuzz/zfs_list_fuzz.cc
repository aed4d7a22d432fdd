// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "sys/zfs.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const std::string_view text(reinterpret_cast<const char *>(data), size);
    (void)shale::sys::zfs_errno_of(text);
    if (shale::sys::is_zfs_name(text) && shale::sys::zfs_pool_of(text).empty()) __builtin_trap();
    const auto rows = shale::sys::parse_zfs_list(text);
    if (!rows) return 0;
    for (const auto &row : *rows)
        if (row.name.empty() || row.name.contains('\t')) __builtin_trap();
    return 0;
}
