// SPDX-License-Identifier: Apache-2.0
// Whole image archives, docker and OCI, from a file in memory: no input crashes, and located layers lie in the file.
// Plain archives get right checksums; compressed ones are taken as they are.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "mend.h"
#include "oci/image.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const int file = ::memfd_create("archive", MFD_CLOEXEC);
    const bool compressed = size > 1 && (data[0] == 0x1f || data[0] == 0x28);
    const std::vector<uint8_t> bytes =
        compressed ? std::vector<uint8_t>(data, data + size) : shale::fuzz::with_checksums(data, size);
    if (::ftruncate(file, 0) != 0 || ::pwrite(file, bytes.data(), size, 0) != static_cast<ssize_t>(size)) return 0;
    shale::oci::SourceOptions options;
    options.spool_dir = "/tmp";
    options.max_spool_bytes = uint64_t{16} << 20U;
    const auto images = shale::oci::open_source("/proc/self/fd/" + std::to_string(file), options);
    if (!images) return 0;
    for (const auto &image : *images) {
        if (image.layers.size() != image.manifest.layers.size()) std::abort();
        if (image.config.diff_ids.size() != image.layers.size()) std::abort();
        for (const auto &layer : image.layers)
            if (!compressed && (layer.offset > size || layer.size > size - layer.offset)) std::abort();
    }
    return 0;
}
