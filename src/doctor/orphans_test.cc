// SPDX-License-Identifier: Apache-2.0
// The audit's proof, and the trash: facts are made up, the directories are real.
#include "doctor/orphans.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sys/stat.h>
#include <unistd.h>

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
        ::umask(022); // what others can write to is not believed
        auto &space = uses_.namespaces.emplace_back();
        space.ours = true;
        space.pid = 1;
        auto &top = space.mounts.emplace_back();
        top.target = top.root = "/";
        top.device = "1:1";
        top.type = "ext4";
        uses_.processes = 5;
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
    [[nodiscard]] Audit audit(bool alone = false) const { return audit_orphans(host_, facts_, uses_, alone); }
    probe::Mount &mount_elsewhere() {
        auto &space = uses_.namespaces.emplace_back();
        space.pid = 77;
        space.command = "sleep";
        auto &mount = space.mounts.emplace_back();
        mount.device = "9:9";
        mount.target = mount.root = "/elsewhere";
        return mount;
    }
    /// Why the one orphan stays; "" when it does not.
    [[nodiscard]] std::string obstacle() const {
        const auto found = audit();
        EXPECT_EQ(found.orphans.size(), 1U);
        if (found.orphans.empty() || found.orphans[0].obstacles.empty()) return {};
        EXPECT_FALSE(move_to_trash(found.orphans[0]));
        return found.orphans[0].obstacles[0];
    }
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
        auto item = move_to_trash(found.orphans.at(0));
        EXPECT_TRUE(item) << item.error().text();
        return item.value_or(TrashItem());
    }
    probe::TestRoot root_;
    probe::Host host_ = root_.host();
    probe::Facts facts_;
    Uses uses_;
};

TEST_F(OrphansTest, OnlyWhatNoRecordHasIsOneAndTheRecordsAreNamed) {
    const auto found = audit();
    ASSERT_EQ(found.orphans.size(), 1U);
    EXPECT_EQ(found.orphans[0].layer->id, "lost");
    EXPECT_THAT(found.orphans[0].obstacles, IsEmpty());
    EXPECT_THAT(found.orphans[0].proof,
                ElementsAre("nothing refers to it in /docker/image/overlay2/layerdb (layer records, 3 entries)",
                            "in none of 1 mount of 1 mount namespace", "open in none of 5 processes"));
    EXPECT_EQ(found.orphans[0].path, fs::canonical(root_.here("/docker/overlay2/lost")));
}

TEST_F(OrphansTest, WhatABuildHasLeftIsOneUnlessItIsMounted) {
    facts_.stores[0].layers[1].kind = "step";
    const auto found = audit();
    ASSERT_EQ(found.orphans.size(), 1U);
    EXPECT_EQ(found.orphans[0].what, "left by a step of a build");
    EXPECT_THAT(found.orphans[0].obstacles, IsEmpty());
    EXPECT_THAT(found.orphans[0].proof.at(0), HasSubstr("no daemon runs"));
    facts_.stores[0].running = true;
    EXPECT_THAT(audit().orphans.at(0).proof.at(0), HasSubstr("before its daemon began"));
    auto &mount = uses_.namespaces[0].mounts.emplace_back();
    mount.type = "overlay";
    mount.device = "0:50";
    mount.root = "/";
    mount.target = found.orphans[0].path + "/rootfs";
    EXPECT_THAT(obstacle(), HasSubstr("something is mounted on it or from it, at " + mount.target));
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

TEST_F(OrphansTest, AStoreWithoutAnyRecordIsNotJudged) {
    facts_.stores[0].sources[0].state = "missing";
    const auto found = audit();
    EXPECT_THAT(found.orphans, IsEmpty());
    EXPECT_THAT(found.unable, ElementsAre(HasSubstr("no records at all")));
}

TEST_F(OrphansTest, ALayerOfAMountedOverlayStays) {
    root_.link("../lost/diff", "/docker/overlay2/l/SHORT");
    auto &mount = mount_elsewhere();
    mount.type = "overlay";
    const std::string top = root_.here("/docker/overlay2");
    for (const std::string &options : {"rw,lowerdir=" + top + "/l/SHORT:" + top + "/known/diff,upperdir=/u,workdir=/w",
                                       std::string("rw,lowerdir=l/SHORT,upperdir=/u"),
                                       "ro,lowerdir+=" + top + "/known/diff,lowerdir+=" + top + "/lost/diff",
                                       "rw,lowerdir=/x\\:y,upperdir=" + top + "/lost/diff,workdir=/w"}) {
        mount.super_options = options;
        EXPECT_THAT(obstacle(), HasSubstr("overlay")) << options;
    }
    mount.super_options = "rw,lowerdir=" + top + "/known/diff,upperdir=/u,workdir=/w";
    EXPECT_EQ(obstacle(), "");
}

TEST_F(OrphansTest, WhatIsMountedAnywhereStays) {
    const std::string path = fs::canonical(root_.here("/docker/overlay2/lost"));
    auto &mount = mount_elsewhere();
    mount.device = "1:1";
    mount.root = path + "/diff/volume"; // a part of it, in another namespace, under another name
    EXPECT_THAT(obstacle(), HasSubstr("it is mounted at /elsewhere in the mount namespace of process 77 (sleep)"));
    mount.device = "2:2"; // the same path of another file system
    EXPECT_EQ(obstacle(), "");
    mount.target = path + "/merged";
    EXPECT_THAT(obstacle(), HasSubstr("mounted"));
}

/// The store's own disk: mounts name its places from the top of that.
TEST_F(OrphansTest, TheStoreMayBeAMountOfItsOwn) {
    const std::string top = fs::canonical(root_.here("/docker"));
    auto &disk = uses_.namespaces[0].mounts.emplace_back();
    disk.target = top;
    disk.root = "/";
    disk.device = "7:3";
    EXPECT_EQ(obstacle(), "");
    auto &mount = mount_elsewhere();
    mount.device = "7:3";
    mount.root = "/overlay2/lost/diff";
    EXPECT_THAT(obstacle(), HasSubstr("mounted"));
    mount.root = "/overlay2/known/diff";
    EXPECT_EQ(obstacle(), "");
}

TEST_F(OrphansTest, WhatAProcessHasOpenStays) {
    const std::string path = fs::canonical(root_.here("/docker/overlay2/lost"));
    uses_.open = {{path + "x", 11}, {"/other", 12}};
    EXPECT_EQ(obstacle(), "");
    uses_.open[path + "/diff/file"] = 13;
    EXPECT_THAT(obstacle(), HasSubstr("process 13"));
    uses_.open.clear();
    auto &mount = mount_elsewhere(); // where the whole disk has another name
    mount.device = "1:1";
    mount.root = "/";
    mount.target = "/host";
    EXPECT_EQ(obstacle(), "");
    uses_.open["/host" + path] = 14;
    EXPECT_THAT(obstacle(), HasSubstr("process 14"));
}

TEST_F(OrphansTest, WhatALoopDeviceStandsOnStays) {
    uses_.backing_files = {fs::canonical(root_.here("/docker/overlay2/lost/diff/file"))};
    EXPECT_THAT(obstacle(), HasSubstr("loop device"));
}

TEST_F(OrphansTest, BesideAGapNothingIsUnused) {
    uses_.gaps = {"process 1: no permission"};
    EXPECT_THAT(obstacle(), HasSubstr("process 1: no permission"));
    uses_ = {};
    EXPECT_THAT(obstacle(), HasSubstr("no mount table"));
}

TEST_F(OrphansTest, TheHostOfADiskMayRun) {
    facts_.live = false;
    EXPECT_THAT(obstacle(), HasSubstr("--assume-alone"));
    EXPECT_THAT(audit(true).orphans.at(0).obstacles, IsEmpty());
}

TEST_F(OrphansTest, WhereOthersCanWriteNothingIsMoved) {
    fs::permissions(root_.here("/docker"), fs::perms::all);
    EXPECT_THAT(obstacle(), HasSubstr("can be written by others"));
    fs::permissions(root_.here("/docker"), fs::perms::all | fs::perms::sticky_bit);
    EXPECT_EQ(obstacle(), "");
}

TEST_F(OrphansTest, AnotherDirectoryThanTheOneThatWasJudgedIsNotMoved) {
    const auto found = audit();
    fs::rename(root_.here("/docker/overlay2/lost"), root_.here("/docker/overlay2/aside"));
    root_.file("/docker/overlay2/lost/other", "");
    const auto moved = move_to_trash(found.orphans.at(0));
    ASSERT_FALSE(moved);
    EXPECT_THAT(moved.error().text(), HasSubstr("another directory"));
    EXPECT_TRUE(exists("/docker/overlay2/lost/other"));
    EXPECT_THAT(trash(), IsEmpty());
}

TEST_F(OrphansTest, LinksOnTheWayAreTheStoresOwnBusiness) {
    fs::rename(root_.here("/docker"), root_.here("/data"));
    root_.link("/data", "/docker"); // as the examined host has it
    const auto item = move_lost();
    EXPECT_EQ(item.place, fs::canonical(root_.here("/data")).string() + "/.shale-trash");
    ASSERT_EQ(trash().size(), 1U);
    EXPECT_TRUE(put_back(trash()[0]));
    EXPECT_TRUE(exists("/data/overlay2/lost/diff/file"));
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
    EXPECT_EQ(item.place, fs::canonical(root_.here("/docker")).string() + "/.shale-trash");
    EXPECT_FALSE(exists("/docker/overlay2/lost"));
    EXPECT_FALSE(fs::is_symlink(root_.here("/docker/overlay2/l/SHORT")));
    EXPECT_TRUE(exists("/docker/.shale-trash/1/tree/diff/file"));
    const auto all = trash();
    ASSERT_EQ(all.size(), 1U);
    EXPECT_EQ(all[0].path, fs::canonical(root_.here("/docker")).string() + "/overlay2/lost");
    EXPECT_EQ(all[0].root, "/docker");
    EXPECT_EQ(all[0].bytes, 4096U);
    EXPECT_EQ(all[0].state, TrashItem::State::whole);
    EXPECT_EQ(all[0].proof, item.proof);

    const auto back = put_back(all[0]);
    ASSERT_TRUE(back) << back.error().text();
    EXPECT_TRUE(exists("/docker/overlay2/lost/diff/file"));
    EXPECT_EQ(fs::read_symlink(root_.here("/docker/overlay2/l/SHORT")), "../lost/diff");
    EXPECT_THAT(trash(), IsEmpty());
}

TEST_F(OrphansTest, PurgedIsGone) {
    move_lost();
    const auto purged = purge(trash().at(0));
    ASSERT_TRUE(purged) << purged.error().text();
    EXPECT_THAT(trash(), IsEmpty());
    EXPECT_FALSE(exists("/docker/overlay2/lost"));
    EXPECT_TRUE(exists("/docker/overlay2/known/diff/file"));
}

TEST_F(OrphansTest, AnotherInItsPlaceIsNotOverwritten) {
    move_lost();
    root_.file("/docker/overlay2/lost/new", "");
    const auto back = put_back(trash().at(0));
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
    EXPECT_EQ(all[0].state, TrashItem::State::empty);
    EXPECT_TRUE(put_back(all[0]));
    EXPECT_THAT(trash(), IsEmpty());
    EXPECT_TRUE(exists("/docker/overlay2/lost/diff/file"));
}

TEST_F(OrphansTest, ARecordOfSomebodyElseIsNotBelieved) {
    move_lost();
    const std::string store = fs::canonical(root_.here("/docker"));
    for (const std::string &text :
         {std::string(), std::string("{}"), std::string("[1]"), std::string(R"({"path":"relative"})"),
          std::string(R"({"path":7})"), std::string(R"({"path":"/etc/cron.d/x"})"), R"({"path":")" + store + R"("})",
          R"({"path":")" + store + R"(/overlay2/../../x"})",
          R"({"path":")" + store + R"(/overlay2/lost","link":"/etc/ld.so.preload"})"}) {
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
    const auto moved = move_to_trash(found.orphans.at(0));
    ASSERT_FALSE(moved);
    EXPECT_THAT(moved.error().text(), HasSubstr("UTF-8"));
    EXPECT_TRUE(exists("/docker/overlay2/\xff"));
    EXPECT_FALSE(exists("/docker/.shale-trash"));
}

TEST_F(OrphansTest, ATrashThatOthersCanWriteIsNotBelieved) {
    move_lost();
    fs::permissions(root_.here("/docker/.shale-trash"), fs::perms::all);
    std::vector<std::string> problems;
    EXPECT_THAT(list_trash(host_, facts_, problems), IsEmpty());
    EXPECT_THAT(problems, ElementsAre(HasSubstr("not believed")));
}

TEST_F(OrphansTest, WhatIsBeingPurgedIsNotPutBack) {
    move_lost();
    const auto item = trash().at(0);
    fs::rename(root_.here("/docker/.shale-trash/1/tree"), root_.here("/docker/.shale-trash/1/gone")); // cut short there
    const auto all = trash();
    EXPECT_EQ(all.at(0).state, TrashItem::State::going);
    EXPECT_EQ(put_back(item).error().code(), Errc::FailedPrecondition);
    EXPECT_TRUE(purge(all[0]));
    EXPECT_THAT(trash(), IsEmpty());
    EXPECT_FALSE(exists("/docker/.shale-trash/1"));
}

TEST_F(OrphansTest, ATreeThatWasPutThereByOthersStays) {
    move_lost();
    fs::rename(root_.here("/docker/.shale-trash/1/tree"), root_.here("/docker/aside")); // its inode is not given again
    root_.file("/docker/.shale-trash/1/tree/planted", "");
    EXPECT_EQ(put_back(trash().at(0)).error().code(), Errc::DataLoss);
    EXPECT_FALSE(exists("/docker/overlay2/lost"));
}

TEST_F(OrphansTest, WhereEnginesLookThereIsNoTrash) {
    facts_.stores[0].root = "/docker/overlay2";
    const auto moved = move_to_trash(audit().orphans.at(0));
    ASSERT_FALSE(moved);
    EXPECT_THAT(moved.error().text(), HasSubstr("no place for a trash"));
    EXPECT_TRUE(exists("/docker/overlay2/lost/diff/file"));
}

TEST_F(OrphansTest, NumbersGoOn) {
    move_lost();
    add_layer("second");
    facts_.stores[0].layers[1].on_disk = false; // it lies in the trash
    EXPECT_TRUE(move_to_trash(audit().orphans.at(0)));
    const auto all = trash();
    ASSERT_EQ(all.size(), 2U);
    EXPECT_EQ(all[0].number, 1U);
    EXPECT_EQ(all[1].number, 2U);
}

} // namespace
} // namespace shale::doctor
