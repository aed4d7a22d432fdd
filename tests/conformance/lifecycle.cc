// SPDX-License-Identifier: Apache-2.0
// Layers as containers see them: create, mount, write, seal, remove.
#include <fcntl.h>
#include <linux/capability.h>
#include <sys/mman.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <optional>

#include <fmt/format.h>

#include "conformance/fixture.h"
#include "drivers/measure.h"
#include "sys/fs.h"
#include "sys/mount.h"

namespace shale::conformance {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::EndsWith;
using testing::HasSubstr;
using testing::IsEmpty;
using Access = drivers::Driver::Access;

class Lifecycle : public DriverTest {};

TEST_P(Lifecycle, CreateEmpty) {
    const std::string path = start(next(), {});
    EXPECT_EQ(mode_of(path), 0755U);
    EXPECT_EQ(owner_of(path), "0:0");
    EXPECT_THAT(names_in(path), IsEmpty());
}

TEST_P(Lifecycle, CreateBase) {
    const LayerId id = next();
    std::string path = start(id, {});
    put(path + "/file", "text");
    ASSERT_EQ(::chmod((path + "/file").c_str(), 04222), 0);
    fs::create_directory(path + "/dir");
    ASSERT_EQ(::chown((path + "/dir").c_str(), 1, 2), 0);
    ASSERT_EQ(::chmod((path + "/dir").c_str(), 01705), 0);
    stop(id);
    path = mount(id, {});
    EXPECT_EQ(mode_of(path + "/file"), 04222U);
    EXPECT_EQ(mode_of(path + "/dir"), 01705U);
    EXPECT_EQ(owner_of(path + "/dir"), "1:2");
}

TEST_P(Lifecycle, CreateSnap) {
    const LayerId base = import({}, Archive().dir("dir", 0705, 1, 2).file("file", "base", 0222));
    const LayerId child = next();
    std::string path = start(child, {base});
    EXPECT_EQ(get(path + "/file"), "base");
    ASSERT_EQ(::chmod(path.c_str(), 0711), 0);
    commit(child, {base});
    const LayerId grandchild = next();
    path = start(grandchild, over({base, child}));
    EXPECT_EQ(mode_of(path), 0711U) << "the child's root mode shows in the grandchild";
    EXPECT_EQ(mode_of(view(base, {}) + "/."), 0755U) << "and not in the base";
}

TEST_P(Lifecycle, RootPermission) {
    archive::Entry root;
    root.type = archive::EntryType::directory;
    root.path = "./";
    root.mode = 0555;
    root.uid = 3;
    root.gid = 4;
    const LayerId base = import({}, Archive().entry(root).file("f", "x"));
    const LayerId second = import({base}, Archive().file("g", "y"));
    EXPECT_EQ(mode_of(view(second, {base}) + "/."), 0555U) << "a layer without a root entry keeps its parent's";
    const std::string path = start(next(), over({base, second}));
    EXPECT_EQ(mode_of(path), 0555U);
    EXPECT_EQ(owner_of(path), "3:4");
}

TEST_P(Lifecycle, RootXattrsAreInherited) {
    const LayerId base = next();
    std::string path = start(base, {});
    ASSERT_DONE(sys::set_xattr(AT_FDCWD, path.c_str(), "user.test", "0:0:0755"));
    commit(base, {});
    path = start(next(), {base});
    EXPECT_EQ(xattr_of(path, "user.test"), "0:0:0755");
}

TEST_P(Lifecycle, DeepLayerRead) {
    const int depth = static_cast<int>(test::deep(GetParam(), std::min(128U, driver_->max_depth() - 1)));
    std::vector<LayerId> layers;
    for (int i = 0; i < depth; ++i)
        layers.push_back(import(over(layers), Archive().file(fmt::format("f{}", i), std::to_string(i))));
    const std::string path = start(next(), over(layers));
    for (int i = 0; i < depth; ++i)
        EXPECT_EQ(get(fmt::format("{}/f{}", path, i)), std::to_string(i));
}

TEST_P(Lifecycle, FiveHundredLayers) {
    // Each layer is one small file; a driver that copies trees copies 500 small ones at most.
    const unsigned depth = test::deep(GetParam(), 500);
    std::vector<LayerId> layers;
    for (unsigned i = 0; i < depth; ++i) {
        const LayerId id = next();
        ASSERT_DONE(
            try_import(id, over(layers), Archive().file(fmt::format("f{}", i % 50), std::to_string(i)).bytes()));
        layers.push_back(id);
    }
    const LayerId top = next();
    const std::string path = start(top, over(layers));
    EXPECT_EQ(get(path + "/f0"), std::to_string(depth - 50));
    EXPECT_EQ(get(path + "/f49"), std::to_string(depth - 1));
    put(path + "/f0", "own");
    EXPECT_THAT(changes(top, over(layers)), ElementsAre("C /f0"));
}

TEST_P(Lifecycle, ListLayers) {
    EXPECT_THAT(*driver_->list(), IsEmpty());
    const LayerId a = import({}, Archive().file("f", "x"));
    const LayerId b = next();
    ASSERT_DONE(driver_->create(b, std::vector{a}, {}));
    const LayerId c = next();
    ASSERT_DONE(driver_->stage(c, std::vector{a}));
    EXPECT_THAT(*driver_->list(), ElementsAre(a, b, c));
    ASSERT_DONE(driver_->remove(b));
    EXPECT_THAT(*driver_->list(), ElementsAre(a, c));
}

TEST_P(Lifecycle, ViewReadonly) {
    const LayerId base = import({}, Archive().file("f", "x"));
    const LayerId child = import({base}, Archive().file("g", "y"));
    for (const auto &[id, parents] : {std::pair(base, std::vector<LayerId>{}), std::pair(child, std::vector{base})}) {
        const std::string path = mount(id, parents, Access::read_only);
        EXPECT_EQ(get(path + "/f"), "x");
        EXPECT_EQ(::open((path + "/new").c_str(), O_WRONLY | O_CREAT, 0600), -1);
        EXPECT_EQ(errno, EROFS);
    }
}

TEST_P(Lifecycle, LayerFileupdate) {
    const LayerId base = import({}, Archive().dir("etc", 0700).file("etc/hosts", "one").file("foo", "bin", 0644));
    const LayerId child = next();
    const std::string path = start(child, {base});
    put(path + "/etc/hosts", "one two");
    commit(child, {base});
    EXPECT_EQ(get(view(child, {base}) + "/etc/hosts"), "one two");
    EXPECT_EQ(get(view(base, {}) + "/etc/hosts"), "one");
    EXPECT_EQ(mode_of(view(child, {base}) + "/etc"), 0700U);
}

TEST_P(Lifecycle, RemoveDirectoryInLowerLayer) {
    const LayerId base = import({}, Archive().dir("lib").file("lib/a", "1").file("lib/b", "2"));
    const LayerId second = next();
    std::string path = start(second, {base});
    fs::remove_all(path + "/lib");
    commit(second, {base});
    const LayerId third = next();
    path = start(third, over({base, second}));
    fs::create_directory(path + "/lib");
    put(path + "/lib/c", "3");
    EXPECT_THAT(names_in(path + "/lib"), ElementsAre("c"));
    commit(third, over({base, second}));
    EXPECT_THAT(names_in(view(third, over({base, second})) + "/lib"), ElementsAre("c"));
}

TEST_P(Lifecycle, Chown) {
    const LayerId base = import({}, Archive().dir("opt").file("opt/a", "x", 0644, 0, 0));
    const LayerId child = next();
    const std::string path = start(child, {base});
    ASSERT_EQ(::chown((path + "/opt").c_str(), 7, 8), 0);
    ASSERT_EQ(::chown((path + "/opt/a").c_str(), 9, 10), 0);
    commit(child, {base});
    const std::string seen = view(child, {base});
    EXPECT_EQ(owner_of(seen + "/opt"), "7:8");
    EXPECT_EQ(owner_of(seen + "/opt/a"), "9:10");
}

TEST_P(Lifecycle, DirectoryPermissionOnCommit) {
    const LayerId base = import({}, Archive().dir("d1", 0700, 1, 1).dir("d2", 0711, 2, 2));
    const LayerId child = next();
    const std::string path = start(child, {base});
    ASSERT_EQ(::chown((path + "/d1").c_str(), 5, 5), 0);
    put(path + "/d2/new", "x");
    commit(child, {base});
    const std::string seen = view(child, {base});
    EXPECT_EQ(owner_of(seen + "/d1"), "5:5");
    EXPECT_EQ(mode_of(seen + "/d1"), 0700U);
    EXPECT_EQ(owner_of(seen + "/d2"), "2:2");
    EXPECT_EQ(mode_of(seen + "/d2"), 0711U);
}

TEST_P(Lifecycle, RemoveIntermediate) {
    const LayerId base = import({}, Archive().file("f", "x"));
    const LayerId child = next();
    start(child, {base});
    stop(child);
    ASSERT_DONE(driver_->remove(child));
    ASSERT_DONE(driver_->remove(base));
    EXPECT_THAT(*driver_->list(), IsEmpty());
}

TEST_P(Lifecycle, DeletedFilesInChild) {
    const LayerId base = import({}, Archive().dir("d").file("d/a", "1").file("d/b", "2").file("c", "3"));
    const LayerId child = next();
    const std::string path = start(child, {base});
    fs::remove(path + "/d/a");
    fs::remove(path + "/c");
    commit(child, {base});
    const std::string seen = view(child, {base});
    EXPECT_FALSE(exists(seen + "/d/a"));
    EXPECT_FALSE(exists(seen + "/c"));
    EXPECT_EQ(get(seen + "/d/b"), "2");
}

TEST_P(Lifecycle, MoveFileFromLowerLayer) {
    const LayerId base = import({}, Archive().dir("dir1").file("dir1/f1", "one").dir("dir2").file("dir2/f2", "two"));
    const LayerId child = next();
    const std::string path = start(child, {base});
    fs::rename(path + "/dir1/f1", path + "/dir2/f1");
    commit(child, {base});
    const std::string seen = view(child, {base});
    EXPECT_FALSE(exists(seen + "/dir1/f1"));
    EXPECT_EQ(get(seen + "/dir2/f1"), "one");
}

TEST_P(Lifecycle, RenameDirectoryFromLower) {
    if (GetParam() == "overlay2") reopen({{"redirect_dir", "on"}});
    const LayerId base = import({}, Archive().dir("a").dir("a/deep").file("a/deep/f", "x").file("a/g", "y"));
    const LayerId child = next();
    const std::string path = start(child, {base});
    const int renamed = ::rename((path + "/a").c_str(), (path + "/b").c_str());
    if (GetParam() == "overlay" || GetParam() == "erofs") { // have no redirects: mv copies then
        EXPECT_EQ(renamed, -1);
        EXPECT_EQ(errno, EXDEV);
        return;
    }
    ASSERT_EQ(renamed, 0) << std::strerror(errno);
    put(path + "/b/deep/new", "z");
    commit(child, {base});
    const std::string seen = view(child, {base});
    EXPECT_FALSE(exists(seen + "/a"));
    EXPECT_EQ(get(seen + "/b/deep/f"), "x");
    EXPECT_EQ(get(seen + "/b/deep/new"), "z");
    // Its archive on a sibling makes the same tree, however it was made.
    drivers::Driver::DiffReport report;
    const std::string tar = diff(child, {base}, &report);
    EXPECT_FALSE(report.native);
    EXPECT_THAT(report.walk_reason, testing::Not(IsEmpty()));
    const LayerId copy = next();
    ASSERT_DONE(try_import(copy, {base}, tar));
    EXPECT_EQ(describe(view(copy, {base})), describe(seen));
}

TEST_P(Lifecycle, RenameDirectoryDefault) {
    const LayerId base = import({}, Archive().dir("a").file("a/f", "x"));
    const std::string path = start(next(), {base});
    if (::rename((path + "/a").c_str(), (path + "/b").c_str()) != 0) {
        EXPECT_EQ(errno, EXDEV) << "mv copies then";
    }
    EXPECT_EQ(get(path + (exists(path + "/b") ? "/b/f" : "/a/f")), "x");
}

TEST_P(Lifecycle, MountsAreStable) {
    const LayerId base = import({}, Archive().file("f", "x"));
    const LayerId child = next();
    ASSERT_DONE(driver_->create(child, std::vector{base}, {}));
    const auto one = driver_->mounts(child, std::vector{base}, Access::read_write);
    reopen({});
    const auto two = driver_->mounts(child, std::vector{base}, Access::read_write);
    ASSERT_DONE(one);
    ASSERT_DONE(two);
    ASSERT_EQ(one->size(), two->size());
    for (size_t i = 0; i < one->size(); ++i) {
        EXPECT_EQ((*one)[i].type, (*two)[i].type);
        EXPECT_EQ((*one)[i].source, (*two)[i].source);
        EXPECT_EQ((*one)[i].options, (*two)[i].options);
    }
}

TEST_P(Lifecycle, RemoveTrashReap) {
    const LayerId base = import({}, Archive().dir("d").file("d/a", "1").file("b", "2"));
    ASSERT_DONE(driver_->remove(base));
    EXPECT_THAT(*driver_->list(), IsEmpty());
    EXPECT_THAT(driver_->trash()->ids, ElementsAre(base));
    ASSERT_DONE(driver_->remove(base));          // again is fine
    ASSERT_DONE(driver_->remove(LayerId{4711})); // as is one never seen
    const std::atomic<bool> cancel = true;
    EXPECT_EQ(*driver_->reap(&cancel), 0U);
    EXPECT_EQ(driver_->trash()->layers, 1U);
    EXPECT_GE(*driver_->reap(nullptr), 1U); // a subvolume or an image is one entry, whatever is in it
    EXPECT_EQ(driver_->trash()->layers, 0U);
}

TEST_P(Lifecycle, IsGivenUpWhole) {
    const LayerId base = import({}, Archive().file("f", "x"));
    const LayerId child = next();
    put(start(child, {base}) + "/g", "y");
    stop(child);
    for (const LayerId id : {child, base})
        ASSERT_DONE(driver_->remove(id));
    ASSERT_DONE(driver_->reap(nullptr));
    ASSERT_DONE(driver_->dismantle());
    ASSERT_DONE(driver_->dismantle()); // again is fine
    EXPECT_THAT(*driver_->list(), IsEmpty());
    EXPECT_EQ(driver_->trash()->layers, 0U);
}

TEST_P(Lifecycle, RemoveAfterUse) {
    // The kernel leaves work/work with mode 0 behind.
    const LayerId base = import({}, Archive().file("f", "x"));
    const LayerId child = next();
    const std::string path = start(child, {base});
    put(path + "/f", "y");
    stop(child);
    ASSERT_DONE(driver_->remove(child));
    EXPECT_GE(*driver_->reap(nullptr), 1U);
    EXPECT_EQ(driver_->trash()->layers, 0U);
}

TEST_P(Lifecycle, CrashLeftovers) {
    const LayerId id = next();
    {
        auto staging = driver_->stage(id, {});
        ASSERT_DONE(staging);
        ASSERT_DONE(staging->tree->make_dir(staging->tree->root(), "junk", 0700));
    }
    ASSERT_DONE(try_import(id, {}, Archive().file("f", "x").bytes())); // the leftover goes first
    EXPECT_THAT(names_in(view(id, {})), ElementsAre("f"));
    // A create that ended after its first step.
    const LayerId half = next();
    ASSERT_EQ(::mkdir(fmt::format("{}/{}", driver_root(), half.value).c_str(), 0700), 0);
    EXPECT_THAT(*driver_->check(half, {}), testing::Not(IsEmpty()));
    ASSERT_DONE(driver_->remove(half));
    ASSERT_DONE(driver_->create(half, {}, {}));
    EXPECT_THAT(*driver_->check(half, {}), IsEmpty());
    EXPECT_THAT(*driver_->check(id, {}), IsEmpty());
    EXPECT_THAT(*driver_->check(LayerId{99}, {}), testing::Not(IsEmpty()));
}

TEST_P(Lifecycle, Usage) {
    const LayerId base = import({}, Archive().dir("d").file("d/a", std::string(100'000, 'x')).link("d/b", "d/a"));
    ASSERT_DONE(driver_->sync(std::span(&base, 1))); // delayed allocation has no blocks yet
    const auto use = driver_->usage(base, {});
    ASSERT_DONE(use);
    EXPECT_GE(use->bytes, 100'000U);
    EXPECT_LT(use->bytes, 180'000U) << "the linked file counts once";
    EXPECT_GE(use->inodes, 1U) << "of the file system that the store is on: an image is one";
}

TEST_P(Lifecycle, UsageIsWithoutTheParents) {
    if (test::driver_of(GetParam()) == "vfs") GTEST_SKIP() << "its trees are copies";
    Archive lower;
    for (int n = 0; n < 50; ++n)
        lower.file(fmt::format("lower{}", n), std::string(100'000, 'x'));
    const LayerId base = import({}, lower.dir("d").file("d/changed", "x"));
    ASSERT_DONE(driver_->sync(std::span(&base, 1)));
    const LayerId id = next();
    const std::string path = start(id, {base});
    put(path + "/own", std::string(300'000, 'o'));
    put(path + "/d/changed", std::string(300'000, 'c'));
    stop(id);
    ASSERT_DONE(driver_->sync(std::span(&id, 1)));
    const auto use = driver_->usage(id, std::vector{base});
    ASSERT_DONE(use);
    // devicemapper tells by how much the file system grew: the block that "changed" had is not in it
    EXPECT_GE(use->bytes, 590'000U);
    EXPECT_LT(use->bytes, 2'000'000U);
    EXPECT_LT(use->inodes, 20U);
}

TEST_P(Lifecycle, RefusesUnknownOptions) {
    const auto info = drivers::find_driver(test::driver_of(GetParam()));
    ASSERT_DONE(info);
    const auto opened = (*info)->open(driver_root(), {{"colour", "blue"}});
    ASSERT_FALSE(opened);
    EXPECT_EQ(opened.error().code(), Errc::InvalidArgument);
    EXPECT_THAT(opened.error().text(), HasSubstr("size"));
    for (const auto &option : (*info)->options)
        EXPECT_FALSE(option.help.empty());
}

TEST_P(Lifecycle, Probe) {
    const auto report = driver_->probe();
    ASSERT_DONE(report);
    EXPECT_TRUE(report->usable) << report->reason;
    for (const auto &fact : report->facts) {
        EXPECT_TRUE(fact.value != "no" || !fact.reason.empty() || fact.name == "copy_file_range") << fact.name;
        if (std::getenv("SHALE_TEST_VERBOSE") != nullptr)
            fmt::print("{:12} {:22} {:10} {}\n", GetParam(), fact.name, fact.value, fact.reason);
    }
    const auto writes = std::ranges::find(report->facts, "concurrent writes", &drivers::Fact::name);
    ASSERT_NE(writes, report->facts.end());
    EXPECT_THAT(writes->value, EndsWith("x")) << writes->reason;
    EXPECT_THAT(names_in(driver_root()), IsEmpty()) << "a probe leaves nothing behind";
}

TEST_P(Lifecycle, ChooseDriver) {
    const auto chosen = drivers::choose_driver(scratch_);
    ASSERT_DONE(chosen);
    // Overlay's upper directory can lie on ZFS since 2.2.
    const bool on_zfs = test::driver_of(GetParam()) == "zfs" && (*chosen)->name == "zfs";
    EXPECT_EQ((*chosen)->name, on_zfs ? "zfs" : "overlay2");
    const auto unknown = drivers::find_driver("aufs");
    ASSERT_FALSE(unknown);
    EXPECT_EQ(unknown.error().code(), Errc::NotFound);
}

/// ext4 lets a thread with CAP_SYS_RESOURCE past any limit; containers do not have it.
class WithoutSysResource {
public:
    WithoutSysResource() {
        EXPECT_EQ(::syscall(SYS_capget, &header_, before_.data()), 0);
        auto less = before_;
        less[0].effective &= ~(1U << CAP_SYS_RESOURCE);
        EXPECT_EQ(::syscall(SYS_capset, &header_, less.data()), 0);
    }
    ~WithoutSysResource() { EXPECT_EQ(::syscall(SYS_capset, &header_, before_.data()), 0); }
    WithoutSysResource(const WithoutSysResource &) = delete;
    WithoutSysResource &operator=(const WithoutSysResource &) = delete;

private:
    __user_cap_header_struct header_{_LINUX_CAPABILITY_VERSION_3, 0};
    std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> before_{};
};

TEST_P(Lifecycle, SetQuota) {
    const auto info = drivers::find_driver(test::driver_of(GetParam()));
    ASSERT_DONE(info);
    if (std::ranges::find((*info)->options, "quota", &drivers::OptionInfo::key) != (*info)->options.end())
        reopen({{"quota", "full"}});
    auto *quota = driver_->quota();
    const LayerId base = import({}, Archive().file("f", "x"));
    if (quota == nullptr) {
        const auto refused = driver_->create(next(), std::vector{base}, {.bytes = 50U << 20U});
        ASSERT_FALSE(refused);
        EXPECT_EQ(refused.error().code(), Errc::FailedPrecondition);
        GTEST_SKIP() << "this kernel counts no project quota here: " << refused.error().text();
    }
    const LayerId id = next();
    ASSERT_DONE(driver_->create(id, std::vector{base}, {.bytes = 50U << 20U}));
    EXPECT_EQ(quota->get(id)->bytes, 50U << 20U);
    const std::string path = mount(id, {base});
    UniqueFd fd(::open((path + "/big").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    const std::string block(1U << 20U, 'x');
    std::optional<WithoutSysResource> limited(std::in_place);
    int error = 0; // a write that meets the limit is cut short first; only the next one tells why
    for (uint64_t left = 64U << 20U; left > 0 && error == 0;) {
        const ssize_t wrote = ::write(fd.get(), block.data(), block.size());
        if (wrote < 0 || ::fsync(fd.get()) != 0)
            error = errno;
        else
            left -= std::min(left, static_cast<uint64_t>(wrote));
    }
    EXPECT_TRUE(error == EDQUOT || error == ENOSPC) << error;
    EXPECT_TRUE(driver_->usage(id, std::vector{base})->counted);
    // What was limited becomes a layer, and shares with what is below and above it.
    limited.reset();
    fd.reset();
    fs::remove(path + "/big");
    commit(id, {base});
    const LayerId above = import({id, base}, Archive().file("g", "y"));
    EXPECT_EQ(get(view(above, {id, base}) + "/f"), "x");
    const LayerId next_one = next();
    ASSERT_DONE(driver_->create(next_one, std::vector{above, id, base}, {.bytes = 50U << 20U}));
    put(mount(next_one, {above, id, base}) + "/h", "z");
    commit(next_one, {above, id, base});
    EXPECT_EQ(get(view(next_one, {above, id, base}) + "/g"), "y");
}

/// A crash may come after the seal and before its record.
TEST_P(Lifecycle, ASealedLayerIsSealedAgain) {
    const LayerId base = import({}, Archive().file("f", "base"));
    const LayerId id = next();
    put(start(id, {base}) + "/own", "text");
    commit(id, {base});
    EXPECT_DONE(driver_->seal(id, std::vector{base}));
    EXPECT_EQ(get(view(id, {base}) + "/own"), "text");
    EXPECT_EQ(get(view(id, {base}) + "/f"), "base");
}

/// The form that a driver keeps layers in says the same as the one that a commit leaves, and everything that stands on
/// the layer goes on.
TEST_P(Lifecycle, ASettledLayerIsWhatItWas) {
    const LayerId base =
        import({}, Archive().dir("d").file("d/low", "base").file("gone", "base").dir("cut").file("cut/a", "a"));
    const LayerId id = next(), on_top = next();
    const std::string root = start(id, {base});
    put(root + "/d/new", std::string(70'000, 'n'));
    put(root + "/d/low", "changed");
    std::filesystem::create_hard_link(root + "/d/new", root + "/twin");
    std::filesystem::create_symlink("d/new", root + "/link");
    std::filesystem::remove(root + "/gone");
    std::filesystem::remove_all(root + "/cut");
    std::filesystem::create_directory(root + "/cut");
    commit(id, {base});
    const std::string before = diff(id, {base}), tree = describe(view(id, {base}));
    put(start(on_top, {id, base}) + "/d/own", "own");
    stop(on_top);
    const std::string above = diff(on_top, {id, base});

    const auto refused = driver_->settle(id, []() -> Result<std::shared_ptr<void>> { return nullptr; });
    ASSERT_DONE(refused);
    const auto unsettled = driver_->unsettled();
    ASSERT_DONE(unsettled);
    EXPECT_EQ(*refused, std::ranges::find(*unsettled, id) == unsettled->end()) << "without the permit nothing changes";
    EXPECT_EQ(diff(id, {base}), before);
    settle(id);
    EXPECT_THAT(*driver_->unsettled(), testing::Not(testing::Contains(id)));
    EXPECT_EQ(diff(id, {base}), before);
    EXPECT_EQ(describe(view(id, {base})), tree);
    EXPECT_EQ(diff(on_top, {id, base}), above);
    EXPECT_THAT(*driver_->check(id, std::vector{base}), IsEmpty());
    EXPECT_THAT(*driver_->check(on_top, std::vector{id, base}), IsEmpty());
    const std::string again = mount(on_top, {id, base});
    EXPECT_EQ(get(again + "/d/low") + get(again + "/d/own"), "changedown");
    stop(on_top);
    EXPECT_DONE(driver_->remove(on_top));
    EXPECT_DONE(driver_->remove(id));
}

/// `shale drivers --measure`
TEST_P(Lifecycle, MeasuredAndLeftEmpty) {
    const auto measured = drivers::measure(*driver_, uint64_t{4} << 20, nullptr);
    ASSERT_DONE(measured);
    for (const auto time : {measured->create, measured->copy_up, measured->write, measured->remove})
        EXPECT_GT(time.count(), 0);
    const auto left = driver_->list();
    ASSERT_DONE(left);
    EXPECT_THAT(*left, IsEmpty());
    const auto trash = driver_->trash();
    ASSERT_DONE(trash);
    EXPECT_EQ(trash->layers, 0U);
}

TEST_P(Lifecycle, AMeasurementThatIsCanceledLeavesNothing) {
    const std::atomic<bool> cancel = true;
    const auto measured = drivers::measure(*driver_, uint64_t{1} << 20, &cancel);
    ASSERT_FALSE(measured.has_value());
    EXPECT_EQ(measured.error().code(), Errc::Canceled);
    const auto left = driver_->list();
    ASSERT_DONE(left);
    EXPECT_THAT(*left, IsEmpty());
}

INSTANTIATE_TEST_SUITE_P(Drivers, Lifecycle, testing::ValuesIn(driver_names()),
                         [](const auto &info) { return info.param; });

} // namespace shale::conformance
