// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>

#include "archive/tar.h"
#include "archive/tree_walk.h"

namespace shale::archive {
namespace {

constexpr size_t block_size = 512;
constexpr uint64_t max_octal_7 = 07777777;         // 2,097,151
constexpr uint64_t max_octal_11 = 077777777777ULL; // 8 GiB - 1

struct Header {
    std::array<char, 100> name;
    std::array<char, 8> mode, uid, gid;
    std::array<char, 12> size, mtime;
    std::array<char, 8> checksum;
    char type;
    std::array<char, 100> link;
    std::array<char, 6> magic;
    std::array<char, 2> version;
    std::array<char, 32> uname, gname;
    std::array<char, 8> dev_major, dev_minor;
    std::array<char, 155> prefix;
    std::array<char, 12> padding;
};
static_assert(sizeof(Header) == block_size);

template <size_t N> void put_text(std::array<char, N> &field, std::string_view text) {
    std::copy_n(text.begin(), std::min(N, text.size()), field.begin());
}

template <size_t N> void put_octal(std::array<char, N> &field, uint64_t value) {
    for (size_t i = N - 1; i-- > 0; value >>= 3U)
        field[i] = static_cast<char>('0' + (value & 7U));
    field[N - 1] = '\0';
}

Header blank() {
    Header header;
    std::memset(&header, 0, sizeof header);
    put_text(header.magic, std::string_view("ustar\0", 6));
    put_text(header.version, "00");
    return header;
}

void seal(Header &header) {
    header.checksum.fill(' ');
    unsigned sum = 0;
    for (std::byte byte : std::as_bytes(std::span(&header, 1)))
        sum += std::to_integer<unsigned>(byte);
    for (size_t i = 6; i-- > 0; sum >>= 3U)
        header.checksum[i] = static_cast<char>('0' + (sum & 7U));
    header.checksum[6] = '\0';
}

/// The first slash that leaves at most 100 bytes behind it and 155 before it: false when there is none.
bool put_path(Header &header, std::string_view path) {
    if (path.size() <= header.name.size()) {
        put_text(header.name, path);
        return true;
    }
    const size_t from = path.size() - header.name.size() - 1;
    const size_t slash = path.find('/', std::max<size_t>(from, 1));
    if (slash == std::string_view::npos || slash > header.prefix.size() || slash + 1 == path.size()) return false;
    put_text(header.prefix, path.substr(0, slash));
    put_text(header.name, path.substr(slash + 1));
    return true;
}

std::string pax_time(int64_t seconds, uint32_t nanoseconds) {
    std::string out;
    // Two's complement on unsigned: the magnitude of the smallest int64 does not fit one.
    auto magnitude = static_cast<uint64_t>(seconds);
    if (seconds < 0) {
        out = "-";
        magnitude = 0 - magnitude;
        if (nanoseconds != 0) {
            --magnitude;
            nanoseconds = 1'000'000'000U - nanoseconds;
        }
    }
    out += std::to_string(magnitude);
    if (nanoseconds == 0) return out;
    std::string fraction = std::to_string(1'000'000'000U + nanoseconds);
    fraction.erase(fraction.find_last_not_of('0') + 1);
    fraction.front() = '.';
    return out + fraction;
}

using Records = std::vector<std::pair<std::string, std::string>>;

std::string encode(const Records &records) {
    std::string out;
    for (const auto &[key, value] : records) {
        const size_t body = key.size() + value.size() + 3; // ' ' '=' '\n'
        size_t length = body + 1;
        while (body + std::to_string(length).size() != length)
            length = body + std::to_string(length).size();
        out.append(std::to_string(length)).append(" ").append(key).append("=").append(value).append("\n");
    }
    return out;
}

char type_flag(EntryType type) {
    switch (type) {
    case EntryType::file:
        return '0';
    case EntryType::hard_link:
        return '1';
    case EntryType::symlink:
        return '2';
    case EntryType::char_device:
        return '3';
    case EntryType::block_device:
        return '4';
    case EntryType::directory:
        return '5';
    case EntryType::fifo:
        return '6';
    }
    return '0';
}

std::string pax_name(std::string_view path) {
    while (path.size() > 1 && path.ends_with('/'))
        path.remove_suffix(1);
    return "PaxHeaders/" + std::string(path.substr(path.rfind('/') + 1));
}

constexpr std::array<std::byte, 2 * block_size> zeros{};

} // namespace

TarWriter::TarWriter(Sink sink) : sink_(std::move(sink)) {}

Status TarWriter::add(const Entry &entry) {
    if (left_ != 0)
        return fail(Errc::Internal, "tar writer: " + std::to_string(left_) + " bytes of the last file are missing");
    if (entry.path.empty() || entry.path.find('\0') != std::string::npos || entry.link.find('\0') != std::string::npos)
        return fail(Errc::InvalidArgument, "tar writer: empty name or NUL in a name: " + quoted(entry.path));
    TRY(flush_padding());

    const uint64_t size = entry.type == EntryType::file ? entry.size : 0;
    Records records;
    Header header = blank();
    if (!put_path(header, entry.path)) {
        put_text(header.name, entry.path); // cut; the record counts
        records.emplace_back("path", entry.path);
    }
    put_text(header.link, entry.link);
    if (entry.link.size() > header.link.size()) records.emplace_back("linkpath", entry.link);
    header.type = type_flag(entry.type);
    put_octal(header.mode, entry.mode & 07777U);
    // What does not fit is 0 in the header, and the record counts.
    auto number = [&](auto &field, const char *key, uint64_t value, uint64_t limit) {
        put_octal(field, value <= limit ? value : 0);
        if (value > limit) records.emplace_back(key, std::to_string(value));
    };
    number(header.uid, "uid", entry.uid, max_octal_7);
    number(header.gid, "gid", entry.gid, max_octal_7);
    number(header.size, "size", size, max_octal_11);
    number(header.dev_major, "SCHILY.devmajor", entry.dev_major, max_octal_7);
    number(header.dev_minor, "SCHILY.devminor", entry.dev_minor, max_octal_7);
    const bool fits = entry.mtime_s >= 0 && static_cast<uint64_t>(entry.mtime_s) <= max_octal_11;
    put_octal(header.mtime, fits ? static_cast<uint64_t>(entry.mtime_s) : 0);
    if (!fits || entry.mtime_ns != 0) records.emplace_back("mtime", pax_time(entry.mtime_s, entry.mtime_ns));
    for (const auto &[key, value] : entry.xattrs) {
        if (key.empty() || key.find_first_of(std::string_view("=\0", 2)) != std::string::npos)
            return fail(Errc::InvalidArgument, "tar writer: attribute " + quoted(key) + " of " + quoted(entry.path) +
                                                   " cannot be stated in PAX");
        records.emplace_back("SCHILY.xattr." + key, value);
    }

    if (!records.empty()) {
        std::ranges::sort(records);
        std::string body = encode(records);
        Header extra = blank();
        put_text(extra.name, pax_name(entry.path));
        put_octal(extra.mode, 0644);
        put_octal(extra.uid, 0);
        put_octal(extra.gid, 0);
        put_octal(extra.size, body.size());
        put_octal(extra.mtime, 0);
        put_octal(extra.dev_major, 0);
        put_octal(extra.dev_minor, 0);
        extra.type = 'x';
        seal(extra);
        body.resize((body.size() + block_size - 1) / block_size * block_size, '\0');
        TRY(sink_(std::as_bytes(std::span(&extra, 1))));
        TRY(sink_(std::as_bytes(std::span(body))));
    }
    seal(header);
    TRY(sink_(std::as_bytes(std::span(&header, 1))));
    left_ = size;
    padding_ = (block_size - size % block_size) % block_size;
    return {};
}

Status TarWriter::data(std::span<const std::byte> bytes) {
    if (bytes.size() > left_)
        return fail(Errc::Internal, "tar writer: " + std::to_string(bytes.size() - left_) + " bytes too many");
    left_ -= bytes.size();
    if (bytes.empty()) return {};
    return sink_(bytes);
}

Status TarWriter::flush_padding() {
    if (padding_ == 0) return {};
    auto padding = std::span(zeros).first(padding_);
    padding_ = 0;
    return sink_(padding);
}

Status TarWriter::finish() {
    if (left_ != 0)
        return fail(Errc::Internal, "tar writer: " + std::to_string(left_) + " bytes of the last file are missing");
    TRY(flush_padding());
    return sink_(zeros);
}

} // namespace shale::archive
