// SPDX-License-Identifier: Apache-2.0
// SipHash: a hash with a key, for tables whose keys strangers choose. Without the key nobody can find names that fall
// into one place. Source: Aumasson, Bernstein, "SipHash: a fast short-input PRF", 2012.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>

namespace shale {

using SipKey = std::array<uint64_t, 2>;

/// SipHash-c-d (1-3 is what tables in memory take) of `text` with the number `first` in front, or of the text alone.
template <int c = 1, int d = 3>
[[nodiscard]] uint64_t siphash(const SipKey &key, std::string_view text,
                               std::optional<uint64_t> first = std::nullopt) noexcept {
    static_assert(std::endian::native == std::endian::little);
    uint64_t v0 = key[0] ^ 0x736f6d6570736575, v1 = key[1] ^ 0x646f72616e646f6d;
    uint64_t v2 = key[0] ^ 0x6c7967656e657261, v3 = key[1] ^ 0x7465646279746573;
    const auto rounds = [&](int count) {
        for (int i = 0; i < count; ++i) {
            v0 += v1;
            v2 += v3;
            v1 = std::rotl(v1, 13) ^ v0;
            v3 = std::rotl(v3, 16) ^ v2;
            v0 = std::rotl(v0, 32);
            v2 += v1;
            v0 += v3;
            v1 = std::rotl(v1, 17) ^ v2;
            v3 = std::rotl(v3, 21) ^ v0;
            v2 = std::rotl(v2, 32);
        }
    };
    const auto take = [&](uint64_t word) {
        v3 ^= word;
        rounds(c);
        v0 ^= word;
    };
    const size_t length = text.size() + (first ? sizeof *first : 0);
    if (first) take(*first);
    for (; text.size() >= sizeof(uint64_t); text.remove_prefix(sizeof(uint64_t))) {
        uint64_t word = 0;
        std::memcpy(&word, text.data(), sizeof word);
        take(word);
    }
    uint64_t last = uint64_t{length & 0xff} << 56U;
    if (!text.empty()) std::memcpy(&last, text.data(), text.size());
    take(last);
    v2 ^= 0xff;
    rounds(d);
    return v0 ^ v1 ^ v2 ^ v3;
}

} // namespace shale
