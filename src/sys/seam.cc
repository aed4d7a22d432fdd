// SPDX-License-Identifier: Apache-2.0
#include "sys/seam.h"

#include <array>

namespace shale::sys {
namespace detail {
constinit std::atomic<Hook *> hook{nullptr};
}

void set_hook(Hook *hook) noexcept {
    detail::hook.store(hook, std::memory_order_release);
}

std::string_view op_name(Op op) noexcept {
    constexpr std::array<std::string_view, 41> names{
        "open",      "read",     "write",      "close",         "mkdir",     "mknod",      "symlink",
        "link",      "unlink",   "rename",     "chown",         "chmod",     "utimens",    "truncate",
        "fallocate", "setxattr", "getxattr",   "stat",          "getdents",  "copy_range", "clone_range",
        "fsync",     "syncfs",   "sync_range", "lock",          "mount",     "umount",     "fsopen",
        "fsconfig",  "fsmount",  "move_mount", "mount_setattr", "open_tree", "ioctl",      "quotactl",
        "openat2",   "record",   "exec",       "fanotify",      "inotify",   "pidfd"};
    static_assert(names.size() == static_cast<size_t>(Op::pidfd) + 1);
    return names[static_cast<size_t>(op)];
}

bool op_mutates(Op op) noexcept {
    switch (op) {
    case Op::read:
    case Op::close:
    case Op::getxattr:
    case Op::stat:
    case Op::getdents:
    case Op::lock:
    case Op::openat2:
    case Op::fanotify:
    case Op::inotify:
    case Op::pidfd:
        return false;
    default:
        return true;
    }
}

} // namespace shale::sys
