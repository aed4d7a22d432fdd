// SPDX-License-Identifier: Apache-2.0
// What only btrfs has: snapshots, quota modes, subvolumes inside a container.
#include <fcntl.h>
#include <signal.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <string_view>

#include <fmt/format.h>

#include "conformance/fixture.h"
#include "sys/btrfs.h"
#include "sys/fs.h"
#include "sys/mount.h"
#include "sys/seam.h"

namespace shale::conformance {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class BtrfsDriver : public DriverTest {
protected:
    [[nodiscard]] UniqueFd layer(LayerId id) const {
        auto opened = sys::open_dir(AT_FDCWD, fmt::format("{}/btrfs/{}", scratch_, id.value).c_str());
        EXPECT_DONE(opened);
        return opened ? std::move(*opened) : UniqueFd();
    }
    /// Bytes in use on the whole file system, everything written out.
    [[nodiscard]] uint64_t used() const {
        const auto root = sys::open_dir(AT_FDCWD, scratch_.c_str());
        EXPECT_DONE(sys::syncfs_fd(root->get()));
        struct statfs info{};
        EXPECT_EQ(::fstatfs(root->get(), &info), 0);
        return static_cast<uint64_t>(info.f_blocks - info.f_bfree) * static_cast<uint64_t>(info.f_bsize);
    }
    /// Writes until it is refused, at most 64 MiB; the errno.
    static int fill(const std::string &file, uint64_t &written) {
        const UniqueFd fd(::open(file.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
        const std::string block(1U << 20U, 'x');
        size_t bytes = 0;
        for (written = 0; written < 64; written = bytes >> 20U) {
            const ssize_t done = ::write(fd.get(), block.data(), block.size()); // short at the limit, then refused
            if (done < 0 || ::fsync(fd.get()) != 0) return errno;
            bytes += static_cast<size_t>(done);
        }
        return 0;
    }
};

TEST_P(BtrfsDriver, LayersAreReadOnlySubvolumes) {
    const LayerId base = import({}, Archive().file("f", "x"));
    const LayerId child = import({base}, Archive().file("g", "y"));
    for (const LayerId id : {base, child}) {
        EXPECT_TRUE(*sys::is_subvolume(layer(id).get()));
        EXPECT_LT(::openat(layer(id).get(), "fs/new", O_WRONLY | O_CREAT | O_CLOEXEC, 0600), 0);
        EXPECT_EQ(errno, EROFS);
    }
    const LayerId container = next();
    put(start(container, {child, base}) + "/h", "z");
    commit(container, {child, base});
    EXPECT_LT(::openat(layer(container).get(), "fs/h", O_WRONLY | O_CLOEXEC), 0);
    EXPECT_EQ(errno, EROFS);
}

TEST_P(BtrfsDriver, AContainerSharesWhatItDoesNotWrite) {
    const LayerId base = import({}, Archive().file("big", std::string(24U << 20U, 'b')));
    const uint64_t before = used();
    for (int i = 0; i < 10; ++i)
        ASSERT_DONE(driver_->create(next(), std::vector{base}, {}));
    EXPECT_LT(used(), before + (8U << 20U)) << "ten snapshots of 24 MiB";
}

// Same size, same mtime, same inode: only the change time tells.
TEST_P(BtrfsDriver, ARewrittenFileWithItsOldTimesIsFound) {
    const LayerId base = import({}, Archive().file("f", "old").file("same", "same"));
    const LayerId container = next();
    const std::string path = start(container, {base});
    const auto times = status_of(path + "/f");
    const UniqueFd fd(::open((path + "/f").c_str(), O_WRONLY | O_CLOEXEC));
    ASSERT_EQ(::pwrite(fd.get(), "new", 3, 0), 3);
    ASSERT_DONE(sys::set_times(fd.get(), "", times.st_atim, times.st_mtim));
    EXPECT_THAT(changes(container, {base}), ElementsAre("C /f"));
    EXPECT_THAT(diff(container, {base}), HasSubstr("new"));
    EXPECT_THAT(diff(container, {base}), testing::Not(HasSubstr("same")));
}

TEST_P(BtrfsDriver, SubvolumesOfAContainerGoWithIt) {
    const LayerId base = import({}, Archive().file("f", "x"));
    const LayerId container = next();
    const std::string path = start(container, {base});
    {
        const auto root = sys::open_dir(AT_FDCWD, path.c_str());
        ASSERT_DONE(root);
        ASSERT_DONE(sys::make_subvolume(root->get(), "inner"));
        put(path + "/inner/data", "d");
        ASSERT_DONE(sys::make_subvolume(sys::open_dir(root->get(), "inner")->get(), "innermost"));
    }
    EXPECT_THAT(changes(container, {base}), testing::Contains("A /inner/data"));
    stop(container);
    ASSERT_DONE(driver_->remove(container));
    EXPECT_EQ(*driver_->reap(nullptr), 1U);
    EXPECT_EQ(driver_->trash()->layers, 0U);
    EXPECT_THAT(*driver_->list(), ElementsAre(base));
}

// A snapshot has an empty directory in a subvolume's place: a child would lose what it holds.
TEST_P(BtrfsDriver, ALayerWithASubvolumeIsNotSealed) {
    const LayerId base = import({}, Archive().file("f", "x"));
    const LayerId container = next();
    const std::string path = start(container, {base});
    const auto open = [](const std::string &dir) { return std::move(*sys::open_dir(AT_FDCWD, dir.c_str())); };
    put(path + "/f", "y");
    ASSERT_EQ(::mkdir((path + "/d").c_str(), 0755), 0);
    ASSERT_DONE(sys::make_subvolume(open(path + "/d").get(), "inner"));
    put(path + "/d/inner/data", "d");
    ASSERT_DONE(sys::make_subvolume(open(path).get(), "later"));
    stop(container);
    const auto refused = driver_->seal(container, std::vector{base});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Errc::FailedPrecondition);
    EXPECT_THAT(refused.error().text(), HasSubstr(fmt::format("/btrfs/{}/fs/d/inner\"", container.value)));
    const auto sealed = driver_->is_sealed(container, std::vector{base});
    ASSERT_DONE(sealed);
    EXPECT_FALSE(*sealed);
    put(mount(container, {base}) + "/f", "z");
    EXPECT_EQ(get(path + "/d/inner/data"), "d");
    ASSERT_DONE(sys::delete_subvolume(open(path + "/d").get(), "inner"));
    stop(container);
    const auto again = driver_->seal(container, std::vector{base});
    ASSERT_FALSE(again);
    EXPECT_THAT(again.error().text(), HasSubstr(fmt::format("/btrfs/{}/fs/later\"", container.value)));
    ASSERT_DONE(sys::delete_subvolume(open(fmt::format("{}/{}/fs", driver_root(), container.value)).get(), "later"));
    commit(container, {base});
    EXPECT_TRUE(*driver_->is_sealed(container, std::vector{base}));
    EXPECT_DONE(driver_->seal(container, std::vector{base})); // done again, it is done
    const LayerId child = next();
    EXPECT_THAT(names_in(start(child, {container, base})), ElementsAre("d", "f"));
}

// Before Linux 4.18 nothing tells of nested subvolumes without privilege: then they do not stand in the way.
TEST_P(BtrfsDriver, WhereNobodyMayLookALayerIsSealed) {
    const LayerId container = next();
    {
        const auto root = sys::open_dir(AT_FDCWD, start(container, {}).c_str());
        ASSERT_DONE(root);
        ASSERT_DONE(sys::make_subvolume(root->get(), "inner"));
    }
    stop(container);
    class Refuse : public sys::Hook {
    public:
        explicit Refuse(int error) : error_(error) {}
        int before(const sys::Call &call) noexcept override {
            return call.name != nullptr && std::string_view(call.name) == "BTRFS_IOC_GET_SUBVOL_ROOTREF" ? error_ : 0;
        }

    private:
        int error_;
    };
    for (const int error : {EIO, EPERM, ENOTTY}) {
        Refuse hook(error);
        sys::set_hook(&hook);
        const auto done = driver_->seal(container, {});
        sys::set_hook(nullptr);
        EXPECT_EQ(done.has_value(), error != EIO);
        EXPECT_EQ(*driver_->is_sealed(container, {}), error != EIO);
        ASSERT_DONE(driver_->reopen(container, {}));
    }
}

TEST_P(BtrfsDriver, RemovalOfAParentLeavesItsChildren) {
    const LayerId base = import({}, Archive().file("f", "x"));
    const LayerId child = import({base}, Archive().file("g", "y"));
    ASSERT_DONE(driver_->remove(base));
    EXPECT_EQ(*driver_->reap(nullptr), 1U);
    EXPECT_THAT(names_in(view(child, {base})), ElementsAre("f", "g"));
}

TEST_P(BtrfsDriver, SimpleQuotaLimitsWhatAContainerWrites) {
    const auto opened = (*drivers::find_driver("btrfs"))->open(scratch_ + "/btrfs", {{"quota", "simple"}});
    if (!opened && opened.error().sys_errno() == EINVAL) GTEST_SKIP() << opened.error().text();
    ASSERT_DONE(opened);
    reopen({{"quota", "auto"}}); // on now
    ASSERT_NE(driver_->quota(), nullptr);
    // The parent is larger than the limit: it is not the container's.
    const LayerId base = import({}, Archive().file("big", std::string(30U << 20U, 'b')));
    const LayerId limited = next(), free = next();
    ASSERT_DONE(driver_->create(limited, std::vector{base}, {.bytes = 16U << 20U}));
    ASSERT_DONE(driver_->create(free, std::vector{base}, {}));
    EXPECT_EQ(driver_->quota()->get(limited)->bytes, 16U << 20U);
    EXPECT_EQ(driver_->quota()->get(free)->bytes, 0U);
    uint64_t written = 0;
    EXPECT_EQ(fill(mount(limited, {base}) + "/fill", written), EDQUOT);
    EXPECT_LE(written, 16U);
    EXPECT_EQ(fill(mount(free, {base}) + "/fill", written), 0) << "its neighbour goes on";
    (void)used();
    const auto usage = driver_->usage(free, std::vector{base});
    ASSERT_DONE(usage);
    EXPECT_TRUE(usage->counted);
    EXPECT_GE(usage->bytes, 64U << 20U);
    EXPECT_LT(usage->bytes, 72U << 20U) << "without the parent's 30 MiB";
    ASSERT_DONE(driver_->quota()->set(limited, {.bytes = 64U << 20U}));
    EXPECT_EQ(fill(scratch_ + "/mnt/" + to_string(limited) + "/more", written), EDQUOT);
    EXPECT_GT(written, 16U) << "the raised limit counts at once";
}

TEST_P(BtrfsDriver, QuotaModesDoNotMix) {
    reopen({{"quota", "full"}});
    EXPECT_DONE((*drivers::find_driver("btrfs"))->open(scratch_ + "/btrfs", {{"quota", "full"}}));
    const auto mixed = (*drivers::find_driver("btrfs"))->open(scratch_ + "/btrfs", {{"quota", "simple"}});
    ASSERT_FALSE(mixed);
    EXPECT_EQ(mixed.error().code(), Errc::FailedPrecondition);
    EXPECT_THAT(mixed.error().text(), HasSubstr("qgroups"));
    const auto inodes = (*drivers::find_driver("btrfs"))->open(scratch_ + "/btrfs", {{"inodes", "100"}});
    ASSERT_FALSE(inodes);
    EXPECT_EQ(inodes.error().code(), Errc::InvalidArgument);
}

TEST_P(BtrfsDriver, WhatAKilledProbeLeftGoesWithTheNext) {
    const pid_t child = ::fork();
    if (child == 0) {
        class Kill : public sys::Hook {
        public:
            explicit Kill(std::string root) : root_(std::move(root)) {}
            int before(const sys::Call &call) noexcept override {
                // The first change after the snapshot's origin was frozen.
                const auto parent = root_ + "/probe-" + std::to_string(::getpid()) + "-0/parent";
                if (sys::op_mutates(call.op) && ::access(parent.c_str(), W_OK) != 0 && errno == EROFS)
                    ::kill(::getpid(), SIGKILL);
                return 0;
            }

        private:
            std::string root_;
        } hook(driver_root());
        sys::set_hook(&hook);
        (void)driver_->probe();
        ::_exit(1);
    }
    int ended = 0;
    ASSERT_EQ(::waitpid(child, &ended, 0), child);
    ASSERT_TRUE(WIFSIGNALED(ended));
    const std::string left = fmt::format("{}/probe-{}-0", driver_root(), child);
    ASSERT_TRUE(exists(left + "/parent"));
    const auto probed = driver_->probe();
    ASSERT_DONE(probed);
    EXPECT_TRUE(probed->usable) << probed->reason;
    EXPECT_FALSE(exists(left));
}

TEST_P(BtrfsDriver, AnotherFileSystemIsRefusedInWords) {
    const auto elsewhere = (*drivers::find_driver("btrfs"))->open("/dev/shm/shale-no-btrfs", {});
    (void)::rmdir("/dev/shm/shale-no-btrfs");
    ASSERT_FALSE(elsewhere);
    EXPECT_EQ(elsewhere.error().code(), Errc::FailedPrecondition);
    EXPECT_THAT(elsewhere.error().text(), HasSubstr("tmpfs"));
}

INSTANTIATE_TEST_SUITE_P(Drivers, BtrfsDriver, testing::Values("btrfs"), [](const auto &info) { return info.param; });

} // namespace
} // namespace shale::conformance
