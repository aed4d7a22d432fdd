// SPDX-License-Identifier: Apache-2.0
#include "guard/workloads.h"

#include <fcntl.h>

#include <algorithm>
#include <limits>
#include <map>
#include <set>
#include <tuple>

#include <fmt/format.h>

#include "base/paths.h"
#include "doctor/checks/mounted_layers.h"
#include "probe/mounts.h"
#include "probe/text.h"
#include "sys/fs.h"

namespace shale::guard {
namespace {

using probe::next_part;
using probe::trimmed;
using Key = std::pair<Workload::Of, std::string>;

constexpr size_t most_pids = size_t{1} << 22U; ///< PID_MAX_LIMIT (kernel, include/linux/threads.h)

struct Task {
    int pid = 0;
    uint64_t space = 0; ///< mount namespace
    std::string groups; ///< text of /proc/PID/cgroup
    Key key;
};

std::vector<int> pids_of(const probe::Host &host) {
    std::vector<int> out;
    const auto entries = host.list_if_there("/proc", most_pids);
    if (!entries) return out;
    for (const auto &entry : *entries)
        if (const auto pid = probe::to_number(entry.name); pid && *pid > 0 && *pid <= std::numeric_limits<int>::max())
            out.push_back(static_cast<int>(*pid));
    std::ranges::sort(out);
    return out;
}

/// The first hierarchy in which a process is in a group of its own; an empty path: in none.
Key key_of(const Cgroups &cgroups, std::string_view text) {
    for (const auto &[of, group] :
         {Key{Workload::Of::io, cgroups.io_group(text)}, Key{Workload::Of::memory, cgroups.memory_group(text)},
          Key{Workload::Of::unified, Cgroups::unified_group(text)}})
        if (!group.empty() && group != "/") return {of, group};
    return {Workload::Of::unified, ""};
}

std::optional<Task> task_of(const probe::Host &host, const Cgroups &cgroups, int pid) {
    const auto link = host.open_path(fmt::format("/proc/{}/ns/mnt", pid), O_PATH | O_NOFOLLOW);
    if (!link) return std::nullopt; // it has ended, or is closed to us
    const auto name = sys::read_link(link->get(), "");
    auto groups = host.read(fmt::format("/proc/{}/cgroup", pid));
    if (!name || !groups) return std::nullopt;
    Task out{pid, probe::namespace_id(*name), std::move(*groups), {}};
    out.key = key_of(cgroups, out.groups);
    return out;
}

const probe::Mount *root_of(const probe::MountNamespace &space) {
    const probe::Mount *out = nullptr;
    for (const auto &mount : space.mounts)
        if (mount.target == "/") out = &mount; // the last lies on top
    return out;
}

const probe::Mount *mount_above(const probe::MountNamespace &space, std::string_view path) {
    const probe::Mount *best = nullptr;
    for (const auto &mount : space.mounts)
        if ((mount.target == "/" || lies_in(path, mount.target)) &&
            (best == nullptr || mount.target.size() >= best->target.size()))
            best = &mount;
    return best;
}

/// `path`, which lies below a mount, from the top of its file system.
std::string inside_of(const probe::Mount &mount, std::string_view path) {
    const std::string_view rest = mount.target == "/" ? path : path.substr(mount.target.size());
    return mount.root == "/" ? std::string(rest) : mount.root + std::string(rest);
}

/// What can be written to through the mounts of a namespace; upper directories are those that the host's mounts show.
std::vector<Seat> seats_of(const probe::MountNamespace &space, const probe::MountNamespace *host) {
    std::vector<Seat> out;
    for (const auto &mount : space.mounts) {
        if (probe::has_part(mount.options, "ro") || probe::has_part(mount.super_options, "ro")) continue;
        Seat seat{mount.device, mount.type, mount.source, mount.super_options, mount.root, {}};
        if (mount.type == "overlay") {
            const std::string upper(doctor::checks::upper_directory(mount));
            const probe::Mount *below = upper.starts_with('/') && host != nullptr ? mount_above(*host, upper) : nullptr;
            if (below == nullptr) continue;
            seat = {below->device, below->type, below->source, below->super_options, inside_of(*below, upper), upper};
        } else if (mount.device.starts_with("0:") && mount.type != "btrfs" && mount.type != "zfs") {
            continue; // nothing on disk
        }
        const auto same = [&](const Seat &one) {
            return std::tie(one.device, one.inside, one.super_options) ==
                   std::tie(seat.device, seat.inside, seat.super_options);
        };
        if (std::ranges::none_of(out, same)) out.push_back(std::move(seat));
    }
    return out;
}

/// The upper of the two; "/": they have none of their own in common.
std::string common(std::string_view a, std::string_view b) {
    if (lies_in(a, b)) return std::string(b);
    while (!a.empty() && !lies_in(b, a))
        a = a.substr(0, a.rfind('/'));
    return a.empty() ? "/" : std::string(a);
}

bool is_init(const probe::Host &host, int pid) {
    const auto status = host.read_if_there(fmt::format("/proc/{}/status", pid));
    if (!status || !*status) return false;
    std::string_view text = **status;
    while (!text.empty()) {
        const auto words = probe::words_of(next_part(text, '\n'));
        if (words.size() > 2 && words[0] == "NSpid:") return words.back() == "1";
    }
    return false;
}

uint64_t written_in(const probe::Host &host, const Cgroups &cgroups, const std::string &group) {
    const Hierarchy &io = *cgroups.io();
    const std::string file = file_of(io, group, io.unified ? "io.stat" : "blkio.throttle.io_service_bytes");
    const auto text = file.empty() ? Result<std::string>() : read_setting(host, cgroups, file);
    if (!text) return 0;
    uint64_t out = 0;
    std::string_view rest = *text;
    while (!rest.empty()) {
        const auto words = probe::words_of(next_part(rest, '\n'));
        constexpr std::string_view bytes = "wbytes=";
        for (const auto word : words)
            if (word.starts_with(bytes)) out += probe::to_number(word.substr(bytes.size())).value_or(0);
        if (words.size() == 3 && words[1] == "Write") out += probe::to_number(words[2]).value_or(0);
    }
    return out;
}

/// By the processes themselves (proc(5), /proc/PID/io): since Linux 6.10 blkio of v1 counts a device only once a limit
/// was set on it.
uint64_t written_by(const probe::Host &host, int pid) {
    const auto text = host.read_if_there(fmt::format("/proc/{}/io", pid));
    if (!text || !*text) return 0;
    std::string_view rest = **text;
    while (!rest.empty()) {
        const auto words = probe::words_of(next_part(rest, '\n'));
        if (words.size() == 2 && words[0] == "write_bytes:") return probe::to_number(words[1]).value_or(0);
    }
    return 0;
}

class Reader {
public:
    Reader(const probe::Host &host, const Cgroups &cgroups, std::vector<probe::Problem> &problems)
        : host_(host), cgroups_(cgroups), problems_(problems) {}

    std::vector<Workload> run() {
        spaces_ = probe::mount_namespaces_in_proc(host_, problems_);
        find_host();
        for (const int pid : pids_of(host_))
            if (auto task = task_of(host_, cgroups_, pid)) tasks_.push_back(std::move(*task));
        std::map<uint64_t, std::vector<const Task *>> by_space;
        for (const Task &task : tasks_)
            if (is_container(task)) by_space[task.space].push_back(&task);
        for (const auto &[id, members] : by_space)
            add(members);
        std::erase_if(out_, [&](const Workload &one) { return is_shared(one); });
        for (Workload &one : out_)
            complete(one);
        return std::move(out_);
    }

private:
    void find_host() {
        for (const auto &space : spaces_) {
            if (space.ours) host_space_ = &space;
            if (!space.ours && space.pid != 1) continue;
            if (const auto *root = root_of(space)) host_roots_.emplace(root->device, root->root);
        }
    }
    [[nodiscard]] const probe::MountNamespace *space_of(uint64_t id) const {
        const auto found = std::ranges::find(spaces_, id, &probe::MountNamespace::id);
        return found == spaces_.end() ? nullptr : &*found;
    }
    [[nodiscard]] bool is_container(const Task &task) const {
        const auto *space = space_of(task.space);
        const auto *root = space == nullptr || space->ours ? nullptr : root_of(*space);
        return root != nullptr && !host_roots_.contains({root->device, root->root});
    }

    /// The processes of one namespace, as one container, or as part of one that is there.
    void add(const std::vector<const Task *> &members) {
        Workload made;
        made.of = members.front()->key.first;
        made.cgroup = members.front()->key.second;
        for (const Task *task : members) {
            if (task->key.first != made.of) made.cgroup = "/";
            made.cgroup = common(made.cgroup, task->key.second);
            made.pids.push_back(task->pid);
        }
        if (made.cgroup.empty() || made.cgroup == "/") {
            problems_.push_back({fmt::format("process {}", made.pids.front()),
                                 "its container has no cgroup of its own, and cannot be slowed or ended as one"});
            return;
        }
        made.seats = seats_of(*space_of(members.front()->space), host_space_);
        for (bool again = true; again;) { // one that lies in another, or holds it, is the same container
            again = false;
            for (auto it = out_.begin(); it != out_.end(); ++it) {
                if (it->of != made.of || (!lies_in(made.cgroup, it->cgroup) && !lies_in(it->cgroup, made.cgroup)))
                    continue;
                made.cgroup = common(made.cgroup, it->cgroup);
                made.pids.insert(made.pids.end(), it->pids.begin(), it->pids.end());
                made.seats.insert(made.seats.end(), it->seats.begin(), it->seats.end());
                out_.erase(it);
                again = true;
                break;
            }
        }
        std::ranges::sort(made.pids);
        out_.push_back(std::move(made));
    }

    /// A process of the host is in that group.
    bool is_shared(const Workload &one) {
        for (const Task &task : tasks_) {
            if (is_container(task) || task.key.first != one.of || !lies_in(task.key.second, one.cgroup)) continue;
            problems_.push_back({fmt::format("cgroup {}", one.cgroup),
                                 fmt::format("it holds a container and process {} of the host; it is neither slowed "
                                             "nor ended",
                                             task.pid)});
            return true;
        }
        return false;
    }

    void complete(Workload &one) {
        std::set<std::string> io, memory, unified;
        for (const Task &task : tasks_) {
            if (!std::ranges::binary_search(one.pids, task.pid)) continue;
            io.insert(cgroups_.io_group(task.groups));
            memory.insert(cgroups_.memory_group(task.groups));
            unified.insert(Cgroups::unified_group(task.groups));
        }
        const auto upper = [](const std::set<std::string> &groups) {
            std::string out = groups.empty() ? "" : *groups.begin();
            for (const auto &group : groups)
                out = common(out, group);
            return out == "/" ? std::string() : out;
        };
        one.memory_group = upper(memory);
        one.unified_group = upper(unified);
        if (cgroups_.io() != nullptr && cgroups_.io()->unified) {
            if (const auto group = upper(io); !group.empty()) one.io_groups.push_back(group);
        } else {
            for (const auto &group : io)
                if (!group.empty() && group != "/") one.io_groups.push_back(group);
        }
        if (cgroups_.io() != nullptr)
            for (const auto &group : one.io_groups)
                one.written_bytes += written_in(host_, cgroups_, group);
        if (one.written_bytes == 0)
            for (const int pid : one.pids)
                one.written_bytes += written_by(host_, pid);
        one.id = engine_id_in(one.cgroup);
        const auto kubernetes = qos_of_cgroup(one.cgroup);
        one.qos = kubernetes.value_or(Qos::standard);
        one.qos_from = kubernetes ? "by its cgroup" : "by default";
        const auto first = std::ranges::find_if(one.pids, [&](int pid) { return is_init(host_, pid); });
        one.init = first == one.pids.end() ? one.pids.front() : *first;
        if (const auto comm = host_.read(fmt::format("/proc/{}/comm", one.init))) one.command = trimmed(*comm);
    }

    const probe::Host &host_;
    const Cgroups &cgroups_;
    std::vector<probe::Problem> &problems_;
    std::vector<probe::MountNamespace> spaces_;
    const probe::MountNamespace *host_space_ = nullptr;
    std::set<std::pair<std::string, std::string>> host_roots_; ///< device, path in its file system
    std::vector<Task> tasks_;
    std::vector<Workload> out_;
};

} // namespace

std::string text_of(const Workload &workload) {
    constexpr size_t shown = 12;
    return fmt::format("container {} ({} {}; cgroup {}, process {} \"{}\")",
                       workload.id.empty() ? "without a name" : workload.id.substr(0, shown), name_of(workload.qos),
                       workload.qos_from, workload.cgroup, workload.init, workload.command);
}

std::vector<Workload> read_workloads(const probe::Host &host, const Cgroups &cgroups,
                                     std::vector<probe::Problem> &problems) {
    return Reader(host, cgroups, problems).run();
}

bool is_in(const probe::Host &host, const Cgroups &cgroups, const Workload &workload, int pid) {
    const auto task = task_of(host, cgroups, pid);
    const auto self = host.open_path("/proc/self/ns/mnt", O_PATH | O_NOFOLLOW);
    const auto ours = self ? sys::read_link(self->get(), "") : Result<std::string>(std::unexpected(self.error()));
    if (!ours || (task && task->space == probe::namespace_id(*ours))) return false;
    return task && task->key.first == workload.of && lies_in(task->key.second, workload.cgroup);
}

std::vector<int> processes_of(const probe::Host &host, const Cgroups &cgroups, const Workload &workload) {
    std::vector<int> out;
    for (const int pid : pids_of(host))
        if (is_in(host, cgroups, workload, pid)) out.push_back(pid);
    return out;
}

} // namespace shale::guard
