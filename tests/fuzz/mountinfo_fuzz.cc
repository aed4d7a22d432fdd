// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "sys/mount.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const auto table = shale::sys::parse_mountinfo({reinterpret_cast<const char *>(data), size});
    if (!table) return 0;
    for (const auto &entry : *table)
        if (entry.target.empty() || entry.type.empty()) __builtin_trap();
    return 0;
}
