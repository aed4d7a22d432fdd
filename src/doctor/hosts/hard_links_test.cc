// SPDX-License-Identifier: Apache-2.0
#include "doctor/hosts/hard_links.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <string>
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
    const std::vector<std::string> &look() {
        for (auto &layer : facts_.stores[0].layers)
            layer.damage.clear();
        look_for_broken_links(root_.host(), facts_);
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

TEST_F(HardLinksTest, WorkIsBounded) {
    for (const char *name : {"a", "b", "etc/c", "etc/d"})
        break_link("top", name);
    const auto open = [&](const char *id) { return root_.host().open_path(tree(id), O_RDONLY | O_DIRECTORY); };
    const auto base = open("base"), top = open("top");
    ASSERT_TRUE(base && top);
    EXPECT_EQ(inodes_of_files(base->get(), 3).error().code(), Errc::ResourceExhausted);
    const auto inodes = inodes_of_files(base->get(), 4);
    ASSERT_TRUE(inodes) << inodes.error().text();
    EXPECT_THAT(*inodes, SizeIs(4));
    const auto all = compare_with_parent(top->get(), base->get(), *inodes, 4);
    ASSERT_TRUE(all) << all.error().text();
    EXPECT_EQ(all->copies, 4U);
    EXPECT_EQ(all->own_bytes, 4 * file_bytes);
    EXPECT_FALSE(all->cut);
    const auto some = compare_with_parent(top->get(), base->get(), *inodes, 3);
    ASSERT_TRUE(some) << some.error().text();
    EXPECT_EQ(some->copies, 3U);
    EXPECT_TRUE(some->cut);
}

TEST_F(HardLinksTest, NoLinkLeadsOutOfTheParent) {
    break_link("top", "etc/c");
    fs::remove_all(root_.here(tree("base") + "/etc"));
    fs::create_symlink(root_.here(tree("top") + "/etc"), root_.here(tree("base") + "/etc"));
    EXPECT_THAT(look(), IsEmpty());
}

} // namespace
} // namespace shale::doctor
