// SPDX-License-Identifier: Apache-2.0
// What the parts of the tar reader share.
#pragma once

#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string_view>

#include "archive/tar.h"

namespace shale::archive {

constexpr size_t block_size = 512;
constexpr uint64_t max_size = static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) - block_size;

inline std::string_view text_of(std::span<const std::byte> bytes) {
    return {reinterpret_cast<const char *>(bytes.data()), bytes.size()};
}

template <class T> std::optional<T> parse_decimal(std::string_view text) {
    T value{};
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
    return value;
}

/// A numeric field: octal, or two's complement base 256 when the first bit is set.
std::optional<int64_t> parse_number(std::string_view field);

struct TarReader::Header {
    std::array<char, block_size> raw{};
    char type = 0;
    uint64_t size = 0;

    [[nodiscard]] std::string_view field(size_t at, size_t length) const {
        return std::string_view(raw.data(), raw.size()).substr(at, length);
    }
};

} // namespace shale::archive
