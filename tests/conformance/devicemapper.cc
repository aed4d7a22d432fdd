// SPDX-License-Identifier: Apache-2.0
// What only devicemapper has: a pool that fills, is damaged, is another's, grows, and gives space back.
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
namespace {

using drivers::devicemapper::Pool;
using sys::PoolMode;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

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

class DevicemapperOnFiles : public DevicemapperDriver {
protected:
    /// The loop device of an active pool's metadata or data (`word` 0 or 1 of its table).
    [[nodiscard]] std::string loop_of(int word) const {
        const auto table = sys::dm_table(pool()->name());
        EXPECT_DONE(table);
        std::istringstream words(table->at(0).parameters);
        std::string number;
        for (int i = 0; i <= word; ++i)
            words >> number;
        return "/dev/" + std::filesystem::read_symlink("/sys/dev/block/" + number).filename().string();
    }
};
class DevicemapperOnDevice : public DevicemapperDriver {
protected:
    [[nodiscard]] std::string disk() const { return test::options_of(GetParam(), driver_root()).at("device"); }
};

/// A client mounts a layer itself, when it likes.
TEST_P(DevicemapperDriver, ALayerCanBeMountedWhileContainersAreMadeOnIt) {
    const LayerId base = import({}, Archive().file("f", "x"));
    const auto specs = driver_->mounts(base, {}, drivers::Driver::Access::read_only);
    ASSERT_DONE(specs);
    const std::string at = scratch_ + "/at";
    std::filesystem::create_directory(at);
    std::string refused;
    int mounts = 0;
    {
        const std::jthread client([&](const std::stop_token &stop) {
            for (; refused.empty() && !stop.stop_requested(); ++mounts) {
                const auto mounted = sys::mount_at(specs->front(), at);
                if (!mounted)
                    refused = mounted.error().text();
                else if (const auto gone = sys::unmount(at); !gone)
                    refused = gone.error().text();
            }
        });
        for (int i = 0; i < 30; ++i) {
            const LayerId made = next();
            ASSERT_DONE(driver_->create(made, std::vector{base}, {}));
            ASSERT_DONE(driver_->seal(made, std::vector{base})); // now, not when it is mounted
        }
    }
    EXPECT_EQ(refused, "");
    EXPECT_GT(mounts, 0);
}

/// Who commits need not have unmounted.
TEST_P(DevicemapperDriver, WhatIsMountedWhenItIsSealedIsWhole) {
    const LayerId base = import({}, Archive().file("f", "x"));
    const LayerId layer = next();
    ASSERT_DONE(driver_->create(layer, std::vector{base}, {}));
    put(mount(layer, {base}) + "/written", "just now");
    ASSERT_DONE(driver_->seal(layer, std::vector{base}));
    const LayerId child = next();
    ASSERT_DONE(driver_->create(child, std::vector{layer, base}, {}));
    EXPECT_EQ(get(mount(child, {layer, base}) + "/written"), "just now");
    stop(child);
    stop(layer);
}

TEST_P(DevicemapperDriver, EveryCreateInAPoolOfFullMetadataIsRefusedWithTheFigures) {
    reopen({{"metadata_size", "512K"}});
    const LayerId base = import({}, Archive().file("f", "x"));
    const LayerId unused = next();
    ASSERT_DONE(driver_->create(unused, std::vector{base}, {}));
    std::vector<LayerId> made;
    Status done;
    for (int i = 0; i < 2000 && done; ++i) {
        made.push_back(next());
        done = driver_->create(made.back(), std::vector{base}, {});
        if (!done) break;
        put(mount(made.back(), {base}) + "/own", "o"); // until then it shares its parent's mappings
        stop(made.back());
    }
    ASSERT_FALSE(done);
    EXPECT_EQ(done.error().code(), Errc::ResourceExhausted) << done.error().text();
    EXPECT_THAT(done.error().text(), HasSubstr("metadata is nearly full"));
    EXPECT_THAT(done.error().text(), HasSubstr("%"));
    EXPECT_GT(made.size(), 10U);
    for (int i = 0; i < 5; ++i) {
        const auto again = driver_->create(next(), std::vector{base}, {});
        ASSERT_FALSE(again);
        EXPECT_EQ(again.error().code(), Errc::ResourceExhausted) << again.error().text();
    }
    auto now = status();
    EXPECT_EQ(now.mode, PoolMode::read_write) << "refused before the kernel had to";
    EXPECT_EQ(get(view(unused, {base}) + "/f"), "x") << "what was never mounted can be read, and moved elsewhere";
    drop_views();
    EXPECT_FALSE(driver_->mounts(unused, std::vector{base}, drivers::Driver::Access::read_write));
    EXPECT_LT(now.used_metadata_blocks, now.total_metadata_blocks);
    // Space returns; no repair, no new start.
    for (size_t i = 0; i < made.size(); i += 2)
        ASSERT_DONE(driver_->remove(made[i]));
    ASSERT_DONE(driver_->reap(nullptr));
    EXPECT_LT(status().used_metadata_blocks, now.used_metadata_blocks);
    const LayerId fresh = next();
    put(start(fresh, {base}) + "/new", "n");
    commit(fresh, {base});
    EXPECT_EQ(get(view(fresh, {base}) + "/new"), "n");
}

TEST_P(DevicemapperDriver, APoolOfFullDataEndsInErrorsAndGoesOnWhenSpaceReturns) {
    reopen({{"data_size", xfs() ? "48M" : "32M"}});
    const LayerId base = import({}, Archive().file("f", "x"));
    const LayerId victim = next();
    const std::string path = start(victim, {base});
    const int error = fill(path + "/fill", 44);
    EXPECT_TRUE(error == ENOSPC || error == EIO) << error << ": nobody waits";
    const auto full = status();
    EXPECT_GE(full.used_data_blocks * 100, full.total_data_blocks * 95);
    EXPECT_TRUE(full.mode == PoolMode::out_of_data_space || full.mode == PoolMode::read_write);
    for (int i = 0; i < 3; ++i) {
        const auto refused = driver_->create(next(), std::vector{base}, {});
        ASSERT_FALSE(refused);
        EXPECT_EQ(refused.error().code(), Errc::ResourceExhausted);
        EXPECT_THAT(refused.error().text(), HasSubstr("data space is nearly full"));
    }
    EXPECT_FALSE(try_import(next(), {}, Archive().file("g", "y").bytes()));
    EXPECT_EQ(::umount2((scratch_ + "/mnt/" + to_string(victim)).c_str(), 0), 0) << std::strerror(errno);
    if (status().mode == PoolMode::out_of_data_space) {
        const auto sealed = driver_->seal(victim, std::vector{base});
        ASSERT_FALSE(sealed) << "the pool may have dropped what was written last";
        EXPECT_EQ(sealed.error().code(), Errc::ResourceExhausted) << sealed.error().text();
        EXPECT_THAT(sealed.error().text(), HasSubstr("data space is nearly full"));
        EXPECT_THAT(sealed.error().text(), HasSubstr("stays writable"));
    }
    ASSERT_DONE(driver_->remove(victim));
    ASSERT_DONE(driver_->reap(nullptr));
    EXPECT_EQ(status().mode, PoolMode::read_write);
    const LayerId fresh = next();
    const std::string again = start(fresh, {base});
    EXPECT_EQ(fill(again + "/fill", 4), 0);
    commit(fresh, {base});
    EXPECT_EQ(get(view(fresh, {base}) + "/f"), "x");
    EXPECT_THAT(*driver_->check(base, {}), IsEmpty());
}

TEST_P(DevicemapperDriver, RemovalGivesSpaceBackBelowThePool) {
    const bool direct = GetParam().contains("_direct");
    const std::string below = direct ? driver_root() + ".disk" : pool_file("data");
    const LayerId small = import({}, Archive().file("f", "x"));
    ASSERT_DONE(driver_->sync(std::vector{small}));
    const uint64_t before = blocks_of(below);
    const LayerId big = import({small}, Archive().file("big", std::string(24U << 20U, 'b')));
    ASSERT_DONE(driver_->sync(std::vector{big}));
    const LayerId child = next();
    ASSERT_DONE(driver_->create(child, std::vector{big, small}, {}));
    EXPECT_GT(blocks_of(below), before + (24U << 20U));
    ASSERT_DONE(driver_->remove(big));
    ASSERT_DONE(driver_->reap(nullptr));
    EXPECT_GT(blocks_of(below), before + (24U << 20U)) << "its child has the blocks";
    EXPECT_EQ(get(view(child, {big, small}) + "/big").size(), 24U << 20U);
    ASSERT_DONE(driver_->remove(child));
    const LayerId other = next();
    ASSERT_DONE(driver_->create(other, std::vector{small}, {}));
    EXPECT_EQ(*driver_->reap(nullptr), 0U) << "a layer that is looked at stays for the next reaper";
    EXPECT_EQ(driver_->trash()->layers, 1U);
    drop_views();
    ASSERT_DONE(driver_->reap(nullptr));
    EXPECT_EQ(driver_->trash()->layers, 0U);
    EXPECT_LT(blocks_of(below), before + (4U << 20U));
}

TEST_P(DevicemapperDriver, AnotherTransactionIsRefusedWithTheWayOut) {
    const LayerId base = import({}, Archive().file("f", "x"));
    rest();
    const std::string numbers = get(driver_root() + "/volumes");
    put(driver_root() + "/volumes", "800 900");
    reopen({});
    for (int i = 0; i < 2; ++i) {
        const auto refused = driver_->create(next(), std::vector{base}, {});
        ASSERT_FALSE(refused);
        EXPECT_EQ(refused.error().code(), Errc::FailedPrecondition);
        EXPECT_THAT(refused.error().text(), HasSubstr("transaction id"));
        EXPECT_THAT(refused.error().text(), HasSubstr("900"));
        EXPECT_THAT(refused.error().text(), HasSubstr("set_transaction_id"));
    }
    rest();
    put(driver_root() + "/volumes", numbers);
    reopen({});
    EXPECT_EQ(get(view(base, {}) + "/f"), "x");
}

TEST_P(DevicemapperDriver, ACrashBetweenStoreAndPoolIsMended) {
    const LayerId base = import({}, Archive().file("f", "x"));
    const uint64_t now = status().transaction;
    rest();
    put(driver_root() + "/volumes", fmt::format("{} {}", now, now + 4)); // the pool was not told
    reopen({});
    EXPECT_EQ(get(view(base, {}) + "/f"), "x");
    EXPECT_EQ(status().transaction, now + 4);
    ASSERT_DONE(driver_->create(next(), std::vector{base}, {}));
    EXPECT_EQ(get(driver_root() + "/volumes"), fmt::format("{} {}", now + 4, status().transaction));
}

TEST_P(DevicemapperDriver, NumbersOfVolumesRunOutInWords) {
    const LayerId base = import({}, Archive().file("f", "x"));
    const uint64_t now = status().transaction;
    ASSERT_DONE(sys::dm_message(pool()->name(), fmt::format("set_transaction_id {} 16777216", now)));
    put(driver_root() + "/volumes", fmt::format("{} 16777216", now));
    reopen({});
    const auto refused = driver_->create(next(), std::vector{base}, {});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Errc::ResourceExhausted);
    EXPECT_EQ(get(view(base, {}) + "/f"), "x");
}

/// Sets or clears a flag of the pool's superblock (drivers/md/dm-thin-metadata.c: flags at 4, checksum at 0).
void set_flags(const std::string &metadata, uint32_t flags) {
    const UniqueFd fd(::open(metadata.c_str(), O_RDWR | O_CLOEXEC));
    std::array<unsigned char, 4096> block{};
    ASSERT_EQ(::pread(fd.get(), block.data(), block.size(), 0), 4096);
    std::memcpy(block.data() + 4, &flags, sizeof flags);
    uint32_t sum = 0xffff'ffff; // crc32c without the last inversion
    for (size_t i = 4; i < block.size(); ++i) {
        sum ^= block.at(i);
        for (int bit = 0; bit < 8; ++bit)
            sum = (sum >> 1U) ^ ((sum & 1U) != 0 ? 0x82f6'3b78U : 0U);
    }
    sum ^= 160'774U;
    std::memcpy(block.data(), &sum, sizeof sum);
    ASSERT_EQ(::pwrite(fd.get(), block.data(), block.size(), 0), 4096);
    ASSERT_EQ(::fsync(fd.get()), 0);
}

TEST_P(DevicemapperOnFiles, NeedsCheckIsNamed) {
    const LayerId base = import({}, Archive().file("f", "x"));
    rest();
    set_flags(pool_file("metadata"), 1);
    reopen({});
    const auto refused = driver_->create(next(), std::vector{base}, {});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Errc::FailedPrecondition);
    EXPECT_THAT(refused.error().text(), HasSubstr("needs_check"));
    EXPECT_THAT(refused.error().text(), HasSubstr("--clear-needs-check-flag"));
    EXPECT_EQ(get(view(base, {}) + "/f"), "x") << "what is there can be read";
    drop_views();
    rest();
    // The way out of the text.
    ASSERT_DONE(sys::run_tool_or_fail({"/usr/sbin/thin_check", "-q", "--clear-needs-check-flag", pool_file("metadata")},
                                      std::chrono::seconds(60)));
    reopen({});
    ASSERT_DONE(driver_->create(next(), std::vector{base}, {}));
}

TEST_P(DevicemapperOnFiles, DamagedMetadataIsNotActivated) {
    (void)import({}, Archive().file("f", "x"));
    rest();
    {
        const UniqueFd fd(::open(pool_file("metadata").c_str(), O_RDWR | O_CLOEXEC));
        ASSERT_EQ(::pwrite(fd.get(), "damage", 6, 100), 6);
    }
    reopen({});
    const auto refused = driver_->create(next(), {}, {});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Errc::DataLoss);
    EXPECT_THAT(refused.error().text(), HasSubstr("thin_check"));
    EXPECT_FALSE(*sys::dm_find(pool()->name()));
}

TEST_P(DevicemapperOnDevice, AFailedPoolIsNamed) {
    const LayerId base = import({}, Archive().file("f", "x"));
    const LayerId planned = next();
    ASSERT_DONE(driver_->create(planned, std::vector{base}, {}));
    const std::string metadata = pool()->prefix() + "-meta";
    const auto table = sys::dm_table(metadata);
    ASSERT_DONE(table);
    ASSERT_DONE(sys::dm_reload(metadata, {{0, table->at(0).length_sectors, "error", ""}}));
    ASSERT_DONE(sys::dm_suspend(metadata, sys::DmSuspend::as_it_is));
    ASSERT_DONE(sys::dm_resume(metadata));
    EXPECT_FALSE(driver_->seal(planned, std::vector{base})); // the kernel finds out
    const auto refused = driver_->create(next(), std::vector{base}, {});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Errc::FailedPrecondition) << refused.error().text();
    EXPECT_THAT(refused.error().text(), testing::AnyOf(HasSubstr("(Fail)"), HasSubstr("needs_check")));
    ASSERT_DONE(driver_->remove(base));
    EXPECT_FALSE(driver_->reap(nullptr)) << "nothing is taken for deleted";
    EXPECT_EQ(driver_->trash()->layers, 1U);
}

TEST_P(DevicemapperDriver, AMountOfSomethingElseIsAnError) {
    const LayerId base = import({}, Archive().file("f", "x"));
    const LayerId one = next(), other = next();
    const std::string path = start(one, {base});
    ASSERT_DONE(driver_->prove_mount(one, path));
    (void)start(other, {base});
    const auto wrong = driver_->prove_mount(other, path);
    ASSERT_FALSE(wrong);
    EXPECT_EQ(wrong.error().code(), Errc::Internal);
    EXPECT_THAT(wrong.error().text(), HasSubstr("must not be used"));
    stop(one);
    EXPECT_FALSE(driver_->prove_mount(one, path)) << "the bare mount point";
}

TEST_P(DevicemapperDriver, TheDeviceGoesWithItsLastMount) {
    const LayerId base = import({}, Archive().file("f", "x"));
    ASSERT_DONE(driver_->sync(std::vector{base}));
    (void)diff(base, {});
    const auto active = [&] {
        const std::string prefix = pool()->prefix() + "-";
        const auto names = sys::dm_names();
        EXPECT_DONE(names);
        return std::ranges::count_if(names.value_or(std::vector<std::string>{}), [&](const std::string &name) {
            return name.starts_with(prefix) && name.find_first_not_of("0123456789", prefix.size()) == std::string::npos;
        });
    };
    for (int i = 0; i < 100 && active() > 0; ++i)
        ::usleep(10'000);
    EXPECT_EQ(active(), 0) << "what the driver itself mounted";
    const LayerId container = next();
    put(start(container, {base}) + "/g", "y");
    EXPECT_EQ(active(), 1);
    EXPECT_EQ(get(view(container, {base}) + "/g"), "y") << "read while it runs";
    EXPECT_THAT(changes(container, {base}), testing::ElementsAre("A /g"));
    drop_views();
    stop(container);
    ASSERT_DONE(driver_->seal(container, std::vector{base}));
    for (int i = 0; i < 100 && active() > 0; ++i)
        ::usleep(10'000);
    EXPECT_EQ(active(), 0);
}

TEST_P(DevicemapperDriver, WhatIsFixedIsRefusedInWords) {
    const LayerId base = import({}, Archive().file("f", "x"));
    for (const auto &[key, value] :
         {std::pair{"base_size", "64M"}, {"block_size", "128K"}, {"fs", xfs() ? "ext4" : "xfs"}}) {
        reopen({{key, value}});
        const auto refused = driver_->create(next(), std::vector{base}, {});
        ASSERT_FALSE(refused) << key;
        EXPECT_EQ(refused.error().code(), Errc::FailedPrecondition);
        EXPECT_THAT(refused.error().text(), HasSubstr(std::string(key) + "="));
    }
    reopen({});
    const auto small = driver_->create(next(), std::vector{base}, {.bytes = 1U << 20U});
    ASSERT_FALSE(small);
    EXPECT_EQ(small.error().code(), Errc::FailedPrecondition);
    EXPECT_THAT(small.error().text(), HasSubstr("cannot be made smaller"));
    EXPECT_FALSE(driver_->create(next(), std::vector{base}, {.inodes = 100}));
}

TEST_P(DevicemapperDriver, ARaisedLimitCountsAtOnce) {
    const LayerId base = import({}, Archive().file("f", "x"));
    const LayerId container = next();
    const std::string path = start(container, {base});
    EXPECT_NE(fill(path + "/one", 64), 0);
    ASSERT_DONE(driver_->quota()->set(container, {.bytes = 96U << 20U}));
    EXPECT_EQ(driver_->quota()->get(container)->bytes, 96U << 20U);
    EXPECT_EQ(fill(path + "/two", 24), 0) << "while it is mounted";
    commit(container, {base});
    const LayerId child = next();
    ASSERT_DONE(driver_->create(child, std::vector{container, base}, {}));
    EXPECT_EQ(driver_->quota()->get(child)->bytes, 96U << 20U);
    EXPECT_EQ(get(view(child, {container, base}) + "/two").size(), 24U << 20U);
}

TEST_P(DevicemapperOnFiles, ThePoolGrowsInUseAndAtRest) {
    reopen({{"data_size", "64M"}, {"metadata_size", "4M"}});
    const LayerId base = import({}, Archive().file("f", "x"));
    const LayerId container = next();
    const std::string path = start(container, {base});
    EXPECT_EQ(status().total_data_blocks, 1024U);
    reopen({{"data_size", "96M"}, {"metadata_size", "8M"}});
    ASSERT_DONE(driver_->create(next(), std::vector{base}, {}));
    EXPECT_EQ(status().total_data_blocks, 1536U);
    EXPECT_EQ(status().total_metadata_blocks, 2048U);
    EXPECT_EQ(fill(path + "/fill", 8), 0);
    stop(container);
    rest();
    reopen({{"data_size", "128M"}});
    ASSERT_DONE(driver_->create(next(), std::vector{base}, {}));
    EXPECT_EQ(status().total_data_blocks, 2048U);
    EXPECT_EQ(get(view(container, {base}) + "/f"), "x");
}

TEST_P(DevicemapperOnFiles, AnEnlargementThatDidNotEndIsEnded) {
    reopen({{"data_size", "64M"}, {"metadata_size", "4M"}});
    const LayerId base = import({}, Archive().file("f", "x"));
    // The files and their devices have grown, the pool was not told.
    std::filesystem::resize_file(pool_file("metadata"), 8U << 20U);
    std::filesystem::resize_file(pool_file("data"), 96U << 20U);
    ASSERT_DONE(sys::grow_loop(loop_of(0)));
    ASSERT_DONE(sys::grow_loop(loop_of(1)));
    EXPECT_EQ(status().total_metadata_blocks, 1024U);
    reopen({{"data_size", "96M"}, {"metadata_size", "8M"}});
    ASSERT_DONE(driver_->create(next(), std::vector{base}, {}));
    EXPECT_EQ(status().total_metadata_blocks, 2048U);
    EXPECT_EQ(status().total_data_blocks, 1536U);
    // The size of a volume is recorded, its file system was not enlarged.
    const LayerId container = next();
    ASSERT_DONE(driver_->create(container, std::vector{base}, {}));
    const std::string volume =
        std::filesystem::read_symlink(driver_root() + "/" + to_string(container) + "/volume").string();
    std::filesystem::create_symlink(std::to_string(96U << 20U), pool_file(("size-" + volume).c_str()));
    ASSERT_DONE(driver_->quota()->set(container, {.bytes = 96U << 20U}));
    const std::string path = mount(container, {base});
    struct statvfs info{};
    ASSERT_EQ(::statvfs(path.c_str(), &info), 0);
    EXPECT_GT(info.f_blocks * info.f_frsize, uint64_t{64} << 20U);
}

TEST_P(DevicemapperOnFiles, AnActivePoolOfOtherFilesIsRefused) {
    const LayerId base = import({}, Archive().file("f", "x"));
    std::filesystem::rename(pool_file("data"), pool_file("kept"));
    put(pool_file("data"), "");
    std::filesystem::resize_file(pool_file("data"), uint64_t{4} << 30U);
    reopen({});
    const auto refused = driver_->create(next(), std::vector{base}, {});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Errc::FailedPrecondition);
    EXPECT_THAT(refused.error().text(), HasSubstr("not this store's file \"data\""));
    std::filesystem::rename(pool_file("kept"), pool_file("data"));
    ASSERT_DONE(driver_->create(next(), std::vector{base}, {}));
}

TEST_P(DevicemapperOnDevice, ACopiedStoreDoesNotTakeTheDevice) {
    const LayerId base = import({}, Archive().file("f", "x"));
    ASSERT_DONE(driver_->sync(std::vector{base}));
    const auto copy = open_copy(test::options_of(GetParam(), driver_root()));
    for (int i = 0; i < 2; ++i) {
        const auto refused = copy->create(LayerId{7}, std::vector{base}, {});
        ASSERT_FALSE(refused);
        EXPECT_EQ(refused.error().code(), Errc::FailedPrecondition) << refused.error().text();
        EXPECT_THAT(refused.error().text(), HasSubstr("is in use by"));
        EXPECT_THAT(refused.error().text(), HasSubstr(pool()->prefix() + "-meta")) << "whose";
    }
    ASSERT_DONE(driver_->create(next(), std::vector{base}, {}));
    EXPECT_EQ(get(view(base, {}) + "/f"), "x");
}

TEST_P(DevicemapperOnDevice, AnActivePoolOnAnotherDeviceIsRefused) {
    const LayerId base = import({}, Archive().file("f", "x"));
    ASSERT_DONE(driver_->sync(std::vector{base}));
    // Another disk with this store's label, as a copy of the disk has it.
    const std::string twin = test::options_of(GetParam(), scratch_ + "/twin").at("device");
    std::string label(4096, '\0');
    ASSERT_EQ(::pread(UniqueFd(::open(disk().c_str(), O_RDONLY | O_CLOEXEC)).get(), label.data(), label.size(), 0),
              4096);
    put(twin, label);
    reopen({{"device", twin}});
    const auto refused = driver_->create(next(), std::vector{base}, {});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Errc::FailedPrecondition) << refused.error().text();
    EXPECT_THAT(refused.error().text(), HasSubstr("not this store's parts of " + twin));
    reopen({});
    ASSERT_DONE(driver_->create(next(), std::vector{base}, {}));
}

TEST_P(DevicemapperOnDevice, AnotherSizeOfMetadataIsRefusedWithBothFigures) {
    const LayerId base = import({}, Archive().file("f", "x"));
    ASSERT_DONE(driver_->sync(std::vector{base}));
    for (const bool active : {true, false})
        for (const auto &[given, bytes] : {std::pair{"16M", "16777216"}, {"4M", "4194304"}}) {
            if (!active) rest();
            reopen({{"metadata_size", given}});
            const auto refused = driver_->create(next(), std::vector{base}, {});
            ASSERT_FALSE(refused) << given;
            EXPECT_EQ(refused.error().code(), Errc::FailedPrecondition) << refused.error().text();
            EXPECT_THAT(refused.error().text(), HasSubstr("metadata_size=8388608"));
            EXPECT_THAT(refused.error().text(), HasSubstr(bytes));
        }
    reopen({{"metadata_size", ""}});
    EXPECT_EQ(get(view(base, {}) + "/f"), "x") << "an option that is not set asks for nothing";
    EXPECT_EQ(status().total_metadata_blocks, 2048U);
}

TEST_P(DevicemapperOnDevice, AnotherOwnersDeviceIsRefused) {
    const std::string disk = this->disk();
    put(disk, "somebody's data");
    const auto refused = driver_->create(next(), {}, {});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Errc::FailedPrecondition);
    EXPECT_THAT(refused.error().text(), HasSubstr("not empty"));
    std::array<char, 15> kept{};
    EXPECT_EQ(::pread(UniqueFd(::open(disk.c_str(), O_RDONLY | O_CLOEXEC)).get(), kept.data(), kept.size(), 0), 15);
    EXPECT_EQ(std::string_view(kept.data(), kept.size()), "somebody's data");
    put(disk, std::string(4096, '\0'));
    (void)import({}, Archive().file("f", "x"));
    // Now it is this store's, and no other's.
    rest();
    std::filesystem::remove_all(driver_root());
    reopen({});
    const auto other = driver_->create(next(), {}, {});
    ASSERT_FALSE(other);
    EXPECT_THAT(other.error().text(), HasSubstr("another store"));
}

TEST_P(DevicemapperOnDevice, LogicalVolumes) {
    if (::access("/usr/sbin/lvm", X_OK) != 0) GTEST_SKIP() << "needs lvm2";
    const std::string disk = this->disk();
    const std::string home = scratch_ + "/lvm";
    std::filesystem::create_directory(home);
    put(home + "/lvm.conf", fmt::format("devices {{ filter=[\"a|^{}$|\",\"r|.*|\"] use_devicesfile=0 "
                                        "external_device_info_source=\"none\" obtain_device_list_from_udev=0 }}\n"
                                        "activation {{ monitoring=0 verify_udev_operations=0 }}\n"
                                        "global {{ use_lvmpolld=0 event_activation=0 }}\n",
                                        disk));
    ::setenv("LVM_SYSTEM_DIR", home.c_str(), 1);
    const auto lvm = [](std::vector<std::string> arguments) {
        arguments.insert(arguments.begin(), "/usr/sbin/lvm");
        const auto done = sys::run_tool_or_fail(arguments, std::chrono::seconds(60));
        EXPECT_DONE(done);
        return done.value_or("");
    };
    const std::string vg = fmt::format("shaletest{}", ::getpid());
    lvm({"pvcreate", "-y", disk});
    lvm({"vgcreate", vg, disk});
    const auto info = drivers::find_driver("devicemapper");
    drivers::DriverOptions options{{"pool", "vg"},          {"vg", vg},           {"data_size", "128M"},
                                   {"metadata_size", "8M"}, {"base_size", "48M"}, {"fs", xfs() ? "xfs" : "ext4"}};
    const auto again = [&] {
        driver_.reset();
        auto opened = (*info)->open(driver_root(), options);
        EXPECT_DONE(opened);
        driver_ = std::move(*opened);
    };
    // A first use that was interrupted is begun anew, whatever else the group has. Its volumes go before they come
    // again, and the disk would go with the last that has it open.
    UniqueFd held(::open(disk.c_str(), O_RDONLY | O_CLOEXEC));
    lvm({"lvcreate", "--yes", "-an", "-Zn", "-Wn", "-n", "a_longer_name_than_any_that_is_made_here", "-L", "4M", vg});
    again();
    (void)import({}, Archive().file("f", "lost"));
    rest();
    std::string record = get(pool_file("record"));
    const size_t state = record.find("state=ready");
    ASSERT_NE(state, std::string::npos) << record;
    put(pool_file("record"), record.replace(state, 11, "state=begun"));
    std::filesystem::remove(driver_root() + "/volumes");
    again();
    const LayerId base = import({}, Archive().file("f", "x"));
    held.reset();
    const LayerId container = next();
    put(start(container, {base}) + "/g", "y");
    commit(container, {base});
    EXPECT_THAT(lvm({"lvs", "--noheadings", "-o", "lv_name", vg}), HasSubstr("_meta"));
    {
        const auto refused = open_copy(options)->create(LayerId{7}, std::vector{base}, {});
        ASSERT_FALSE(refused) << "the pool of a copied store is the same volumes";
        EXPECT_EQ(refused.error().code(), Errc::FailedPrecondition) << refused.error().text();
        EXPECT_THAT(refused.error().text(), HasSubstr("is in use by " + pool()->name()));
    }
    rest();
    options["data_size"] = "192M";
    options["metadata_size"] = "16M";
    again();
    EXPECT_EQ(get(view(container, {base}) + "/g"), "y");
    EXPECT_EQ(get(view(container, {base}) + "/f"), "x");
    EXPECT_EQ(status().total_data_blocks, 3072U) << "raised at rest";
    EXPECT_EQ(status().total_metadata_blocks, 4096U);
    drop_views();
    options["data_size"] = "224M";
    again();
    ASSERT_DONE(driver_->create(next(), std::vector{base}, {}));
    EXPECT_EQ(status().total_data_blocks, 3584U) << "raised in use";
    rest();
    lvm({"vgchange", "-an", vg}); // and the disk, which nothing has open then, goes
}

TEST_P(DevicemapperDriver, AVolumeOfThatNumberIsAnothersAndStays) {
    const LayerId base = import({}, Archive().file("f", "x"));
    reopen({});
    const uint64_t number = status().transaction; // the next one
    ASSERT_DONE(sys::dm_message(pool()->name(), fmt::format("create_snap {} 0", number)));
    const LayerId id = next();
    ASSERT_DONE(driver_->create(id, std::vector{base}, {}));
    for (int i = 0; i < 2; ++i) {
        const auto refused = driver_->mounts(id, std::vector{base}, drivers::Driver::Access::read_write);
        ASSERT_FALSE(refused);
        EXPECT_EQ(refused.error().code(), Errc::DataLoss);
        EXPECT_EQ(refused.error().sys_errno(), EEXIST);
    }
    ASSERT_DONE(driver_->remove(id));
    ASSERT_DONE(driver_->reap(nullptr));
    EXPECT_EQ(driver_->trash()->layers, 0U);
    EXPECT_DONE(sys::dm_message(pool()->name(), fmt::format("delete {}", number))); // it was there still
}

TEST_P(DevicemapperDriver, AContainerThatIsNeverMountedTakesNothingOfThePool) {
    const LayerId base = import({}, Archive().file("f", "x"));
    ASSERT_DONE(driver_->sync(std::vector{base}));
    const auto before = status();
    std::vector<LayerId> made;
    for (int i = 0; i < 20; ++i) {
        made.push_back(next());
        ASSERT_DONE(driver_->create(made.back(), std::vector{base}, {}));
        EXPECT_EQ(driver_->usage(made.back(), std::vector{base})->bytes, 0U);
    }
    ASSERT_DONE(driver_->sync(std::vector{base}));
    EXPECT_EQ(status().used_metadata_blocks, before.used_metadata_blocks);
    for (const LayerId id : made)
        ASSERT_DONE(driver_->remove(id));
    ASSERT_DONE(driver_->reap(nullptr));
    for (const auto &entry : std::filesystem::directory_iterator(driver_root() + "/pool"))
        EXPECT_FALSE(entry.path().filename().string().starts_with("planned-"));
}

/// Killed before, and after, the pool had the snapshot.
TEST_P(DevicemapperDriver, AVolumeThatWasBeingMadeIsMade) {
    const LayerId base = import({}, Archive().file("f", "x"));
    for (const bool there : {false, true}) {
        const LayerId id = next();
        ASSERT_DONE(driver_->create(id, std::vector{base}, {}));
        const std::string number = std::filesystem::read_symlink(driver_root() + "/" + to_string(id) + "/volume"),
                          planned = pool_file(("planned-" + number).c_str()),
                          making = pool_file(("making-" + number).c_str());
        const std::string origin = std::filesystem::read_symlink(planned);
        std::filesystem::rename(planned, making);
        if (there) ASSERT_DONE(sys::dm_message(pool()->name(), fmt::format("create_snap {} {}", number, origin)));
        EXPECT_EQ(get(mount(id, {base}) + "/f"), "x");
        EXPECT_FALSE(std::filesystem::exists(std::filesystem::symlink_status(making)));
        stop(id);
        ASSERT_DONE(driver_->remove(id));
        ASSERT_DONE(driver_->reap(nullptr));
        EXPECT_FALSE(sys::dm_message(pool()->name(), "delete " + number)) << "it is gone";
    }
}

TEST_P(DevicemapperDriver, WhatAKilledProbeLeftGoesWithTheNext) {
    const auto devices = [] {
        auto names = sys::dm_names();
        EXPECT_DONE(names);
        std::ranges::sort(*names);
        return *names;
    };
    const auto before = devices();
    const pid_t child = ::fork();
    if (child == 0) {
        class Kill : public sys::Hook {
        public:
            int before(const sys::Call &call) noexcept override {
                if (call.op == sys::Op::fsopen && ++mounts_ == 2) ::kill(::getpid(), SIGKILL);
                return 0;
            }
            int mounts_ = 0;
        } hook;
        sys::set_hook(&hook);
        (void)driver_->probe();
        ::_exit(1);
    }
    int ended = 0;
    ASSERT_EQ(::waitpid(child, &ended, 0), child);
    ASSERT_TRUE(WIFSIGNALED(ended));
    EXPECT_NE(devices(), before) << "the test is about something";
    const auto probed = driver_->probe();
    ASSERT_DONE(probed);
    EXPECT_TRUE(probed->usable) << probed->reason;
    EXPECT_EQ(devices(), before);
    for (const auto &name : names_in(driver_root()))
        EXPECT_FALSE(name.starts_with("probe-")) << name;
}

std::vector<std::string> names_on_devices(bool wanted) {
    auto out = driver_names("devicemapper");
    std::erase_if(out, [&](const std::string &name) { return name.contains("_direct") != wanted; });
    return out;
}
std::string name_of(const testing::TestParamInfo<std::string> &info) {
    return info.param;
}

INSTANTIATE_TEST_SUITE_P(Drivers, DevicemapperDriver, testing::ValuesIn(driver_names("devicemapper")), name_of);
INSTANTIATE_TEST_SUITE_P(Drivers, DevicemapperOnFiles, testing::ValuesIn(names_on_devices(false)), name_of);
INSTANTIATE_TEST_SUITE_P(Drivers, DevicemapperOnDevice, testing::ValuesIn(names_on_devices(true)), name_of);

} // namespace
} // namespace shale::conformance
