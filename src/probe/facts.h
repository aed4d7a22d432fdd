// SPDX-License-Identifier: Apache-2.0
// What there is to know about a container host, as plain data: read by probe/ and doctor/hosts, judged by
// doctor/checks, written and read as one JSON document (docs/formats/facts.md). Nothing here has an opinion.
//
// Paths are the host's own (without the prefix of an examined disk). Sizes are bytes unless a name says otherwise.
// Every collection is bounded where it is read; what was cut or could not be read stands in `problems`.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace shale::probe {

/// Of the document. Raised when a member changes its meaning or goes; a new member does not raise it.
inline constexpr int facts_version = 1;

/// Something that could not be read, or was cut.
struct Problem {
    std::string about; ///< what: a path, a command, "mounts of process 12"
    std::string why;
};

struct Kernel {
    std::string release, version, architecture, hostname; ///< uname(2)
    uint64_t uptime_s = 0;
    uint64_t memory_bytes = 0;
    int processors = 0;
    std::vector<std::string> file_systems;           ///< /proc/filesystems, without "nodev"
    std::map<std::string, std::string> parameters;   ///< of modules: "overlay.redirect_dir" -> "N"
    std::map<std::string, std::string> sysctls;      ///< "fs.inotify.max_user_watches" -> "65536"
    std::map<std::string, std::string> command_line; ///< /proc/cmdline, "" for a word without "="
};

struct Mount {
    uint64_t id = 0, parent = 0;
    std::string device, root, target, type, source; ///< proc(5), mountinfo; device "major:minor"
    std::string options, super_options;
    std::string propagation; ///< "shared:1 master:2"; empty: private
};
struct MountNamespace {
    uint64_t id = 0;   ///< inode of /proc/PID/ns/mnt
    bool ours = false; ///< that of the reader
    int pid = 0;       ///< the lowest of those that are in it
    std::string command;
    uint64_t processes = 0;
    std::vector<Mount> mounts;
};

struct BtrfsSpace {
    uint64_t device_bytes = 0, unallocated_bytes = 0; ///< of all devices
    struct Group {
        std::string kind, profile; ///< "data" | "metadata" | "system" | "mixed"; "single", "dup", ...
        uint64_t total_bytes = 0, used_bytes = 0;
    };
    std::vector<Group> groups;
    uint64_t global_reserve_bytes = 0; ///< within the metadata; the kernel keeps it for itself: not free to others
    std::string quota;                 ///< "off" | "simple" | "full"
    bool quota_inconsistent = false;   ///< the counters are wrong until a rescan
    struct Qgroup {
        uint64_t level = 0, id = 0;
        uint64_t referenced_bytes = 0, exclusive_bytes = 0, limit_referenced_bytes = 0, limit_exclusive_bytes = 0;
        bool has_subvolume = true; ///< level 0: the subvolume is there
    };
    std::vector<Qgroup> qgroups;
    uint64_t subvolumes = 0;
};

struct FileSystem {
    std::string target, type, source, device, options;
    uint64_t total_bytes = 0, free_bytes = 0, available_bytes = 0; ///< statfs(2); available: to others than root
    uint64_t total_inodes = 0, free_inodes = 0;                    ///< 0: it counts none
    bool read_only = false;
    std::optional<bool> d_type;          ///< directory entries say what they are (XFS: ftype=1)
    std::string project_quota;           ///< "" (none), "accounting", "enforced"
    std::optional<uint64_t> project_ids; ///< in use by quota records
    struct ProjectQuota {
        uint64_t id = 0, used_bytes = 0, used_inodes = 0, limit_bytes = 0, limit_inodes = 0;
    };
    std::vector<ProjectQuota> projects;
    std::optional<BtrfsSpace> btrfs;
};

struct BlockDevice {
    std::string name, number; ///< "loop0", "7:0"
    uint64_t bytes = 0;
    bool rotational = false, read_only = false, discard = false;
    std::string kind;                        ///< "disk", "partition", "loop", "dm", "md", "zram", ...
    std::string file;                        ///< loop: what it stands on
    bool file_deleted = false;               ///< loop: that has no name any more
    std::string dm_name, dm_uuid, level;     ///< md: "raid1"
    std::vector<std::string> below, mounted; ///< names of the devices it stands on; targets
};
struct ThinPool {
    std::string name, metadata_device, data_device; ///< "major:minor"
    std::string mode;                               ///< "rw", "ro", "out_of_data_space", "Fail", "Error"
    uint64_t transaction = 0;
    uint64_t used_metadata_blocks = 0, total_metadata_blocks = 0; ///< of 4 KiB
    uint64_t used_data_blocks = 0, total_data_blocks = 0, data_block_bytes = 0;
    bool needs_check = false, error_if_no_space = false, discard_passdown = false, held_metadata = false;
    bool on_loop = false;                  ///< its data or metadata stands on a loop device (loop-lvm)
    bool lvm = false;                      ///< LVM made it
    std::optional<int> autoextend_percent; ///< LVM's activation/thin_pool_autoextend_threshold; 100 = never
    bool monitored = false;                ///< dmeventd runs
    struct Thin {
        std::string name;
        uint64_t device_id = 0, mapped_bytes = 0, bytes = 0;
        bool open = false;
    };
    std::vector<Thin> devices;
};
struct ZfsPool {
    std::string name, health;
    uint64_t size_bytes = 0, allocated_bytes = 0, free_bytes = 0;
    uint64_t fragmentation_percent = 0, capacity_percent = 0;
    bool autotrim = false;
};
struct ZfsDataset {
    std::string name, type, mountpoint, origin; ///< type "filesystem" | "volume" | "snapshot"
    uint64_t used_bytes = 0, referenced_bytes = 0, snapshots_bytes = 0, quota_bytes = 0, refquota_bytes = 0;
    uint64_t record_bytes = 0; ///< recordsize or volblocksize
    uint64_t created_s = 0, holds = 0;
    bool mounted = false;
    std::string volume_of; ///< label that names the owner (docker:, shale:), else empty
};

struct Pressure {
    double some_10s = 0, some_60s = 0, some_300s = 0, full_10s = 0, full_60s = 0, full_300s = 0; ///< percent
};
struct Cgroups {
    int version = 0; ///< 0: none, 1, 2; both mounted: 1 with `hybrid`
    bool hybrid = false;
    std::vector<std::string> controllers;
};

/// An open file without a name.
struct DeletedFile {
    int pid = 0;
    std::string command, path, device; ///< path: the last, without " (deleted)"
    uint64_t inode = 0, bytes = 0;     ///< of blocks
};
struct InotifyWatch {
    int pid = 0;
    std::string command, device;
    uint64_t inode = 0, watches = 1;
    std::string path;                     ///< by the host's mounts, the last it had; "": could not be found out
    std::optional<uint64_t> path_inode{}; ///< what `path` shows on the host now, 0: nothing; not known: no value
};
struct Process {
    int pid = 0;
    std::string command, cgroup; ///< the unified one, or that of the memory controller
    uint64_t mount_namespace = 0;
    std::vector<std::string> arguments; ///< of daemons that matter here (dockerd, containerd, kubelet, ...); else empty
    uint64_t uid = 0;                   ///< effective: inotify's limits are of a user
    uint64_t inotify_instances = 0;     ///< open (fs.inotify.max_user_instances)
};

/// Of one tree on disk.
struct Usage {
    uint64_t bytes = 0, inodes = 0;                     ///< blocks and inodes of all that is in it
    uint64_t exclusive_bytes = 0, exclusive_inodes = 0; ///< without files that have names elsewhere
    bool complete = true;                               ///< else some of it could not be read
};

/// A file or directory of records that a store reader needed.
struct RecordSource {
    std::string path, what; ///< what: "layer records", "snapshot metadata"
    std::string state; ///< "read", "missing", "unreadable", "changing" (a writer was at work; nothing follows from it)
    std::string why;
    uint64_t entries = 0;
};

/// A tree of a store: what its records and its disk say.
struct StoreLayer {
    std::string id;   ///< its directory, dataset or device
    std::string path; ///< "": it is no path
    std::string name; ///< chain id, snapshot key
    /// "committed", "active", "view", "init", "removing", "ingest", "cache", "step" (of a build, its daemon is gone);
    /// "": not recorded
    std::string kind;
    std::string parent;    ///< id of the one below
    bool recorded = false; ///< in the records
    bool on_disk = false;
    std::vector<std::string> used_by; ///< "image NAME", "container ID", "layer ID", "build cache ID", "lease ID"
    uint64_t depth = 0;               ///< lower layers
    std::optional<uint64_t> recorded_bytes, recorded_inodes;
    std::optional<Usage> usage;
    std::optional<uint64_t> project_id; ///< of its directory (FS_IOC_FSGETXATTR); 0: none; nullopt: was not read
    uint64_t created_s = 0;
    std::vector<std::string> damage; ///< "diff is missing", "PATH: 0 bytes, the archive has 123"
};
struct StoreImage {
    std::string id;
    std::vector<std::string> names;
    std::vector<std::string> layers; ///< ids of StoreLayer, the lowest first; those which are there
    uint64_t missing_layers = 0;
    uint64_t created_s = 0;
    std::vector<std::string> damage; ///< "blob sha256:... is missing"
};
struct StoreContainer {
    std::string id, name, image, state; ///< state as its store has it: "running", "exited", ...
    std::string layer;                  ///< id of its writable one
    std::string driver;                 ///< that it was made with
    int pid = 0;
    uint64_t log_bytes = 0;
    std::string log_path;
    std::vector<std::string> binds; ///< "HOST:CONTAINER" of files and directories
    uint64_t created_s = 0;
};
struct StoreVolume {
    std::string name, driver, path;
    bool recorded = false, on_disk = false;
    std::vector<std::string> used_by;
    std::optional<Usage> usage;
};
/// One store of one driver of one engine.
struct Store {
    std::string engine; ///< "docker", "buildkit", "containerd", "podman", "shale"
    std::string root, driver, version;
    bool running = false; ///< its daemon is
    int pid = 0;
    std::vector<RecordSource> sources;
    std::vector<StoreLayer> layers;
    std::vector<StoreImage> images;
    std::vector<StoreContainer> containers;
    std::vector<StoreVolume> volumes;
    std::map<std::string, uint64_t> other_bytes; ///< what else lies at its root: "content", "logs", ...
    std::map<std::string, std::string> settings; ///< that matter: "metacopy", "redirect_dir", "fs.quota", ...
    uint64_t file_system = 0;                    ///< index into Facts::file_systems; see `known_file_system`
    bool known_file_system = false;
};
/// A configuration file, as it is.
struct ConfigFile {
    std::string path,
        kind; ///< "docker daemon.json", "containerd config.toml", "containers storage.conf", "kubelet config", ...
    std::string text;
};

struct Facts {
    int version = facts_version;
    std::string shale;     ///< version that wrote it
    uint64_t taken_s = 0;  ///< since the epoch
    std::string host_root; ///< "/", or where the disk was examined
    bool live = true;      ///< false: of a disk; no processes, mounts, pressure
    bool privileged = true;
    Kernel kernel;
    std::vector<MountNamespace> mount_namespaces;
    std::vector<FileSystem> file_systems;
    std::vector<BlockDevice> devices;
    std::vector<ThinPool> thin_pools;
    std::vector<ZfsPool> zfs_pools;
    std::vector<ZfsDataset> zfs_datasets;
    Cgroups cgroups;
    std::map<std::string, uint64_t> vmstat, memory; ///< /proc/vmstat; /proc/meminfo in bytes
    std::map<std::string, Pressure> pressure;       ///< "cpu", "io", "memory"
    std::vector<Process> processes;
    std::vector<DeletedFile> deleted_files;
    std::vector<InotifyWatch> inotify_watches;
    std::vector<ConfigFile> config_files;
    std::vector<Store> stores;
    std::vector<Problem> problems;
};

} // namespace shale::probe
