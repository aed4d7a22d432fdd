// SPDX-License-Identifier: Apache-2.0
#include "drivers/directory_driver.h"

#include <fmt/format.h>

#include "base/units.h"
#include "sys/fs.h"

namespace shale::drivers {

DirectoryDriver::DirectoryDriver(LayerRoot root, const Quota &default_quota)
    : root_(std::move(root)), default_quota_(default_quota), counter_(ProjectQuota::open(root_, no_quota_reason_)) {}

Status DirectoryDriver::sync(std::span<const LayerId> ids) {
    if (ids.empty()) return {};
    return sys::syncfs_fd(root_.fd());
}

Result<Quota> DirectoryDriver::limit_of(LayerId id, const Quota &asked) const {
    const Quota limit{asked.bytes != 0 ? asked.bytes : default_quota_.bytes,
                      asked.inodes != 0 ? asked.inodes : default_quota_.inodes};
    if ((limit.bytes != 0 || limit.inodes != 0) && !counter_)
        return fail(Errc::FailedPrecondition, fmt::format("layer {}: quota: {}", id.value, no_quota_reason_));
    return limit;
}

Status DirectoryDriver::count(LayerId id, const Quota &limit) {
    if (!counter_) return {};
    TRY(counter_->adopt(id));
    if (limit.bytes == 0 && limit.inodes == 0) return {};
    return counter_->set(id, limit);
}

Status DirectoryDriver::has_types() const {
    const auto scratch = TRY(root_.scratch());
    if (TRY(has_d_type(scratch.dir.get()))) return {};
    return fail(
        Errc::FailedPrecondition,
        fmt::format("{} gives no d_type here: an overlay would show what was deleted. Make it with types (ext4: "
                    "tune2fs -O filetype and e2fsck -fD while it is unmounted; XFS: mkfs.xfs -n ftype=1), or use "
                    "the driver vfs",
                    sys::file_system_name(TRY(sys::statfs_fd(root_.fd())))));
}

Result<std::optional<Usage>> DirectoryDriver::counted(LayerId id) {
    if (!counter_) return std::nullopt;
    return counter_->usage(id);
}

Result<Quota> default_quota(std::string_view driver, const DriverOptions &options) {
    Quota out;
    if (const auto &size = options.find("size")->second; !size.empty()) out.bytes = TRY(parse_bytes(size));
    if (const auto &inodes = options.find("inodes")->second; !inodes.empty()) {
        const auto number = parse_bytes(inodes);
        if (!number)
            return fail(Errc::InvalidArgument,
                        fmt::format("driver {}: option inodes is not a number: {}", driver, inodes));
        out.inodes = *number;
    }
    return out;
}

} // namespace shale::drivers
