// SPDX-License-Identifier: Apache-2.0
// Manifests and indexes: no input crashes, and no input is both.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "oci/image.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const std::string_view text(reinterpret_cast<const char *>(data), size);
    const auto manifest = shale::oci::parse_manifest(text);
    const auto index = shale::oci::parse_index(text);
    if (manifest && index) std::abort();
    if (manifest && !shale::oci::parse_manifest(shale::oci::write_manifest(manifest->config, manifest->layers)))
        std::abort();
    return 0;
}
