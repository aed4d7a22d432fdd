// SPDX-License-Identifier: Apache-2.0
// Sparse members of tar: the old GNU form (ranges in the header) and the PAX forms 0.0, 0.1 (a list in the header) and
// 1.0 (a list before the data). What they state is held against the data and the limits in check_sparse().
#include <fmt/format.h>

#include <array>
#include <cstring>

#include "archive/tar_internal.h"

namespace shale::archive {

std::unexpected<Error> TarReader::too_many_ranges() const {
    return fail(Errc::ResourceExhausted,
                fmt::format("tar: sparse file at byte {} with more ranges than the limit of {}", header_at_,
                            limits_.sparse_ranges));
}

Status TarReader::read_old_sparse(const Header &header, Entry &out) {
    out.is_sparse = true;
    const auto real = parse_number(header.field(483, 12));
    if (!real || *real < 0) return malformed("real size of a sparse file");
    out.size = static_cast<uint64_t>(*real);
    const auto add = [&](std::string_view fields, size_t count) -> Status {
        for (size_t i = 0; i < count; ++i) {
            const std::string_view pair = fields.substr(i * 24, 24);
            if (pair[0] == 0 && pair[12] == 0) break;
            const auto offset = parse_number(pair.substr(0, 12));
            const auto length = parse_number(pair.substr(12, 12));
            if (!offset || !length || *offset < 0 || *length < 0) return malformed("range of a sparse file");
            out.sparse.push_back({static_cast<uint64_t>(*offset), static_cast<uint64_t>(*length)});
        }
        return {};
    };
    TRY(add(header.field(386, 96), 4));
    for (bool more = header.raw[482] != 0; more;) {
        const auto bytes = TRY(take(block_size));
        if (bytes.size() < block_size) return malformed("truncated sparse header");
        const std::string_view text = text_of(bytes);
        TRY(add(text, 21));
        more = text[504] != 0;
        // The count bounds memory, and with it a chain of empty blocks costs nothing but the input.
        if (out.sparse.size() > limits_.sparse_ranges) break;
    }
    return {};
}

/// PAX sparse 0.0 and 0.1: "offset,length,...".
Status TarReader::read_sparse_list(std::string_view map, Entry &out) {
    std::vector<uint64_t> numbers;
    while (!map.empty()) {
        const size_t comma = map.find(',');
        const auto number = parse_decimal<uint64_t>(map.substr(0, comma));
        if (!number) return malformed("sparse map is not a list of numbers");
        numbers.push_back(*number);
        if (numbers.size() / 2 > limits_.sparse_ranges) return too_many_ranges();
        map.remove_prefix(comma == std::string_view::npos ? map.size() : comma + 1);
    }
    if (numbers.size() % 2 != 0) return malformed("sparse map with an odd count of numbers");
    for (size_t i = 0; i < numbers.size(); i += 2)
        out.sparse.push_back({numbers[i], numbers[i + 1]});
    return {};
}

/// PAX sparse 1.0: the map is the first part of the data, decimal lines filled up to whole blocks.
Status TarReader::read_sparse_map(Entry &out) {
    out.is_sparse = true;
    std::array<char, block_size> block{};
    size_t at = block_size;
    const auto number = [&]() -> Result<uint64_t> {
        std::array<char, 20> digits{};
        for (size_t count = 0;;) {
            if (at == block_size) {
                if (entry_left_ < block_size) return malformed("truncated sparse map");
                const auto bytes = TRY(take(block_size));
                if (bytes.size() < block_size) return malformed("truncated sparse map");
                std::memcpy(block.data(), bytes.data(), block_size);
                entry_left_ -= block_size;
                at = 0;
            }
            const char c = block[at++];
            if (c == '\n') {
                const auto value = parse_decimal<uint64_t>({digits.data(), count});
                if (!value) return malformed("sparse map is not a list of numbers");
                return *value;
            }
            if (count == digits.size()) return malformed("sparse map is not a list of numbers");
            digits[count++] = c;
        }
    };
    const uint64_t count = TRY(number());
    if (count > limits_.sparse_ranges) return too_many_ranges();
    for (uint64_t i = 0; i < count; ++i) {
        const uint64_t offset = TRY(number());
        out.sparse.push_back({offset, TRY(number())});
    }
    out.stored = entry_left_;
    return {};
}

Status TarReader::check_sparse(const Entry &entry) {
    if (!entry.is_sparse) return {};
    if (entry.sparse.size() > limits_.sparse_ranges) return too_many_ranges();
    if (entry.size > max_size) return malformed("real size of a sparse file is too large");
    uint64_t end = 0;
    uint64_t sum = 0;
    for (const auto &range : entry.sparse) {
        if (range.offset < end || range.offset > entry.size || range.length > entry.size - range.offset)
            return malformed("sparse ranges overlap, are not in order or pass the end of the file");
        end = range.offset + range.length;
        sum += range.length;
    }
    if (sum != entry.stored)
        return malformed(fmt::format("sparse ranges hold {} bytes, the archive {}", sum, entry.stored));
    return {};
}

} // namespace shale::archive
