// SPDX-License-Identifier: Apache-2.0
#include "probe/project_quota.h"

#include <linux/dqblk_xfs.h>
#include <linux/quota.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include <fmt/format.h>

#include "base/error.h"
#include "sys/seam.h"

#ifndef SYS_quotactl_fd
#define SYS_quotactl_fd 443
#endif

namespace shale::probe {
namespace {

constexpr uint64_t quota_block = 1024; ///< dqb_bhardlimit is in units of 1 KiB, dqb_curspace in bytes (quotactl(2))

/// ENOSYS of a call with a descriptor says "no quota here" as well as "no such call": a bad descriptor tells them
/// apart.
bool kernel_has_quotactl_fd() {
    return ::syscall(SYS_quotactl_fd, -1, QCMD(Q_XGETQSTATV, PRJQUOTA), 0, nullptr) == 0 || errno != ENOSYS;
}

template <class F> long retried(F &&call) {
    for (;;) {
        const long done = call();
        if (done == 0 || errno != EINTR) return done;
    }
}

/// quotactl_fd (Linux 5.14), else quotactl by the device's name. -1 with errno. Only for commands that read.
long ask(int fd, const std::string &source, int command, uint32_t id, void *out) {
    if (const int injected = sys::enter(sys::Op::quotactl, fd, "quotactl"); injected != 0) {
        errno = injected;
        return -1;
    }
    const int request = QCMD(command, PRJQUOTA);
    if (kernel_has_quotactl_fd()) return retried([&] { return ::syscall(SYS_quotactl_fd, fd, request, id, out); });
    if (source.starts_with('/'))
        return retried([&] { return ::syscall(SYS_quotactl, request, source.c_str(), id, out); });
    errno = ENODEV;
    return -1;
}

/// The file system, or the kernel, does not count projects (fs/quota/quota.c: no quota operations, none that is on, no
/// such type, no block device).
bool counts_none(int error) {
    return error == ENOSYS || error == EINVAL || error == ESRCH || error == EOPNOTSUPP || error == ENODEV ||
           error == ENOTBLK;
}

} // namespace

void read_project_quota(int fd, FileSystem &out, std::vector<Problem> &problems) {
    const auto note = [&](std::string why) {
        problems.push_back({fmt::format("project quota of {}", out.target), std::move(why)});
    };
    // The state has this call on every file system, not only on XFS (fs/quota/quota.c, quota_getxstatev).
    fs_quota_statv state{};
    state.qs_version = FS_QSTATV_VERSION1;
    if (ask(fd, out.source, Q_XGETQSTATV, 0, &state) != 0) {
        const int error = errno;
        if (!counts_none(error)) note(sys_error(error, "quotactl Q_XGETQSTATV").text());
        return;
    }
    if ((state.qs_flags & FS_QUOTA_PDQ_ACCT) == 0) return;
    out.project_quota = (state.qs_flags & FS_QUOTA_PDQ_ENFD) != 0 ? "enforced" : "accounting";

    constexpr uint32_t none = ~uint32_t{0}; // INVALID_PROJID (kernel, include/linux/projid.h): EINVAL
    for (uint32_t id = 1; id != none;) {
        if_nextdqblk record{};
        if (ask(fd, out.source, Q_GETNEXTQUOTA, id, &record) != 0) { // Linux 4.6
            const int error = errno;
            if (error == ENOENT) break; // no number that is as large
            note(sys_error(error, "quotactl Q_GETNEXTQUOTA").text());
            if (out.projects.empty()) return; // the number of them is not known
            break;
        }
        if (record.dqb_id < id) break; // would go round for ever
        id = record.dqb_id + 1;
        const FileSystem::ProjectQuota project{.id = record.dqb_id,
                                               .used_bytes = record.dqb_curspace,
                                               .used_inodes = record.dqb_curinodes,
                                               .limit_bytes = record.dqb_bhardlimit * quota_block,
                                               .limit_inodes = record.dqb_ihardlimit};
        if ((project.used_bytes | project.used_inodes | project.limit_bytes | project.limit_inodes) == 0) continue;
        if (out.projects.size() == max_projects) {
            note(fmt::format("more than {} numbers have a record; the others were left out", max_projects));
            break;
        }
        out.projects.push_back(project);
    }
    out.project_ids = out.projects.size();
}

} // namespace shale::probe
