// SPDX-License-Identifier: Apache-2.0
// The state machine of snapshots (containerd's core/snapshots), on every driver that this host has.
#include "store/snapshots.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <map>
#include <thread>

#include "crash/hooks.h"
#include "store/migrate.h"
#include "store/records.h"
#include "support/mapped_mount.h"
#include "support/world.h"
#include "sys/mount.h"

namespace shale::test {
namespace {

using store::Labels;
using store::SnapshotInfo;
using store::SnapshotKind;
using testing::ElementsAre;
using testing::HasSubstr;

class SnapshotsTest : public testing::TestWithParam<std::string> {
protected:
    void SetUp() override {
        if (const auto why = cannot_test(GetParam()); !why.empty()) GTEST_SKIP() << why;
        std::filesystem::create_directory(at_);
        reopen();
    }
    void reopen() {
        snapshots_.reset();
        store_.reset();
        store_ = open_store(world_ / "root", GetParam());
        ASSERT_NE(store_, nullptr);
        snapshots_ = std::make_unique<store::Snapshots>(*store_);
    }
    store::Snapshots &all() { return *snapshots_; }
    /// Mounts, runs, unmounts.
    void in(const std::vector<sys::MountSpec> &specs, const std::function<void(const std::string &)> &body) {
        ASSERT_EQ(specs.size(), 1U);
        const auto mounted = sys::mount_at(specs[0], at_);
        ASSERT_TRUE(mounted) << mounted.error().text();
        body(at_);
        ASSERT_TRUE(sys::unmount(at_));
    }
    void write(const std::vector<sys::MountSpec> &specs, const std::string &name, const std::string &text) {
        in(specs, [&](const std::string &at) { std::ofstream(at + "/" + name) << text; });
    }
    /// An active one with a file, committed.
    void layer(const std::string &name, const std::string &parent, const std::string &file) {
        const auto made = all().prepare("extract " + name, parent, {});
        ASSERT_TRUE(made) << made.error().text();
        write(*made, file, name);
        const auto done = all().commit(name, "extract " + name, {}, {});
        ASSERT_TRUE(done) << done.error().text();
    }
    /// visit(name, parent and packed labels) of each, while nothing is held.
    Status walk(const store::Snapshots::Selection &which,
                const std::function<Status(const std::string &, const std::string &)> &visit) {
        return all().walk(
            which,
            [](const store::SnapshotRow &row, std::string &page) {
                Labels labels = row.labels.unpack();
                const std::string rest = std::string(row.parent) + " " + store::pack_labels(labels);
                page += store::pack_labels({{std::string(row.name), rest}});
            },
            [&](std::string &page) -> Status {
                Status done;
                store::PackedLabels(page).each([&](std::string_view name, std::string_view rest) {
                    if (done) done = visit(std::string(name), std::string(rest));
                });
                return done;
            });
    }
    std::vector<std::string> names() {
        std::vector<std::string> out;
        EXPECT_TRUE(walk({}, [&](const std::string &name, const std::string &) -> Status {
            out.push_back(name);
            return {};
        }));
        return out;
    }
    static Errc code(const auto &result) { return result ? Errc::Unknown : result.error().code(); }

    World world_{GetParam()};
    std::string at_ = world_ / "at";
    std::unique_ptr<store::Store> store_;
    std::unique_ptr<store::Snapshots> snapshots_;
};

TEST_P(SnapshotsTest, AStackOfLayersWithAContainerAndAView) {
    layer("base", "", "a");
    layer("second", "base", "b");
    const auto container = all().prepare("default/3/web: /../x", "second", {{"owner", "me"}});
    ASSERT_TRUE(container) << container.error().text();
    write(*container, "c", "own");
    const auto again = all().mounts("default/3/web: /../x");
    ASSERT_TRUE(again);
    in(*again, [](const std::string &at) {
        EXPECT_EQ(read_all(at + "/a"), "base");
        EXPECT_EQ(read_all(at + "/b"), "second");
        EXPECT_EQ(read_all(at + "/c"), "own");
    });
    const auto view = all().view("look", "base", {});
    ASSERT_TRUE(view) << view.error().text();
    in(*view, [](const std::string &at) {
        EXPECT_EQ(read_all(at + "/a"), "base");
        EXPECT_FALSE(std::filesystem::exists(at + "/b"));
        EXPECT_FALSE(std::ofstream(at + "/new").is_open()) << "a view is read-only";
    });
    EXPECT_THAT(names(), ElementsAre("base", "second", "default/3/web: /../x", "look"));
    const auto info = all().stat("default/3/web: /../x");
    ASSERT_TRUE(info);
    EXPECT_EQ(info->kind, SnapshotKind::active);
    EXPECT_EQ(info->parent, "second");
    EXPECT_THAT(info->labels, ElementsAre(std::pair("owner", "me")));
    EXPECT_EQ(info->created_ns, info->updated_ns);
    reopen();
    EXPECT_EQ(names().size(), 4U) << "closing loses nothing";
    const auto checked = store_->check(store::CheckLevel::full, {});
    ASSERT_TRUE(checked);
    for (const auto &problem : checked->problems)
        ADD_FAILURE() << problem.object << ": " << problem.what;
    const auto swept = store_->gc(false);
    ASSERT_TRUE(swept) << swept.error().text();
    EXPECT_EQ(swept->layers + swept->leftovers, 0U) << "gc knows snapshots";
    in(*all().mounts("default/3/web: /../x"), [](const std::string &at) { EXPECT_EQ(read_all(at + "/c"), "own"); });
    for (const auto *key : {"default/3/web: /../x", "look", "second", "base"})
        EXPECT_TRUE(all().remove(key)) << key;
    EXPECT_TRUE(names().empty());
    EXPECT_TRUE(all().cleanup());
    EXPECT_TRUE(store_->driver().list()->empty());
    EXPECT_EQ(store_->driver().trash()->layers, 0U);
}

/// A driver may keep layers in a form that a commit has no time to make (erofs): they get it when nothing that is
/// mounted stands on them, and a mount that was told stays what it was.
TEST_P(SnapshotsTest, LayersAreSettledWhenNothingStandsOnThem) {
    layer("base", "", "a");
    const auto unsettled = [&] { return store_->driver().unsettled().value_or(std::vector<LayerId>()).size(); };
    const bool settles = unsettled() != 0;
    EXPECT_EQ(settles, GetParam() == "erofs");
    const auto usage = all().usage("base");
    ASSERT_TRUE(usage);
    const auto above = all().prepare("above", "base", {});
    ASSERT_TRUE(above) << above.error().text();
    EXPECT_TRUE(all().cleanup());
    EXPECT_EQ(unsettled(), settles ? 1U : 0U) << "a container may be mounted over it";
    ASSERT_TRUE(store_->gc(false));
    EXPECT_EQ(unsettled(), settles ? 1U : 0U);
    EXPECT_EQ(all().mounts("above")->front().options, above->front().options);
    const auto committed = all().commit("top", "above", {}, {});
    ASSERT_TRUE(committed) << committed.error().text();
    ASSERT_TRUE(all().view("look", "base", {}));
    EXPECT_TRUE(all().cleanup());
    EXPECT_EQ(unsettled(), settles ? 1U : 0U) << "only what is above the view";
    ASSERT_TRUE(all().remove("look"));
    EXPECT_TRUE(all().cleanup());
    EXPECT_EQ(unsettled(), 0U);
    EXPECT_EQ(store_->driver().trash()->layers, 0U);
    if (settles) {
        EXPECT_LE(all().usage("base")->inodes, 4U) << "an image; where projects are counted, its directories too";
    }
    in(*all().view("again", "top", {}), [](const std::string &at) { EXPECT_EQ(read_all(at + "/a"), "base"); });
    const auto checked = store_->check(store::CheckLevel::full, {});
    ASSERT_TRUE(checked);
    EXPECT_TRUE(checked->problems.empty());
}

TEST_P(SnapshotsTest, RefusesByTheRules) {
    layer("base", "", "a");
    ASSERT_TRUE(all().prepare("active", "base", {}));
    EXPECT_EQ(code(all().prepare("x", "missing", {})), Errc::NotFound);
    EXPECT_EQ(code(all().prepare("x", "active", {})), Errc::InvalidArgument);
    EXPECT_EQ(code(all().prepare("active", "base", {})), Errc::AlreadyExists);
    EXPECT_EQ(code(all().view("base", "base", {})), Errc::AlreadyExists) << "keys and names are one name space";
    EXPECT_EQ(code(all().prepare("", "base", {})), Errc::InvalidArgument);
    EXPECT_EQ(code(all().mounts("base")), Errc::FailedPrecondition);
    EXPECT_EQ(code(all().mounts("missing")), Errc::NotFound);
    EXPECT_EQ(code(all().commit("base", "active", {}, {})), Errc::AlreadyExists);
    EXPECT_TRUE(all().mounts("active")) << "a refused commit leaves it as it was";
    EXPECT_EQ(code(all().commit("x", "missing", {}, {})), Errc::NotFound);
    EXPECT_EQ(code(all().commit("x", "base", {}, {})), Errc::FailedPrecondition);
    ASSERT_TRUE(all().view("view", "base", {}));
    EXPECT_EQ(code(all().commit("x", "view", {}, {})), Errc::FailedPrecondition);
    const auto parent = all().remove("base");
    EXPECT_EQ(code(parent), Errc::FailedPrecondition);
    EXPECT_THAT(parent.error().text(), HasSubstr("remove"));
    EXPECT_EQ(code(all().remove("missing")), Errc::NotFound);
    EXPECT_EQ(code(all().stat("missing")), Errc::NotFound);
    EXPECT_EQ(code(all().usage("missing")), Errc::NotFound);
    EXPECT_TRUE(store_->driver().list()->size() == 2) << "what was refused left nothing";
}

TEST_P(SnapshotsTest, CommitTakesTheRequestsLabelsAndFreesTheKey) {
    ASSERT_TRUE(all().prepare("key", "", {{"old", "1"}}));
    ASSERT_TRUE(all().commit("name", "key", {{"new", "2"}}, {}));
    EXPECT_EQ(code(all().stat("key")), Errc::NotFound);
    const auto info = all().stat("name");
    ASSERT_TRUE(info);
    EXPECT_EQ(info->kind, SnapshotKind::committed);
    EXPECT_THAT(info->labels, ElementsAre(std::pair("new", "2")));
    EXPECT_TRUE(all().prepare("key", "name", {})) << "the key is free again";
}

TEST_P(SnapshotsTest, OnlyLabelsChange) {
    ASSERT_TRUE(all().prepare("key", "", {{"a", "1"}, {"b.c/d", "2"}}));
    const auto before = all().stat("key");
    SnapshotInfo wanted{"key", "other", SnapshotKind::committed, 1, 1, {{"b.c/d", "3"}, {"a", "9"}, {"e", "4"}}};
    const auto one = all().update(wanted, std::vector<std::string>{"labels.b.c/d"});
    ASSERT_TRUE(one) << one.error().text();
    EXPECT_THAT(one->labels, ElementsAre(std::pair("a", "1"), std::pair("b.c/d", "3")));
    EXPECT_EQ(one->created_ns, before->created_ns);
    EXPECT_GT(one->updated_ns, before->updated_ns);
    EXPECT_EQ(one->parent, "");
    EXPECT_EQ(one->kind, SnapshotKind::active);
    wanted.labels = {{"e", "4"}};
    EXPECT_THAT(all().update(wanted, std::vector<std::string>{"labels.a"})->labels,
                ElementsAre(std::pair("b.c/d", "3")))
        << "a label that is not there is deleted";
    EXPECT_THAT(all().update(wanted, {})->labels, ElementsAre(std::pair("e", "4")));
    EXPECT_EQ(code(all().update(wanted, std::vector<std::string>{"parent"})), Errc::InvalidArgument);
    const auto stored = all().stat("key");
    EXPECT_THAT(stored->labels, ElementsAre(std::pair("e", "4")));
    const std::string odd("\0:5:\xff\n", 7);
    wanted.labels = {{odd, odd}};
    ASSERT_TRUE(all().update(wanted, {}));
    EXPECT_THAT(all().stat("key")->labels, ElementsAre(std::pair(odd, odd))) << "labels are opaque";
}

TEST_P(SnapshotsTest, LabelledOnesAreFoundWithTheirMounts) {
    const auto made = all().prepare("labelled", "", {{"shale.qos", "batch"}, {"other", "x"}});
    ASSERT_TRUE(made) << made.error().text();
    ASSERT_TRUE(all().prepare("not", "", {{"shale.qos.x", "batch"}}));
    ASSERT_TRUE(all().prepare("gone", "", {{"shale.qos", "critical"}}));
    ASSERT_TRUE(all().commit("committed", "gone", {{"shale.qos", "critical"}}, ""));
    const auto found = store::Snapshots::labelled(*store_, "shale.qos");
    ASSERT_TRUE(found) << found.error().text();
    ASSERT_EQ(found->size(), 1U);
    EXPECT_EQ(found->front().key, "labelled");
    EXPECT_EQ(found->front().value, "batch");
    const auto &mounts = found->front().mounts;
    ASSERT_EQ(mounts.size(), made->size());
    EXPECT_EQ(mounts[0].type, (*made)[0].type);
    EXPECT_EQ(mounts[0].source, (*made)[0].source);
    EXPECT_EQ(mounts[0].options, (*made)[0].options);
}

TEST_P(SnapshotsTest, UpdatesAtOnceAllCount) {
    ASSERT_TRUE(all().prepare("key", "", {}));
    constexpr int threads = 4, labels = 25;
    {
        std::vector<std::jthread> clients;
        for (int t = 0; t < threads; ++t)
            clients.emplace_back([&, t] {
                for (int n = 0; n < labels; ++n) {
                    const std::string label = "l" + std::to_string(t * labels + n);
                    const auto done = all().update({"key", "", SnapshotKind::active, 0, 0, {{label, "x"}}},
                                                   std::vector<std::string>{"labels." + label});
                    EXPECT_TRUE(done) << done.error().text();
                }
            });
    }
    EXPECT_EQ(all().stat("key")->labels.size(), size_t{threads} * labels);
}

TEST_P(SnapshotsTest, AWalkShowsEachOnceWhateverItIsCalledMeanwhile) {
    layer("base", "", "a");
    ASSERT_TRUE(all().prepare("zz first", "base", {}));
    constexpr int views = 2'500; // several pages
    for (int n = 0; n < views; ++n)
        ASSERT_TRUE(all().view("view " + std::to_string(n), "base", {}));
    ASSERT_TRUE(all().prepare("aa last", "base", {}));
    std::map<std::string, int> seen;
    const auto walked = walk({}, [&](const std::string &name, const std::string &rest) -> Status {
        if (seen.empty()) { // across the alphabet, in both directions
            EXPECT_TRUE(all().commit("aa first", "zz first", {}, {}));
            EXPECT_TRUE(all().commit("zz last", "aa last", {}, {}));
            EXPECT_TRUE(all().remove("view 1100"));
        }
        EXPECT_EQ(rest, name == "base" ? " " : "base ");
        ++seen[name];
        return {};
    });
    ASSERT_TRUE(walked) << walked.error().text();
    for (const auto &[name, times] : seen)
        EXPECT_EQ(times, 1) << name;
    EXPECT_EQ(seen["aa first"] + seen["zz first"], 1);
    EXPECT_EQ(seen["aa last"] + seen["zz last"], 1);
    for (int n = 0; n < views; ++n)
        EXPECT_TRUE(n == 1'100 || seen["view " + std::to_string(n)] == 1) << n;
    const auto stopped =
        walk({}, [](const std::string &, const std::string &) -> Status { return fail(Errc::Canceled, "enough"); });
    EXPECT_EQ(code(stopped), Errc::Canceled);
}

TEST_P(SnapshotsTest, WhatAnImportUnpackedIsFoundByItsChain) {
    write_docker_archive(world_ / "image.tar", {{{file("a"), "base"}}, {{file("b"), "second"}}}, "app:1");
    store::ImportRequest request;
    request.source = world_ / "image.tar";
    const auto imported = store_->import_images(request, {});
    ASSERT_TRUE(imported) << imported.error().text();
    const auto &layers = imported->at(0).image.layers;
    std::string parent;
    for (const auto &layer : layers) {
        const Labels labels{{"containerd.io/snapshot.ref", layer.chain_id.text()}};
        for (int twice = 0; twice < 2; ++twice)
            EXPECT_EQ(code(all().prepare("extract", parent, labels)), Errc::AlreadyExists);
        std::vector<std::string> found;
        ASSERT_TRUE(walk({std::nullopt, layer.chain_id.text()},
                         [&](const std::string &name, const std::string &rest) -> Status {
                             EXPECT_EQ(rest, parent + " " + store::pack_labels(labels));
                             found.push_back(name);
                             return {};
                         }));
        ASSERT_EQ(found.size(), 1U);
        parent = found[0];
    }
    const auto container = all().prepare("web", parent, {});
    ASSERT_TRUE(container) << container.error().text();
    in(*container, [](const std::string &at) { EXPECT_EQ(read_all(at + "/b"), "second"); });
    // With another parent it is not that layer.
    const auto alone = all().prepare("alone", "", {{"containerd.io/snapshot.ref", layers[1].chain_id.text()}});
    EXPECT_TRUE(alone);
    // The image goes, the snapshots keep the layers; then these go, too.
    ASSERT_TRUE(store_->remove_image("app:1", true, false));
    in(*all().mounts("web"), [](const std::string &at) { EXPECT_EQ(read_all(at + "/a"), "base"); });
    for (const auto &key : {std::string("web"), std::string("alone"), parent, layers[0].chain_id.text()})
        EXPECT_TRUE(all().remove(key)) << key;
    ASSERT_TRUE(store_->gc(false));
    EXPECT_TRUE(store_->driver().list()->empty());
}

TEST_P(SnapshotsTest, UsageIsTheLayersOwn) {
    layer("base", "", "a");
    const auto made = all().prepare("active", "base", {});
    ASSERT_TRUE(made);
    write(*made, "big", std::string(3U << 20U, 'x'));
    ASSERT_TRUE(store_->driver().sync({}));
    ASSERT_TRUE(all().commit("name", "active", {}, {}));
    reopen();
    const auto usage = all().usage("name");
    ASSERT_TRUE(usage) << usage.error().text();
    // A full copy is its own; a driver that counts in blocks of its own counts what it allocates.
    EXPECT_GE(usage->bytes, 3U << 20U);
    EXPECT_LT(usage->bytes, 8U << 20U);
}

TEST_P(SnapshotsTest, AfterABootWhatWasNeverSyncedIsGoneWithAllOnIt) {
    layer("kept", "", "a");
    layer("lost", "kept", "b");
    ASSERT_TRUE(all().prepare("on lost", "lost", {}));
    ASSERT_TRUE(all().prepare("on kept", "kept", {}));
    snapshots_.reset(); // its thread has ended
    {
        const auto records = store::Records::open(world_ / "root/shale.db", true, false);
        ASSERT_TRUE(records);
        auto tx = (*records)->begin(store::Sync::synced);
        ASSERT_TRUE(tx->prepare("UPDATE snapshots SET synced = (name = 'kept')")->run());
        ASSERT_TRUE(tx->prepare("UPDATE meta SET value = 'another boot' WHERE key = 'boot'")->run());
        ASSERT_TRUE(tx->commit());
    }
    reopen();
    EXPECT_THAT(names(), ElementsAre("kept", "on kept"));
    ASSERT_TRUE(store_->gc(false));
    EXPECT_EQ(store_->driver().list()->size(), 2U);
    const auto checked = store_->check(store::CheckLevel::full, {});
    ASSERT_TRUE(checked);
    EXPECT_TRUE(checked->problems.empty());
}

TEST_P(SnapshotsTest, ALayerIsPutOnAParentAtItsCommit) {
    layer("base", "", "a");
    const auto made = all().prepare("alone", "", {});
    ASSERT_TRUE(made);
    write(*made, "b", "second");
    if (!(*drivers::find_driver(driver_of(GetParam())))->rebases) {
        EXPECT_EQ(code(all().commit("second", "alone", {}, "base")), Errc::Unimplemented);
        EXPECT_EQ(all().stat("alone")->kind, SnapshotKind::active);
        return;
    }
    EXPECT_EQ(code(all().commit("second", "alone", {}, "missing")), Errc::NotFound);
    const auto done = all().commit("second", "alone", {}, "base");
    ASSERT_TRUE(done) << done.error().text();
    EXPECT_EQ(all().stat("second")->parent, "base");
    in(*all().view("look", "second", {}), [](const std::string &at) {
        EXPECT_EQ(read_all(at + "/a"), "base");
        EXPECT_EQ(read_all(at + "/b"), "second");
    });
    ASSERT_TRUE(all().prepare("standing", "base", {}));
    EXPECT_EQ(code(all().commit("x", "standing", {}, "second")), Errc::InvalidArgument);
}

/// The labels by which containerd asks for mapped ids, and mounts as it makes them of the answer.
TEST_P(SnapshotsTest, IdsAreMappedByTheMount) {
    const auto base = all().prepare("extract", "", {});
    ASSERT_TRUE(base);
    in(*base, [](const std::string &at) {
        std::ofstream(at + "/root") << "root's";
        std::ofstream(at + "/other") << "other's";
        ASSERT_EQ(::chown((at + "/other").c_str(), 5, 6), 0);
    });
    ASSERT_TRUE(all().commit("base", "extract", {}, ""));
    const Labels labels{{"containerd.io/snapshot/uidmapping", "0:100000:65536"},
                        {"containerd.io/snapshot/gidmapping", "0:200000:1000,1000:300000:5"}};
    const auto owner = [](const std::string &path) {
        struct stat status{};
        return ::lstat(path.c_str(), &status) == 0 ? fmt::format("{}:{}", status.st_uid, status.st_gid) : "missing";
    };
    for (const std::string parent : {"base", ""}) {
        const auto specs = all().prepare("mapped " + parent, parent, labels);
        ASSERT_TRUE(specs) << specs.error().text();
        ASSERT_EQ(specs->size(), 1U);
        ASSERT_GE(specs->front().options.size(), 2U);
        EXPECT_EQ(specs->front().options[0], "uidmap=0:100000:65536");
        EXPECT_EQ(specs->front().options[1], "gidmap=0:200000:1000,1000:300000:5");
        EXPECT_EQ(all().mounts("mapped " + parent)->front().options, specs->front().options);
        const auto mounted = mount_mapped(specs->front(), at_);
        if (!mounted && GetParam() == "zfs") { // before 2.2 it says so: FS_ALLOW_IDMAP is not among its flags
            EXPECT_EQ(mounted.error().sys_errno(), EINVAL) << mounted.error().text();
            while (sys::unmount(at_)) {
            }
            break;
        }
        ASSERT_TRUE(mounted) << mounted.error().text();
        EXPECT_EQ(owner(at_), "100000:200000");
        if (!parent.empty()) {
            EXPECT_EQ(owner(at_ + "/root"), "100000:200000");
            EXPECT_EQ(owner(at_ + "/other"), "100005:200006");
        }
        // As the container's root.
        const int status = status_of_child([&] {
            return ::chroot(at_.c_str()) == 0 && ::setresgid(200000, 200000, 200000) == 0 &&
                   ::setresuid(100000, 100000, 100000) == 0 && !std::ofstream("/new").fail() &&
                   (parent.empty() || !std::ofstream("/root").fail());
        });
        EXPECT_EQ(status, 0) << "what is root's in the container, its root may write";
        EXPECT_EQ(owner(at_ + "/new"), "100000:200000");
        while (sys::unmount(at_)) {
        }
    }
    in(*all().view("look", "base", {}), [&](const std::string &at) { EXPECT_EQ(owner(at + "/other"), "5:6"); });
    const std::string uids = "containerd.io/snapshot/uidmapping", gids = "containerd.io/snapshot/gidmapping";
    EXPECT_EQ(code(all().prepare("x", "base", {{uids, "0:100000:65536"}})), Errc::InvalidArgument) << "one alone";
    EXPECT_EQ(code(all().prepare("x", "base", {{uids, "0:1:1"}, {gids, "0:1"}})), Errc::InvalidArgument);
    EXPECT_EQ(code(all().stat("x")), Errc::NotFound);
    SnapshotInfo wanted = *all().stat("mapped base");
    wanted.labels[uids] = "1:1:1";
    EXPECT_EQ(code(all().update(wanted, {})), Errc::InvalidArgument) << "its mounts could not be told any more";
}

TEST_P(SnapshotsTest, AMigrationDoesNotForgetActiveOnes) {
    ASSERT_TRUE(all().prepare("active", "", {}));
    store::MigrateRequest request;
    request.driver = GetParam() == "vfs" ? "overlay" : "vfs";
    const auto moved = store_->migrate(request, {});
    ASSERT_FALSE(moved);
    EXPECT_EQ(moved.error().code(), Errc::FailedPrecondition);
    EXPECT_THAT(moved.error().text(), HasSubstr("active"));
}

TEST_P(SnapshotsTest, ACommitThatFailsLeavesItWritable) {
    layer("base", "", "a");
    for (const std::string parent : {"", "base"}) {
        const std::string key = "active over " + parent, name = "committed over " + parent;
        const auto made = all().prepare(key, parent, {});
        ASSERT_TRUE(made);
        write(*made, "first", "1");
        {
            FailNext log(sys::Op::record, ENOSPC);
            EXPECT_EQ(code(all().commit(name, key, {}, {})), Errc::ResourceExhausted);
            EXPECT_TRUE(log.failed_);
        }
        EXPECT_EQ(all().stat(key)->kind, SnapshotKind::active);
        EXPECT_EQ(code(all().stat(name)), Errc::NotFound);
        const auto again = all().mounts(key);
        if (driver_of(GetParam()) == "overlay" && !parent.empty()) {
            EXPECT_EQ(code(again), Errc::FailedPrecondition) << "what it would write to are its parent's files";
            EXPECT_THAT(again.error().text(), HasSubstr("commit it again"));
        } else {
            ASSERT_TRUE(again) << again.error().text();
            EXPECT_EQ(again->front().options, made->front().options) << "the same answer until commit";
            write(*again, "second", "2");
        }
        const auto done = all().commit(name, key, {}, {});
        ASSERT_TRUE(done) << done.error().text();
        in(*all().view("look", name, {}), [&](const std::string &at) {
            EXPECT_EQ(read_all(at + "/first"), "1");
            if (again) {
                EXPECT_EQ(read_all(at + "/second"), "2") << "what came after the failure is in it";
            }
        });
        ASSERT_TRUE(all().remove("look"));
    }
}

/// As a kill between the driver's half of a commit and its record leaves it.
TEST_P(SnapshotsTest, AnUnfinishedCommitIsTakenBackByTheNextMount) {
    layer("base", "", "a");
    const auto made = all().prepare("active", "", {});
    ASSERT_TRUE(made);
    write(*made, "first", "1");
    const LayerId id = store_->driver().list()->back();
    ASSERT_TRUE(store_->driver().seal(id, {}));
    reopen();
    const auto again = all().mounts("active");
    ASSERT_TRUE(again) << again.error().text();
    EXPECT_EQ(again->front().options, made->front().options);
    write(*again, "second", "2");
    ASSERT_TRUE(all().commit("name", "active", {}, {}));
    in(*all().view("look", "name", {}), [](const std::string &at) {
        EXPECT_EQ(read_all(at + "/first"), "1");
        EXPECT_EQ(read_all(at + "/second"), "2");
    });
}

TEST_P(SnapshotsTest, ARefusedNameLeavesTheLoserAsItWas) {
    layer("base", "", "a");
    ASSERT_TRUE(all().prepare("first", "base", {}));
    const auto second = all().prepare("second", "base", {});
    ASSERT_TRUE(second);
    // Both commit under one name; whoever comes later is told so and can go on.
    Status one, two;
    {
        const std::jthread a([&] { one = all().commit("name", "first", {}, {}); });
        const std::jthread b([&] { two = all().commit("name", "second", {}, {}); });
    }
    ASSERT_NE(one.has_value(), two.has_value());
    EXPECT_EQ(code(one ? two : one), Errc::AlreadyExists);
    const std::string loser = one ? "second" : "first";
    const auto mounts = all().mounts(loser);
    ASSERT_TRUE(mounts) << mounts.error().text();
    write(*mounts, "b", "written after");
    ASSERT_TRUE(all().commit("other", loser, {}, {}));
}

TEST_P(SnapshotsTest, CleanupFreesWhatNoRecordNames) {
    layer("base", "", "a");
    const LayerId base = store_->driver().list()->back();
    const LayerId orphan{base.value + 1'000};
    ASSERT_TRUE(store_->driver().create(orphan, {}, {}));
    ASSERT_TRUE(all().cleanup());
    EXPECT_THAT(*store_->driver().list(), ElementsAre(base));
    EXPECT_EQ(store_->driver().trash()->layers, 0U);
}

TEST_P(SnapshotsTest, WhatCannotBeDeletedKeepsNothingElseFromGoing) {
    if (driver_of(GetParam()) == "devicemapper" || driver_of(GetParam()) == "zfs" || driver_of(GetParam()) == "btrfs")
        return; // nothing is deleted file by file there
    ASSERT_TRUE(all().prepare("one", "", {}));
    ASSERT_TRUE(all().prepare("two", "", {}));
    ASSERT_TRUE(all().remove("one"));
    ASSERT_TRUE(all().remove("two"));
    {
        FailAllOf deletion(sys::Op::unlink, to_string(store_->driver().trash()->ids.front()) + "-", EIO);
        EXPECT_EQ(code(store_->reap()), Errc::DataLoss) << "it is told";
        EXPECT_EQ(store_->driver().trash()->layers, 1U) << "and the other went";
    }
    EXPECT_TRUE(store_->reap());
    EXPECT_EQ(store_->driver().trash()->layers, 0U);
}

TEST_P(SnapshotsTest, AnotherDriverIsRefusedForSnapshotsToo) {
    ASSERT_TRUE(all().prepare("active", "", {}));
    snapshots_.reset();
    store_.reset();
    auto options = store_options(world_ / "root", GetParam() == "vfs" ? "overlay" : "vfs");
    const auto other = store::Store::open(options);
    ASSERT_FALSE(other);
    EXPECT_EQ(other.error().code(), Errc::FailedPrecondition);
    EXPECT_THAT(other.error().text(), HasSubstr("1 snapshots"));
    reopen();
    EXPECT_THAT(names(), ElementsAre("active"));
}

TEST_P(SnapshotsTest, LabelsAreBounded) {
    Labels labels;
    for (int n = 0; n < 1'100; ++n)
        labels["label " + std::to_string(n)] = std::string(4'000, 'x');
    EXPECT_EQ(code(all().prepare("key", "", labels)), Errc::InvalidArgument);
    ASSERT_TRUE(all().prepare("key", "", {}));
    EXPECT_EQ(code(all().update({"key", "", SnapshotKind::active, 0, 0, labels}, {})), Errc::InvalidArgument);
    EXPECT_EQ(code(all().commit("name", "key", labels, {})), Errc::InvalidArgument);
    EXPECT_TRUE(all().mounts("key"));
    EXPECT_TRUE(store_->driver().list()->size() == 1) << "what was refused left nothing";
}

INSTANTIATE_TEST_SUITE_P(Drivers, SnapshotsTest, testing::ValuesIn(driver_names()),
                         [](const auto &info) { return info.param; });

} // namespace
} // namespace shale::test
