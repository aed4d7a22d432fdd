// SPDX-License-Identifier: Apache-2.0
// inotify-dead-watches: watches that will not fire any more, and users who can soon add none.
#include <algorithm>
#include <charconv>
#include <map>
#include <set>

#include <fmt/format.h>

#include "base/units.h"
#include "doctor/checks/common.h"

namespace shale::doctor::checks {
namespace {

constexpr double warning_percent = 80, critical_percent = 95;
constexpr std::string_view deleted_mark = "//deleted"; ///< end of a bind mount's root whose file is gone (fs/dcache.c)

using Inode = std::pair<std::string_view, uint64_t>; ///< device, inode

/// What a process watches in vain, by process.
using Dead = std::map<int, std::vector<std::string>>;

/// Its path was found out, and what is there now.
bool is_known(const probe::InotifyWatch &watch) {
    return !watch.path.empty() && watch.path_inode;
}

bool is_replaced(const probe::InotifyWatch &watch) {
    return is_known(watch) && *watch.path_inode != watch.inode;
}

/// The path shows another file than the one that is watched: it was replaced (an editor's save, a ConfigMap's swap).
void find_replaced(const probe::Facts &facts, Dead &out) {
    for (const auto &watch : facts.inotify_watches) {
        if (!is_replaced(watch)) continue;
        out[watch.pid].push_back(
            *watch.path_inode == 0
                ? fmt::format("{}: watched as inode {}, nothing is there any more", shown(watch.path), watch.inode)
                : fmt::format("{}: watched as inode {}, the path now shows inode {}", shown(watch.path), watch.inode,
                              *watch.path_inode));
    }
}

/// Somebody keeps a file without a name open, and a watch on it alive. Those that are replaced are told by then.
void find_deleted(const probe::Facts &facts, Dead &out) {
    std::map<Inode, const probe::DeletedFile *> deleted;
    for (const auto &file : facts.deleted_files)
        deleted.emplace(Inode(file.device, file.inode), &file);
    for (const auto &watch : facts.inotify_watches)
        if (const auto found = deleted.find(Inode(watch.device, watch.inode));
            found != deleted.end() && !is_replaced(watch))
            out[watch.pid].push_back(fmt::format("inode {} was {}, which has been deleted; {} keeps it open",
                                                 watch.inode, shown(found->second->path),
                                                 process_name(found->second->pid, found->second->command)));
}

/// A file that is bound into a container shows the old one for ever when it is replaced on the host. Which file a watch
/// is on need not be guessed where its path is known.
void find_stale_binds(const probe::Facts &facts, Dead &out) {
    using Place = std::pair<uint64_t, std::string_view>; // mount name space, device
    std::map<Place, std::vector<const probe::Mount *>> stale;
    for (const auto &mounts : facts.mount_namespaces) {
        if (mounts.ours) continue; // there the device is that of everything else, too
        for (const auto &mount : mounts.mounts)
            if (mount.root.ends_with(deleted_mark)) stale[{mounts.id, mount.device}].push_back(&mount);
    }
    if (stale.empty()) return;
    std::map<int, uint64_t> name_space;
    for (const auto &process : facts.processes)
        name_space[process.pid] = process.mount_namespace;
    std::set<std::pair<int, std::string_view>> said;
    for (const auto &watch : facts.inotify_watches) {
        if (is_known(watch)) continue;
        const auto its = name_space.find(watch.pid);
        const auto mounts = its == name_space.end() ? stale.end() : stale.find({its->second, watch.device});
        if (mounts == stale.end() || !said.emplace(watch.pid, watch.device).second) continue;
        for (const auto *mount : mounts->second) {
            const std::string_view source =
                std::string_view(mount->root).substr(0, mount->root.size() - deleted_mark.size());
            out[watch.pid].push_back(
                fmt::format("{} is bound to {}, which was replaced on the host: what is watched there "
                            "is the old file",
                            shown(mount->target), shown(source)));
        }
    }
}

void add_dead(const probe::Facts &facts, Outcome &out) {
    Dead dead;
    find_replaced(facts, dead);
    find_deleted(facts, dead);
    find_stale_binds(facts, dead);
    std::map<int, std::string_view> commands;
    for (const auto &watch : facts.inotify_watches)
        commands[watch.pid] = watch.command;
    for (auto &[pid, lines] : dead) {
        Finding &finding = out.findings.emplace_back();
        finding.severity = Severity::warning;
        finding.subject = process_name(pid, commands[pid]);
        finding.summary = lines.size() == 1
                              ? std::string("it waits for changes of a file that its path does not show any more")
                              : fmt::format("it waits for changes of {} that their paths do not show any more",
                                            counted(lines.size(), "file"));
        finding.evidence = limited(std::move(lines));
        finding.commands = {
            fmt::format("grep -h inotify /proc/{}/fdinfo/*", pid),
            "# let it open the files anew (SIGHUP where it knows that, else restart the container); bind and watch "
            "the directory, not the file"};
    }
}

std::optional<uint64_t> limit_of(const probe::Facts &facts, std::string_view name) {
    const std::string *text = value_of(facts.kernel.sysctls, name);
    uint64_t out = 0;
    if (text == nullptr || std::from_chars(text->data(), text->data() + text->size(), out).ec != std::errc())
        return std::nullopt;
    return out;
}

struct Use {
    uint64_t count = 0;
    std::map<int, uint64_t> by_process;
    std::map<int, std::string_view> commands; ///< of the same processes
};

void judge_limit(const std::map<uint64_t, Use> &users, std::string_view what, std::string_view sysctl,
                 const probe::Facts &facts, Outcome &out) {
    const auto limit = limit_of(facts, sysctl);
    if (!limit || *limit == 0) return;
    for (const auto &[uid, use] : users) {
        const double part = percent(use.count, *limit);
        if (part < warning_percent) continue;
        Finding &finding = out.findings.emplace_back();
        finding.severity = part >= critical_percent ? Severity::critical : Severity::warning;
        finding.subject = fmt::format("user {}", uid);
        finding.summary =
            fmt::format("{} of {} inotify {} are in use ({}); beyond the limit programs fail with \"no space left "
                        "on device\" or \"too many open files\"",
                        format_count(use.count), format_count(*limit), what, percent_text(use.count, *limit));
        std::vector<std::pair<uint64_t, int>> largest;
        largest.reserve(use.by_process.size());
        for (const auto &[pid, count] : use.by_process)
            largest.emplace_back(count, pid);
        std::ranges::sort(largest, std::greater());
        for (const auto &[count, pid] : largest)
            finding.evidence.push_back(
                fmt::format("{}: {}", process_name(pid, use.commands.at(pid)), format_count(count)));
        finding.evidence = limited(std::move(finding.evidence));
        finding.commands = {fmt::format("sysctl {}={}", sysctl, *limit * 2),
                            fmt::format("echo {}={} >> /etc/sysctl.d/60-inotify.conf", sysctl, *limit * 2)};
    }
}

void add_limits(const probe::Facts &facts, Outcome &out) {
    std::map<int, const probe::Process *> processes;
    std::map<uint64_t, Use> watches, instances;
    const auto add = [](std::map<uint64_t, Use> &users, const probe::Process &process, uint64_t count) {
        if (count == 0) return;
        Use &use = users[process.uid];
        use.count += count;
        use.by_process[process.pid] += count;
        use.commands[process.pid] = process.command;
    };
    for (const auto &process : facts.processes) {
        processes[process.pid] = &process;
        add(instances, process, process.inotify_instances);
    }
    for (const auto &watch : facts.inotify_watches)
        if (const auto process = processes.find(watch.pid); process != processes.end())
            add(watches, *process->second, watch.watches);
    judge_limit(watches, "watches", "fs.inotify.max_user_watches", facts, out);
    judge_limit(instances, "instances", "fs.inotify.max_user_instances", facts, out);
}

Outcome run(const probe::Facts &facts) {
    Outcome out;
    if (!facts.live) return out;
    add_dead(facts, out);
    add_limits(facts, out);
    if (!facts.privileged) out.unable.emplace_back("inotify watches of other users' processes: that takes root");
    return out;
}

} // namespace

extern const Check inotify_dead_watches;
const Check inotify_dead_watches{
    .id = "inotify-dead-watches",
    .title = "Programs wait for changes of files that they cannot see, or may soon watch nothing more",
    .why = "inotify watches an inode, not a path. A file that is replaced (an editor's save, a deployment, a swap of a "
           "directory) "
           "leaves the watch on the old one, and a file that is bound into a container stays the old one there: the "
           "program "
           "never reloads, and nothing says so (moby #11705). Watches and instances are limited for each user, root's "
           "containers "
           "all count as one, and beyond the limit programs fail with errors that speak of something else.",
    .limits =
        "Warning: the path shows another inode than the watched one; a watched file has no name any more; a bind mount "
        "whose source was replaced (\"//deleted\" in the mount table) in the mount name space and on the device of a "
        "watch. "
        "A watch on another file of that device is then told, too, unless the facts have its path. Of "
        "fs.inotify.max_user_watches and "
        "max_user_instances "
        "(inotify(7)) a user has 80 % in use: warning; 95 %: critical.",
    .remedy =
        "Bind the directory instead of the file, watch the directory, or restart what waits. Where a signal makes "
        "it read its files again, `shale watch --pid PID --signal HUP PATH` sends that with each change, also "
        "after PATH was replaced (a file that is bound alone stays the old one until a restart). Raise the "
        "limit: a watch takes about 1 KiB of kernel memory while it is there.",
    .risk = "A restart interrupts the service. A signal that the program does not know ends it.",
    .undo = "Set the old limit again.",
    .run = run,
};

} // namespace shale::doctor::checks
