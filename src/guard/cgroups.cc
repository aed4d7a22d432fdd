// SPDX-License-Identifier: Apache-2.0
#include "guard/cgroups.h"

#include <fcntl.h>
#include <linux/openat2.h>

#include <algorithm>
#include <cerrno>
#include <span>

#include <fmt/format.h>

#include "base/paths.h"
#include "probe/text.h"
#include "sys/fs.h"
#include "sys/mount.h"

namespace shale::guard {
namespace {

using probe::next_part;
using probe::trimmed;

constexpr size_t most_text = size_t{1} << 20U;

/// Of /proc/PID/cgroup: "7:blkio:/docker/1234". The last field is all that follows the second colon.
template <class Matches> std::string group_in(std::string_view text, Matches &&matches) {
    while (!text.empty()) {
        std::string_view line = next_part(text, '\n');
        const std::string_view number = next_part(line, ':');
        const std::string_view controllers = next_part(line, ':');
        if (matches(number, controllers) && line.starts_with('/')) return std::string(line);
    }
    return {};
}

/// The group, or the device of a line, is not there any more.
bool is_gone(const Error &error) {
    return error.sys_errno() == ENOENT || error.sys_errno() == ENODEV || error.sys_errno() == ENXIO;
}

} // namespace

Result<Cgroups> Cgroups::read(const probe::Host &host) {
    Cgroups out;
    const std::string table = TRY(host.read("/proc/self/mountinfo", size_t{64} << 20U));
    for (const auto &mount : TRY(sys::parse_mountinfo(table))) {
        if (mount.type != "cgroup" && mount.type != "cgroup2") continue;
        const Hierarchy here{mount.target, mount.root, mount.type == "cgroup2"};
        if (here.unified) {
            if (out.unified_) continue; // mounted again: it is the same
            out.unified_ = here;
            const auto controllers = host.read_if_there(here.mount + "/cgroup.controllers", most_text);
            if (controllers && *controllers) {
                const std::string_view list = trimmed(**controllers);
                if (!out.io_ && probe::has_part(list, "io", ' ')) out.io_ = here;
                if (!out.memory_ && probe::has_part(list, "memory", ' ')) out.memory_ = here;
            }
        } else if (probe::has_part(mount.super_options, "blkio")) {
            out.io_ = here;
        } else if (probe::has_part(mount.super_options, "memory")) {
            out.memory_ = here;
        }
        out.all_.push_back(here);
    }
    return out;
}

const Hierarchy *Cgroups::of_path(std::string_view path) const noexcept {
    const Hierarchy *best = nullptr;
    for (const Hierarchy &one : all_)
        if (lies_in(path, one.mount) && (best == nullptr || one.mount.size() > best->mount.size())) best = &one;
    return best;
}

std::string Cgroups::io_group(std::string_view text) const {
    if (!io_) return {};
    if (io_->unified) return unified_group(text);
    return group_in(text, [](auto, std::string_view controllers) { return probe::has_part(controllers, "blkio"); });
}

std::string Cgroups::memory_group(std::string_view text) const {
    if (!memory_) return {};
    if (memory_->unified) return unified_group(text);
    return group_in(text, [](auto, std::string_view controllers) { return probe::has_part(controllers, "memory"); });
}

std::string Cgroups::unified_group(std::string_view text) {
    return group_in(text, [](std::string_view number, auto) { return number == "0"; });
}

std::string file_of(const Hierarchy &hierarchy, std::string_view group, std::string_view file) {
    if (hierarchy.root != "/") {
        if (!lies_in(group, hierarchy.root)) return {};
        group.remove_prefix(hierarchy.root.size());
    }
    return fmt::format("{}{}/{}", hierarchy.mount, group == "/" ? "" : group, file);
}

Result<UniqueFd> open_beneath(const probe::Host &host, const Cgroups &cgroups, const std::string &path, int flags) {
    const Hierarchy *hierarchy = cgroups.of_path(path);
    if (hierarchy == nullptr || path.size() <= hierarchy->mount.size() + 1)
        return fail(Errc::FailedPrecondition, fmt::format("{} is in no hierarchy of cgroups that is mounted", path));
    const UniqueFd top = TRY(sys::open_dir(AT_FDCWD, host.here(hierarchy->mount).c_str()));
    return sys::open_at2(top.get(), path.c_str() + hierarchy->mount.size() + 1, flags | O_NOCTTY,
                         RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS);
}

Result<std::string> read_setting(const probe::Host &host, const Cgroups &cgroups, const std::string &path) {
    const UniqueFd file = TRY(open_beneath(host, cgroups, path, O_RDONLY));
    std::string out;
    std::byte buffer[4096]; // NOLINT(modernize-avoid-c-arrays)
    while (const size_t got = TRY(sys::read_some(file.get(), buffer))) {
        out.append(reinterpret_cast<const char *>(buffer), got); // NOLINT(cppcoreguidelines-pro-type-reinterpret-cast)
        if (out.size() > most_text)
            return fail(Errc::ResourceExhausted, fmt::format("{}: more than {} bytes", path, most_text));
    }
    return out;
}

Status write_setting(const probe::Host &host, const Cgroups &cgroups, const std::string &path, std::string_view value) {
    const UniqueFd file = TRY(open_beneath(host, cgroups, path, O_WRONLY | O_TRUNC));
    return in_context(sys::write_all(file.get(), std::as_bytes(std::span(value))),
                      [&] { return fmt::format("{} set to \"{}\"", path, value); });
}

std::optional<uint64_t> limit_in(std::string_view text, std::string_view key) {
    if (key.empty()) return probe::to_number(trimmed(text));
    while (!text.empty()) {
        const auto words = probe::words_of(next_part(text, '\n'));
        if (words.size() < 2 || words[0] != key) continue;
        constexpr std::string_view writes = "wbps=";
        for (size_t i = 1; i < words.size(); ++i)
            if (words[i].starts_with(writes)) return probe::to_number(words[i].substr(writes.size()));
        const auto number = probe::to_number(words[1]);
        return number == 0 ? std::nullopt : number; // v1: 0 takes a limit away
    }
    return std::nullopt;
}

Status undo(const probe::Host &host, const Cgroups &cgroups, const Measure &measure) {
    const auto now = read_setting(host, cgroups, measure.target);
    if (!now) return is_gone(now.error()) ? Status() : std::unexpected(now.error());
    if (limit_in(*now, measure.key) != limit_in(measure.new_value, measure.key)) return {};
    const auto done = write_setting(host, cgroups, measure.target, measure.old_value);
    return !done && is_gone(done.error()) ? Status() : done;
}

} // namespace shale::guard
