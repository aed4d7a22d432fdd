// SPDX-License-Identifier: Apache-2.0
#include "frontends/list_page.h"

#include <cstdint>

namespace shale::frontends {
namespace {

constexpr uint32_t varint_type = 0, bytes_type = 2;

size_t varint_size(uint64_t value) {
    size_t size = 1;
    for (; value >= 0x80; value >>= 7U)
        ++size;
    return size;
}
/// All field numbers here are below 16: a tag is one byte.
size_t bytes_size(size_t bytes) {
    return 1 + varint_size(bytes) + bytes;
}

void put_varint(uint64_t value, std::string &out) {
    for (; value >= 0x80; value >>= 7U)
        out += static_cast<char>(value | 0x80U);
    out += static_cast<char>(value);
}
void put_tag(uint32_t field, uint32_t type, std::string &out) {
    out += static_cast<char>(field << 3U | type);
}
void put_length(uint32_t field, size_t bytes, std::string &out) {
    put_tag(field, bytes_type, out);
    put_varint(bytes, out);
}
void put_text(uint32_t field, std::string_view text, std::string &out) {
    put_length(field, text.size(), out);
    out += text;
}

/// A google.protobuf.Timestamp. Zeros are not written.
struct Time {
    explicit Time(int64_t unix_ns) {
        constexpr int64_t second = 1'000'000'000;
        const int64_t rest = ((unix_ns % second) + second) % second; // of a time before the epoch, too
        seconds = static_cast<uint64_t>((unix_ns - rest) / second);
        nanos = static_cast<uint64_t>(rest);
    }
    [[nodiscard]] size_t size() const {
        return (seconds == 0 ? 0 : 1 + varint_size(seconds)) + (nanos == 0 ? 0 : 1 + varint_size(nanos));
    }
    void put(uint32_t field, std::string &out) const {
        put_length(field, size(), out);
        if (seconds != 0) put_tag(1, varint_type, out), put_varint(seconds, out);
        if (nanos != 0) put_tag(2, varint_type, out), put_varint(nanos, out);
    }
    uint64_t seconds, nanos;
};

size_t label_size(std::string_view key, std::string_view value) {
    return bytes_size(key.size()) + bytes_size(value.size());
}

} // namespace

void append_info(const store::SnapshotRow &row, std::string &out) {
    const Time created(row.created_ns), updated(row.updated_ns);
    size_t size = bytes_size(row.name.size()) + 2 + bytes_size(created.size()) + bytes_size(updated.size());
    if (!row.parent.empty()) size += bytes_size(row.parent.size());
    row.labels.each([&](std::string_view key, std::string_view value) { size += bytes_size(label_size(key, value)); });

    put_length(1, size, out);
    put_text(1, row.name, out);
    if (!row.parent.empty()) put_text(2, row.parent, out);
    put_tag(3, varint_type, out);
    put_varint(static_cast<uint64_t>(row.kind), out);
    created.put(4, out);
    updated.put(5, out);
    row.labels.each([&](std::string_view key, std::string_view value) {
        put_length(6, label_size(key, value), out);
        put_text(1, key, out);
        put_text(2, value, out);
    });
}

} // namespace shale::frontends
