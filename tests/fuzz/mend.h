// SPDX-License-Identifier: Apache-2.0
// Checksums of tar headers made right, else nearly every mutated archive would end at its first header.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

namespace shale::fuzz {

/// Walks the headers as a reader would (octal sizes only) and seals each one.
inline std::vector<uint8_t> with_checksums(const uint8_t *bytes, size_t size) {
    std::vector<uint8_t> data(bytes, bytes + size);
    for (size_t at = 0; at + 512 <= data.size(); at += 512) {
        uint8_t *header = data.data() + at;
        if (std::all_of(header, header + 512, [](uint8_t byte) { return byte == 0; })) continue;
        unsigned sum = 0;
        for (size_t i = 0; i < 512; ++i)
            sum += i >= 148 && i < 156 ? ' ' : header[i];
        std::snprintf(reinterpret_cast<char *>(header + 148), 8, "%06o", sum);
        header[155] = ' ';
        const char type = static_cast<char>(header[156]);
        uint64_t length = 0;
        for (size_t i = 124; i < 135 && header[i] >= '0' && header[i] <= '7'; ++i)
            length = length * 8 + (header[i] - '0');
        if (std::strchr("123456", type) != nullptr && type != '\0') length = 0; // these carry no data
        const uint64_t blocks = std::min<uint64_t>((length + 511) / 512, data.size() / 512);
        at += static_cast<size_t>(blocks) * 512;
    }
    return data;
}

} // namespace shale::fuzz
