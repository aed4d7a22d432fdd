// SPDX-License-Identifier: Apache-2.0
#include "doctor/uses.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <string_view>
#include <utility>

#include "doctor/checks/common.h"
#include "probe/devices.h"
#include "probe/host.h"
#include "probe/mounts.h"
#include "probe/text.h"
#include "sys/fs.h"

namespace shale::doctor {

namespace {

using checks::lies_in;
using Inode = std::pair<dev_t, ino_t>;

/// include/linux/proc_ns.h, PROC_PID_INIT_INO: the PID namespace that sees every process.
constexpr std::string_view first_pid_namespace = "pid:[4026531836]";
constexpr size_t max_gaps = 10;

class Reader {
public:
    explicit Reader(bool alone) : alone_(alone) {}

    Uses run() {
        auto host = probe::Host::open("/");
        if (!host) {
            gap(host.error().text());
            return std::move(out_);
        }
        read_mounts(*host);
        std::vector<probe::Problem> ignored; // devices that cannot be read are not mounted either
        for (const auto &device : probe::read_block_devices(*host, ignored))
            if (!device.file.empty()) out_.backing_files.insert(device.file);
        read_processes();
        return std::move(out_);
    }

private:
    void gap(std::string text) {
        if (!alone_ && out_.gaps.size() < max_gaps) out_.gaps.push_back(std::move(text));
    }

    void read_mounts(const probe::Host &host) {
        std::vector<probe::Problem> problems;
        out_.namespaces = probe::read_mount_namespaces(host, problems);
        for (const auto &problem : problems)
            gap(fmt::format("{}: {}", problem.about, problem.why));
        for (const auto &space : out_.namespaces)
            known_.insert(fmt::format("mnt:[{}]", space.id));
        if (out_.namespaces.empty()) out_.gaps.emplace_back("no mount table could be read");
        for (const auto &space : out_.namespaces)
            for (const auto &mount : space.mounts)
                if (mount.type == "nsfs" && mount.root.starts_with("mnt:[") && !known_.contains(mount.root))
                    gap(fmt::format("a mount namespace without a process is kept at {}", mount.target));
    }

    void read_processes() {
        const auto ours = sys::read_link(AT_FDCWD, "/proc/self/ns/pid");
        if (!ours || *ours != first_pid_namespace)
            gap("this process is in a PID namespace of its own and does not see all others");
        const auto proc = sys::open_dir(AT_FDCWD, "/proc");
        const auto entries =
            proc ? sys::list_dir(proc->get()) : Result<std::vector<sys::DirEntry>>(std::unexpected(proc.error()));
        if (!entries) {
            out_.gaps.push_back(entries.error().text());
            return;
        }
        for (const auto &entry : *entries)
            if (const auto pid = probe::to_number(entry.name); pid && *pid <= INT32_MAX)
                read_process(proc->get(), entry.name, static_cast<int>(*pid));
    }

    /// What has ended meanwhile uses nothing; everything else that fails is a gap.
    bool failed(const Error &error, int pid, std::string_view what) {
        if (error.sys_errno() != ENOENT && error.sys_errno() != ESRCH)
            gap(fmt::format("{} of process {}: {}", what, pid, error.text()));
        return true;
    }

    void note(int dir, const char *name, int pid, std::string_view what) {
        const auto target = sys::read_link(dir, name);
        if (!target)
            failed(target.error(), pid, what);
        else if (target->starts_with('/'))
            out_.open.emplace(*target, pid);
    }

    void note_all(int dir, const char *name, int pid) {
        const auto links = sys::open_dir(dir, name);
        const auto all =
            links ? sys::list_dir(links->get()) : Result<std::vector<sys::DirEntry>>(std::unexpected(links.error()));
        if (!all) {
            failed(all.error(), pid, name);
            return;
        }
        for (const auto &link : *all)
            note(links->get(), link.name.c_str(), pid, name);
    }

    void read_process(int proc, const std::string &name, int pid) {
        const auto dir = sys::open_dir(proc, name.c_str());
        if (!dir) {
            failed(dir.error(), pid, "/proc");
            return;
        }
        ++out_.processes;
        if (const auto exe = sys::read_link(dir->get(), "exe"))
            out_.open.emplace(*exe, pid); // a kernel thread has none
        note_all(dir->get(), "fd", pid);
        note_all(dir->get(), "map_files", pid);
        const auto tasks = sys::open_dir(dir->get(), "task");
        const auto all =
            tasks ? sys::list_dir(tasks->get()) : Result<std::vector<sys::DirEntry>>(std::unexpected(tasks.error()));
        if (!all) {
            failed(all.error(), pid, "threads");
            return;
        }
        for (const auto &task : *all) {
            const auto one = sys::open_dir(tasks->get(), task.name.c_str());
            if (!one) {
                failed(one.error(), pid, "thread");
                continue;
            }
            note(one->get(), "cwd", pid, "cwd");
            note(one->get(), "root", pid, "root");
            const auto space = sys::open_dir(one->get(), "ns");
            const auto mounts =
                space ? sys::read_link(space->get(), "mnt") : Result<std::string>(std::unexpected(space.error()));
            if (!mounts)
                failed(mounts.error(), pid, "mount namespace");
            else if (!known_.contains(*mounts))
                gap(fmt::format("process {} has a thread in a mount namespace that was not read", pid));
        }
    }

    bool alone_;
    Uses out_;
    std::set<std::string> known_; ///< "mnt:[N]"
};

std::string_view path_in(const std::string &item) {
    return item;
}
std::string_view path_in(const std::pair<const std::string, int> &item) {
    return item.first;
}

/// The first path of a sorted collection that is `directory` or lies in it.
template <class Sorted> auto find_below(const Sorted &paths, const std::string &directory) {
    if (const auto same = paths.find(directory); same != paths.end()) return same;
    const auto next = paths.lower_bound(directory + "/");
    return next != paths.end() && lies_in(path_in(*next), directory) ? next : paths.end();
}

/// `path` lies in `directory`: what is between, with a slash before it.
std::string_view rest_of(std::string_view path, std::string_view directory) {
    return directory == "/" ? (path == "/" ? std::string_view() : path) : path.substr(directory.size());
}

std::string joined(std::string_view directory, std::string_view rest) {
    return directory == "/" && !rest.empty() ? std::string(rest) : fmt::format("{}{}", directory, rest);
}

std::string where(const probe::MountNamespace &space, const probe::Mount &mount) {
    return fmt::format("at {} in the mount namespace of process {} ({})", mount.target, space.pid, space.command);
}

bool is_option(std::string_view word) {
    const size_t end = std::min(word.find('='), word.size());
    return end != 0 && std::ranges::all_of(word.substr(0, end),
                                           [](char c) { return (c >= 'a' && c <= 'z') || c == '_' || c == '+'; });
}

} // namespace

Uses read_uses(bool alone) {
    return Reader(alone).run();
}

std::optional<Place> place_of(const Uses &uses, const std::string &canonical_path) {
    const probe::Mount *best = nullptr;
    for (const auto &space : uses.namespaces)
        if (space.ours)
            for (const auto &mount : space.mounts) // a later one lies upon an earlier one
                if (lies_in(canonical_path, mount.target) &&
                    (best == nullptr || mount.target.size() >= best->target.size()))
                    best = &mount;
    if (best == nullptr) return std::nullopt;
    return Place{canonical_path, best->device, joined(best->root, rest_of(canonical_path, best->target))};
}

std::vector<std::string> directories_of_overlay(std::string_view options) {
    std::vector<std::pair<std::string, std::string>> pairs; // key, value
    while (!options.empty()) {
        const std::string_view word = probe::next_part(options, ',');
        const size_t equals = word.find('=');
        if (!is_option(word) && !pairs.empty()) // a comma of the path before it: the kernel's escape was undone
            pairs.back().second += fmt::format(",{}", word);
        else
            pairs.emplace_back(word.substr(0, equals), equals == std::string_view::npos ? "" : word.substr(equals + 1));
    }
    std::vector<std::string> out;
    for (const auto &[key, value] : pairs) {
        if (key != "lowerdir" && key != "upperdir" && key != "workdir" && key != "lowerdir+" && key != "datadir+")
            continue;
        std::string word;
        for (size_t i = 0; i <= value.size(); ++i) {
            if (i == value.size() || (value[i] == ':' && key == "lowerdir")) {
                if (!word.empty()) out.push_back(std::exchange(word, {}));
            } else {
                if (value[i] == '\\' && i + 1 < value.size()) ++i;
                word += value[i];
            }
        }
    }
    return out;
}

std::set<Inode> overlay_directories(const Uses &uses, const std::set<std::string> &bases) {
    std::set<Inode> out;
    const auto add = [&out](const std::string &path) {
        struct stat st{};
        if (::stat(path.c_str(), &st) == 0) out.emplace(st.st_dev, st.st_ino); // a link of l/ is followed
    };
    for (const auto &space : uses.namespaces)
        for (const auto &mount : space.mounts) {
            if (mount.type != "overlay") continue;
            for (const std::string &directory : directories_of_overlay(mount.super_options)) {
                if (!directory.starts_with('/')) { // engines mount from their directory when the options get long
                    for (const std::string &base : bases)
                        add(fmt::format("{}/{}", base, directory));
                    continue;
                }
                add(directory);
                if (!space.ours) add(fmt::format("/proc/{}/root{}", space.pid, directory));
            }
        }
    return out;
}

std::string use_of(const Uses &uses, const Place &place, const std::set<Inode> &overlay_directories) {
    for (const std::string_view part : {"", "/diff", "/fs", "/work", "/merged"}) {
        struct stat st{};
        if (::lstat((place.path + std::string(part)).c_str(), &st) == 0 &&
            overlay_directories.contains({st.st_dev, st.st_ino}))
            return "an overlay that is mounted stands on it";
    }
    std::set<std::string> names = {place.path}; // by which processes may know it
    for (const auto &space : uses.namespaces)
        for (const auto &mount : space.mounts) {
            if (lies_in(mount.target, place.path) || lies_in(mount.source, place.path))
                return fmt::format("something is mounted on it or from it, {}", where(space, mount));
            if (mount.device != place.device) continue;
            if (lies_in(mount.root, place.inside)) return fmt::format("it is mounted {}", where(space, mount));
            if (lies_in(place.inside, mount.root))
                names.insert(joined(mount.target, rest_of(place.inside, mount.root)));
        }
    if (find_below(uses.backing_files, place.path) != uses.backing_files.end())
        return "a loop device stands on a file in it";
    for (const std::string &name : names)
        if (const auto found = find_below(uses.open, name); found != uses.open.end())
            return fmt::format("process {} has {} open", found->second, found->first);
    return {};
}

} // namespace shale::doctor
