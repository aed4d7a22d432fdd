// SPDX-License-Identifier: Apache-2.0
#include "sys/block.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <array>
#include <cerrno>

#include <fmt/format.h>

#include "sys/fs.h"
#include "sys/fs_internal.h"

namespace shale::sys {
namespace {

using detail::invoke;

// fs/ext4/ext4.h and fs/xfs/libxfs/xfs_fs.h; the kernel's headers for programs have neither.
constexpr unsigned long ext4_resize = _IOW('f', 16, uint64_t);
struct XfsGeometry { // xfs_fsop_geom_v1
    uint32_t block_bytes, rtextsize, agblocks, agcount, logblocks, sectsize, inodesize, imaxpct;
    uint64_t datablocks, rtblocks, rtextents, logstart;
    std::array<unsigned char, 16> uuid;
    uint32_t sunit, swidth;
    int32_t version;
    uint32_t flags, logsectsize, rtsectsize, dirblocksize;
};
struct XfsGrow { // xfs_growfs_data
    uint64_t blocks;
    uint32_t imaxpct;
};
constexpr unsigned long xfs_geometry = _IOR('X', 100, XfsGeometry);
constexpr unsigned long xfs_grow = _IOW('X', 110, XfsGrow);

std::string number_text(dev_t device) {
    return fmt::format("{}:{}", major(device), minor(device));
}

} // namespace

Result<UniqueFd> open_block_device(const std::string &path, int flags) {
    UniqueFd fd(
        invoke(Op::open, AT_FDCWD, path.c_str(), [&] { return ::open(path.c_str(), flags | O_CLOEXEC | O_NONBLOCK); }));
    if (!fd) return detail::failed("open", AT_FDCWD, path.c_str());
    if (!S_ISBLK(TRY(stat_at(fd.get(), "")).st_mode))
        return fail(Errc::InvalidArgument, fmt::format("\"{}\" is not a block device", path));
    return fd;
}

Result<BlockDevice> look_at_block_device(const std::string &path) {
    const UniqueFd fd = TRY(open_block_device(path, O_RDONLY));
    BlockDevice out{path, number_text(TRY(stat_at(fd.get(), "")).st_rdev), 0};
    if (invoke(Op::stat, fd.get(), "BLKGETSIZE64", [&] { return ::ioctl(fd.get(), BLKGETSIZE64, &out.bytes); }) != 0)
        return detail::failed("size of", AT_FDCWD, path.c_str());
    return out;
}

Result<std::vector<std::string>> holders_of(const std::string &number) {
    std::vector<std::string> out;
    const UniqueFd holders = TRY(open_dir(AT_FDCWD, fmt::format("/sys/dev/block/{}/holders", number).c_str()));
    for (const auto &entry : TRY(list_dir(holders.get()))) {
        auto name = read_file(holders.get(), (entry.name + "/dm/name").c_str(), 256);
        out.push_back(name ? name->substr(0, name->find('\n')) : entry.name);
    }
    return out;
}

Result<std::string> device_below(int fd) {
    return number_text(TRY(stat_at(fd, "")).st_dev);
}

Status discard_blocks(int device, uint64_t bytes) {
    std::array<uint64_t, 2> range{0, bytes};
    if (invoke(Op::ioctl, device, "BLKDISCARD", [&] { return ::ioctl(device, BLKDISCARD, range.data()); }) != 0 &&
        errno != EOPNOTSUPP)
        return detail::failed("discard blocks of", device, nullptr);
    return {};
}

Status grow_file_system(int root, uint64_t bytes) {
    const auto info = TRY(statfs_fd(root));
    if (info.f_type == EXT4_SUPER_MAGIC) {
        uint64_t blocks = bytes / static_cast<uint64_t>(info.f_bsize);
        if (invoke(Op::ioctl, root, "EXT4_IOC_RESIZE_FS", [&] { return ::ioctl(root, ext4_resize, &blocks); }) != 0)
            return detail::failed("enlarge the file system of", root, nullptr);
        return {};
    }
    if (info.f_type != XFS_SUPER_MAGIC)
        return fail(Errc::Unimplemented, fmt::format("{} cannot be enlarged here", file_system_name(info)));
    XfsGeometry geometry{};
    if (invoke(Op::stat, root, "XFS_IOC_FSGEOMETRY", [&] { return ::ioctl(root, xfs_geometry, &geometry); }) != 0)
        return detail::failed("look at the file system of", root, nullptr);
    XfsGrow grow{bytes / geometry.block_bytes, geometry.imaxpct};
    if (invoke(Op::ioctl, root, "XFS_IOC_FSGROWFSDATA", [&] { return ::ioctl(root, xfs_grow, &grow); }) != 0)
        return detail::failed("enlarge the file system of", root, nullptr);
    return {};
}

} // namespace shale::sys
