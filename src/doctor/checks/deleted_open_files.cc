// SPDX-License-Identifier: Apache-2.0
// deleted-open-files: space that files without a name hold, because a process has them open.
#include <algorithm>
#include <map>
#include <set>
#include <string_view>
#include <tuple>
#include <utility>

#include <fmt/format.h>

#include "base/units.h"
#include "doctor/checks/common.h"
#include "doctor/checks/mounted_layers.h"

namespace shale::doctor::checks {
namespace {

constexpr uint64_t most_bytes = uint64_t{1} << 30U; ///< of a file system's
constexpr double most_percent = 1;
constexpr uint64_t too_little_bytes = uint64_t{64} << 20U; ///< one percent of a tiny file system is no news
constexpr uint64_t too_few_inodes = 1000;
constexpr size_t most_commands = 5; ///< files that a command is given for

struct Process {
    int pid = 0;
    std::string command;
    uint64_t bytes = 0, files = 0;
    const probe::DeletedFile *largest = nullptr;
};

/// Where files lie: a file system that is known, else a device.
using Place = std::pair<const probe::FileSystem *, std::string_view>;

/// Of one place.
struct Held {
    uint64_t bytes = 0, files = 0; ///< each inode once, however many processes have it open
    std::set<std::pair<std::string_view, uint64_t>> inodes;
    std::set<std::tuple<int, std::string_view, uint64_t>> opened;
    std::map<int, Process> processes;

    void add(const probe::DeletedFile &file) {
        if (!opened.emplace(file.pid, file.device, file.inode).second) return;
        if (inodes.emplace(file.device, file.inode).second) {
            bytes += file.bytes;
            ++files;
        }
        Process &process = processes[file.pid];
        process.pid = file.pid;
        process.command = file.command;
        process.bytes += file.bytes;
        ++process.files;
        if (process.largest == nullptr || process.largest->bytes < file.bytes) process.largest = &file;
    }
    [[nodiscard]] std::vector<const Process *> largest_first() const {
        std::vector<const Process *> out;
        for (const auto &[pid, process] : processes)
            out.push_back(&process);
        std::ranges::stable_sort(out, std::ranges::greater(), &Process::bytes);
        return out;
    }
};

/// File systems by the devices that files on them have: their own, and those of the overlays whose upper directories
/// lie on them (a container's file is on the overlay's device, its blocks are not).
std::map<std::string_view, const probe::FileSystem *> by_device(const probe::Facts &facts) {
    std::map<std::string_view, const probe::FileSystem *> out;
    for (const auto &fs : facts.file_systems)
        out.emplace(fs.device, &fs);
    for (const auto &where : facts.mount_namespaces) {
        for (const auto &mount : where.mounts) {
            if (mount.type != "overlay" || out.contains(mount.device)) continue;
            const auto upper = upper_directory(mount);
            const auto *const fs = upper.empty() ? nullptr : file_system_of(facts, upper);
            if (fs != nullptr) out.emplace(mount.device, fs);
        }
    }
    return out;
}

std::map<Place, Held> held_files(const probe::Facts &facts) {
    const auto devices = by_device(facts);
    std::map<Place, Held> out;
    for (const auto &file : facts.deleted_files) {
        const auto found = devices.find(file.device);
        const probe::FileSystem *fs = found == devices.end() ? nullptr : found->second;
        // A subvolume of btrfs has a device of its own, which no mount shows.
        if (fs == nullptr && file.device.starts_with("0:")) {
            const auto *const its = file_system_of(facts, file.path);
            if (its != nullptr && its->type == "btrfs") fs = its;
        }
        out[{fs, fs == nullptr ? std::string_view(file.device) : std::string_view()}].add(file);
    }
    return out;
}

/// As a pattern of find(1) that matches only itself.
std::string literal_pattern(std::string_view text) {
    std::string out;
    for (const char c : text) {
        if (std::string_view("*?[]\\").contains(c)) out += '\\';
        out += c;
    }
    return out;
}

void add_commands(const std::vector<const Process *> &processes, Finding &out) {
    out.commands.emplace_back("# best: restart the service or container that has the file open; if it cannot be:");
    for (size_t i = 0; i < std::min(processes.size(), most_commands); ++i)
        out.commands.push_back(fmt::format("find /proc/{}/fd -lname {} -exec truncate -s 0 {{}} ';'", processes[i]->pid,
                                           shell_quote(literal_pattern(processes[i]->largest->path) + " (deleted)")));
}

bool is_much(const Place &where, const Held &held) {
    if (held.bytes >= most_bytes) return true;
    if (where.first == nullptr) return false;
    return (held.bytes >= too_little_bytes && percent(held.bytes, where.first->total_bytes) >= most_percent) ||
           (held.files >= too_few_inodes && percent(held.files, where.first->total_inodes) >= most_percent);
}

Finding finding_of(const Place &where, const Held &held) {
    Finding out;
    const auto &[fs, device] = where;
    out.subject = fs != nullptr ? fmt::format("{} ({})", shown(fs->target), shown(fs->type))
                                : fmt::format("device {}", shown(device));
    out.summary =
        fmt::format("{} are held by {} without a name that {} open", format_bytes(held.bytes),
                    counted(held.files, "file"), counted(held.processes.size(), "process has", "processes have"));
    if (fs != nullptr) out.summary += fmt::format(": {} of the file system", percent_text(held.bytes, fs->total_bytes));
    if (fs != nullptr && fs->total_inodes != 0)
        out.summary += fmt::format(", {} of its inodes", percent_text(held.files, fs->total_inodes));
    const auto processes = held.largest_first();
    for (const auto *process : processes)
        out.evidence.push_back(fmt::format("{}: {} in {}, the largest {}", process_name(process->pid, process->command),
                                           format_bytes(process->bytes), counted(process->files, "file"),
                                           shown(process->largest->path)));
    out.evidence = limited(std::move(out.evidence));
    add_commands(processes, out);
    return out;
}

Outcome run(const probe::Facts &facts) {
    Outcome out;
    for (const auto &[where, held] : held_files(facts))
        if (is_much(where, held)) out.findings.push_back(finding_of(where, held));
    if (facts.live && !facts.privileged)
        out.unable.emplace_back("open files of other users' processes: only root can see them");
    return out;
}

} // namespace

extern const Check deleted_open_files;
const Check deleted_open_files{
    .id = "deleted-open-files",
    .title = "Deleted files that are still open hold space",
    .why = "A file's blocks are freed when its last name is gone and the last process has closed it. A log or "
           "database file that was removed under a running process is in no directory, so du does not find it while "
           "df counts it: the disk is full of nothing.",
    .limits = "Warning when such files hold 1 GiB or more of a file system, 1 % of it and at least 64 MiB, or 1 % of "
              "its inodes and at least 1,000. A file that several processes have open counts once. Files of a "
              "container are counted where its upper "
              "directory lies. Files in memory (memfd, tmpfs) are not among them.",
    .remedy = "Restart what has the file open, or make it open its files anew (logrotate's postrotate, SIGHUP). "
              "Where that cannot be, cut the file off through /proc/PID/fd (proc(5)).",
    .risk = "What is cut off is lost, and a process that still needs the file (a database's, a journal) may fail or "
            "corrupt its data. One that does not append writes on at its old place: the file becomes large but "
            "sparse.",
    .undo = "None for the contents. Before cutting, copy what is needed: cp /proc/PID/fd/N elsewhere.",
    .run = run,
};

} // namespace shale::doctor::checks
