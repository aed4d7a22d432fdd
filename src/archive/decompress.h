// SPDX-License-Identifier: Apache-2.0
// Stream codecs of layer blobs: gzip (ISA-L), zstd, plain. Memory bounded: a zstd window over 2^`max_window_log` bytes
// is refused; multi-member gzip and zstd frames (skippable too) are read to the end; trailing garbage is an error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>

#include "base/error.h"

namespace shale::archive {

enum class Compression : uint8_t { none, gzip, zstd };
std::string_view compression_name(Compression compression) noexcept;

/// By magic bytes (gzip 1f 8b, zstd 28 b5 2f fd or a skippable frame 50-5f 2a 4d 18). xz, bzip2 and lz4 are
/// recognised to be refused by name (Unimplemented); anything else is `none`.
Result<Compression> detect_compression(std::span<const std::byte> head);

class Decoder {
public:
    virtual ~Decoder() = default;
    struct Step {
        size_t consumed = 0, produced = 0;
    };
    /// Decodes some of `in` into `out`. Corrupt data: DataLoss with what is wrong (CRC, truncated, ...).
    virtual Result<Step> step(std::span<const std::byte> in, std::span<std::byte> out) = 0;
    /// Called once at the end of input: an unfinished stream is DataLoss.
    virtual Status finish() = 0;
};
/// The largest zstd window that is taken, the same wherever a layer is read, so that what exports also unpacks: 32 MiB,
/// four times what RFC 8878 (3.1.1.1.2) asks of every decoder and what levels up to 19 use. A decoder holds its frame's
/// window, one for each layer that unpacks at once; more would break the bound of 128 MB on an import's memory.
constexpr unsigned default_window_log = 25;
Result<std::unique_ptr<Decoder>> make_decoder(Compression compression, unsigned max_window_log = default_window_log);

/// Compressor for layers that shale makes itself (commit). Deterministic for a given level.
class Encoder {
public:
    virtual ~Encoder() = default;
    /// Takes all of `in`, hands compressed bytes to `sink`.
    virtual Status write(std::span<const std::byte> in) = 0;
    virtual Status finish() = 0;
};
Result<std::unique_ptr<Encoder>> make_encoder(Compression compression,
                                              std::move_only_function<Status(std::span<const std::byte>)> sink);

} // namespace shale::archive
