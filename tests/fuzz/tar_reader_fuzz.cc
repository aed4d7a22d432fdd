// SPDX-License-Identifier: Apache-2.0
// The tar reader on any bytes, as they are and with checksums made right: no crash, the same entries whatever the size
// of the source's blocks, and what it accepts is the same again when written and read anew.
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <string>
#include <vector>

#include "archive/tar.h"
#include "mend.h"

namespace {

using namespace shale;

archive::TarReader reader_of(std::span<const std::byte> data, size_t block) {
    archive::TarLimits limits;
    limits.header_bytes = 1U << 16U;
    return {[data, block, at = size_t{0}]() mutable -> Result<std::span<const std::byte>> {
                auto out = data.subspan(at, std::min(block, data.size() - at));
                at += out.size();
                return out;
            },
            limits};
}

uint64_t walk(std::span<const std::byte> data, size_t block) {
    archive::TarReader reader = reader_of(data, block);
    uint64_t sum = 0;
    for (archive::Entry entry;;) {
        auto more = reader.next(entry);
        if (!more) return sum * 31 + static_cast<uint64_t>(more.error().code());
        if (!*more) return sum;
        if (entry.path.find('\0') != std::string::npos || entry.link.find('\0') != std::string::npos) std::abort();
        uint64_t got = 0;
        for (;;) {
            auto piece = reader.data();
            if (!piece) return sum * 31 + 1;
            if (piece->empty()) break;
            got += piece->size();
        }
        if (got != entry.stored) std::abort();
        sum = sum * 31 + entry.path.size() + entry.size + got + entry.sparse.size();
    }
}

struct Member {
    archive::Entry entry;
    std::string data;
};

/// The entries up to the first that is malformed or that the writer does not state (sparse files).
std::vector<Member> members(std::span<const std::byte> data) {
    archive::TarReader reader = reader_of(data, std::numeric_limits<size_t>::max());
    std::vector<Member> out;
    for (;;) {
        Member member;
        if (auto more = reader.next(member.entry); !more || !*more) return out;
        const auto &entry = member.entry;
        const bool file_with_slash = entry.type == archive::EntryType::file && entry.path.ends_with('/');
        if (entry.is_sparse || entry.path.empty() || file_with_slash) return out;
        while (member.data.size() < entry.stored) {
            auto piece = reader.data();
            if (!piece) return out;
            member.data.append(reinterpret_cast<const char *>(piece->data()), piece->size());
        }
        if (entry.type != archive::EntryType::file) member.data.clear();
        std::ranges::sort(member.entry.xattrs);
        out.push_back(std::move(member));
    }
}

void write_and_read(std::span<const std::byte> data) {
    const auto before = members(data);
    std::vector<std::byte> written;
    archive::TarWriter writer([&](std::span<const std::byte> bytes) -> Status {
        written.insert(written.end(), bytes.begin(), bytes.end());
        return {};
    });
    for (const Member &member : before)
        if (!writer.add(member.entry) || !writer.data(std::as_bytes(std::span(member.data)))) std::abort();
    if (!writer.finish()) std::abort();
    const auto after = members(written);
    if (after.size() != before.size()) std::abort();
    for (size_t i = 0; i < before.size(); ++i) {
        const archive::Entry &a = before[i].entry, &b = after[i].entry;
        const bool device = a.type == archive::EntryType::char_device || a.type == archive::EntryType::block_device;
        const bool large = a.dev_major > 07777777 || a.dev_minor > 07777777; // no such number in Linux
        if (a.type != b.type || a.path != b.path || a.link != b.link || a.mode != b.mode || a.uid != b.uid ||
            a.gid != b.gid || a.size != b.size || a.mtime_s != b.mtime_s || a.mtime_ns != b.mtime_ns ||
            a.xattrs != b.xattrs || before[i].data != after[i].data)
            std::abort();
        if (device && !large && (a.dev_major != b.dev_major || a.dev_minor != b.dev_minor)) std::abort();
    }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    const auto data = std::as_bytes(std::span(bytes, size));
    if (walk(data, 4096) != walk(data, 333)) std::abort();
    const std::vector<uint8_t> mended = fuzz::with_checksums(bytes, size);
    const auto archive = std::as_bytes(std::span(mended));
    if (walk(archive, 4096) != walk(archive, 333)) std::abort();
    write_and_read(archive);
    return 0;
}
