// SPDX-License-Identifier: Apache-2.0
#include "sys/btrfs.h"

#include <btrfsutil.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/vfs.h>

#include <cerrno>
#include <charconv>
#include <cstring>

#include <fmt/format.h>

#include "sys/fs.h"
#include "sys/fs_internal.h"

namespace shale::sys {
namespace {

using detail::invoke;

constexpr uint64_t enable_simple = 4; // BTRFS_QUOTA_CTL_ENABLE_SIMPLE_QUOTA of linux/btrfs.h since 6.7

/// A call of libbtrfsutil through the seam; the library leaves errno as the kernel set it.
template <class F> Status util(Op op, const char *verb, int fd, const char *name, F &&call) {
    btrfs_util_error problem = BTRFS_UTIL_OK;
    const int done = invoke(op, fd, name, [&] {
        errno = 0;
        problem = call();
        if (problem == BTRFS_UTIL_OK) return 0;
        if (errno == 0) errno = EIO;
        return -1;
    });
    if (done == 0) return {};
    const int error = errno;
    if (problem == BTRFS_UTIL_OK) return fail_errno(error, detail::what(verb, fd, name)); // injected
    return std::unexpected(sys_error(error, detail::what(verb, fd, name)).add(btrfs_util_strerror(problem)));
}

std::optional<uint64_t> number_in(const std::string &dir, const std::string &name) {
    const auto text = read_file(AT_FDCWD, (dir + "/" + name).c_str(), 100);
    if (!text) return std::nullopt;
    uint64_t value = 0;
    const auto [end, bad] = std::from_chars(text->data(), text->data() + text->size(), value);
    if (bad != std::errc{}) return std::nullopt;
    return value;
}

} // namespace

bool is_btrfs(int fd) {
    struct statfs info{};
    return ::fstatfs(fd, &info) == 0 && static_cast<uint64_t>(info.f_type) == uint64_t{BTRFS_SUPER_MAGIC};
}

Result<bool> is_subvolume(int fd) {
    if (!is_btrfs(fd)) return false;
    // fs/btrfs: BTRFS_FIRST_FREE_OBJECTID, the inode number of every subvolume's root.
    const auto status = TRY(stat_at(fd, ""));
    return status.st_ino == 256 && S_ISDIR(status.st_mode);
}

Status make_subvolume(int dir, const char *name) {
    return util(Op::ioctl, "make subvolume", dir, name,
                [&] { return btrfs_util_create_subvolume_fd(dir, name, 0, nullptr, nullptr); });
}

Status snapshot(int from, int dir, const char *name) {
    return util(Op::ioctl, "make snapshot", dir, name,
                [&] { return btrfs_util_create_snapshot_fd2(from, dir, name, 0, nullptr, nullptr); });
}

Status set_read_only(int subvolume, bool read_only) {
    return util(Op::ioctl, read_only ? "freeze subvolume" : "thaw subvolume", subvolume, nullptr,
                [&] { return btrfs_util_set_subvolume_read_only_fd(subvolume, read_only); });
}

Result<bool> is_read_only(int subvolume) {
    bool out = false;
    TRY(util(Op::stat, "look at subvolume", subvolume, nullptr,
             [&] { return btrfs_util_get_subvolume_read_only_fd(subvolume, &out); }));
    return out;
}

Status delete_subvolume(int dir, const char *name) {
    return util(Op::ioctl, "delete subvolume", dir, name, [&] {
        return btrfs_util_delete_subvolume_fd(dir, name, ::geteuid() == 0 ? BTRFS_UTIL_DELETE_SUBVOLUME_RECURSIVE : 0);
    });
}

Result<std::optional<NestedSubvolume>> nested_subvolume(int subvolume) {
    // Not btrfs_util_subvolume_iterator: for user 0 it searches the tree of roots, which user 0 of a name space may
    // not. EOVERFLOW: there are more than fit, those that fit are given (fs/btrfs/ioctl.c).
    btrfs_ioctl_get_subvol_rootref_args refs{};
    if (invoke(Op::stat, subvolume, "BTRFS_IOC_GET_SUBVOL_ROOTREF",
               [&] { return ::ioctl(subvolume, BTRFS_IOC_GET_SUBVOL_ROOTREF, &refs); }) != 0 &&
        errno != EOVERFLOW)
        return detail::failed("look for subvolumes in", subvolume, nullptr);
    if (refs.num_items == 0) return std::nullopt;
    NestedSubvolume out{refs.rootref[0].treeid, {}};
    btrfs_ioctl_ino_lookup_user_args where{};
    where.dirid = refs.rootref[0].dirid;
    where.treeid = out.id;
    if (invoke(Op::stat, subvolume, "BTRFS_IOC_INO_LOOKUP_USER",
               [&] { return ::ioctl(subvolume, BTRFS_IOC_INO_LOOKUP_USER, &where); }) == 0) {
        out.path.assign(where.path, ::strnlen(where.path, sizeof where.path)); // ends with '/' unless it is empty
        out.path.append(where.name, ::strnlen(where.name, sizeof where.name));
    }
    return out;
}

Result<uint64_t> subvolume_of(int fd) {
    uint64_t id = 0;
    TRY(util(Op::stat, "look up subvolume of", fd, nullptr, [&] { return btrfs_util_subvolume_id_fd(fd, &id); }));
    return id;
}

const char *name_of(BtrfsQuota mode) noexcept {
    switch (mode) {
    case BtrfsQuota::simple:
        return "simple quota";
    case BtrfsQuota::full:
        return "qgroups";
    case BtrfsQuota::off:
        break;
    }
    return "off";
}

Result<BtrfsQgroups> BtrfsQgroups::open(int fd) {
    btrfs_ioctl_fs_info_args info{};
    if (invoke(Op::ioctl, fd, "BTRFS_IOC_FS_INFO", [&] { return ::ioctl(fd, BTRFS_IOC_FS_INFO, &info); }) != 0)
        return detail::failed("look at the btrfs of", fd, nullptr);
    std::string uuid;
    for (size_t i = 0; i < sizeof info.fsid; ++i)
        uuid += fmt::format("{}{:02x}", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", info.fsid[i]);
    BtrfsQgroups out;
    out.dir_ = "/sys/fs/btrfs/" + uuid + "/qgroups";
    return out;
}

BtrfsQuota BtrfsQgroups::mode() const {
    if (number_in(dir_, "enabled").value_or(0) == 0) return BtrfsQuota::off;
    const auto mode = read_file(AT_FDCWD, (dir_ + "/mode").c_str(), 100); // Linux 6.7; before, all were full
    return mode && mode->starts_with("squota") ? BtrfsQuota::simple : BtrfsQuota::full;
}

Status BtrfsQgroups::enable(int fd, BtrfsQuota mode) {
    btrfs_ioctl_quota_ctl_args args{};
    args.cmd = mode == BtrfsQuota::simple ? enable_simple : uint64_t{BTRFS_QUOTA_CTL_ENABLE};
    if (invoke(Op::ioctl, fd, "BTRFS_IOC_QUOTA_CTL", [&] { return ::ioctl(fd, BTRFS_IOC_QUOTA_CTL, &args); }) != 0)
        return detail::failed(fmt::format("turn on {} of", name_of(mode)), fd, nullptr);
    return {};
}

std::optional<BtrfsQgroups::Count> BtrfsQgroups::count(uint64_t subvolume) const {
    const std::string dir = fmt::format("{}/0_{}", dir_, subvolume);
    const auto referenced = number_in(dir, "referenced");
    const auto exclusive = number_in(dir, "exclusive");
    if (!referenced || !exclusive) return std::nullopt;
    Count out{*referenced, *exclusive, 0};
    const uint64_t flags = number_in(dir, "limit_flags").value_or(0);
    if ((flags & uint64_t{BTRFS_QGROUP_LIMIT_MAX_EXCL}) != 0)
        out.limit = number_in(dir, "max_exclusive").value_or(0);
    else if ((flags & uint64_t{BTRFS_QGROUP_LIMIT_MAX_RFER}) != 0)
        out.limit = number_in(dir, "max_referenced").value_or(0);
    return out;
}

Status BtrfsQgroups::set_limit(int fd, uint64_t bytes) const {
    btrfs_ioctl_qgroup_limit_args args{}; // qgroupid 0: that of the subvolume fd lies in
    const uint64_t none = ~uint64_t{0};   // fs/btrfs/qgroup.c, CLEAR_VALUE: takes a limit away
    if (mode() == BtrfsQuota::simple) {
        args.lim.flags = BTRFS_QGROUP_LIMIT_MAX_RFER;
        args.lim.max_rfer = bytes == 0 ? none : bytes;
    } else {
        args.lim.flags = BTRFS_QGROUP_LIMIT_MAX_EXCL;
        args.lim.max_excl = bytes == 0 ? none : bytes;
    }
    if (invoke(Op::ioctl, fd, "BTRFS_IOC_QGROUP_LIMIT", [&] { return ::ioctl(fd, BTRFS_IOC_QGROUP_LIMIT, &args); }) !=
        0)
        return detail::failed("limit the qgroup of", fd, nullptr);
    return {};
}

Status BtrfsQgroups::forget(int fd, uint64_t subvolume) const {
    btrfs_ioctl_qgroup_create_args args{};
    args.create = 0;
    args.qgroupid = subvolume;
    if (invoke(Op::ioctl, fd, "BTRFS_IOC_QGROUP_CREATE", [&] { return ::ioctl(fd, BTRFS_IOC_QGROUP_CREATE, &args); }) !=
        0)
        return detail::failed(fmt::format("remove qgroup 0/{} of", subvolume), fd, nullptr);
    return {};
}

} // namespace shale::sys
