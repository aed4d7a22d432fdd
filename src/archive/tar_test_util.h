// SPDX-License-Identifier: Apache-2.0
// Builds archives for tests, byte by byte: malformed ones too, which no writer would make.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "archive/tar.h"

namespace shale::archive::testing {

/// Fields of one raw header; `numbers` are written as octal unless a raw field is given.
struct Raw {
    std::string name = {};
    char type = '0';
    std::string link = {};
    std::string data = {};
    uint64_t mode = 0644, uid = 0, gid = 0;
    int64_t mtime = 1'000'000'000;
    uint64_t major = 0, minor = 0;
    std::string prefix = {};
    std::string size_field = {}; ///< raw bytes in place of the octal size
    std::string uid_field = {}, mtime_field = {};
    bool v7 = false; ///< no magic
    bool bad_checksum = false;
    bool signed_checksum = false;
};

inline std::string octal(uint64_t value, size_t width) {
    std::string out(width, '0');
    out.back() = '\0';
    for (size_t i = width - 1; i-- > 0; value >>= 3U)
        out[i] = static_cast<char>('0' + (value & 7U));
    return out;
}

/// Big-endian two's complement with the mark of GNU's binary numbers.
inline std::string base256(int64_t value, size_t width) {
    std::string out(width, value < 0 ? '\xff' : '\0');
    for (size_t i = width; i-- > 0 && width - i <= 8; value >>= 8U)
        out[i] = static_cast<char>(value & 0xff);
    out[0] = static_cast<char>(static_cast<unsigned char>(out[0]) | 0x80U);
    return out;
}

inline std::string padded(std::string data) {
    data.resize((data.size() + 511) / 512 * 512, '\0');
    return data;
}

inline void seal(std::string &header, bool bad = false, bool with_sign = false) {
    header.replace(148, 8, "        ");
    int64_t sum = 0;
    for (char c : header)
        sum += with_sign ? static_cast<signed char>(c) : static_cast<unsigned char>(c);
    std::string text = octal(static_cast<uint64_t>(sum + (bad ? 1 : 0)), 7);
    header.replace(148, 8, text + " ");
}

inline std::string header_of(const Raw &raw, uint64_t size) {
    std::string h(512, '\0');
    const auto put = [&](size_t at, size_t width, std::string_view text) {
        std::memcpy(h.data() + at, text.data(), std::min(width, text.size()));
    };
    put(0, 100, raw.name);
    put(100, 8, octal(raw.mode, 8));
    put(108, 8, raw.uid_field.empty() ? octal(raw.uid, 8) : raw.uid_field);
    put(116, 8, octal(raw.gid, 8));
    put(124, 12, raw.size_field.empty() ? octal(size, 12) : raw.size_field);
    put(136, 12,
        !raw.mtime_field.empty() ? raw.mtime_field
        : raw.mtime < 0          ? base256(raw.mtime, 12)
                                 : octal(static_cast<uint64_t>(raw.mtime), 12));
    h[156] = raw.type;
    put(157, 100, raw.link);
    if (!raw.v7) {
        put(257, 8, std::string_view("ustar\00000", 8));
        put(329, 8, octal(raw.major, 8));
        put(337, 8, octal(raw.minor, 8));
        put(345, 155, raw.prefix);
    }
    seal(h, raw.bad_checksum, raw.signed_checksum);
    return h;
}

inline std::string member(const Raw &raw) {
    return header_of(raw, raw.data.size()) + padded(raw.data);
}

inline std::string pax_record(std::string_view key, std::string_view value) {
    const std::string body = " " + std::string(key) + "=" + std::string(value) + "\n";
    size_t length = body.size() + 1;
    while (std::to_string(length).size() + body.size() != length)
        ++length;
    return std::to_string(length) + body;
}

inline std::string pax(const std::vector<std::pair<std::string, std::string>> &records, char type = 'x') {
    std::string data;
    for (const auto &[key, value] : records)
        data += pax_record(key, value);
    return member({.name = "PaxHeaders/x", .type = type, .data = data});
}

inline std::string gnu_long(char type, const std::string &text) {
    return member({.name = "././@LongLink", .type = type, .data = text + '\0'});
}

inline std::string dir(const std::string &name, uint64_t mode = 0755) {
    return member({.name = name, .type = '5', .mode = mode});
}
inline std::string file(const std::string &name, const std::string &data = "", uint64_t mode = 0644) {
    return member({.name = name, .data = data, .mode = mode});
}
inline std::string link(const std::string &name, const std::string &target, uint64_t mode = 0644) {
    return member({.name = name, .type = '1', .link = target, .mode = mode});
}
inline std::string symlink(const std::string &name, const std::string &target) {
    return member({.name = name, .type = '2', .link = target, .mode = 0777});
}
inline std::string end() {
    return std::string(1024, '\0');
}

/// A source that hands out blocks of `block` bytes.
inline BlockSource source_of(std::string data, size_t block = size_t{1} << 16U) {
    auto text = std::make_shared<std::string>(std::move(data));
    return [text, block, at = size_t{0}]() mutable -> Result<std::span<const std::byte>> {
        const auto all = std::as_bytes(std::span(*text));
        const size_t now = std::min(block, all.size() - at);
        auto out = all.subspan(at, now);
        at += now;
        return out;
    };
}

} // namespace shale::archive::testing
