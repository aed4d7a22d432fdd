// SPDX-License-Identifier: Apache-2.0
// What the tests of the devicemapper driver share.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <sstream>
#include <thread>

#include <fmt/format.h>

#include "conformance/fixture.h"
#include "drivers/devicemapper/pool.h"
#include "sys/dm.h"
#include "sys/fs.h"
#include "sys/loop.h"
#include "sys/mount.h"
#include "sys/run.h"
#include "sys/seam.h"

namespace shale::conformance {

using drivers::devicemapper::Pool;

class DevicemapperDriver : public DriverTest {
protected:
    [[nodiscard]] std::string pool_file(const char *name) const { return driver_root() + "/pool/" + name; }
    /// A second look at the pool under test.
    [[nodiscard]] std::unique_ptr<Pool> pool() const {
        const auto root = sys::open_dir(AT_FDCWD, driver_root().c_str());
        EXPECT_DONE(root);
        auto opened = Pool::open(root->get(), {});
        EXPECT_DONE(opened);
        return std::move(*opened);
    }
    [[nodiscard]] sys::ThinPoolStatus status() const {
        const auto lines = sys::dm_status(pool()->name(), sys::DmStatus::commit);
        EXPECT_DONE(lines);
        if (!lines || lines->size() != 1) return {};
        const auto parsed = sys::parse_thin_pool_status(lines->at(0).parameters);
        EXPECT_DONE(parsed);
        return parsed.value_or(sys::ThinPoolStatus{});
    }
    /// Nothing of the store is active.
    void rest() {
        driver_.reset();
        test::put_to_rest(driver_root());
    }
    /// The driver on a copy of this one's directory, with the options of now.
    [[nodiscard]] std::unique_ptr<drivers::Driver> open_copy(const drivers::DriverOptions &options) const {
        const std::string copy = scratch_ + "/copy";
        std::filesystem::copy(driver_root(), copy,
                              std::filesystem::copy_options::recursive | std::filesystem::copy_options::copy_symlinks);
        auto opened = (*drivers::find_driver("devicemapper"))->open(copy, options);
        EXPECT_DONE(opened);
        return std::move(*opened);
    }
    [[nodiscard]] bool xfs() const { return GetParam().ends_with("_xfs"); }
    static uint64_t blocks_of(const std::string &file) {
        return static_cast<uint64_t>(status_of(file).st_blocks) * 512;
    }
    /// Writes up to `mib` MiB; the errno that ended it.
    static int fill(const std::string &file, unsigned mib) {
        const UniqueFd fd(::open(file.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
        const std::string block(1U << 20U, 'x');
        for (unsigned i = 0; i < mib; ++i)
            if (::write(fd.get(), block.data(), block.size()) < 0 || ::fsync(fd.get()) != 0) return errno;
        return 0;
    }
};

} // namespace shale::conformance
