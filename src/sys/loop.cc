// SPDX-License-Identifier: Apache-2.0
#include "sys/loop.h"

#include <fcntl.h>
#include <linux/loop.h>
#include <sys/ioctl.h>

#include <cerrno>

#include <fmt/format.h>

#include "sys/fs.h"
#include "sys/fs_internal.h"

namespace shale::sys {
namespace {

using detail::invoke;

/// 0, or -1 with errno: EBUSY when another process took the device first.
int configure(int device, int file, uint32_t flags) {
    loop_config config{};
    config.fd = static_cast<uint32_t>(file);
    config.info.lo_flags = flags;
    const int done =
        invoke(Op::ioctl, device, "LOOP_CONFIGURE", [&] { return ::ioctl(device, LOOP_CONFIGURE, &config); });
    if (done == 0 || (errno != EINVAL && errno != ENOTTY && errno != ENOSYS)) return done;
    if (invoke(Op::ioctl, device, "LOOP_SET_FD", [&] { return ::ioctl(device, LOOP_SET_FD, file); }) != 0) return -1;
    loop_info64 info{};
    info.lo_flags = flags; // read-only follows from how the file is open here
    if (invoke(Op::ioctl, device, "LOOP_SET_STATUS64", [&] { return ::ioctl(device, LOOP_SET_STATUS64, &info); }) == 0)
        return 0;
    const int error = errno;
    (void)::ioctl(device, LOOP_CLR_FD, 0);
    errno = error;
    return -1;
}

} // namespace

Result<LoopDevice> attach_loop(int file, bool read_only) {
    const UniqueFd control = TRY(open_at(AT_FDCWD, "/dev/loop-control", O_RDWR));
    const uint32_t flags = LO_FLAGS_AUTOCLEAR | (read_only ? uint32_t{LO_FLAGS_READ_ONLY} : 0U);
    for (int attempt = 0; attempt < 64; ++attempt) {
        const int number = invoke(Op::ioctl, control.get(), "LOOP_CTL_GET_FREE",
                                  [&] { return ::ioctl(control.get(), LOOP_CTL_GET_FREE); });
        if (number < 0) return detail::failed("find a free loop device through", control.get(), nullptr);
        LoopDevice out;
        out.path = fmt::format("/dev/loop{}", number);
        out.fd = TRY(open_at(AT_FDCWD, out.path.c_str(), read_only ? O_RDONLY : O_RDWR));
        if (configure(out.fd.get(), file, flags) == 0) return out;
        if (errno != EBUSY) return detail::failed("attach a file to", AT_FDCWD, out.path.c_str());
    }
    return fail(Errc::Unavailable, "loop devices are taken by others faster than one can be attached (64 attempts)");
}

Result<LoopFile> loop_file(const std::string &path) {
    const UniqueFd device = TRY(open_at(AT_FDCWD, path.c_str(), O_RDONLY));
    loop_info64 info{};
    if (invoke(Op::stat, device.get(), "LOOP_GET_STATUS64",
               [&] { return ::ioctl(device.get(), LOOP_GET_STATUS64, &info); }) != 0)
        return detail::failed("ask for the file of", AT_FDCWD, path.c_str());
    return LoopFile{info.lo_device, info.lo_inode};
}

Status grow_loop(const std::string &path) {
    const UniqueFd device = TRY(open_at(AT_FDCWD, path.c_str(), O_RDWR));
    if (invoke(Op::ioctl, device.get(), "LOOP_SET_CAPACITY",
               [&] { return ::ioctl(device.get(), LOOP_SET_CAPACITY, 0); }) != 0)
        return detail::failed("take over the new size of", AT_FDCWD, path.c_str());
    return {};
}

} // namespace shale::sys
