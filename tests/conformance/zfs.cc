// SPDX-License-Identifier: Apache-2.0
// What only ZFS has: snapshots that clones depend on, holds, properties, a dataset at its quota. With libzfs_core and
// with the zfs command.
#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <random>

#include <fmt/format.h>

#include "conformance/fixture.h"
#include "sys/fs.h"
#include "sys/mount.h"
#include "sys/run.h"
#include "sys/seam.h"
#include "sys/zfs.h"

namespace shale::conformance {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class ZfsDriver : public DriverTest {
protected:
    void SetUp() override {
        DriverTest::SetUp();
        if (IsSkipped() || HasFatalFailure()) return;
        auto opened = sys::Zfs::open();
        ASSERT_DONE(opened);
        zfs_ = std::move(*opened);
    }
    /// The store's hidden dataset; a layer's; the one that the test lives on.
    [[nodiscard]] std::string parent() const {
        std::ifstream in(driver_root() + "/dataset");
        std::string name;
        std::getline(in, name);
        return name;
    }
    [[nodiscard]] std::string dataset(LayerId id) const {
        const auto volume = sys::read_link(AT_FDCWD, fmt::format("{}/{}/volume", driver_root(), id.value).c_str());
        EXPECT_DONE(volume);
        return parent() + "/" + volume.value_or("none");
    }
    [[nodiscard]] std::string home() const {
        auto name = sys::zfs_dataset_of(sys::open_dir(AT_FDCWD, scratch_.c_str())->get());
        EXPECT_DONE(name);
        return name.value_or("none");
    }
    static void zfs(std::vector<std::string> arguments) {
        arguments.insert(arguments.begin(), *sys::find_tool("zfs", "zfsutils-linux"));
        EXPECT_DONE(sys::run_tool_or_fail(arguments, std::chrono::minutes(1)));
    }
    /// Reserves what the pool has left for a dataset POOL/full.
    void take_all_of(const std::string &pool) const {
        Status done = fail(Errc::Unavailable, "");
        for (uint64_t less = 0; !done && less < (512U << 10U); less += 64U << 10U) { // what was destroyed comes late
            EXPECT_DONE(zfs_.sync_pool(pool));
            done =
                zfs_.create_with(pool + "/full", {{"reservation", std::to_string(zfs_.get(pool)->available - less)}});
        }
        EXPECT_DONE(done);
    }
    static std::string noise(size_t bytes) {
        std::string out(bytes, '\0');
        std::mt19937 random(7); // NOLINT: the same each time
        for (char &c : out)
            c = static_cast<char>(random());
        return out;
    }

    sys::Zfs zfs_;
};

TEST_P(ZfsDriver, LayersAreSnapshotsBelowAHiddenDataset) {
    const LayerId base = import({}, Archive().file("f", "x"));
    const LayerId child = import({base}, Archive().file("g", "y"));
    EXPECT_EQ(*zfs_.property(parent(), "mountpoint"), "legacy");
    EXPECT_EQ(*zfs_.property(parent(), "canmount"), "noauto");
    EXPECT_EQ(*zfs_.property(parent(), "com.sun:auto-snapshot"), "false");
    EXPECT_TRUE(parent().starts_with(home() + "/shale-"));
    EXPECT_EQ(zfs_.get(dataset(child))->origin, dataset(base) + "@sealed");
    // Whatever happens to the dataset, the layer is its snapshot.
    {
        const auto root = sys::mount_detached({"zfs", dataset(base), {"rw"}});
        ASSERT_DONE(root);
        put(sys::fd_path(root->get()) + "/f", "changed");
    }
    EXPECT_EQ(get(view(base, {}) + "/f"), "x");
    EXPECT_LT(::open((view(base, {}) + "/f").c_str(), O_WRONLY | O_CLOEXEC), 0);
    EXPECT_EQ(errno, EROFS);
    EXPECT_EQ(get(start(next(), {base}) + "/f"), "x");
}

TEST_P(ZfsDriver, OptionsAreInheritedProperties) {
    const LayerId first = import({}, Archive().file("f", "x"));
    EXPECT_EQ(*zfs_.property(dataset(first), "recordsize"), "32768");
    for (const auto &[key, value] :
         {std::pair("atime", "off"), {"xattr", "sa"}, {"acltype", "posix"}, {"dnodesize", "auto"}})
        EXPECT_EQ(*zfs_.property(dataset(first), key), value) << key;
    const std::string before = parent();
    reopen({{"recordsize", "16K"}, {"compression", "zstd"}});
    const LayerId second = import({first}, Archive().file("g", "y"));
    EXPECT_EQ(parent(), before);
    EXPECT_EQ(*zfs_.property(dataset(second), "recordsize"), "16384");
    EXPECT_EQ(*zfs_.property(dataset(second), "compression"), "zstd");
    for (const auto &[key, value] :
         {std::pair("recordsize", "3K"), {"compression", "lz4 -o x"}, {"dataset", "../x"}, {"inodes", "5"}}) {
        const auto opened = (*drivers::find_driver("zfs"))->open(driver_root(), {{key, value}});
        ASSERT_FALSE(opened) << key;
        EXPECT_EQ(opened.error().code(), Errc::InvalidArgument) << key;
    }
}

TEST_P(ZfsDriver, AContainerSharesWhatItDoesNotWrite) {
    const LayerId base = import({}, Archive().file("big", std::string(8U << 20U, 'b')));
    std::vector<LayerId> containers;
    for (int i = 0; i < 5; ++i) {
        containers.push_back(next());
        ASSERT_DONE(driver_->create(containers.back(), std::vector{base}, {}));
    }
    EXPECT_LT(zfs_.get(home())->used, 12U << 20U) << "five clones of 8 MiB";
    const auto usage = driver_->usage(containers.front(), std::vector{base});
    ASSERT_DONE(usage);
    EXPECT_TRUE(usage->counted);
    EXPECT_LT(usage->bytes, 1U << 20U);
    EXPECT_EQ(usage->inodes, 0U);
}

// Same size, same mtime, same inode: only the change time tells.
TEST_P(ZfsDriver, ARewrittenFileWithItsOldTimesIsFound) {
    const LayerId base = import({}, Archive().file("f", "old").file("same", "same"));
    const LayerId container = next();
    const std::string path = start(container, {base});
    EXPECT_EQ(status_of(path + "/same").st_ino, status_of(view(base, {}) + "/same").st_ino);
    EXPECT_EQ(status_of(path + "/same").st_ctim.tv_nsec, status_of(view(base, {}) + "/same").st_ctim.tv_nsec);
    const auto times = status_of(path + "/f");
    const UniqueFd fd(::open((path + "/f").c_str(), O_WRONLY | O_CLOEXEC));
    ASSERT_EQ(::pwrite(fd.get(), "new", 3, 0), 3);
    ASSERT_DONE(sys::set_times(fd.get(), "", times.st_atim, times.st_mtim));
    EXPECT_THAT(changes(container, {base}), ElementsAre("C /f"));
    EXPECT_THAT(diff(container, {base}), HasSubstr("new"));
    EXPECT_THAT(diff(container, {base}), testing::Not(HasSubstr("same")));
}

TEST_P(ZfsDriver, ARemovedParentWaitsForItsClones) {
    const LayerId base = import({}, Archive().file("f", "x"));
    const LayerId child = import({base}, Archive().file("g", "y"));
    ASSERT_DONE(driver_->remove(base));
    EXPECT_DONE(driver_->reap(nullptr));
    EXPECT_THAT(driver_->trash()->ids, ElementsAre(base)) << "its clone lives";
    EXPECT_THAT(names_in(view(child, {base})), ElementsAre("f", "g"));
    EXPECT_EQ(get(start(next(), {child, base}) + "/f"), "x");
    stop(LayerId{3});
    for (const uint64_t id : {2U, 3U})
        ASSERT_DONE(driver_->remove(LayerId{id}));
    drop_views();
    EXPECT_DONE(driver_->reap(nullptr));
    EXPECT_EQ(driver_->trash()->layers, 0U) << "children first, all at once";
    EXPECT_EQ(zfs_.list(parent())->size(), 1U);
}

TEST_P(ZfsDriver, SnapshotsOfOthersGoAndHoldsAreKept) {
    const LayerId base = import({}, Archive().file("f", "x"));
    const LayerId held = import({}, Archive().file("f", "x"));
    ASSERT_DONE(zfs_.snapshot(dataset(base) + "@rotation-2024"));
    const std::string name = dataset(held);
    zfs({"hold", "backup", name + "@sealed"});
    ASSERT_DONE(driver_->remove(base));
    ASSERT_DONE(driver_->remove(held));
    EXPECT_DONE(driver_->reap(nullptr));
    EXPECT_THAT(driver_->trash()->ids, ElementsAre(held));
    zfs({"release", "backup", name + "@sealed"});
    EXPECT_DONE(driver_->reap(nullptr));
    EXPECT_EQ(driver_->trash()->layers, 0U);
    EXPECT_EQ(zfs_.list(parent())->size(), 1U);
}

TEST_P(ZfsDriver, ADatasetThatIsTakenIsPassedOver) {
    const LayerId base = import({}, Archive().file("f", "x"));
    for (uint64_t number = 2; number < 6; ++number)
        ASSERT_DONE(zfs_.create(fmt::format("{}/{}", parent(), number)));
    for (int i = 0; i < 3; ++i)
        ASSERT_DONE(driver_->create(next(), std::vector{base}, {}));
    EXPECT_EQ(driver_->list()->size(), 4U);
}

TEST_P(ZfsDriver, ANamedParentThatWasNotMadeIsMade) {
    std::ofstream(driver_root() + "/dataset") << home() << "/shale-0123456789ab\n\n";
    const LayerId base = import({}, Archive().file("f", "x"));
    EXPECT_EQ(dataset(base), home() + "/shale-0123456789ab/1");
    std::ofstream(driver_root() + "/dataset") << home() << "/shale-0123456789ab\n\n"; // made, not recorded
    reopen({});
    EXPECT_EQ(get(start(next(), {base}) + "/f"), "x");
}

TEST_P(ZfsDriver, FiguresOfAllLayersAreOneCommand) {
    class Count : public sys::Hook {
    public:
        int before(const sys::Call &call) noexcept override {
            if (call.op == sys::Op::exec) ++execs;
            return 0;
        }
        std::atomic<int> execs = 0;
    };
    const LayerId base = import({}, Archive().file("f", "x"));
    for (int i = 0; i < 20; ++i)
        ASSERT_DONE(driver_->create(next(), std::vector{base}, {}));
    Count count;
    sys::set_hook(&count);
    for (int pass = 0; pass < 2; ++pass)
        for (uint64_t id = 2; id <= 11; ++id)
            EXPECT_DONE(driver_->usage(LayerId{id}, std::vector{base}));
    const int execs = count.execs;
    EXPECT_EQ(driver_->list()->size(), 21U);
    sys::set_hook(nullptr);
    EXPECT_EQ(count.execs, execs) << "a list needs none";
    // Without the library each look for a snapshot is a command as well.
    EXPECT_LE(execs, GetParam() == "zfs" ? 4 : 100) << "of 20 figures; the table is read again after a second";
}

TEST_P(ZfsDriver, ADatasetAtItsQuotaSaysSo) {
    const LayerId base = import({}, Archive().file("f", std::string(100'000, 'x')));
    const LayerId filler = next();
    const std::string path = start(filler, {base});
    zfs({"set", fmt::format("quota={}", zfs_.get(home())->used + (2U << 20U)), home()});
    {
        const UniqueFd fd(::open((path + "/fill").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
        const std::string block = noise(1U << 16U);
        for (int i = 0; i < 200; ++i)
            if (::write(fd.get(), block.data(), block.size()) < 0) break;
    }
    EXPECT_DONE(zfs_.sync_pool(sys::zfs_pool_of(home())));
    for (int i = 0; i < 5; ++i) {
        const auto refused = driver_->create(next(), std::vector{base}, {});
        ASSERT_FALSE(refused);
        EXPECT_EQ(refused.error().code(), Errc::ResourceExhausted) << refused.error().text();
    }
    const auto imported = try_import(next(), {base}, Archive().file("big", noise(3U << 20U)).bytes());
    ASSERT_FALSE(imported);
    EXPECT_EQ(imported.error().code(), Errc::ResourceExhausted) << imported.error().text();
    zfs({"set", "quota=none", home()});
    const auto left = driver_->list();
    ASSERT_DONE(left);
    for (const LayerId id : *left)
        if (id > filler) EXPECT_DONE(driver_->remove(id));
    EXPECT_DONE(driver_->reap(nullptr));
    EXPECT_EQ(driver_->trash()->layers, 0U);
    ASSERT_DONE(driver_->create(next(), std::vector{base}, {}));
    const LayerId last = import({base}, Archive().file("big", noise(3U << 20U)));
    EXPECT_EQ(get(view(last, {base}) + "/big").size(), 3U << 20U);
}

TEST_P(ZfsDriver, AtAQuotaEveryCreateIsRefusedWithTheFiguresUntilSpaceReturns) {
    // The driver's directory lies elsewhere, so that nothing but ZFS refuses.
    const test::World elsewhere;
    auto options = test::options_of(GetParam(), elsewhere / "zfs");
    options["dataset"] = home();
    auto opened = (*drivers::find_driver("zfs"))->open(elsewhere / "zfs", options);
    ASSERT_DONE(opened);
    driver_ = std::move(*opened);
    const LayerId base = import({}, Archive().file("f", "x"));
    const LayerId filler = next();
    const std::string path = start(filler, {base});
    zfs({"set", fmt::format("quota={}", zfs_.get(home())->used + (12U << 20U)), home()});
    int ended = 0;
    {
        const UniqueFd fd(::open((path + "/fill").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
        const std::string block = noise(1U << 16U);
        // What is not written out yet counts 24 times: the quota is reached when nothing of that is left.
        for (int i = 0; i < 400 && ended == 0; ++i) {
            if (::write(fd.get(), block.data(), block.size()) >= 0) continue;
            EXPECT_DONE(zfs_.sync_pool(sys::zfs_pool_of(home())));
            if (::write(fd.get(), block.data(), block.size()) < 0) ended = errno;
        }
    }
    EXPECT_EQ(ended, EDQUOT);
    for (int i = 0; i < 5; ++i) {
        const auto refused = driver_->create(next(), std::vector{base}, {});
        ASSERT_FALSE(refused) << zfs_.get(home())->available << " left";
        EXPECT_EQ(refused.error().code(), Errc::ResourceExhausted) << refused.error().text();
        EXPECT_THAT(refused.error().text(), HasSubstr(" left; nothing was kept"));
        EXPECT_FALSE(try_import(next(), {base}, Archive().file("g", "y").bytes()));
    }
    stop(filler);
    ASSERT_DONE(driver_->remove(filler));
    ASSERT_DONE(driver_->reap(nullptr));
    EXPECT_DONE(zfs_.sync_pool(sys::zfs_pool_of(home())));
    const LayerId fresh = next();
    put(start(fresh, {base}) + "/g", "y");
    commit(fresh, {base});
    EXPECT_EQ(get(view(fresh, {base}) + "/g"), "y");
    drop_views();
    zfs({"set", "quota=none", home()});
    driver_.reset();
}

TEST_P(ZfsDriver, AFullPoolIsNamedAndLayersCanStillGo) {
    // The driver's directory lies elsewhere, so that ZFS is what has no room.
    const test::World elsewhere;
    auto options = test::options_of(GetParam(), elsewhere / "zfs");
    options["dataset"] = home();
    auto opened = (*drivers::find_driver("zfs"))->open(elsewhere / "zfs", options);
    ASSERT_DONE(opened);
    driver_ = std::move(*opened);
    const LayerId base = import({}, Archive().file("f", "x"));
    const LayerId victim = next();
    ASSERT_DONE(driver_->create(victim, std::vector{base}, {}));
    const std::string pool(sys::zfs_pool_of(home()));
    take_all_of(pool);
    for (int i = 0; i < 3; ++i) {
        const auto refused = driver_->create(next(), std::vector{base}, {});
        ASSERT_FALSE(refused);
        EXPECT_EQ(refused.error().code(), Errc::ResourceExhausted) << refused.error().text();
        for (const std::string &part : {home() + "/shale-", "pool " + pool, std::string("left")})
            EXPECT_THAT(refused.error().text(), HasSubstr(part));
    }
    ASSERT_DONE(driver_->remove(victim));
    EXPECT_DONE(driver_->reap(nullptr));
    EXPECT_EQ(driver_->trash()->layers, 0U);
    zfs({"destroy", pool + "/full"});
    ASSERT_DONE(driver_->remove(LayerId{3}));
    ASSERT_DONE(driver_->create(LayerId{3}, std::vector{base}, {}));
    EXPECT_EQ(get(view(LayerId{3}, {base}) + "/f"), "x");
    drop_views();
    driver_.reset();
}

TEST_P(ZfsDriver, LimitsOfTheTree) {
    reopen({{"limit", "refquota"}});
    const LayerId base = import({}, Archive().file("f", noise(1U << 20U)));
    const LayerId id = next();
    ASSERT_DONE(driver_->create(id, std::vector{base}, {.bytes = 8U << 20U}));
    EXPECT_EQ(zfs_.get(dataset(id))->refquota, 8U << 20U);
    EXPECT_EQ(driver_->quota()->get(id)->bytes, 8U << 20U);
    const auto small = driver_->create(next(), std::vector{base}, {.bytes = 4096});
    EXPECT_FALSE(small) << "less than the parent's tree";
    const auto inodes = driver_->create(next(), std::vector{base}, {.inodes = 10});
    ASSERT_FALSE(inodes);
    EXPECT_EQ(inodes.error().code(), Errc::Unimplemented);
}

TEST_P(ZfsDriver, AnotherPlaceIsRefusedInWords) {
    (void)import({}, Archive().file("f", "x"));
    const auto moved = (*drivers::find_driver("zfs"))
                           ->open(driver_root(), {{"dataset", std::string(sys::zfs_pool_of(home())) + "/other"}});
    ASSERT_DONE(moved);
    const auto refused = (*moved)->create(next(), {}, {});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Errc::FailedPrecondition);
    EXPECT_THAT(refused.error().text(), HasSubstr(parent()));
    const auto elsewhere = (*drivers::find_driver("zfs"))->open("/dev/shm/shale-no-zfs", {});
    (void)::rmdir("/dev/shm/shale-no-zfs");
    ASSERT_FALSE(elsewhere);
    EXPECT_EQ(elsewhere.error().code(), Errc::FailedPrecondition);
    EXPECT_THAT(elsewhere.error().text(), HasSubstr("dataset="));
}

TEST_P(ZfsDriver, ACopiedStoreDoesNotTouchTheOriginalsDatasets) {
    const LayerId base = import({}, Archive().file("f", "x"));
    const LayerId victim = next();
    ASSERT_DONE(driver_->create(victim, std::vector{base}, {}));
    const std::string copy = scratch_ + "/copy";
    std::filesystem::copy(driver_root(), copy,
                          std::filesystem::copy_options::recursive | std::filesystem::copy_options::copy_symlinks);
    const auto other = (*drivers::find_driver("zfs"))->open(copy, test::options_of(GetParam(), copy));
    ASSERT_DONE(other);
    const auto refused = [&](drivers::Driver &driver, const Status &done) {
        ASSERT_FALSE(done);
        EXPECT_EQ(done.error().code(), Errc::FailedPrecondition) << done.error().text();
        EXPECT_THAT(done.error().text(),
                    HasSubstr("belongs to the store at " + (&driver == driver_.get() ? copy : driver_root())));
        EXPECT_THAT(done.error().text(), HasSubstr("zfs set shale:root="));
    };
    refused(**other, (*other)->create(LayerId{7}, std::vector{base}, {}));
    ASSERT_DONE((*other)->remove(victim));
    const auto reaped = (*other)->reap(nullptr);
    refused(**other, reaped ? Status{} : Status(std::unexpected(reaped.error())));
    EXPECT_TRUE(*zfs_.exists(dataset(victim)));
    EXPECT_EQ(get(view(victim, {base}) + "/f"), "x");
    drop_views();
    // The way out of the text, for a store that was moved.
    zfs({"set", "shale:root=" + copy, parent()});
    const auto moved = (*drivers::find_driver("zfs"))->open(copy, test::options_of(GetParam(), copy));
    ASSERT_DONE(moved);
    ASSERT_DONE((*moved)->reap(nullptr));
    EXPECT_FALSE(*zfs_.exists(dataset(victim)));
    reopen({});
    refused(*driver_, driver_->create(next(), std::vector{base}, {}));
}

TEST_P(ZfsDriver, WhatIsInAPoolThatIsNotImportedIsNotGone) {
    const auto zpool = [](std::vector<std::string> arguments) {
        arguments.insert(arguments.begin(), *sys::find_tool("zpool", "zfsutils-linux"));
        EXPECT_DONE(sys::run_tool_or_fail(arguments, std::chrono::minutes(2)));
    };
    const test::World elsewhere;
    const std::string pool = fmt::format("shaleaway{}", ::getpid()), file = elsewhere / "file";
    put(file, "");
    std::filesystem::resize_file(file, 256U << 20U);
    zpool({"create", "-o", "cachefile=none", "-O", "mountpoint=legacy", pool, file});
    auto options = test::options_of(GetParam(), elsewhere / "zfs");
    options["dataset"] = pool;
    const auto again = [&] {
        auto opened = (*drivers::find_driver("zfs"))->open(elsewhere / "zfs", options);
        EXPECT_DONE(opened);
        driver_ = std::move(*opened);
    };
    again();
    const LayerId base = import({}, Archive().file("f", "x"));
    ASSERT_DONE(driver_->remove(base));
    again();
    zpool({"export", pool});
    for (int i = 0; i < 2; ++i) {
        const auto reaped = driver_->reap(nullptr);
        ASSERT_FALSE(reaped);
        EXPECT_EQ(reaped.error().code(), Errc::FailedPrecondition) << reaped.error().text();
        EXPECT_THAT(reaped.error().text(), HasSubstr("not imported"));
        EXPECT_EQ(driver_->trash()->layers, 1U);
        EXPECT_FALSE(driver_->dismantle());
    }
    zpool({"import", "-d", elsewhere.path(), "-o", "cachefile=none", pool});
    EXPECT_EQ(zfs_.list(zfs_.list(pool)->back().name)->size(), 2U) << "the hidden dataset and the layer's";
    ASSERT_DONE(driver_->reap(nullptr));
    EXPECT_EQ(driver_->trash()->layers, 0U);
    ASSERT_DONE(driver_->dismantle());
    EXPECT_EQ(zfs_.list(pool)->size(), 1U);
    driver_.reset();
    zpool({"destroy", pool});
}

TEST_P(ZfsDriver, ADatasetOfThatNumberIsAnothersAndStays) {
    const LayerId base = import({}, Archive().file("f", "x"));
    ASSERT_DONE(driver_->create(next(), std::vector{base}, {})); // with the number after it reserved
    const std::string others = parent() + "/3";
    ASSERT_DONE(zfs_.create(others));
    const LayerId id = next();
    const auto refused = driver_->create(id, std::vector{base}, {});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().sys_errno(), EEXIST) << refused.error().text();
    ASSERT_DONE(driver_->remove(id));
    EXPECT_EQ(*driver_->reap(nullptr), 1U);
    EXPECT_TRUE(*zfs_.exists(others));
}

INSTANTIATE_TEST_SUITE_P(Drivers, ZfsDriver, testing::ValuesIn(driver_names("zfs")),
                         [](const auto &info) { return info.param; });

} // namespace
} // namespace shale::conformance
