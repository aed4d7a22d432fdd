// SPDX-License-Identifier: Apache-2.0
// Everything of one process is read relative to its open directory: should its number be given to another one, that
// says ESRCH.
#include "probe/processes.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <map>
#include <set>
#include <span>
#include <utility>

#include <fmt/format.h>

#include "base/units.h"
#include "probe/processes_watches.h"
#include "probe/text.h"
#include "sys/fs.h"
#include "sys/mount.h"

namespace shale::probe {
namespace {

constexpr size_t small_limit = size_t{64} << 10U;
constexpr size_t mounts_limit = size_t{256} << 20U;
constexpr size_t max_arguments = 1024;
constexpr uint64_t block_bytes = 512; // of st_blocks, whatever the file system's own are
constexpr std::string_view inotify_link = "anon_inode:inotify";

bool is_gone(const Error &error) {
    return error.sys_errno() == ENOENT || error.sys_errno() == ESRCH;
}
bool is_denied(const Error &error) {
    return error.sys_errno() == EACCES || error.sys_errno() == EPERM;
}

/// A regular file, for reading; nothing waits (a FIFO in a made-up tree) and no link is followed.
Result<UniqueFd> open_regular(int dir, const char *name) {
    UniqueFd fd = TRY(sys::open_at(dir, name, O_RDONLY | O_NONBLOCK | O_NOCTTY));
    const auto status = TRY(sys::stat_at(fd.get(), ""));
    if (!S_ISREG(status.st_mode)) return fail(Errc::InvalidArgument, fmt::format("{:?}: not a regular file", name));
    return fd;
}

struct Text {
    std::string text;
    bool cut = false;
};
Result<Text> read_start(int dir, const char *name, size_t limit) {
    const UniqueFd fd = TRY(open_regular(dir, name));
    Text out;
    for (;;) {
        const size_t filled = out.text.size();
        out.text.resize(filled + std::max<size_t>(4096, filled));
        const size_t got = TRY(sys::read_some(fd.get(), std::as_writable_bytes(std::span(out.text)).subspan(filled)));
        out.text.resize(filled + got);
        if (out.text.size() > limit) {
            out.text.resize(limit);
            out.cut = true;
            return out;
        }
        if (got == 0) return out;
    }
}

/// Calls `on_line(line)` for the lines of a file of any size; false from it ends that. A line longer than the buffer is
/// none of those that are looked for, and given in pieces.
template <class F> Status for_each_line(int fd, F &&on_line) {
    std::vector<char> buffer(size_t{64} << 10U);
    size_t filled = 0;
    for (;;) {
        const size_t got = TRY(sys::read_some(fd, std::as_writable_bytes(std::span(buffer)).subspan(filled)));
        std::string_view rest(buffer.data(), filled + got);
        while (!rest.empty()) {
            if (!rest.contains('\n') && got != 0 && rest.size() < buffer.size()) break; // its end is still to come
            if (!on_line(next_part(rest, '\n'))) return {};
        }
        if (got == 0) return {};
        filled = rest.size();
        std::copy(rest.begin(), rest.end(), buffer.begin());
    }
}

std::vector<std::string> split_arguments(std::string_view text) {
    std::vector<std::string> out;
    while (!text.empty() && out.size() < max_arguments)
        out.emplace_back(next_part(text, '\0'));
    return out;
}

std::string device_text(uint64_t device_major, uint64_t device_minor) {
    return fmt::format("{}:{}", device_major, device_minor);
}

/// For a file whose mount nobody shows (a memfd, one of a mount that was detached): is its file system one in memory,
/// or one that would not be asked?
bool is_disk_magic(uint64_t magic) {
    static constexpr std::array elsewhere{
        uint64_t{TMPFS_MAGIC},      uint64_t{RAMFS_MAGIC},      uint64_t{HUGETLBFS_MAGIC},  uint64_t{PROC_SUPER_MAGIC},
        uint64_t{SYSFS_MAGIC},      uint64_t{NFS_SUPER_MAGIC},  uint64_t{FUSE_SUPER_MAGIC}, uint64_t{V9FS_MAGIC},
        uint64_t{CEPH_SUPER_MAGIC}, uint64_t{SMB2_SUPER_MAGIC}, uint64_t{CIFS_SUPER_MAGIC}, uint64_t{AFS_SUPER_MAGIC},
    };
    return std::ranges::find(elsewhere, magic & 0xffff'ffffU) == elsewhere.end();
}

/// Effective user of "Uid:\t0\t0\t0\t0": the one whom the kernel charges for inotify.
uint64_t user_in(std::string_view text) {
    while (!text.empty()) {
        std::string_view line = next_part(text, '\n');
        if (next_part(line, ':') != "Uid") continue;
        const auto words = words_of(line);
        return words.size() < 2 ? 0 : to_number(words[1]).value_or(0);
    }
    return 0;
}

/// "mnt:[4026531841]" -> 4026531841.
uint64_t namespace_in(std::string_view link) {
    if (!link.starts_with("mnt:[") || !link.ends_with(']')) return 0;
    return to_number(link.substr(5, link.size() - 6)).value_or(0);
}

/// Problems of single processes: the first twenty, then how many more there were.
class Notes {
public:
    explicit Notes(std::vector<Problem> &out) : out_(out) {}
    void add(std::string about, std::string why) {
        if (++count_ <= most) out_.push_back({std::move(about), std::move(why)});
    }
    void finish() {
        if (count_ > most)
            out_.push_back({"processes", fmt::format("{} more problems like these", format_count(count_ - most))});
    }

private:
    static constexpr uint64_t most = 20;
    std::vector<Problem> &out_;
    uint64_t count_ = 0;
};

/// Types of file systems by the id of a mount, which is unique on a host: of each mount namespace once, when one of its
/// processes asks first.
class MountTypes {
public:
    MountTypes(int proc, Notes &notes) : proc_(proc), notes_(notes) {}

    /// nullopt: no table shows that mount.
    std::optional<std::string> find(uint64_t id, int process_dir, const Process &process) {
        if (auto known = look_up(id)) return known;
        load(process_dir, process.mount_namespace, fmt::format("mounts of process {}", process.pid));
        if (auto known = look_up(id)) return known;
        if (!std::exchange(own_loaded_, true)) { // a descriptor that came from outside of a container
            if (const auto self = sys::read_link(proc_, "self"))
                if (const auto dir = sys::open_dir(proc_, self->c_str())) load(dir->get(), 0, "mounts of this process");
        }
        return look_up(id);
    }

private:
    std::optional<std::string> look_up(uint64_t id) const {
        const auto found = types_.find(id);
        if (found == types_.end()) return std::nullopt;
        return found->second;
    }
    void load(int process_dir, uint64_t name_space, const std::string &about) {
        if (name_space != 0 && !loaded_.insert(name_space).second) return;
        const auto text = read_start(process_dir, "mountinfo", mounts_limit);
        if (!text && is_gone(text.error())) return;
        const auto entries = text ? sys::parse_mountinfo(text->text) : std::unexpected(text.error());
        if (!entries) return notes_.add(about, entries.error().text());
        for (const auto &entry : *entries)
            types_.insert_or_assign(entry.id, entry.type);
    }

    int proc_;
    Notes &notes_;
    std::map<uint64_t, std::string> types_;
    std::set<uint64_t> loaded_;
    bool own_loaded_ = false;
};

class Reader {
public:
    Reader(const Host &host, UniqueFd proc, std::vector<Problem> &problems, const ProcessLimits &limits)
        : host_(host), proc_(std::move(proc)), problems_(problems), notes_(problems), left_(limits),
          types_(proc_.get(), notes_) {
        const auto status = sys::statfs_fd(proc_.get());
        kernels_ = status && static_cast<uint64_t>(status->f_type) == PROC_SUPER_MAGIC;
        if (kernels_ && host.live()) paths_.emplace(host); // handles of another kernel mean nothing here
    }

    ProcessFacts read(const std::vector<int> &pids, const ProcessLimits &limits) {
        for (const int pid : pids)
            read_process(pid);
        notes_.finish();
        if (denied_ != 0)
            problems_.push_back(
                {"open files of processes",
                 fmt::format("{} of {} processes could not be looked into: permission denied (this takes "
                             "root with CAP_SYS_PTRACE)",
                             format_count(denied_), format_count(out_.processes.size()))});
        if (no_descriptors_left_)
            problems_.push_back({"open files of processes", fmt::format("more than {}; the others are left out",
                                                                        format_count(limits.descriptors))});
        if (no_watches_left_)
            problems_.push_back({"inotify watches",
                                 fmt::format("more than {}; the others are left out", format_count(limits.watches))});
        note_paths(limits);
        return std::move(out_);
    }

private:
    void note_paths(const ProcessLimits &limits) {
        const std::string about = "paths of inotify watches";
        if (paths_ && paths_->is_denied())
            problems_.push_back({about, "permission denied (this takes root with CAP_DAC_READ_SEARCH)"});
        else if (paths_left_out_ != 0)
            problems_.push_back(
                {about, fmt::format("{} were not looked for: at most {} of a process are, {} of all",
                                    format_count(paths_left_out_), format_count(limits.paths_of_process),
                                    format_count(limits.paths))});
    }

    void note(const Process &process, std::string_view what, const Error &error) {
        if (is_gone(error)) return;
        if (is_denied(error)) return void(is_denied_ = true);
        notes_.add(fmt::format("{} of process {}", what, process.pid), error.text());
    }

    /// "" when it cannot be read; only the end of the process is silent.
    std::string text_of(int dir, const char *name, const Process &process) {
        auto out = read_start(dir, name, small_limit);
        if (out) return std::move(out->text);
        note(process, name, out.error());
        return {};
    }

    void read_process(int pid) {
        Process process;
        process.pid = pid;
        is_denied_ = false;
        const auto dir = sys::open_dir(proc_.get(), std::to_string(pid).c_str());
        const auto name = dir ? read_start(dir->get(), "comm", small_limit) : std::unexpected(dir.error());
        if (name) {
            process.command = name->text;
            if (process.command.ends_with('\n')) process.command.pop_back(); // one of its own may stand before it
            read_parts(dir->get(), process);
        } else {
            note(process, "name", name.error());
            if (!is_denied_) return; // it has ended, or what is wrong is noted
        }
        if (is_denied_) ++denied_;
        out_.processes.push_back(std::move(process));
    }

    void read_parts(int dir, Process &process) {
        process.uid = user_in(text_of(dir, "status", process));
        process.cgroup = parse_cgroup(text_of(dir, "cgroup", process));
        if (is_container_daemon(process.command)) read_arguments(dir, process);
        const auto names = sys::open_dir(dir, "ns");
        const auto link = names ? sys::read_link(names->get(), "mnt") : std::unexpected(names.error());
        if (link) {
            process.mount_namespace = namespace_in(*link);
        } else {
            note(process, "mount namespace", link.error());
        }
        read_descriptors(dir, process);
    }

    void read_arguments(int dir, Process &process) {
        auto text = read_start(dir, "cmdline", small_limit);
        if (!text) return note(process, "cmdline", text.error());
        process.arguments = split_arguments(text->text);
        if (text->cut || process.arguments.size() == max_arguments)
            notes_.add(fmt::format("arguments of process {}", process.pid), "too many: the first are kept");
    }

    void read_descriptors(int dir, Process &process) {
        if (left_.descriptors == 0) return void(no_descriptors_left_ = true);
        const auto files = sys::open_dir(dir, "fd");
        const auto infos = sys::open_dir(dir, "fdinfo");
        // One more than is left tells "exactly the limit" from "more".
        auto names = files ? list_some(files->get(), left_.descriptors + 1) : std::unexpected(files.error());
        if (!names || !infos) return note(process, "open files", names ? infos.error() : names.error());
        if (names->size() > left_.descriptors) {
            no_descriptors_left_ = true;
            names->resize(left_.descriptors);
        }
        left_.descriptors -= names->size();
        seen_.clear();
        watches_.clear();
        paths_of_process_ = 0;
        for (const auto &name : *names)
            read_descriptor({dir, files->get(), infos->get(), name}, process);
        for (const auto &[key, watched] : watches_) {
            const auto &[what, handle] = key;
            auto found = watched.find_path ? paths_->find(what, *handle) : WatchPaths::Found();
            out_.inotify_watches.push_back({process.pid, process.command, what.device, what.inode, watched.count,
                                            std::move(found.path), found.inode});
        }
        if (paths_) paths_->close();
    }

    /// The subvolumes of btrfs have one superblock and each its own inode numbers: the handle tells them apart.
    using WatchKey = std::pair<WatchedInode, std::optional<FileHandle>>;

    struct Descriptor {
        int process_dir, files, infos;
        const std::string &name;
    };

    void read_descriptor(const Descriptor &which, Process &process) {
        const auto link = sys::read_link(which.files, which.name.c_str());
        if (!link) return note(process, "open files", link.error());
        if (*link == inotify_link) {
            ++process.inotify_instances;
            read_watches(which, process);
        } else if (link->starts_with('/') && link->ends_with(deleted_mark)) {
            read_deleted(which, process, *link);
        }
    }

    void read_watches(const Descriptor &which, const Process &process) {
        const auto fd = open_regular(which.infos, which.name.c_str());
        if (!fd) return note(process, "inotify watches", fd.error());
        const auto done = for_each_line(fd->get(), [&](std::string_view line) {
            auto watch = parse_inotify_line(line);
            if (!watch) return true;
            if (left_.watches == 0) return !(no_watches_left_ = true);
            --left_.watches;
            const auto [entry, is_new] = watches_.try_emplace({std::move(*watch), parse_file_handle(line)});
            ++entry->second.count;
            if (is_new) entry->second.find_path = is_to_be_found(entry->first);
            return true;
        });
        if (!done) note(process, "inotify watches", done.error());
    }

    /// False: its path is not looked for.
    bool is_to_be_found(const WatchKey &key) {
        const auto &[what, handle] = key;
        if (!paths_ || !handle || !paths_->may_find(what.device)) return false;
        if (left_.paths == 0 || paths_of_process_ == left_.paths_of_process) {
            ++paths_left_out_;
            return false;
        }
        --left_.paths;
        ++paths_of_process_;
        return true;
    }

    void read_deleted(const Descriptor &which, const Process &process, std::string_view link) {
        const auto info = read_start(which.infos, which.name.c_str(), small_limit);
        const auto id = info ? mount_id_in(info->text) : std::nullopt;
        const auto type = id ? types_.find(*id, which.process_dir, process) : std::nullopt;
        if (type && !is_disk_file_system(*type)) return;
        const auto fd = open_file(which, process);
        if (!fd) return note(process, "open files", fd.error());
        if (!type) {
            const auto status = sys::statfs_fd(fd->get());
            if (!status || !is_disk_magic(static_cast<uint64_t>(status->f_type))) return;
        }
        const auto status = sys::stat_at(fd->get(), "");
        if (!status) return note(process, "open files", status.error());
        // It may have other names still, or one that ends in these words.
        if (!S_ISREG(status->st_mode) || (kernels_ && status->st_nlink != 0)) return;
        if (!seen_.insert({status->st_dev, status->st_ino}).second) return;
        link.remove_suffix(deleted_mark.size());
        out_.deleted_files.push_back({process.pid, process.command, std::string(link),
                                      device_text(major(status->st_dev), minor(status->st_dev)), status->st_ino,
                                      static_cast<uint64_t>(status->st_blocks) * block_bytes});
    }

    /// The file itself: the kernel's own links lead to it though it has no name. In a made-up tree they are links like
    /// others, and stay in it.
    Result<UniqueFd> open_file(const Descriptor &which, const Process &process) {
        if (kernels_) return sys::open_at2(which.files, which.name.c_str(), O_PATH, 0);
        return host_.open_path(fmt::format("/proc/{}/fd/{}", process.pid, which.name), O_PATH);
    }

    /// At most `limit` names.
    static Result<std::vector<std::string>> list_some(int dir, uint64_t limit) {
        std::vector<std::string> out;
        TRY(sys::for_each_entry(dir, [&](const char *name, uint64_t, unsigned char) {
            if (out.size() < limit) out.emplace_back(name);
        }));
        return out;
    }

    struct Watched {
        uint64_t count = 0;
        bool find_path = false;
    };

    const Host &host_;
    UniqueFd proc_;
    std::vector<Problem> &problems_;
    Notes notes_;
    ProcessLimits left_;
    MountTypes types_;
    bool kernels_ = false; ///< it is a proc file system
    ProcessFacts out_;
    std::optional<WatchPaths> paths_;
    std::set<std::pair<dev_t, ino_t>> seen_; ///< of one process
    std::map<WatchKey, Watched> watches_;    ///< of one process
    uint64_t paths_of_process_ = 0;          ///< that are looked for
    bool is_denied_ = false;                 ///< of one process
    uint64_t paths_left_out_ = 0;
    uint64_t denied_ = 0;
    bool no_descriptors_left_ = false, no_watches_left_ = false;
};

/// "key:<hexadecimal> ".
std::optional<uint64_t> hexadecimal(std::string_view line, std::string_view key) {
    const size_t at = line.find(key);
    if (at == std::string_view::npos) return std::nullopt;
    line.remove_prefix(at + key.size());
    uint64_t value = 0;
    const auto [end, bad] = std::from_chars(line.data(), line.data() + line.size(), value, 16);
    if (bad != std::errc() || (end != line.data() + line.size() && *end != ' ')) return std::nullopt;
    return value;
}

} // namespace

ProcessFacts read_processes(const Host &host, std::vector<Problem> &problems, const ProcessLimits &limits) {
    const std::string path = "/proc";
    auto proc = host.open_path(path, O_RDONLY | O_DIRECTORY);
    const auto entries = proc ? sys::list_dir(proc->get()) : std::unexpected(proc.error());
    if (!entries) {
        problems.push_back({path, entries.error().text()});
        return {};
    }
    std::vector<int> pids;
    for (const auto &entry : *entries)
        if (const auto pid = to_number(entry.name); pid && *pid <= INT32_MAX) pids.push_back(static_cast<int>(*pid));
    std::ranges::sort(pids);
    return Reader(host, std::move(*proc), problems, limits).read(pids, limits);
}

bool is_container_daemon(std::string_view command) noexcept {
    static constexpr std::array<std::string_view, 9> names{"dockerd",   "containerd", "kubelet", "crio",   "podman",
                                                           "buildkitd", "dmeventd",   "shaled",  "lvmetad"};
    return std::ranges::find(names, command) != names.end() || command.starts_with("containerd-shim");
}

std::string parse_cgroup(std::string_view text) {
    std::string unified;
    while (!text.empty()) {
        // "4:memory:/docker/ID", "0::/system.slice/docker.service" (cgroups(7)); a path may hold colons.
        std::string_view line = next_part(text, '\n');
        const std::string_view hierarchy = next_part(line, ':');
        std::string_view controllers = next_part(line, ':');
        if (hierarchy == "0" && controllers.empty()) unified = line;
        while (!controllers.empty())
            if (next_part(controllers, ',') == "memory") return std::string(line);
    }
    return unified;
}

std::optional<WatchedInode> parse_inotify_line(std::string_view line) {
    if (!line.starts_with("inotify wd:")) return std::nullopt;
    const auto inode = hexadecimal(line, " ino:");
    const auto device = hexadecimal(line, " sdev:");
    if (!inode || !device || *device > UINT32_MAX) return std::nullopt;
    // s_dev as the kernel keeps it: 12 bits and 20 (include/linux/kdev_t.h).
    return WatchedInode{device_text(*device >> 20U, *device & 0xf'ffffU), *inode};
}

std::optional<FileHandle> parse_file_handle(std::string_view line) {
    constexpr std::string_view key = " f_handle:";
    const auto size = hexadecimal(line, " fhandle-bytes:");
    const auto type = hexadecimal(line, " fhandle-type:");
    const size_t at = line.find(key);
    if (!size || *size > MAX_HANDLE_SZ || !type || *type > INT32_MAX || at == std::string_view::npos)
        return std::nullopt;
    std::string_view digits = trimmed(line.substr(at + key.size()));
    if (*size == 0 || digits.size() != *size * 2) return std::nullopt;
    FileHandle out;
    out.type = static_cast<int>(*type);
    for (; !digits.empty(); digits.remove_prefix(2)) {
        uint8_t byte = 0;
        const auto [end, bad] = std::from_chars(digits.data(), digits.data() + 2, byte, 16);
        if (bad != std::errc() || end != digits.data() + 2) return std::nullopt;
        out.bytes.push_back(static_cast<char>(byte));
    }
    return out;
}

std::optional<uint64_t> mount_id_in(std::string_view text) {
    while (!text.empty()) {
        std::string_view line = next_part(text, '\n');
        if (next_part(line, ':') == "mnt_id") return to_number(trimmed(line));
    }
    return std::nullopt;
}

bool is_disk_file_system(std::string_view type) noexcept {
    static constexpr std::array<std::string_view, 32> elsewhere{
        // in memory
        "tmpfs", "ramfs", "rootfs", "devtmpfs", "hugetlbfs",
        // of the kernel
        "proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue", "bpf", "debugfs", "tracefs", "securityfs", "configfs",
        "pstore", "efivarfs", "binfmt_misc", "fusectl", "autofs", "nsfs", "rpc_pipefs", "selinuxfs",
        // of other hosts
        "nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "ceph", "afs"};
    if (type == "fuseblk" || type == "fuse.fuse-overlayfs") return true;
    return !type.starts_with("fuse") && std::ranges::find(elsewhere, type) == elsewhere.end();
}

} // namespace shale::probe
