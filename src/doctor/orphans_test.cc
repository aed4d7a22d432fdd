// SPDX-License-Identifier: Apache-2.0
// The audit's proof, and the trash: facts are made up, the directories are real.
#include "doctor/orphans.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "doctor/trash.h"
#include "probe/test_root.h"

namespace shale::doctor {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class OrphansTest : public testing::Test {
protected:
    OrphansTest() {
        facts_.live = false; // nothing of this host's processes has to do with the fabricated one
        auto &store = facts_.stores.emplace_back();
        store.engine = "docker";
        store.driver = "overlay2";
        store.root = "/docker";
        auto &source = store.sources.emplace_back();
        source.path = "/docker/image/overlay2/layerdb";
        source.what = "layer records";
        source.state = "read";
        source.entries = 3;
        add_layer("known").recorded = true;
        add_layer("lost");
    }
    probe::StoreLayer &add_layer(const std::string &id) {
        root_.file("/docker/overlay2/" + id + "/diff/file", "of " + id);
        auto &layer = facts_.stores[0].layers.emplace_back();
        layer.id = id;
        layer.path = "/docker/overlay2/" + id;
        layer.on_disk = true;
        layer.usage = probe::Usage{.exclusive_bytes = 4096, .exclusive_inodes = 3};
        return layer;
    }
    [[nodiscard]] Audit audit() const { return audit_orphans(host_, facts_); }
    [[nodiscard]] bool exists(const std::string &path) const { return fs::exists(root_.here(path)); }
    std::vector<TrashItem> trash() {
        std::vector<std::string> problems;
        auto out = list_trash(host_, facts_, problems);
        EXPECT_THAT(problems, IsEmpty());
        return out;
    }
    TrashItem move_lost() {
        const auto found = audit();
        EXPECT_EQ(found.orphans.size(), 1U);
        auto item = move_to_trash(host_, found.orphans.at(0));
        EXPECT_TRUE(item) << item.error().text();
        return item.value_or(TrashItem());
    }
    probe::TestRoot root_;
    probe::Host host_ = root_.host();
    probe::Facts facts_;
};

TEST_F(OrphansTest, OnlyWhatNoRecordHasIsOneAndTheRecordsAreNamed) {
    const auto found = audit();
    ASSERT_EQ(found.orphans.size(), 1U);
    EXPECT_EQ(found.orphans[0].layer->id, "lost");
    EXPECT_THAT(found.orphans[0].obstacles, IsEmpty());
    EXPECT_THAT(found.orphans[0].proof, ElementsAre("not in /docker/image/overlay2/layerdb (layer records, 3 entries)",
                                                    HasSubstr("no process")));
}

TEST_F(OrphansTest, RecordsThatCouldNotBeReadProveNothing) {
    facts_.stores[0].sources[0].state = "unreadable";
    facts_.stores[0].sources[0].why = "cut off";
    const auto found = audit();
    EXPECT_THAT(found.orphans, IsEmpty());
    EXPECT_THAT(found.unable, ElementsAre(HasSubstr("cut off")));
    facts_.stores[0].sources[0].state = "changing";
    EXPECT_THAT(audit().orphans, IsEmpty());
}

TEST_F(OrphansTest, WhatIsMountedStays) {
    facts_.live = true;
    auto &space = facts_.mount_namespaces.emplace_back();
    auto &mount = space.mounts.emplace_back();
    mount.type = "overlay";
    mount.target = "/elsewhere";
    root_.link("../lost/diff", "/docker/overlay2/l/SHORT");
    for (const std::string options :
         {"rw,lowerdir=/docker/overlay2/l/SHORT:/docker/overlay2/known/diff,upperdir=/u,workdir=/w",
          "rw,lowerdir=l/SHORT,upperdir=/u",
          "ro,lowerdir+=/docker/overlay2/known/diff,lowerdir+=/docker/overlay2/lost/diff",
          "rw,lowerdir=/x\\:y,upperdir=/docker/overlay2/lost/diff,workdir=/w"}) {
        mount.super_options = options;
        const auto found = audit();
        ASSERT_EQ(found.orphans.size(), 1U);
        EXPECT_THAT(found.orphans[0].obstacles, Contains(HasSubstr("mounted"))) << options;
        EXPECT_FALSE(move_to_trash(host_, found.orphans[0]));
    }
    mount.super_options = "rw,lowerdir=/docker/overlay2/known/diff,upperdir=/u,workdir=/w";
    EXPECT_THAT(audit().orphans.at(0).obstacles, IsEmpty());
    mount.type = "ext4";
    mount.root = "/docker/overlay2/lost/diff/volume";
    EXPECT_THAT(audit().orphans.at(0).obstacles, Contains(HasSubstr("mounted")));
    mount.root = "/";
    mount.target = "/docker/overlay2/lost/merged";
    EXPECT_THAT(audit().orphans.at(0).obstacles, Contains(HasSubstr("mounted")));
}

TEST_F(OrphansTest, WithoutAMountTableNothingIsProved) {
    facts_.live = true;
    EXPECT_THAT(audit().orphans.at(0).obstacles, Contains(HasSubstr("no mount table")));
}

TEST_F(OrphansTest, WhatALoopDeviceStandsOnStays) {
    facts_.live = true;
    facts_.mount_namespaces.emplace_back();
    facts_.devices.emplace_back().file = "/docker/overlay2/lost/diff/image";
    EXPECT_THAT(audit().orphans.at(0).obstacles, Contains(HasSubstr("mounted")));
}

TEST_F(OrphansTest, WhatIsNoDirectoryIsLeftToItsDriver) {
    facts_.stores[0].layers[1].path.clear();
    const auto found = audit();
    EXPECT_THAT(found.orphans.at(0).obstacles, ElementsAre(HasSubstr("driver's own tools")));
}

TEST_F(OrphansTest, ThereAndBack) {
    root_.file("/docker/overlay2/lost/link", "SHORT");
    root_.link("../lost/diff", "/docker/overlay2/l/SHORT");
    const auto item = move_lost();
    EXPECT_EQ(item.place, "/docker/.shale-trash");
    EXPECT_FALSE(exists("/docker/overlay2/lost"));
    EXPECT_FALSE(fs::is_symlink(root_.here("/docker/overlay2/l/SHORT")));
    EXPECT_TRUE(exists("/docker/.shale-trash/1/tree/diff/file"));
    const auto all = trash();
    ASSERT_EQ(all.size(), 1U);
    EXPECT_EQ(all[0].path, "/docker/overlay2/lost");
    EXPECT_EQ(all[0].bytes, 4096U);
    EXPECT_TRUE(all[0].has_tree);
    EXPECT_EQ(all[0].proof, item.proof);

    const auto back = put_back(host_, all[0]);
    ASSERT_TRUE(back) << back.error().text();
    EXPECT_TRUE(exists("/docker/overlay2/lost/diff/file"));
    EXPECT_EQ(fs::read_symlink(root_.here("/docker/overlay2/l/SHORT")), "../lost/diff");
    EXPECT_THAT(trash(), IsEmpty());
}

TEST_F(OrphansTest, PurgedIsGone) {
    move_lost();
    const auto purged = purge(host_, trash().at(0));
    ASSERT_TRUE(purged) << purged.error().text();
    EXPECT_THAT(trash(), IsEmpty());
    EXPECT_FALSE(exists("/docker/overlay2/lost"));
    EXPECT_TRUE(exists("/docker/overlay2/known/diff/file"));
}

TEST_F(OrphansTest, AnotherInItsPlaceIsNotOverwritten) {
    move_lost();
    root_.file("/docker/overlay2/lost/new", "");
    const auto back = put_back(host_, trash().at(0));
    ASSERT_FALSE(back);
    EXPECT_EQ(back.error().code(), Errc::AlreadyExists);
    EXPECT_TRUE(exists("/docker/.shale-trash/1/tree/diff/file"));
    EXPECT_TRUE(exists("/docker/overlay2/lost/new"));
}

/// Cut short after the record, or between the two renames of an undo.
TEST_F(OrphansTest, AnItemWithoutATreeIsForgotten) {
    move_lost();
    fs::rename(root_.here("/docker/.shale-trash/1/tree"), root_.here("/docker/overlay2/lost"));
    const auto all = trash();
    ASSERT_EQ(all.size(), 1U);
    EXPECT_FALSE(all[0].has_tree);
    EXPECT_TRUE(put_back(host_, all[0]));
    EXPECT_THAT(trash(), IsEmpty());
    EXPECT_TRUE(exists("/docker/overlay2/lost/diff/file"));
}

TEST_F(OrphansTest, ARecordOfSomebodyElseIsNotBelieved) {
    move_lost();
    for (const char *text : {"", "{}", "[1]", R"({"path":"relative"})", R"({"path":7})"}) {
        root_.file("/docker/.shale-trash/1/record.json", text);
        std::vector<std::string> problems;
        EXPECT_THAT(list_trash(host_, facts_, problems), IsEmpty()) << text;
        EXPECT_EQ(problems.size(), 1U) << text;
    }
}

TEST_F(OrphansTest, ANameThatIsNoTextCannotBePutBackAndStays) {
    auto &layer = facts_.stores[0].layers[1];
    fs::rename(root_.here(layer.path), root_.here("/docker/overlay2/\xff"));
    layer.path = "/docker/overlay2/\xff";
    const auto found = audit();
    const auto moved = move_to_trash(host_, found.orphans.at(0));
    ASSERT_FALSE(moved);
    EXPECT_THAT(moved.error().text(), HasSubstr("UTF-8"));
    EXPECT_TRUE(exists("/docker/overlay2/\xff"));
    EXPECT_FALSE(exists("/docker/.shale-trash"));
}

TEST_F(OrphansTest, NumbersGoOn) {
    move_lost();
    add_layer("second");
    facts_.stores[0].layers[1].on_disk = false; // it lies in the trash
    EXPECT_TRUE(move_to_trash(host_, audit().orphans.at(0)));
    const auto all = trash();
    ASSERT_EQ(all.size(), 2U);
    EXPECT_EQ(all[0].number, 1U);
    EXPECT_EQ(all[1].number, 2U);
}

} // namespace
} // namespace shale::doctor
