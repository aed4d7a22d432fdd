// SPDX-License-Identifier: Apache-2.0
#include "doctor/hosts/hard_links.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <chrono>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include <fmt/format.h>

#include "doctor/check.h"
#include "probe/test_root.h"

namespace shale::doctor {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

constexpr size_t file_bytes = 8192;

/// A base of four files and a layer on it that links to all of them, as its driver would make it.
class HardLinksTest : public testing::Test {
protected:
    explicit HardLinksTest(const char *engine = "docker") : engine_(engine) {
        auto &store = facts_.stores.emplace_back();
        store.engine = engine_;
        store.driver = "overlay";
        store.root = fmt::format("/var/lib/{}", engine_);
        add_layer("base", "", 4 * file_bytes);
        for (const char *name : {"a", "b", "etc/c", "etc/d"})
            write("base", name);
        link_all("base", "top");
        add_layer("top", "base", 0);
    }
    void add_layer(const std::string &id, const std::string &parent, uint64_t recorded_bytes) {
        auto &layer = facts_.stores[0].layers.emplace_back();
        layer.id = id;
        layer.parent = parent;
        layer.path = fmt::format("{}/overlay/{}", facts_.stores[0].root, id);
        layer.kind = "committed";
        layer.recorded = layer.on_disk = true;
        layer.recorded_bytes = recorded_bytes;
    }
    [[nodiscard]] std::string tree(const std::string &id) const {
        return fmt::format("/var/lib/{}/overlay/{}/{}", engine_, id, engine_ == "docker" ? "root" : "fs");
    }
    [[nodiscard]] fs::path file(const std::string &id, const std::string &name) const {
        return root_.here(fmt::format("{}/{}", tree(id), name));
    }
    void write(const std::string &id, const std::string &name, size_t bytes = file_bytes) const {
        root_.file(fmt::format("{}/{}", tree(id), name), std::string(bytes, 'x'));
    }
    void link_all(const std::string &from, const std::string &to) const {
        fs::copy(root_.here(tree(from)), make(tree(to)),
                 fs::copy_options::recursive | fs::copy_options::create_hard_links);
    }
    /// As rsync without -H does it.
    void break_link(const std::string &id, const std::string &name) const {
        const fs::path path = file(id, name);
        const auto time = fs::last_write_time(path);
        fs::rename(path, path.string() + "~");
        fs::copy_file(path.string() + "~", path);
        fs::last_write_time(path, time);
        fs::remove(path.string() + "~");
    }
    const std::vector<std::string> &look(const LinkLimits &limits = {}) {
        for (auto &layer : facts_.stores[0].layers)
            layer.damage.clear();
        look_for_broken_links(root_.host(), facts_, limits);
        EXPECT_THAT(facts_.stores[0].layers.at(0).damage, IsEmpty());
        return facts_.stores[0].layers.at(1).damage;
    }

    std::string engine_;
    probe::TestRoot root_;
    probe::Facts facts_;

private:
    [[nodiscard]] std::string make(const std::string &path) const {
        root_.dir(path);
        return root_.here(path);
    }
};
class ShaleHardLinksTest : public HardLinksTest {
protected:
    ShaleHardLinksTest() : HardLinksTest("shale") {}
};

TEST_F(HardLinksTest, WholeOnesAreNothing) {
    EXPECT_THAT(look(), IsEmpty());
    EXPECT_THAT(facts_.problems, IsEmpty());
}

TEST_F(HardLinksTest, ACopyIsTold) {
    break_link("top", "etc/c");
    EXPECT_THAT(look(), ElementsAre("hard link: 1 of 4 files are copies of the parent's, 8.0 KiB: /etc/c"));
    const auto outcome = find_check("hard-link-breaks")->run(facts_);
    ASSERT_THAT(outcome.findings, SizeIs(1));
    EXPECT_THAT(outcome.findings[0].evidence, ElementsAre(HasSubstr("layer top: hard link: 1 of 4 files")));
    EXPECT_THAT(find_check("damaged-layers")->run(facts_).findings, IsEmpty()) << "nothing is lost";
}

TEST_F(ShaleHardLinksTest, ACopyIsTold) {
    break_link("top", "a");
    EXPECT_THAT(look(), ElementsAre("hard link: 1 of 4 files are copies of the parent's, 8.0 KiB: /a"));
}

/// A copy that has links itself: the layer above was linked to it.
TEST_F(HardLinksTest, ACopyWithLayersOnItIsTold) {
    break_link("top", "a");
    link_all("top", "third");
    add_layer("third", "top", 0);
    EXPECT_THAT(look(), SizeIs(1));
    EXPECT_THAT(facts_.stores[0].layers[2].damage, IsEmpty());
}

TEST_F(HardLinksTest, WhatTheRecordExplainsIsTheLayersOwn) {
    break_link("top", "a"); // opened for writing in a container, and not written to
    write("top", "new");
    facts_.stores[0].layers[1].recorded_bytes = 2 * file_bytes;
    EXPECT_THAT(look(), IsEmpty());
    break_link("top", "b");
    EXPECT_THAT(look(), SizeIs(1));
    facts_.stores[0].layers[1].recorded_bytes.reset();
    EXPECT_THAT(look(), IsEmpty());
}

TEST_F(HardLinksTest, AnotherFileIsNoCopy) {
    break_link("top", "a");
    fs::permissions(file("top", "a"), fs::perms::owner_all);
    break_link("top", "b");
    fs::last_write_time(file("top", "b"), fs::last_write_time(file("base", "b")) - std::chrono::hours(1));
    break_link("top", "etc/c");
    fs::resize_file(file("top", "etc/c"), file_bytes + 1);
    fs::remove(file("top", "etc/d"));
    fs::create_symlink("../a", file("top", "etc/d"));
    write("top", "new", file_bytes);
    EXPECT_THAT(look(), IsEmpty());
}

TEST_F(HardLinksTest, OnlyFinishedLayersAreCompared) {
    break_link("top", "a");
    auto &top = facts_.stores[0].layers[1];
    top.kind = "active";
    EXPECT_THAT(look(), IsEmpty());
    top.kind = "committed";
    top.parent = "top"; // of itself
    EXPECT_THAT(look(), IsEmpty());
    top.parent = "lost";
    EXPECT_THAT(look(), IsEmpty());
    top.parent = "base";
    facts_.stores[0].driver = "overlay2";
    EXPECT_THAT(look(), IsEmpty());
    EXPECT_THAT(facts_.problems, IsEmpty());
}

TEST_F(HardLinksTest, MissingTreesAreTheReadersToTell) {
    fs::remove_all(root_.here(tree("base")));
    EXPECT_THAT(look(), IsEmpty());
    EXPECT_THAT(facts_.problems, IsEmpty());
}

/// What its record says is what was written, not what its blocks hold.
TEST_F(HardLinksTest, AFileWithHolesIsNotMeasuredByItsBlocks) {
    break_link("top", "a"); // opened for writing in a container, and not written to
    write("top", "sparse", 1);
    fs::resize_file(file("top", "sparse"), 1U << 20U);
    struct stat status{};
    ASSERT_EQ(::stat(file("top", "sparse").c_str(), &status), 0);
    if (status.st_blocks * 512 >= 1 << 20) GTEST_SKIP() << "no holes on this file system: NOT TESTED";
    facts_.stores[0].layers[1].recorded_bytes = file_bytes + 1;
    EXPECT_THAT(look(), IsEmpty());
    break_link("top", "b");
    EXPECT_THAT(look(), SizeIs(1));
}

/// Each layer has two files, a directory, and two files in it.
constexpr uint64_t entries = 5;

TEST_F(HardLinksTest, WorkIsBounded) {
    for (const char *name : {"a", "b", "etc/c", "etc/d"})
        break_link("top", name);
    const auto open = [&](const char *id) { return root_.host().open_path(tree(id), O_RDONLY | O_DIRECTORY); };
    const auto base = open("base"), top = open("top");
    ASSERT_TRUE(base && top);
    for (uint64_t limit = 0; limit < entries; ++limit) {
        uint64_t left = limit;
        EXPECT_EQ(inodes_of_files(base->get(), left).error().code(), Errc::ResourceExhausted) << limit;
        EXPECT_EQ(left, 0U) << "what was looked at counts, whatever came of it";
    }
    uint64_t left = entries + 7;
    const auto inodes = inodes_of_files(base->get(), left);
    ASSERT_TRUE(inodes) << inodes.error().text();
    EXPECT_THAT(inodes->numbers, SizeIs(4));
    EXPECT_EQ(left, 7U);
    left = entries;
    const auto all = compare_with_parent(top->get(), base->get(), *inodes, left);
    ASSERT_TRUE(all) << all.error().text();
    EXPECT_EQ(all->copies, 4U);
    EXPECT_EQ(all->own_bytes, 4 * file_bytes);
    EXPECT_FALSE(all->cut);
    left = entries - 1;
    const auto some = compare_with_parent(top->get(), base->get(), *inodes, left);
    ASSERT_TRUE(some) << some.error().text();
    EXPECT_EQ(some->copies, 2U) << "those beside the directory that has too many";
    EXPECT_TRUE(some->cut);
    EXPECT_EQ(left, 0U);
}

/// Names of one inode, directories, links and FIFOs cost as much as files.
TEST_F(HardLinksTest, EveryEntryIsWork) {
    fs::create_hard_link(file("base", "a"), file("base", "a2"));
    fs::create_directory(file("base", "empty"));
    fs::create_symlink("a", file("base", "link"));
    ASSERT_EQ(::mkfifo(file("base", "pipe").c_str(), 0644), 0);
    const auto base = root_.host().open_path(tree("base"), O_RDONLY | O_DIRECTORY);
    ASSERT_TRUE(base);
    uint64_t left = 100;
    ASSERT_TRUE(inodes_of_files(base->get(), left));
    EXPECT_EQ(left, 100 - entries - 4);
}

TEST_F(HardLinksTest, ALayerWithTooManyFilesIsTold) {
    break_link("top", "a");
    EXPECT_THAT(look({.of_layer = entries}), SizeIs(1));
    EXPECT_THAT(facts_.problems, IsEmpty());
    write("top", "new");
    EXPECT_THAT(look({.of_layer = entries}), SizeIs(1)) << "it lies beside the directory";
    ASSERT_THAT(facts_.problems, SizeIs(1));
    EXPECT_EQ(facts_.problems[0].about, tree("top"));
    EXPECT_EQ(facts_.problems[0].why, "its hard links were not all looked at: more than 5 files");
}

TEST_F(HardLinksTest, AllLayersTogetherAreBounded) {
    link_all("top", "third");
    add_layer("third", "top", 0);
    facts_.stores.push_back(facts_.stores[0]);
    break_link("top", "a");
    break_link("third", "b");
    constexpr uint64_t looked_at = 4 * entries; // base, top; top again, third
    EXPECT_THAT(look({.of_all = 2 * looked_at}), SizeIs(1));
    EXPECT_THAT(facts_.problems, IsEmpty());
    const auto why = [&](uint64_t limit) {
        facts_.problems.clear();
        (void)look({.of_all = limit});
        EXPECT_THAT(facts_.problems, SizeIs(1));
        return facts_.problems.empty() ? "" : facts_.problems[0].about + ": " + facts_.problems[0].why;
    };
    EXPECT_EQ(why(2 * looked_at - 1),
              "hard links of layers: 1 layer in 1 store were not looked at: more than 39 files of all");
    EXPECT_EQ(why(looked_at),
              "hard links of layers: 2 layers in 1 store were not looked at: more than 20 files of all");
    EXPECT_EQ(why(entries), "hard links of layers: 4 layers in 2 stores were not looked at: more than 5 files of all");
}

/// Layers that are given up have cost what they have cost.
TEST_F(HardLinksTest, FailuresCountToo) {
    for (int i = 0; i < 4; ++i)
        facts_.stores.push_back(facts_.stores[0]);
    (void)look({.of_layer = 4, .of_all = 9});
    ASSERT_THAT(facts_.problems, SizeIs(3));
    EXPECT_EQ(facts_.problems[0].about, tree("base"));
    EXPECT_EQ(facts_.problems[1].about, tree("base"));
    EXPECT_EQ(facts_.problems[2].why, "3 layers in 3 stores were not looked at: more than 9 files of all");
}

/// A layer in which something is mounted: what lies there is none of its files, and may not answer.
TEST_F(HardLinksTest, MountsAreNotEntered) {
    root_.dir("/elsewhere");
    const std::string etc = file("top", "etc").string(), elsewhere = root_.here("/elsewhere");
    const auto look_in = [&](const char *source, const char *type, unsigned long flags) {
        if (::unshare(CLONE_FS | CLONE_NEWNS) != 0 ||
            ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
            ::mount(source, etc.c_str(), type, flags, nullptr) != 0)
            GTEST_SKIP() << "no mount name space of its own: NOT TESTED";
        write("top", "etc/c");
        fs::last_write_time(file("top", "etc/c"), fs::last_write_time(file("base", "etc/c")));
        EXPECT_THAT(look(), IsEmpty());
        const auto base = root_.host().open_path(tree("base"), O_RDONLY | O_DIRECTORY);
        const auto top = root_.host().open_path(tree("top"), O_RDONLY | O_DIRECTORY);
        ASSERT_TRUE(base && top);
        LayerInodes none;
        none.device = sys::stat_at(base->get(), "")->st_dev;
        uint64_t left = 100;
        EXPECT_EQ(compare_with_parent(top->get(), base->get(), none, left)->files, 2U);
        EXPECT_EQ(left, 97U) << "what is mounted there is not even listed";
        // The other way round: what the parent has below a mount is hidden.
        EXPECT_EQ(compare_with_parent(base->get(), top->get(), none, left)->copies, 2U);
    };
    // Each thread gets a mount namespace of its own, and it alone.
    std::thread(look_in, "tmpfs", "tmpfs", 0).join();
    std::thread(look_in, elsewhere.c_str(), nullptr, MS_BIND).join(); // the device is the same
    EXPECT_THAT(facts_.problems, IsEmpty());
}

TEST_F(HardLinksTest, NoLinkLeadsOutOfTheParent) {
    break_link("top", "etc/c");
    fs::remove_all(root_.here(tree("base") + "/etc"));
    fs::create_symlink(root_.here(tree("top") + "/etc"), root_.here(tree("base") + "/etc"));
    EXPECT_THAT(look(), IsEmpty());
}

} // namespace
} // namespace shale::doctor
