// SPDX-License-Identifier: Apache-2.0
// References: what is accepted is stable and holds nothing that could be a path step or a control character.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "oci/image.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const std::string_view text(reinterpret_cast<const char *>(data), size);
    const auto once = shale::oci::normalize_reference(text);
    if (!once) return 0;
    const auto twice = shale::oci::normalize_reference(*once);
    if (!twice || *twice != *once || once->find("..") != std::string::npos || once->starts_with('/')) std::abort();
    if (!std::ranges::all_of(*once, [](char c) { return c > ' ' && c < 0x7f; })) std::abort();
    return 0;
}
