// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>

#include "sys/fs.h"
#include "sys/fs_internal.h"

namespace shale::sys {
namespace {

int lock_call(int fd, int command, short type, uint64_t offset, uint64_t length) {
    return detail::invoke(Op::lock, fd, nullptr, [&] {
        struct flock lock{};
        lock.l_type = type;
        lock.l_whence = SEEK_SET;
        lock.l_start = static_cast<off_t>(offset);
        lock.l_len = static_cast<off_t>(length);
        lock.l_pid = 0; // OFD locks demand it
        return ::fcntl(fd, command, &lock);
    });
}

short type_of(LockMode mode) {
    return mode == LockMode::shared ? F_RDLCK : F_WRLCK;
}

} // namespace

Status lock_range(int fd, uint64_t offset, uint64_t length, LockMode mode) {
    if (lock_call(fd, F_OFD_SETLKW, type_of(mode), offset, length) < 0) return detail::failed("lock", fd, nullptr);
    return {};
}

Result<bool> try_lock_range(int fd, uint64_t offset, uint64_t length, LockMode mode) {
    if (lock_call(fd, F_OFD_SETLK, type_of(mode), offset, length) == 0) return true;
    if (errno == EAGAIN || errno == EACCES) return false;
    return detail::failed("lock", fd, nullptr);
}

Status unlock_range(int fd, uint64_t offset, uint64_t length) {
    if (lock_call(fd, F_OFD_SETLK, F_UNLCK, offset, length) < 0) return detail::failed("unlock", fd, nullptr);
    return {};
}

} // namespace shale::sys
