// SPDX-License-Identifier: Apache-2.0
// Both decoders on any bytes: no crash, progress at every step, bounded output.
#include <array>
#include <cstdint>
#include <cstdlib>

#include "archive/decompress.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    using namespace shale;
    if (size == 0) return 0;
    const auto all = std::as_bytes(std::span(bytes, size));
    const auto kind = (bytes[0] & 1U) != 0 ? archive::Compression::gzip : archive::Compression::zstd;
    const size_t piece = 1 + bytes[0] / 2U;
    (void)archive::detect_compression(all.subspan(1));
    auto decoder = archive::make_decoder(kind, 20);
    if (!decoder) std::abort();
    std::array<std::byte, 1000> room;
    uint64_t total = 0;
    for (auto rest = all.subspan(1); !rest.empty();) {
        auto in = rest.first(std::min(piece, rest.size()));
        rest = rest.subspan(in.size());
        for (;;) {
            auto step = (*decoder)->step(in, room);
            if (!step) return 0;
            in = in.subspan(step->consumed);
            total += step->produced;
            if (total > 4U << 20U) return 0;
            if (in.empty() && step->produced < room.size()) break;
            if (step->consumed == 0 && step->produced == 0) std::abort();
        }
    }
    (void)(*decoder)->finish();
    return 0;
}
