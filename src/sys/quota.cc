// SPDX-License-Identifier: Apache-2.0
#include "sys/quota.h"

#include <linux/fs.h>
#include <linux/quota.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>

#include <fmt/format.h>

#include "sys/fs.h"
#include "sys/fs_internal.h"
#include "sys/mount.h"

namespace shale::sys {
namespace {

using detail::invoke;

constexpr uint64_t quota_block = 1024; // dqb_b* limits are in units of 1 KiB (quotactl(2)), curspace in bytes

/// quotactl_fd (Linux 5.14), then quotactl with the device of the mount that `fd` is on.
int quota_call(int fd, int command, uint32_t project, if_dqblk *block) {
    const int request = QCMD(command, PRJQUOTA);
#ifdef SYS_quotactl_fd
    const long done = invoke(Op::quotactl, fd, "quotactl_fd",
                             [&] { return ::syscall(SYS_quotactl_fd, fd, request, project, block); });
    if (done == 0 || errno != ENOSYS) return static_cast<int>(done);
#endif
    const auto status = stat_at(fd, "");
    const auto table = mount_table();
    if (!status || !table) {
        errno = ENOSYS;
        return -1;
    }
    const std::string device = fmt::format("{}:{}", major(status->st_dev), minor(status->st_dev));
    for (const auto &entry : *table) {
        if (entry.device != device || !entry.source.starts_with('/')) continue;
        return invoke(Op::quotactl, fd, "quotactl", [&] {
            return static_cast<int>(::syscall(SYS_quotactl, request, entry.source.c_str(), project, block));
        });
    }
    errno = ENODEV;
    return -1;
}

std::unexpected<Error> quota_failed(int error, uint32_t project) {
    const std::string what = fmt::format("project quota of number {}", project);
    if (error == ESRCH || error == ENOSYS || error == ENOTSUP || error == ENODEV || error == ENOTBLK || error == EINVAL)
        return std::unexpected(
            Error(Errc::FailedPrecondition, error,
                  sys_error(error, what).message() +
                      ": this file system does not count projects; ext4: mkfs -O project,quota and mount "
                      "-o prjquota; XFS: mount -o pquota; the kernel needs CONFIG_QFMT_V2 or CONFIG_XFS_QUOTA"));
    return fail_errno(error, what);
}

} // namespace

Result<uint32_t> project_of(int fd) {
    fsxattr attributes{};
    const int done =
        invoke(Op::ioctl, fd, "FS_IOC_FSGETXATTR", [&] { return ::ioctl(fd, FS_IOC_FSGETXATTR, &attributes); });
    if (done != 0) return detail::failed("get project of", fd, nullptr);
    return attributes.fsx_projid;
}

Status set_project(int directory, uint32_t project) {
    fsxattr attributes{};
    int done = invoke(Op::ioctl, directory, "FS_IOC_FSGETXATTR",
                      [&] { return ::ioctl(directory, FS_IOC_FSGETXATTR, &attributes); });
    if (done != 0) return detail::failed("get project of", directory, nullptr);
    attributes.fsx_projid = project;
    if (project != 0)
        attributes.fsx_xflags |= FS_XFLAG_PROJINHERIT;
    else
        attributes.fsx_xflags &= ~static_cast<__u32>(FS_XFLAG_PROJINHERIT);
    done = invoke(Op::ioctl, directory, "FS_IOC_FSSETXATTR",
                  [&] { return ::ioctl(directory, FS_IOC_FSSETXATTR, &attributes); });
    if (done != 0) return detail::failed("set project of", directory, nullptr);
    return {};
}

Status set_project_limits(int fd, uint32_t project, const ProjectLimits &limits) {
    if_dqblk block{};
    block.dqb_bhardlimit = (limits.bytes + quota_block - 1) / quota_block;
    block.dqb_ihardlimit = limits.inodes;
    block.dqb_valid = QIF_LIMITS;
    if (quota_call(fd, Q_SETQUOTA, project, &block) != 0) return quota_failed(errno, project);
    return {};
}

Result<ProjectCount> project_count(int fd, uint32_t project) {
    if_dqblk block{};
    if (quota_call(fd, Q_GETQUOTA, project, &block) != 0) return quota_failed(errno, project);
    return ProjectCount{
        {block.dqb_bhardlimit * quota_block, block.dqb_ihardlimit}, block.dqb_curspace, block.dqb_curinodes};
}

} // namespace shale::sys
