// SPDX-License-Identifier: Apache-2.0
// The texts of zfs(8).
#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>

#include <fmt/format.h>

#include "sys/zfs.h"

namespace shale::sys {
namespace {

constexpr size_t columns = 9;

std::optional<std::array<std::string_view, columns>> split(std::string_view line) {
    std::array<std::string_view, columns> out;
    for (size_t i = 0; i < columns; ++i) {
        const size_t tab = line.find('\t');
        if ((tab == std::string_view::npos) != (i + 1 == columns)) return std::nullopt;
        out[i] = line.substr(0, tab);
        line.remove_prefix(std::min(line.size(), out[i].size() + 1));
    }
    return out;
}

/// "-" and "none" are 0.
bool parse_size(std::string_view text, uint64_t &out) {
    if (text == "-" || text == "none") return true;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
    return error == std::errc() && end == text.data() + text.size();
}

} // namespace

Result<std::vector<ZfsDataset>> parse_zfs_list(std::string_view text) {
    std::vector<ZfsDataset> out;
    for (size_t number = 1; !text.empty(); ++number) {
        const std::string_view line = text.substr(0, text.find('\n'));
        text.remove_prefix(std::min(text.size(), line.size() + 1));
        const auto field = split(line);
        ZfsDataset one;
        if (!field || field->front().empty() || !parse_size((*field)[1], one.used) ||
            !parse_size((*field)[2], one.used_by_self) || !parse_size((*field)[3], one.used_by_snaps) ||
            !parse_size((*field)[4], one.referenced) || !parse_size((*field)[5], one.available) ||
            !parse_size((*field)[6], one.quota) || !parse_size((*field)[7], one.refquota))
            return fail(Errc::InvalidArgument,
                        fmt::format("line {} of zfs list is malformed: \"{:.200}\"", number, line));
        one.name = field->front();
        if (field->back() != "-") one.origin = field->back();
        out.push_back(std::move(one));
    }
    return out;
}

int zfs_errno_of(std::string_view words) noexcept {
    struct Phrase {
        std::string_view text;
        int error;
    };
    // lib/libzfs/libzfs_util.c of OpenZFS: libzfs_error_description and zfs_standard_error_fmt.
    static constexpr std::array phrases{
        Phrase{"does not exist", ENOENT},
        Phrase{"could not find any snapshots to destroy", ENOENT},
        Phrase{"no such pool", ENOENT},
        Phrase{"already exists", EEXIST},
        Phrase{"has dependent clones", EEXIST},
        Phrase{"has children", EBUSY},
        Phrase{"dataset is busy", EBUSY},
        Phrase{"is busy", EBUSY},
        Phrase{"out of space", ENOSPC},
        Phrase{"quota exceeded", EDQUOT},
        Phrase{"size is less than current used", ENOSPC},
        Phrase{"permission denied", EPERM},
        Phrase{"read-only", EROFS},
        Phrase{"I/O error", EIO},
        Phrase{"invalid", EINVAL},
    };
    const auto *found =
        std::ranges::find_if(phrases, [&](const Phrase &phrase) { return words.contains(phrase.text); });
    return found == phrases.end() ? EIO : found->error;
}

bool is_zfs_name(std::string_view name) noexcept {
    if (name.empty() || name.size() > 255 || name.front() == '/' || name.back() == '/') return false;
    const auto good = [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
               std::string_view("-_.: /").contains(c);
    };
    if (!std::ranges::all_of(name, good) || name.contains("//")) return false;
    while (!name.empty()) { // "." and ".." are no components
        const std::string_view component = name.substr(0, name.find('/'));
        if (component == "." || component == ".." || component.front() == '-') return false;
        name.remove_prefix(std::min(name.size(), component.size() + 1));
    }
    return true;
}

std::string_view zfs_pool_of(std::string_view name) noexcept {
    return name.substr(0, name.find_first_of("/@#"));
}

} // namespace shale::sys
