// SPDX-License-Identifier: Apache-2.0
// The only list of drivers.
#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "drivers/btrfs/btrfs.h"
#include "drivers/devicemapper/devicemapper.h"
#include "drivers/driver.h"
#include "drivers/erofs/erofs.h"
#include "drivers/overlay/overlay.h"
#include "drivers/overlay2/overlay2.h"
#include "drivers/vfs/vfs.h"
#include "drivers/zfs/zfs.h"
#include "sys/fs.h"

namespace shale::drivers {
namespace {

const auto &table() {
    static const std::array rows{
        DriverInfo{"overlay2",
                   10,
                   "one directory a layer, merged by the kernel's overlay",
                   overlay2::option_infos(),
                   overlay2::open,
                   {},
                   true},
        DriverInfo{"btrfs", 20, "one btrfs subvolume a layer, a snapshot of its parent", btrfs::option_infos(),
                   btrfs::open},
        DriverInfo{"zfs", 25, "one dataset a layer, a clone of its parent's snapshot", zfs::option_infos(), zfs::open},
        DriverInfo{"erofs",
                   30,
                   "one immutable EROFS image a layer, merged by the kernel's overlay",
                   erofs::option_infos(),
                   erofs::open,
                   {},
                   true},
        DriverInfo{"devicemapper", 80, "one thin volume a layer, a snapshot of its parent, with ext4 or XFS in it",
                   devicemapper::option_infos(), devicemapper::open},
        DriverInfo{
            "vfs", 90, "one complete copy a layer; works everywhere", vfs::option_infos(), vfs::open, {true, true}},
        DriverInfo{"overlay", 99, "deprecated: one tree of hard links a layer, one lower; use overlay2",
                   overlay::option_infos(), overlay::open},
    };
    return rows;
}

/// Opens and probes below `root` and leaves nothing there.
Result<ProbeReport> try_out(const DriverInfo &driver, const std::string &root) {
    const std::string path = fmt::format("{}/{}", root, driver.name);
    const bool was_there = TRY(sys::stat_if_exists(AT_FDCWD, path.c_str())).has_value();
    auto opened = driver.open(path, {});
    Result<ProbeReport> report =
        opened ? (*opened)->probe() : Result<ProbeReport>(std::unexpected(std::move(opened).error()));
    if (!was_there) (void)sys::unlink_at(AT_FDCWD, path.c_str(), AT_REMOVEDIR);
    return report;
}

} // namespace

std::span<const DriverInfo> registry() noexcept {
    return table();
}

Result<const DriverInfo *> find_driver(std::string_view name) {
    std::string names;
    for (const auto &driver : registry()) {
        if (driver.name == name) return &driver;
        names.append(names.empty() ? "" : ", ").append(driver.name);
    }
    return fail(Errc::NotFound, fmt::format("there is no driver \"{}\"; there are: {}", name, names));
}

Result<const DriverInfo *> choose_driver(const std::string &root) {
    std::string reasons;
    for (const auto &driver : registry()) {
        const auto report = try_out(driver, root);
        if (report && report->usable) return &driver;
        fmt::format_to(std::back_inserter(reasons), "{}{}: {}", reasons.empty() ? "" : "; ", driver.name,
                       report ? report->reason : report.error().text());
    }
    return fail(Errc::FailedPrecondition, fmt::format("no driver works below {}: {}", root, reasons));
}

} // namespace shale::drivers
