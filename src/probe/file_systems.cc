// SPDX-License-Identifier: Apache-2.0
#include "probe/file_systems.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/ioctl.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <map>
#include <set>
#include <span>
#include <tuple>
#include <utility>

#include <fmt/format.h>

#include "probe/btrfs_space.h"
#include "probe/project_quota.h"
#include "probe/text.h"
#include "sys/fs.h"
#include "sys/seam.h"

namespace shale::probe {
namespace {

using sys::MountEntry;

constexpr size_t max_attempts = 16;   ///< mounts of one file system that are tried until one can be reached
constexpr size_t max_directories = 8; ///< of one file system whose entries are looked at
constexpr size_t info_limit = 65'536; ///< of /proc/self/fdinfo/N

/// What is mounted more than once is one file system: the same device number.
struct Group {
    std::vector<const MountEntry *> mounts; ///< the best to look at first
    std::vector<std::string> stores;        ///< roots of stores that lie on it
    bool wanted = false;                    ///< it carries "/" or a store
};

bool is_one_of(std::string_view type, std::span<const std::string_view> types) {
    return std::ranges::find(types, type) != types.end();
}

/// Number of the mount that a descriptor was opened on: "mnt_id:\t25" (proc(5), fdinfo).
std::optional<uint64_t> mount_id_of(int fd) {
    const auto text = sys::read_file(AT_FDCWD, fmt::format("/proc/self/fdinfo/{}", fd).c_str(), info_limit);
    std::string_view rest = text ? std::string_view(*text) : std::string_view();
    while (!rest.empty()) {
        std::string_view line = next_part(rest, '\n');
        if (next_part(line, ':') == "mnt_id") return to_number(trimmed(line));
    }
    return std::nullopt;
}

const MountEntry *mount_with_id(const std::vector<MountEntry> &mounts, std::optional<uint64_t> id) {
    const auto found = std::ranges::find_if(mounts, [&](const auto &one) { return id && one.id == *id; });
    return found == mounts.end() ? nullptr : &*found;
}

bool may_touch(const MountEntry &mount) {
    const auto kind = file_system_kind(mount.type, mount.device);
    return kind == FileSystemKind::local || kind == FileSystemKind::memory || kind == FileSystemKind::layered;
}

/// The mount that `path` lies on. What names tell comes first: nothing is opened on a file system that may hang. (A
/// symlink that leads onto one is followed: names do not show it.)
const MountEntry *mount_of_path(const Host &host, const std::vector<MountEntry> &mounts, const std::string &path) {
    const MountEntry *by_name = mount_above(mounts, path);
    if (by_name == nullptr || !may_touch(*by_name)) return by_name;
    const auto fd = host.open_path(path, O_PATH);
    if (!fd) return nullptr;
    const MountEntry *by_id = mount_with_id(mounts, mount_id_of(fd->get()));
    return by_id != nullptr ? by_id : by_name;
}

std::string name_of(const MountEntry &mount) {
    return fmt::format("file system {} ({}) at {}", mount.source, mount.type, mount.target);
}

void add_problem(const Group &group, std::vector<Problem> &problems) {
    const MountEntry &mount = *group.mounts.front();
    const auto kind = file_system_kind(mount.type, mount.device);
    if (kind == FileSystemKind::remote)
        problems.push_back(
            {name_of(mount), "not looked at: it hangs whoever does when its other side does not answer"});
    else if (kind == FileSystemKind::user_space && (group.wanted || mount.type == "fuseblk"))
        problems.push_back({name_of(mount), "not looked at: it hangs whoever does when its process does"});
    else if (kind == FileSystemKind::pseudo && group.wanted)
        problems.push_back({name_of(mount), "not looked at: not a type that holds files"});
}

/// Groups in the order of the table, that of "/" first; those that are not to be looked at become problems.
std::vector<Group> groups_of(const Host &host, const std::vector<MountEntry> &mounts,
                             const std::vector<std::string> &store_roots, std::vector<Problem> &problems) {
    std::vector<Group> groups;
    std::map<std::string_view, size_t> by_device;
    for (const auto &mount : mounts) {
        const auto [at, added] = by_device.try_emplace(mount.device, groups.size());
        if (added) groups.emplace_back();
        groups[at->second].mounts.push_back(&mount);
    }
    std::set<const MountEntry *> carriers;
    const auto want = [&](const std::string &path) -> Group * {
        const MountEntry *mount = mount_of_path(host, mounts, path);
        if (mount == nullptr) return nullptr;
        carriers.insert(mount);
        Group &group = groups[by_device.at(mount->device)];
        group.wanted = true;
        return &group;
    };
    const Group *top = want("/");
    for (const auto &root : store_roots)
        if (Group *group = want(root); group != nullptr) group->stores.push_back(root);
    if (top != nullptr) std::swap(groups.front(), groups[static_cast<size_t>(top - groups.data())]);

    std::erase_if(groups, [&](const Group &group) {
        const MountEntry &mount = *group.mounts.front();
        const auto kind = file_system_kind(mount.type, mount.device);
        if (kind == FileSystemKind::local || (may_touch(mount) && group.wanted)) return false;
        add_problem(group, problems);
        return true;
    });
    for (auto &group : groups) // "/", then what carries a store, then whole file systems, then the shortest name
        std::ranges::stable_sort(group.mounts, {}, [&](const MountEntry *mount) {
            return std::tuple(mount->target != "/", !carriers.contains(mount), mount->root != "/",
                              mount->target.size());
        });
    return groups;
}

/// struct xfs_fsop_geom_v1 and XFS_IOC_FSGEOMETRY_V1 of the kernel's fs/xfs/libxfs/xfs_fs.h, which no installed header
/// has; the interface is older than git and never changed.
struct XfsGeometry {
    std::array<uint32_t, 8> sizes;
    std::array<uint64_t, 4> counts;
    std::array<uint8_t, 16> uuid;
    uint32_t stripe_unit, stripe_width;
    int32_t version;
    uint32_t flags;
    std::array<uint32_t, 3> more;
};
static_assert(sizeof(XfsGeometry) == 112);
constexpr unsigned long xfs_geometry = _IOR('X', 100, XfsGeometry);
constexpr uint32_t xfs_has_ftype = 1U << 16U; ///< XFS_FSOP_GEOM_FLAGS_FTYPE

std::optional<bool> d_type_of_xfs(int fd) {
    XfsGeometry geometry{};
    if (sys::enter(sys::Op::ioctl, fd, "XFS_IOC_FSGEOMETRY_V1") != 0) return std::nullopt;
    if (::ioctl(fd, xfs_geometry, &geometry) != 0) return std::nullopt;
    return (geometry.flags & xfs_has_ftype) != 0;
}

/// What the first entries of an open directory say; nullopt: it is empty or cannot be listed.
std::optional<bool> d_type_of_entries(int fd) {
    alignas(dirent64) std::array<char, size_t{32} << 10U> buffer{};
    std::optional<bool> known;
    while (!known) {
        if (sys::enter(sys::Op::getdents, fd) != 0) return std::nullopt;
        const ssize_t got = ::getdents64(fd, buffer.data(), buffer.size());
        if (got <= 0) return std::nullopt;
        for (size_t at = 0; at < static_cast<size_t>(got);) {
            const auto *entry = reinterpret_cast<const dirent64 *>(buffer.data() + at);
            at += entry->d_reclen;
            const std::string_view name(static_cast<const char *>(entry->d_name));
            if (name == "." || name == "..") continue; // XFS without ftype knows these two (xfs_dir2_readdir.c)
            known = known.value_or(false) || entry->d_type != DT_UNKNOWN;
        }
    }
    return known;
}

std::optional<bool> read_d_type(const Host &host, int directory, const Group &group, const MountEntry &mount) {
    if (mount.type == "xfs")
        if (const auto exact = d_type_of_xfs(directory)) return exact;
    if (const auto known = d_type_of_entries(directory)) return known;
    for (size_t i = 0; i < std::min(group.stores.size(), max_directories); ++i)
        if (const auto fd = host.open_path(group.stores[i], O_RDONLY | O_DIRECTORY))
            if (const auto known = d_type_of_entries(fd->get())) return known;
    return std::nullopt;
}

/// Opens (O_PATH) a mount of the group that is not hidden below another. Moves it to the front.
Result<UniqueFd> open_group(const Host &host, const std::vector<MountEntry> &mounts, Group &group) {
    std::optional<Error> why;
    for (size_t i = 0; i < std::min(group.mounts.size(), max_attempts); ++i) {
        auto fd = host.open_path(group.mounts[i]->target, O_PATH);
        if (!fd) {
            why = std::move(fd).error();
            continue;
        }
        const MountEntry *there = mount_with_id(mounts, mount_id_of(fd->get()));
        // Behind a disk's root that is no mount itself stands the mount around it: the same device, so it counts.
        if (there == nullptr || there->device != group.mounts[i]->device) continue;
        std::swap(group.mounts[0], group.mounts[i]);
        return fd;
    }
    if (why) return std::unexpected(std::move(*why));
    return fail(Errc::NotFound, "other mounts hide it");
}

Result<FileSystem> read_one(const Host &host, const std::vector<MountEntry> &mounts, Group &group,
                            std::vector<Problem> &problems) {
    const UniqueFd fd = TRY(open_group(host, mounts, group));
    const MountEntry &mount = *group.mounts.front();
    const struct statfs status = TRY(sys::statfs_fd(fd.get()));
    const auto unit = static_cast<uint64_t>(status.f_frsize != 0 ? status.f_frsize : status.f_bsize);
    FileSystem out;
    out.target = mount.target;
    out.type = mount.type;
    out.source = mount.source;
    out.device = mount.device;
    out.options = merged_options(mount.options, mount.super_options);
    out.total_bytes = status.f_blocks * unit;
    out.free_bytes = status.f_bfree * unit;
    out.available_bytes = status.f_bavail * unit;
    out.total_inodes = status.f_files;
    out.free_inodes = status.f_ffree;
    out.read_only = has_part(mount.super_options, "ro") ||
                    std::ranges::all_of(group.mounts, [](const auto *one) { return has_part(one->options, "ro"); });
    constexpr std::array<std::string_view, 3> with_projects{"ext4", "xfs", "f2fs"};
    if (is_one_of(mount.type, with_projects)) read_project_quota(fd.get(), out, problems);

    const auto directory = sys::open_dir(fd.get(), ".");
    if (!directory) { // ENOTDIR: a file is mounted here, as container engines do with /etc/hosts
        if (directory.error().sys_errno() != ENOTDIR) problems.push_back({name_of(mount), directory.error().text()});
        return out;
    }
    out.d_type = read_d_type(host, directory->get(), group, mount);
    if (mount.type != "btrfs") return out;
    const auto kernel = Host::open("/"); // it has the file system mounted, even one of a disk that is examined
    if (kernel)
        out.btrfs = read_btrfs_space(directory->get(), *kernel, mount.target, problems);
    else
        problems.push_back({fmt::format("btrfs of {}", mount.target), kernel.error().text()});
    return out;
}

} // namespace

FileSystemKind file_system_kind(std::string_view type, std::string_view device) {
    using enum FileSystemKind;
    constexpr std::array<std::string_view, 4> on_disk{"btrfs", "zfs", "bcachefs",
                                                      "ubifs"}; // no device number of a disk
    constexpr std::array<std::string_view, 3> in_memory{"tmpfs", "ramfs", "rootfs"};
    constexpr std::array<std::string_view, 2> of_layers{"overlay", "aufs"};
    constexpr std::array<std::string_view, 21> elsewhere{
        "nfs",  "nfs4", "cifs",   "smb3",  "smbfs", "ceph",     "9p",     "afs",    "lustre",    "gpfs",    "ocfs2",
        "gfs2", "coda", "beegfs", "pvfs2", "ncpfs", "virtiofs", "vboxsf", "vmhgfs", "glusterfs", "orangefs"};
    if (is_one_of(type, on_disk)) return local;
    if (is_one_of(type, in_memory)) return memory;
    if (is_one_of(type, of_layers)) return layered;
    if (is_one_of(type, elsewhere)) return remote;
    if (type == "fuse" || type == "fuseblk" || type.starts_with("fuse.")) return user_space;
    return device.starts_with("0:") ? pseudo : local; // 0: the kernel made the number up (major UNNAMED_MAJOR)
}

std::string merged_options(std::string_view mount_options, std::string_view super_options) {
    const bool read_only = has_part(mount_options, "ro") || has_part(super_options, "ro");
    std::string out = read_only ? "ro" : "rw";
    std::set<std::string_view> there{"ro", "rw"};
    for (std::string_view rest : {mount_options, super_options})
        while (!rest.empty())
            if (const auto option = next_part(rest, ','); !option.empty() && there.insert(option).second)
                out.append(",").append(option);
    return out;
}

const MountEntry *mount_above(const std::vector<MountEntry> &mounts, std::string_view path) {
    const MountEntry *out = nullptr;
    for (const auto &mount : mounts) {
        const std::string_view target = mount.target;
        const bool above = target == "/" || path == target ||
                           (path.size() > target.size() && path.starts_with(target) && path[target.size()] == '/');
        if (above && (out == nullptr || target.size() >= out->target.size())) out = &mount;
    }
    return out;
}

std::vector<MountEntry> mounts_of_host(const std::vector<MountEntry> &table, std::string_view root) {
    if (root == "/") return table;
    std::vector<MountEntry> out;
    bool own = false;
    for (const auto &mount : table) {
        const std::string_view target = mount.target;
        if (target != root && !(target.starts_with(root) && target[root.size()] == '/')) continue;
        own = own || target == root;
        out.push_back(mount);
        out.back().target = target == root ? "/" : target.substr(root.size());
    }
    const MountEntry *around = own ? nullptr : mount_above(table, root);
    if (around == nullptr) return out;
    out.insert(out.begin(), *around);
    out.front().target = "/";
    return out;
}

std::vector<FileSystem> file_systems_of(const Host &host, const std::vector<MountEntry> &mounts,
                                        const std::vector<std::string> &store_roots, std::vector<Problem> &problems) {
    std::vector<FileSystem> out;
    for (auto &group : groups_of(host, mounts, store_roots, problems)) {
        if (out.size() == max_file_systems) {
            problems.push_back(
                {"file systems", fmt::format("more than {}; the others were left out", max_file_systems)});
            break;
        }
        const MountEntry &first = *group.mounts.front();
        auto one = read_one(host, mounts, group, problems);
        if (one)
            out.push_back(std::move(*one));
        else
            problems.push_back({name_of(first), one.error().text()});
    }
    return out;
}

std::vector<FileSystem> read_file_systems(const Host &host, const std::vector<std::string> &store_roots,
                                          std::vector<Problem> &problems) {
    const auto table = sys::mount_table();
    if (table) return file_systems_of(host, mounts_of_host(*table, host.root()), store_roots, problems);
    problems.push_back({"mounts of this process", table.error().text()});
    return {};
}

std::optional<size_t> file_system_of(const Host &host, const std::vector<FileSystem> &systems,
                                     const std::string &path) {
    const auto table = sys::mount_table();
    if (!table) return std::nullopt;
    const auto mounts = mounts_of_host(*table, host.root());
    const MountEntry *mount = mount_of_path(host, mounts, path);
    if (mount == nullptr) return std::nullopt;
    const auto found = std::ranges::find(systems, mount->device, &FileSystem::device);
    if (found == systems.end()) return std::nullopt;
    return static_cast<size_t>(found - systems.begin());
}

} // namespace shale::probe
