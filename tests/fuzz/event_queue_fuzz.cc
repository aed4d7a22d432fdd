// SPDX-License-Identifier: Apache-2.0
// Buffers of fanotify and inotify; the first byte of an input says which: odd fanotify, even inotify.
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "sys/fanotify.h"

namespace {

void check(std::string_view name) {
    if (name.find('/') != std::string_view::npos || name.find('\0') != std::string_view::npos) __builtin_trap();
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    const auto buffer = std::as_bytes(std::span(data, size)).subspan(1);
    if (data[0] % 2 == 0) {
        const auto records = shale::sys::parse_inotify(buffer);
        if (!records) return 0;
        for (const auto &record : *records)
            check(record.name);
        return 0;
    }
    const auto records = shale::sys::parse_fanotify(buffer);
    if (!records) return 0;
    constexpr size_t fsid_and_type = 12;
    for (const auto &record : *records) {
        check(record.name);
        for (const auto &identity : {record.directory, record.object})
            if (!identity.empty() && identity.size() < fsid_and_type) __builtin_trap();
    }
    return 0;
}
