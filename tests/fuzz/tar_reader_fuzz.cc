// SPDX-License-Identifier: Apache-2.0
// The tar reader on any bytes: no crash, and the same entries whatever the size of the source's blocks.
#include <cstdint>
#include <cstdlib>

#include "archive/tar.h"

namespace {

using namespace shale;

uint64_t walk(std::span<const std::byte> data, size_t block) {
    archive::TarLimits limits;
    limits.header_bytes = 1U << 16U;
    archive::TarReader reader(
        [&, at = size_t{0}]() mutable -> Result<std::span<const std::byte>> {
            auto out = data.subspan(at, std::min(block, data.size() - at));
            at += out.size();
            return out;
        },
        limits);
    uint64_t sum = 0;
    for (archive::Entry entry;;) {
        auto more = reader.next(entry);
        if (!more) return sum * 31 + static_cast<uint64_t>(more.error().code());
        if (!*more) return sum;
        if (entry.path.find('\0') != std::string::npos || entry.link.find('\0') != std::string::npos) std::abort();
        uint64_t got = 0;
        for (;;) {
            auto piece = reader.data();
            if (!piece) return sum * 31 + 1;
            if (piece->empty()) break;
            got += piece->size();
        }
        if (got != entry.stored) std::abort();
        sum = sum * 31 + entry.path.size() + entry.size + got + entry.sparse.size();
    }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    const auto data = std::as_bytes(std::span(bytes, size));
    if (walk(data, 4096) != walk(data, 333)) std::abort();
    return 0;
}
