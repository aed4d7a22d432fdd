// SPDX-License-Identifier: Apache-2.0
// Processes, and what they hold that no path shows: open files without a name, inotify watches. One pass over /proc
// (proc(5)); a process that ends meanwhile is left out, or what was read of it stays.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "probe/facts.h"
#include "probe/host.h"

namespace shale::probe {

struct ProcessFacts {
    std::vector<Process> processes;            ///< by pid
    std::vector<DeletedFile> deleted_files;    ///< of file systems that store; each inode once a process
    std::vector<InotifyWatch> inotify_watches; ///< one entry a process and inode (of each subvolume of btrfs)
};

/// Of all processes together. What goes beyond is left out and named.
struct ProcessLimits {
    uint64_t descriptors = 1'000'000, watches = 1'000'000;
    uint64_t paths = 20'000;           ///< of watches; what is looked for and not found counts
    uint64_t paths_of_process = 1'000; ///< who watches whole trees leaves some to those who watch one file
};

/// Other users' processes take CAP_SYS_PTRACE: how many could not be looked into is one problem. The contents of no
/// file are read, and file systems that may hang (network, FUSE) are not asked for anything, unless a deleted file of
/// one is open whose mount no process shows any more. Paths of watches are looked for on the running host only
/// (probe/processes_watches.h); without CAP_DAC_READ_SEARCH none is found, which is one problem.
ProcessFacts read_processes(const Host &host, std::vector<Problem> &problems, const ProcessLimits &limits = {});

/// The arguments of such a program are kept: dockerd, containerd and its shims, kubelet, ... `command` is comm, of
/// which the kernel keeps 15 bytes.
bool is_container_daemon(std::string_view command) noexcept;

/// /proc/PID/cgroup: the path of the memory controller's hierarchy (cgroup v1, and both at once), else the unified one.
std::string parse_cgroup(std::string_view text);

struct WatchedInode {
    std::string device; ///< "major:minor", of the superblock: that of mountinfo, not of stat(2), on btrfs
    uint64_t inode = 0;
    auto operator<=>(const WatchedInode &) const = default;
};
/// A line of /proc/PID/fdinfo/N (kernel, fs/notify/fdinfo.c); nullopt: not one of a watch.
std::optional<WatchedInode> parse_inotify_line(std::string_view line);

/// For open_by_handle_at(2).
struct FileHandle {
    int type = 0;
    std::string bytes; ///< at most MAX_HANDLE_SZ (128)
    auto operator<=>(const FileHandle &) const = default;
};
/// Of the same line (Linux 3.8); nullopt: it has none.
std::optional<FileHandle> parse_file_handle(std::string_view line);

/// "mnt_id:\t29" of /proc/PID/fdinfo/N (Linux 3.15): the mount that the descriptor was opened on.
std::optional<uint64_t> mount_id_in(std::string_view text);

/// Files there take space of this host's disks: not memory, not another host. By the type in mountinfo.
bool is_disk_file_system(std::string_view type) noexcept;

} // namespace shale::probe
