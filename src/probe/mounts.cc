// SPDX-License-Identifier: Apache-2.0
#include "probe/mounts.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "probe/text.h"
#include "sys/fs.h"
#include "sys/mount.h"

namespace shale::probe {
namespace {

constexpr size_t table_limit = size_t{256} << 20U; ///< of one mountinfo
constexpr size_t name_limit = 4096;                ///< of /proc/PID/comm
constexpr size_t process_limit = size_t{1} << 22U; ///< PID_MAX_LIMIT (kernel, include/linux/threads.h)

/// Processes of one namespace.
struct Members {
    std::vector<int> witnesses; ///< the lowest pids, ascending, at most max_mount_witnesses
    uint64_t processes = 0;
};

Mount mount_of(sys::MountEntry &&entry) {
    return {.id = entry.id,
            .parent = entry.parent,
            .device = std::move(entry.device),
            .root = std::move(entry.root),
            .target = std::move(entry.target),
            .type = std::move(entry.type),
            .source = std::move(entry.source),
            .options = std::move(entry.options),
            .super_options = std::move(entry.super_options),
            .propagation = fmt::format("{}", fmt::join(entry.optional_fields, " "))};
}

/// Number of the mount namespace of a process ("self" or a pid). The link is read, never followed: what it leads to is
/// in no directory tree.
Result<uint64_t> namespace_of(const Host &host, std::string_view process) {
    const UniqueFd link = TRY(host.open_path(fmt::format("/proc/{}/ns/mnt", process), O_PATH | O_NOFOLLOW));
    return namespace_id(TRY(sys::read_link(link.get(), "")));
}

/// The process has ended: its directory is gone, or (a zombie) has nothing in it any more.
bool has_ended(const Error &error) {
    return error.sys_errno() == ENOENT || error.sys_errno() == ESRCH || error.sys_errno() == EINVAL;
}

std::vector<int> processes_of(const Host &host, std::vector<Problem> &problems) {
    const auto entries = host.list("/proc", process_limit);
    if (!entries) {
        problems.push_back({"/proc", entries.error().text()});
        return {};
    }
    std::vector<int> out;
    for (const auto &entry : *entries) {
        const auto pid = to_number(entry.name);
        if (pid && *pid > 0 && *pid <= std::numeric_limits<int>::max()) out.push_back(static_cast<int>(*pid));
    }
    std::ranges::sort(out);
    return out;
}

std::map<uint64_t, Members> members_of_namespaces(const Host &host, std::vector<Problem> &problems) {
    std::map<uint64_t, Members> out;
    uint64_t refused = 0;
    std::optional<Error> refusal;
    for (const int pid : processes_of(host, problems)) {
        const auto id = namespace_of(host, std::to_string(pid));
        if (!id) {
            if (has_ended(id.error())) continue;
            ++refused;
            if (!refusal) refusal = id.error();
            continue;
        }
        if (*id == 0) continue;
        Members &members = out[*id];
        ++members.processes;
        if (members.witnesses.size() < max_mount_witnesses) members.witnesses.push_back(pid);
    }
    if (refusal) problems.push_back({fmt::format("mount namespaces of {} processes", refused), refusal->text()});
    return out;
}

/// The text of the first witness that answers and is still in namespace `id`; its pid goes to `pid`.
Result<std::string> mount_table_of(const Host &host, uint64_t id, const std::vector<int> &witnesses, int &pid) {
    std::optional<Error> why;
    for (const int candidate : witnesses) {
        auto text = host.read(fmt::format("/proc/{}/mountinfo", candidate), table_limit);
        if (!text) {
            why = std::move(text).error();
            continue;
        }
        const auto now = namespace_of(host, std::to_string(candidate));
        if (text->empty() || !now || *now != id) continue; // it ended, or went elsewhere
        pid = candidate;
        return std::move(*text);
    }
    if (why) return std::unexpected(std::move(*why));
    return fail(Errc::NotFound, "its processes have ended meanwhile");
}

} // namespace

uint64_t namespace_id(std::string_view link) {
    constexpr std::string_view begin = "mnt:[";
    if (!link.starts_with(begin) || !link.ends_with(']')) return 0;
    return to_number(link.substr(begin.size(), link.size() - begin.size() - 1)).value_or(0);
}

std::vector<Mount> parse_mounts(std::string_view text, size_t limit, std::string_view about,
                                std::vector<Problem> &problems) {
    std::vector<Mount> out;
    uint64_t bad = 0;
    uint64_t cut = 0;
    std::string why;
    while (!text.empty()) {
        const std::string_view line = next_part(text, '\n');
        if (line.empty()) continue;
        if (out.size() >= limit) {
            ++cut;
            continue;
        }
        auto entries = sys::parse_mountinfo(line);
        if (entries) {
            for (auto &entry : *entries)
                out.push_back(mount_of(std::move(entry)));
            continue;
        }
        if (bad++ == 0) why = entries.error().text();
    }
    if (bad != 0) problems.push_back({std::string(about), fmt::format("{} lines are not understood: {}", bad, why)});
    if (cut != 0)
        problems.push_back({std::string(about), fmt::format("{} mounts were left out: there are too many", cut)});
    return out;
}

std::vector<MountNamespace> mount_namespaces_in_proc(const Host &host, std::vector<Problem> &problems) {
    const auto ours = namespace_of(host, "self");
    std::vector<MountNamespace> out;
    auto members = members_of_namespaces(host, problems);
    out.reserve(members.size());
    for (auto &[id, group] : members)
        out.push_back({.id = id,
                       .ours = ours && *ours == id,
                       .pid = group.witnesses.front(),
                       .command = {},
                       .processes = group.processes,
                       .mounts = {}});
    std::ranges::sort(out, {}, &MountNamespace::pid); // that of process 1 first: where too much is cut, not its mounts
    size_t room = max_mounts;
    for (auto &one : out) {
        int witness = 0;
        const auto text = mount_table_of(host, one.id, members[one.id].witnesses, witness);
        if (!text) {
            problems.push_back({fmt::format("mounts of process {}", one.pid), text.error().text()});
            continue;
        }
        one.pid = witness;
        if (const auto command = host.read(fmt::format("/proc/{}/comm", witness), name_limit))
            one.command = trimmed(*command);
        one.mounts = parse_mounts(*text, room, fmt::format("mounts of process {}", witness), problems);
        room -= one.mounts.size();
    }
    return out;
}

std::vector<MountNamespace> read_mount_namespaces(const Host &host, std::vector<Problem> &problems) {
    if (!host.live()) return {};
    return mount_namespaces_in_proc(host, problems);
}

} // namespace shale::probe
