// SPDX-License-Identifier: Apache-2.0
// The seam: every system call of shale that changes or reads state passes here, so that a test can
// fail it (ENOSPC, EIO, EINTR...), pretend that the kernel lacks it (ENOSYS), count it, or kill the process
// right before it. In production the hook is null and the cost is one predictable branch.
#pragma once

#include <atomic>
#include <cstdint>
#include <string_view>

namespace shale::sys {

/// Families of calls, named after the kernel's.
enum class Op : uint8_t {
    open,
    read,
    write,
    close,
    mkdir,
    mknod,
    symlink,
    link,
    unlink,
    rename,
    chown,
    chmod,
    utimens,
    truncate,
    fallocate,
    setxattr,
    getxattr,
    stat,
    getdents,
    copy_range,
    clone_range,
    fsync,
    syncfs,
    sync_range,
    lock,
    mount,
    umount,
    fsopen,
    fsconfig,
    fsmount,
    move_mount,
    mount_setattr,
    open_tree,
    ioctl,
    quotactl,
    openat2,
    record,
    exec,
    fanotify,
    inotify,
    pidfd,
};

[[nodiscard]] std::string_view op_name(Op op) noexcept;
/// True for calls that can change what is on disk or mounted: the steps of the kill matrix.
[[nodiscard]] bool op_mutates(Op op) noexcept;

struct Call {
    Op op;
    int fd = -1;                ///< the descriptor or directory descriptor, -1 when none
    const char *name = nullptr; ///< the path or name, null when none
};

/// Installed by tests only. Called from any thread.
class Hook {
public:
    virtual ~Hook() = default;
    /// 0: go on with the real call; else: the call is not made and fails with this errno.
    virtual int before(const Call &call) noexcept = 0;
};

/// Installs (or with nullptr removes) the hook of this process. Not owned.
void set_hook(Hook *hook) noexcept;

namespace detail {
extern std::atomic<Hook *> hook;
}

/// The errno to fail with, or 0. Every wrapper in sys/ asks first. Op::record is asked by the store before
/// each SQLite commit, which does its own system calls.
inline int enter(Op op, int fd = -1, const char *name = nullptr) noexcept {
    Hook *hook = detail::hook.load(std::memory_order_acquire);
    if (hook == nullptr) [[likely]]
        return 0;
    return hook->before({op, fd, name});
}

} // namespace shale::sys
