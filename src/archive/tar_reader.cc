// SPDX-License-Identifier: Apache-2.0
// Parser of tar headers. Where archives disagree with themselves (PAX size against header size, long names against
// PAX names, sizes of members that carry no data) this follows Go's archive/tar: the programs that make and check
// layers use it, and two readers that disagree on where a header starts see different files (CVE-2025-62518).
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <limits>

#include "archive/tar_internal.h"

namespace shale::archive {
namespace {

uint64_t padding_of(uint64_t size) {
    return (block_size - size % block_size) % block_size;
}

std::string_view until_nul(std::string_view text) {
    return text.substr(0, text.find('\0'));
}

/// "[-]seconds[.fraction]"; digits past nanoseconds are cut.
std::optional<std::pair<int64_t, uint32_t>> parse_time(std::string_view text) {
    const size_t dot = text.find('.');
    const std::string_view whole = text.substr(0, dot);
    if (whole.empty()) return std::nullopt;
    auto seconds = parse_decimal<int64_t>(whole);
    if (!seconds) return std::nullopt;
    uint32_t nanoseconds = 0;
    if (dot != std::string_view::npos) {
        std::string_view fraction = text.substr(dot + 1);
        if (!std::ranges::all_of(fraction, [](char c) { return c >= '0' && c <= '9'; })) return std::nullopt;
        uint32_t unit = 100'000'000;
        for (char c : fraction.substr(0, 9)) {
            nanoseconds += unit * static_cast<uint32_t>(c - '0');
            unit /= 10;
        }
    }
    if (text.front() == '-' && nanoseconds != 0) {
        if (*seconds == std::numeric_limits<int64_t>::min()) return std::nullopt;
        return std::pair{*seconds - 1, 1'000'000'000 - nanoseconds};
    }
    return std::pair{*seconds, nanoseconds};
}

} // namespace

std::optional<int64_t> parse_number(std::string_view field) {
    if (field.empty()) return 0;
    const auto first = static_cast<uint8_t>(field.front());
    if ((first & 0x80U) != 0) {
        const bool negative = (first & 0x40U) != 0;
        // Bits are inverted for negative numbers so that overflow shows the same way for both signs.
        const uint8_t flip = negative ? 0xff : 0;
        uint64_t value = 0;
        for (size_t i = 0; i < field.size(); ++i) {
            auto byte = static_cast<uint8_t>(static_cast<uint8_t>(field[i]) ^ flip);
            if (i == 0) byte &= 0x7fU;
            if ((value >> 56U) != 0) return std::nullopt;
            value = (value << 8U) | byte;
        }
        if ((value >> 63U) != 0) return std::nullopt;
        const auto number = static_cast<int64_t>(value);
        return negative ? ~number : number;
    }
    while (!field.empty() && (field.front() == ' ' || field.front() == '\0'))
        field.remove_prefix(1);
    while (!field.empty() && (field.back() == ' ' || field.back() == '\0'))
        field.remove_suffix(1);
    uint64_t value = 0;
    for (size_t i = 0; i < field.size(); ++i) {
        if (field[i] == '\0' || field[i] == ' ') break; // what follows a terminator does not count
        if (field[i] < '0' || field[i] > '7' || (value >> 60U) != 0) return std::nullopt;
        value = (value << 3U) | static_cast<uint64_t>(field[i] - '0');
    }
    return static_cast<int64_t>(value);
}

struct TarReader::Extended {
    std::optional<std::string> path, link, long_path, long_link, sparse_name;
    std::optional<uint64_t> size, uid, gid, sparse_size;
    std::optional<std::pair<int64_t, uint32_t>> mtime;
    std::vector<std::pair<std::string, std::string>> xattrs;
    std::string sparse_map; ///< "offset,length,..." of 0.1, or gathered from 0.0
    std::string sparse_major, sparse_minor;
    bool sparse_0 = false;

    [[nodiscard]] bool is_sparse_1() const { return sparse_major == "1" && sparse_minor == "0"; }
    /// One PAX record; false when the value is not what the key wants.
    bool apply(std::string_view key, std::string_view value, bool global);
};

bool TarReader::Extended::apply(std::string_view key, std::string_view value, bool global) {
    const bool has_nul = value.find('\0') != std::string_view::npos;
    const auto take_text = [&](std::optional<std::string> &out) {
        if (has_nul) return false;
        if (!value.empty()) out = value;
        return true;
    };
    const auto take_number = [&](std::optional<uint64_t> &out) {
        out.reset();
        if (value.empty()) return true;
        out = parse_decimal<uint64_t>(value);
        return out.has_value();
    };
    if (key == "uid") return take_number(uid);
    if (key == "gid") return take_number(gid);
    if (key == "mtime") {
        mtime.reset();
        if (value.empty()) return true;
        mtime = parse_time(value);
        return mtime.has_value();
    }
    // A global name or size would be that of every following entry: it makes no sense and would rename them all.
    if (global) return true;
    if (key == "path") return take_text(path);
    if (key == "linkpath") return take_text(link);
    if (key == "size") return take_number(size);
    if (constexpr std::string_view prefix = "SCHILY.xattr."; key.starts_with(prefix)) {
        std::string_view name = key.substr(prefix.size());
        if (name.empty()) return false;
        auto known = std::ranges::find(xattrs, name, &std::pair<std::string, std::string>::first);
        if (known != xattrs.end())
            known->second = value;
        else
            xattrs.emplace_back(name, value);
        return true;
    }
    constexpr std::string_view sparse_prefix = "GNU.sparse.";
    if (!key.starts_with(sparse_prefix)) return true;
    key.remove_prefix(sparse_prefix.size());
    if (key == "name") return take_text(sparse_name);
    if (key == "size" || key == "realsize") return take_number(sparse_size);
    if (key == "major") sparse_major = value;
    if (key == "minor") sparse_minor = value;
    if (key == "numblocks") sparse_0 = true;
    if (key == "map") {
        sparse_0 = true;
        sparse_map = value;
    }
    if (key == "offset" || key == "numbytes") { // 0.0: pairs of records, in order
        sparse_0 = true;
        if (!sparse_map.empty()) sparse_map += ',';
        sparse_map += value;
    }
    return true;
}

TarReader::TarReader(BlockSource source, const TarLimits &limits) : source_(std::move(source)), limits_(limits) {}

std::unexpected<Error> TarReader::malformed(std::string what) const {
    return fail(Errc::InvalidArgument,
                fmt::format("malformed tar: {} (header at byte {}, read up to byte {})", what, header_at_, consumed_));
}

Result<size_t> TarReader::fill() {
    while (block_.empty() && !source_ended_) {
        block_ = TRY(source_());
        if (block_.empty()) source_ended_ = true;
    }
    return block_.size();
}

Result<std::span<const std::byte>> TarReader::take(size_t wanted) {
    TRY(fill());
    if (block_.size() >= wanted) [[likely]] {
        auto out = block_.first(wanted);
        block_ = block_.subspan(wanted);
        consumed_ += wanted;
        return out;
    }
    carry_.clear();
    while (carry_.size() < wanted && TRY(fill()) > 0) {
        auto piece = block_.first(std::min(block_.size(), wanted - carry_.size()));
        carry_.insert(carry_.end(), piece.begin(), piece.end());
        block_ = block_.subspan(piece.size());
        consumed_ += piece.size();
    }
    return std::span<const std::byte>(carry_);
}

Result<std::string> TarReader::take_string(uint64_t size, const char *what) {
    if (size > limits_.header_bytes)
        return fail(Errc::ResourceExhausted, fmt::format("tar: {} of {} bytes at byte {}, over the limit of {} bytes "
                                                         "for one header",
                                                         what, size, header_at_, limits_.header_bytes));
    const auto bytes = TRY(take(static_cast<size_t>(size)));
    if (bytes.size() != size) return malformed(fmt::format("truncated {}", what));
    std::string out(text_of(bytes));
    TRY(skip(padding_of(size)));
    return out;
}

Status TarReader::skip(uint64_t bytes) {
    while (bytes > 0) {
        if (TRY(fill()) == 0) return malformed(fmt::format("truncated data: {} bytes missing", bytes));
        const auto now = static_cast<size_t>(std::min<uint64_t>(bytes, block_.size()));
        block_ = block_.subspan(now);
        consumed_ += now;
        bytes -= now;
    }
    return {};
}

Result<std::span<const std::byte>> TarReader::data() {
    if (entry_left_ == 0) return std::span<const std::byte>{};
    if (TRY(fill()) == 0) return malformed(fmt::format("truncated data: {} bytes missing", entry_left_));
    auto out = block_.first(static_cast<size_t>(std::min<uint64_t>(entry_left_, block_.size())));
    block_ = block_.subspan(out.size());
    consumed_ += out.size();
    entry_left_ -= out.size();
    return out;
}

Status TarReader::drain() {
    while (TRY(fill()) > 0) {
        consumed_ += block_.size();
        block_ = {};
    }
    entry_left_ = padding_ = 0;
    at_end_ = true;
    return {};
}

/// False at the end of the archive.
Result<bool> TarReader::read_header(Header &out) {
    const auto read_block = [&]() -> Result<bool> {
        header_at_ = consumed_;
        const auto bytes = TRY(take(block_size));
        if (bytes.empty()) return false;
        if (bytes.size() < block_size) return malformed("truncated header");
        std::memcpy(out.raw.data(), bytes.data(), block_size);
        return true;
    };
    const auto is_zero = [&] { return std::ranges::all_of(out.raw, [](char c) { return c == 0; }); };
    if (!TRY(read_block())) return false;
    if (out.raw[0] == 0 && is_zero()) {
        if (!TRY(read_block()) || is_zero()) return false;
        return malformed("a zero block between entries");
    }
    int64_t plain = 0;
    int64_t with_sign = 0; // old writers summed signed chars
    for (size_t i = 0; i < block_size; ++i) {
        const char c = i >= 148 && i < 156 ? ' ' : out.raw[i];
        plain += static_cast<unsigned char>(c);
        with_sign += static_cast<signed char>(c);
    }
    const auto sum = parse_number(out.field(148, 8));
    if (!sum || (*sum != plain && *sum != with_sign)) return malformed("wrong header checksum");
    out.type = out.raw[156];
    const auto size = parse_number(out.field(124, 12));
    if (!size) return malformed("size is not a number or too large");
    if (*size < 0) return malformed(fmt::format("negative size {}", *size));
    if (static_cast<uint64_t>(*size) > max_size) return malformed(fmt::format("size {} is too large", *size));
    out.size = static_cast<uint64_t>(*size);
    return true;
}

Status TarReader::read_extended(const Header &header, Extended &extended) {
    if (header.type == 'L' || header.type == 'K') {
        std::string name = TRY(take_string(header.size, "GNU long name"));
        name.resize(until_nul(name).size());
        (header.type == 'L' ? extended.long_path : extended.long_link) = std::move(name);
        return {};
    }
    const bool global = header.type == 'g';
    std::string text = TRY(take_string(header.size, "PAX header"));
    Extended globals;
    Extended fresh; // a second PAX header replaces the first one
    if (!global) {
        fresh.long_path = std::move(extended.long_path);
        fresh.long_link = std::move(extended.long_link);
    }
    Extended &target = global ? globals : fresh;
    for (std::string_view rest = text; !rest.empty();) {
        const size_t space = rest.find(' ');
        if (space == std::string_view::npos || space == 0 || space > 19) return malformed("PAX record without length");
        const auto length = parse_decimal<uint64_t>(rest.substr(0, space));
        if (!length || *length > rest.size() || *length < space + 3) return malformed("PAX record length");
        std::string_view record = rest.substr(0, static_cast<size_t>(*length));
        rest.remove_prefix(record.size());
        if (record.back() != '\n') return malformed("PAX record without newline at its end");
        record.remove_suffix(1);
        record.remove_prefix(space + 1);
        const size_t equals = record.find('=');
        if (equals == std::string_view::npos || equals == 0) return malformed("PAX record without key");
        const std::string_view key = record.substr(0, equals);
        if (key.find('\0') != std::string_view::npos) return malformed("NUL in a PAX key");
        if (!target.apply(key, record.substr(equals + 1), global))
            return malformed(
                fmt::format("PAX value of \"{}\" (NUL, negative, not a number or too large)", key.substr(0, 64)));
        if (target.xattrs.size() > limits_.xattrs)
            return fail(Errc::ResourceExhausted,
                        fmt::format("tar: over the limit of {} extended attributes of one entry (header at byte {})",
                                    limits_.xattrs, header_at_));
    }
    if (global) {
        if (globals.uid) global_uid_ = globals.uid;
        if (globals.gid) global_gid_ = globals.gid;
        if (globals.mtime) global_mtime_ = globals.mtime;
    } else {
        extended = std::move(fresh);
    }
    return {};
}

Result<bool> TarReader::next(Entry &out) {
    TRY(skip(entry_left_));
    entry_left_ = 0;
    // The very last padding may be missing: the data is whole.
    for (uint64_t left = std::exchange(padding_, 0); left > 0;) {
        if (TRY(fill()) == 0) break;
        const auto now = static_cast<size_t>(std::min<uint64_t>(left, block_.size()));
        block_ = block_.subspan(now);
        consumed_ += now;
        left -= now;
    }
    if (at_end_) return false;
    Extended extended;
    Header header;
    bool pending = false;
    while (TRY(read_header(header))) {
        switch (header.type) {
        case 'x':
        case 'X': // Solaris
        case 'L':
        case 'K':
            pending = true;
            [[fallthrough]];
        case 'g':
            TRY(read_extended(header, extended));
            continue;
        case '0':
        case '\0':
        case '1':
        case '2':
        case '3':
        case '4':
        case '5':
        case '6':
        case '7':
        case 'S':
            TRY(finish_entry(header, extended, out));
            return true;
        default:
            break;
        }
        if (header.type < 'A' || header.type > 'Z')
            return malformed(fmt::format("unknown entry type 0x{:02x}", static_cast<unsigned char>(header.type)));
        const uint64_t size = extended.size.value_or(header.size);
        if (size > max_size) return malformed(fmt::format("size {} is too large", size));
        TRY(skip(size));
        TRY(skip(padding_of(size)));
        extended = {};
        pending = false;
    }
    if (pending) return malformed("the archive ends after an extended header");
    at_end_ = true;
    return false;
}

Status TarReader::finish_entry(const Header &header, Extended &extended, Entry &out) {
    out = {};
    const std::string_view magic = header.field(257, 8);
    const bool posix = magic.starts_with(std::string_view("ustar\0", 6));
    const char type = header.type;
    // The name of a sparse file is behind that of the placeholder that other readers see; nothing else has such a name.
    const bool pax_sparse =
        (type == '0' || type == '\0' || type == '7') && (extended.is_sparse_1() || extended.sparse_0);
    // Names: GNU long name, then PAX, then the header.
    if (extended.long_path) {
        out.path = std::move(*extended.long_path);
    } else if (extended.sparse_name && pax_sparse) {
        out.path = std::move(*extended.sparse_name);
    } else if (extended.path) {
        out.path = std::move(*extended.path);
    } else {
        if (posix) {
            const bool star = header.field(508, 4) == std::string_view("tar\0", 4);
            out.path = until_nul(header.field(345, star ? 131 : 155));
            if (!out.path.empty()) out.path += '/';
        }
        out.path += until_nul(header.field(0, 100));
    }
    if (type == '1' || type == '2') {
        if (extended.long_link)
            out.link = std::move(*extended.long_link);
        else if (extended.link)
            out.link = std::move(*extended.link);
        else
            out.link = until_nul(header.field(157, 100));
    }
    if (out.path.size() > limits_.path_bytes)
        return malformed(fmt::format("path of {} bytes, the most is {}", out.path.size(), limits_.path_bytes));
    if (out.link.size() > limits_.path_bytes)
        return malformed(fmt::format("link target of {} bytes, the most is {}", out.link.size(), limits_.path_bytes));

    const auto mode = parse_number(header.field(100, 8));
    if (!mode) return malformed("mode is not a number");
    out.mode = static_cast<uint32_t>(static_cast<uint64_t>(*mode) & 07777U);

    const auto id = [&](size_t at, const std::optional<uint64_t> &pax, const std::optional<uint64_t> &global,
                        const char *name) -> Result<uint64_t> {
        if (pax) return *pax;
        if (global) return *global;
        const auto number = parse_number(header.field(at, 8));
        if (!number) return malformed(fmt::format("{} is not a number", name));
        if (*number < 0) return malformed(fmt::format("negative {} {}", name, *number));
        return static_cast<uint64_t>(*number);
    };
    out.uid = TRY(id(108, extended.uid, global_uid_, "uid"));
    out.gid = TRY(id(116, extended.gid, global_gid_, "gid"));

    if (const auto &time = extended.mtime ? extended.mtime : global_mtime_; time) {
        out.mtime_s = time->first;
        out.mtime_ns = time->second;
    } else {
        const auto seconds = parse_number(header.field(136, 12));
        if (!seconds) return malformed("mtime is not a number");
        out.mtime_s = *seconds;
    }
    out.xattrs = std::move(extended.xattrs);

    uint64_t stored = extended.size.value_or(header.size);
    if (stored > max_size) return malformed(fmt::format("size {} is too large", stored));
    bool carries_data = false;
    switch (type) {
    case '1':
        out.type = EntryType::hard_link;
        break;
    case '2':
        out.type = EntryType::symlink;
        break;
    case '3':
    case '4': {
        out.type = type == '3' ? EntryType::char_device : EntryType::block_device;
        const auto major = parse_number(header.field(329, 8));
        const auto minor = parse_number(header.field(337, 8));
        constexpr int64_t most = std::numeric_limits<uint32_t>::max();
        if (!major || !minor || *major < 0 || *minor < 0 || *major > most || *minor > most)
            return malformed("device number out of range");
        out.dev_major = static_cast<uint32_t>(*major);
        out.dev_minor = static_cast<uint32_t>(*minor);
        break;
    }
    case '5':
        out.type = EntryType::directory;
        break;
    case '6':
        out.type = EntryType::fifo;
        break;
    default:
        carries_data = true;
        // V7 has no directory type, the slash says it.
        out.type = (type == '\0' || type == '0') && out.path.ends_with('/') ? EntryType::directory : EntryType::file;
        break;
    }
    if (!carries_data) stored = 0;
    out.stored = stored;
    entry_left_ = stored;
    padding_ = padding_of(stored);
    if (out.type == EntryType::file) {
        out.size = stored;
        if (type == 'S') {
            TRY(read_old_sparse(header, out));
        } else if (extended.is_sparse_1()) {
            if (!extended.sparse_size) return malformed("sparse file without its real size");
            out.size = *extended.sparse_size;
            TRY(read_sparse_map(out));
        } else if (extended.sparse_0) {
            if (!extended.sparse_size) return malformed("sparse file without its real size");
            out.is_sparse = true;
            out.size = *extended.sparse_size;
            TRY(read_sparse_list(extended.sparse_map, out));
        } else if (!extended.sparse_major.empty()) {
            return malformed("unknown version of a PAX sparse file");
        }
        TRY(check_sparse(out));
    }
    return check_limits(out);
}

Status TarReader::check_limits(const Entry &entry) {
    const auto over = [&](const char *what, uint64_t limit) {
        return fail(Errc::ResourceExhausted,
                    fmt::format("tar: over the limit of {} {} (header at byte {})", limit, what, header_at_));
    };
    if (++entries_ > limits_.entries) return over("entries", limits_.entries);
    if (entry.size > limits_.file_bytes) return over("bytes in one file", limits_.file_bytes);
    total_bytes_ += entry.size; // no overflow: both are below 2^63
    if (total_bytes_ > limits_.total_bytes) return over("bytes in all files", limits_.total_bytes);
    return {};
}

} // namespace shale::archive
