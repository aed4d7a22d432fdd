// SPDX-License-Identifier: Apache-2.0
// /proc/PID/mountinfo: "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue" (proc(5)).
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <optional>

#include <fmt/format.h>

#include "sys/fs.h"
#include "sys/fs_internal.h"
#include "sys/mount.h"

namespace shale::sys {
namespace {

constexpr size_t table_limit = size_t{256} << 20; // a host with 100,000 mounts has some 40 MiB

/// Undoes the kernel's "\040"; a backslash without three octal digits stands for itself.
std::string undo_octal(std::string_view text) {
    std::string out;
    out.reserve(text.size());
    auto digit = [&](size_t at) { return at < text.size() && text[at] >= '0' && text[at] <= '7'; };
    for (size_t i = 0; i < text.size(); ++i) {
        if (text[i] == '\\' && digit(i + 1) && text[i + 1] <= '3' && digit(i + 2) && digit(i + 3)) {
            out.push_back(static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0')));
            i += 3;
        } else {
            out.push_back(text[i]);
        }
    }
    return out;
}

/// Takes the text up to the next blank off `line`.
std::string_view next_field(std::string_view &line) {
    const size_t blank = line.find(' ');
    const std::string_view field = line.substr(0, blank);
    line.remove_prefix(blank == std::string_view::npos ? line.size() : blank + 1);
    return field;
}

bool to_number(std::string_view text, uint64_t &out) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
    return error == std::errc() && end == text.data() + text.size() && !text.empty();
}

Result<MountEntry> parse_line(std::string_view line, size_t number) {
    auto bad = [&](std::string_view what) {
        return fail(Errc::InvalidArgument, fmt::format("mountinfo line {}: {}", number, what));
    };
    MountEntry entry;
    if (!to_number(next_field(line), entry.id)) return bad("mount id is not a number");
    if (!to_number(next_field(line), entry.parent)) return bad("parent id is not a number");
    entry.device = next_field(line);
    const size_t colon = entry.device.find(':');
    uint64_t part = 0;
    if (colon == std::string::npos || !to_number(std::string_view(entry.device).substr(0, colon), part) ||
        !to_number(std::string_view(entry.device).substr(colon + 1), part))
        return bad("device is not major:minor");
    entry.root = undo_octal(next_field(line));
    entry.target = undo_octal(next_field(line));
    entry.options = undo_octal(next_field(line));
    if (entry.root.empty() || entry.target.empty() || entry.options.empty()) return bad("fewer than six fields");
    for (;;) {
        if (line.empty()) return bad("no \"-\" after the optional fields");
        const std::string_view field = next_field(line);
        if (field == "-") break;
        entry.optional_fields.emplace_back(field);
    }
    entry.type = undo_octal(next_field(line));
    if (entry.type.empty()) return bad("no file system type");
    entry.source = undo_octal(next_field(line)); // may be empty: mount -t tmpfs ""
    entry.super_options = undo_octal(next_field(line));
    return entry;
}

} // namespace

Result<std::vector<MountEntry>> parse_mountinfo(std::string_view text) {
    std::vector<MountEntry> out;
    for (size_t number = 1; !text.empty(); ++number) {
        const size_t end = text.find('\n');
        const std::string_view line = text.substr(0, end);
        text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
        if (!line.empty()) out.push_back(TRY(parse_line(line, number)));
    }
    return out;
}

Result<std::vector<MountEntry>> mount_table() {
    return parse_mountinfo(TRY(read_file(AT_FDCWD, "/proc/self/mountinfo", table_limit)));
}

Result<bool> is_mount_point(const std::string &target) {
    struct statx found{};
    const int done = detail::invoke(Op::stat, -1, target.c_str(), [&] {
        return ::statx(AT_FDCWD, target.c_str(), AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_TYPE, &found);
    });
    if (done != 0) return detail::failed("stat", -1, target.c_str());
    if ((found.stx_attributes_mask & STATX_ATTR_MOUNT_ROOT) != 0) // Linux 5.8
        return (found.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
    const UniqueFd fd = TRY(open_at(AT_FDCWD, target.c_str(), O_PATH));
    const std::string path = TRY(path_of_fd(fd.get()));
    for (const auto &entry : TRY(mount_table()))
        if (entry.target == path) return true;
    return false;
}

Result<bool> is_mounted(const MountSpec &spec, const std::string &target) {
    const std::string path = TRY(path_of_fd(TRY(open_at(AT_FDCWD, target.c_str(), O_PATH)).get()));
    std::optional<MountEntry> upmost; // the table is in the order of mounting
    for (auto &entry : TRY(mount_table()))
        if (entry.target == path) upmost = std::move(entry);
    if (!upmost) return false;
    if (spec.type == "bind") {
        const struct stat source = TRY(stat_at(AT_FDCWD, spec.source.c_str()));
        const struct stat there = TRY(stat_at(AT_FDCWD, path.c_str()));
        return source.st_dev == there.st_dev && source.st_ino == there.st_ino;
    }
    if (upmost->type != spec.type) return false;
    if (spec.type != "overlay") return upmost->source == spec.source;
    auto option = [&](std::string_view key) {
        const auto found = std::ranges::find_if(spec.options, [&](const auto &one) { return one.starts_with(key); });
        return found == spec.options.end() ? std::string() : *found;
    };
    std::string wanted = option("upperdir=");
    if (wanted.empty()) wanted = option("lowerdir=");
    std::erase(wanted, '\\'); // the kernel shows the paths without the escapes of options
    return !wanted.empty() && fmt::format(",{},", upmost->super_options).contains(fmt::format(",{},", wanted));
}

} // namespace shale::sys
