// SPDX-License-Identifier: Apache-2.0
#include "frontends/list_page.h"

#include <algorithm>
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

/// Writes where there is room for it.
class Pen {
public:
    explicit Pen(char *at) : at_(at) {}
    void varint(uint64_t value) {
        for (; value >= 0x80; value >>= 7U)
            *at_++ = static_cast<char>(value | 0x80U);
        *at_++ = static_cast<char>(value);
    }
    void tag(uint32_t field, uint32_t type) { *at_++ = static_cast<char>(field << 3U | type); }
    void length(uint32_t field, size_t bytes) {
        tag(field, bytes_type);
        varint(bytes);
    }
    void text(uint32_t field, std::string_view text) {
        length(field, text.size());
        at_ = std::ranges::copy(text, at_).out;
    }

private:
    char *at_;
};

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
    void put(uint32_t field, Pen &pen) const {
        pen.length(field, size());
        if (seconds != 0) pen.tag(1, varint_type), pen.varint(seconds);
        if (nanos != 0) pen.tag(2, varint_type), pen.varint(nanos);
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

    const size_t before = out.size(), after = before + bytes_size(size);
    out.resize_and_overwrite(after, [&](char *text, size_t /*GCC 12: what there is room for*/) {
        Pen pen(text + before);
        pen.length(1, size);
        pen.text(1, row.name);
        if (!row.parent.empty()) pen.text(2, row.parent);
        pen.tag(3, varint_type);
        pen.varint(static_cast<uint64_t>(row.kind));
        created.put(4, pen);
        updated.put(5, pen);
        row.labels.each([&](std::string_view key, std::string_view value) {
            pen.length(6, label_size(key, value));
            pen.text(1, key);
            pen.text(2, value);
        });
        return after;
    });
}

} // namespace shale::frontends
