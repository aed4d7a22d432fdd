// SPDX-License-Identifier: Apache-2.0
// Configs: no input crashes; a child of an accepted config is itself accepted and has one layer more.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "oci/image.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const std::string_view text(reinterpret_cast<const char *>(data), size);
    const auto config = shale::oci::parse_config(text);
    const shale::oci::CommitInfo info{shale::Digest::of("x"), "2024-01-01T00:00:00Z", "fuzz", "", "", {"/bin/sh"}};
    const auto child = shale::oci::write_child_config(text, info);
    if (config && child && !shale::oci::parse_config(*child, config->diff_ids.size() + 1)) std::abort();
    if (!config && child && size != 0) std::abort();
    return 0;
}
