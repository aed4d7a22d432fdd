// SPDX-License-Identifier: Apache-2.0
// Migration: every driver to every other that this host can run, to another root; then what is particular, on vfs.
#include "store/migrate.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/fd.h"
#include "support/world.h"
#include "sys/fs.h"

namespace shale::test {
namespace {

archive::Entry implied_target(std::string path) { // a file whose directories no layer states
    return file(std::move(path));
}

std::vector<Layer> layers() {
    auto capable = file("bin/ping", 0755);
    if (geteuid() == 0)
        capable.xattrs = {{"security.capability", std::string("\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20)}};
    auto plain = file("bin/tool", 04755);
    plain.xattrs = {{"user.note", "kept"}};
    return {{{dir("etc/", 0700), ""},
             {file("etc/old"), "old"},
             {file("etc/a"), "a"},
             {dir("bin/"), ""},
             {plain, std::string(70'000, 't')},
             {hard_link("bin/alias", "bin/tool"), ""},
             {capable, "ping"},
             {symlink("sh", "bin/tool"), ""},
             {implied_target("opt/deep/er/file"), "deep"},
             {dir("var/"), ""},
             {file("var/x"), "x"}},
            {{whiteout("etc/old"), ""}, {hard_link("etc/third", "etc/a"), ""}, {file("new"), std::string(9'000, 'n')}},
            {{dir("var/"), ""}, {opaque("var"), ""}, {file("var/y"), "y"}, {implied_target("opt/other/file"), "o"}}};
}

/// The whole tree of a container, canonical: equal trees give equal digests, whatever the driver.
Digest tree_of(store::Store &store, std::string_view container) {
    Sha256 hash;
    const auto done = store.export_container(container, [&](std::span<const std::byte> bytes) -> Status {
        hash.update(bytes);
        return {};
    });
    EXPECT_TRUE(done) << done.error().text();
    return hash.finish();
}

std::vector<std::string> changes_of(store::Store &store, std::string_view container) {
    std::vector<std::string> out;
    const auto done = store.container_changes(container, [&](const archive::Change &change) -> Status {
        out.push_back(std::string(1, "ACD"[static_cast<size_t>(change.kind)]) + change.path);
        return {};
    });
    EXPECT_TRUE(done) << done.error().text();
    return out;
}

void import(store::Store &store, const World &world, const std::vector<Layer> &what, const std::string &name) {
    write_docker_archive(world / "image.tar", what, name);
    store::ImportRequest request;
    request.source = world / "image.tar";
    const auto imported = store.import_images(request, {});
    ASSERT_TRUE(imported) << imported.error().text();
}

void change(store::Store &store, std::string_view container) {
    const auto at = store.mount_container(container);
    ASSERT_TRUE(at) << at.error().text();
    std::ofstream(*at + "/etc/changed") << "changed";
    std::ofstream(*at + "/new", std::ios::app) << "+";
    std::filesystem::remove_all(*at + "/var");
    std::filesystem::create_directory(*at + "/var");
    std::ofstream(*at + "/var/z") << "z";
    std::filesystem::create_hard_link(*at + "/var/z", *at + "/var/zz");
    std::filesystem::remove(*at + "/sh");
    ::symlink("etc/a", (*at + "/sh").c_str());
    ::mkfifo((*at + "/pipe").c_str(), 0640);
    if (geteuid() == 0) {
        ::mknod((*at + "/null").c_str(), S_IFCHR | 0666, 0x103);
        EXPECT_EQ(::lchown((*at + "/sh").c_str(), 7, 8), 0);
    }
    ::chmod((*at + "/bin").c_str(), 0711);
    ::chmod(at->c_str(), 0750);
    EXPECT_TRUE(store.unmount_container(container));
}

/// Everything that a store says of itself, but for its root.
std::string records_of(store::Store &store) {
    std::string out;
    const auto images = store.list_images().value();
    for (const auto &image : images) {
        out += image.manifest.text() + image.config.text() + std::to_string(image.created_ns);
        for (const auto &name : image.names)
            out += name;
        for (const auto &layer : image.layers)
            out += layer.chain_id.text() + std::to_string(layer.id.value) + std::to_string(layer.created_ns);
    }
    const auto containers = store.list_containers().value();
    for (const auto &one : containers) {
        out += one.name + std::to_string(one.id.value) + one.image_name + std::to_string(one.created_ns);
        out += std::to_string(one.quota.bytes);
    }
    const auto leases = store.list_leases().value();
    for (const auto &lease : leases) {
        out += lease.id + std::to_string(lease.expires_ns);
        for (const auto &ref : lease.refs)
            out += ref;
    }
    return out;
}

void expect_sound(store::Store &store) {
    const auto checked = store.check(store::CheckLevel::data, {});
    ASSERT_TRUE(checked) << checked.error().text();
    for (const auto &problem : checked->problems)
        ADD_FAILURE() << problem.object << " " << problem.what;
    const auto left = store.gc(true);
    ASSERT_TRUE(left) << left.error().text();
    EXPECT_EQ(left->layers + left->blobs + left->leftovers, 0U) << (left->what.empty() ? "" : left->what.front());
}

class MigratePairs : public testing::TestWithParam<std::tuple<std::string, std::string>> {};

TEST_P(MigratePairs, LosesNothing) {
    const auto &[from, to] = GetParam();
    for (const auto &driver : {from, to})
        if (const auto why = cannot_test(driver); !why.empty()) GTEST_SKIP() << why;
    const World old_world(from);
    const World new_world(to);
    std::string records;
    Digest kept;
    std::vector<std::string> changes;
    auto new_options = store_options(new_world / "root", driver_of(to));
    new_options.driver_options = options_of(to, new_world / "disk"); // not in the root, which is to be empty
    const ScopeGuard drop_disk([&] { put_to_rest(new_world / "disk"); });
    {
        auto store = open_store(old_world / "root", from);
        import(*store, old_world, layers(), "app:1");
        ASSERT_TRUE(store->tag_image("app:1", "other:2"));
        ASSERT_TRUE(store->create_container("app:1", "kept", {}));
        ASSERT_TRUE(store->create_container("app:1", "untouched", {}));
        ASSERT_TRUE(store->create_container("", "empty", {}));
        ASSERT_TRUE(store->create_lease("hold", std::nullopt));
        ASSERT_TRUE(store->add_lease_ref("hold", "layer:1"));
        change(*store, "kept");
        records = records_of(*store);
        kept = tree_of(*store, "kept");
        changes = changes_of(*store, "kept");
        store::MigrateRequest request;
        request.driver = new_options.driver;
        request.root = new_options.root;
        request.options = new_options.driver_options;
        request.verify_data = true;
        const auto copied = store->migrate(request, {});
        ASSERT_TRUE(copied) << copied.error().text();
        EXPECT_EQ(copied->layers, 3U);
        EXPECT_EQ(copied->containers, 3U);
        EXPECT_TRUE(copied->notes.empty()) << copied->notes.front();
        EXPECT_EQ(records_of(*store), records) << "the old side is as it was";
        const auto ended = store->finish_migration(true, {});
        ASSERT_TRUE(ended) << ended.error().text();
        EXPECT_EQ(ended->layers + ended->containers, 0U) << "nothing had changed";
    }
    auto opened = store::Store::open(new_options);
    ASSERT_TRUE(opened) << opened.error().text();
    auto store = std::move(*opened);
    EXPECT_EQ(store->driver().name(), driver_of(to));
    EXPECT_EQ(records_of(*store), records);
    EXPECT_EQ(tree_of(*store, "kept"), kept);
    EXPECT_EQ(changes_of(*store, "kept"), changes);
    EXPECT_TRUE(changes_of(*store, "untouched").empty());
    expect_sound(*store);
    store::StoreOptions options;
    options.root = old_world / "root";
    const auto gone = store::Store::open(options);
    ASSERT_FALSE(gone);
    EXPECT_NE(gone.error().text().find(new_world / "root"), std::string::npos) << gone.error().text();
}

INSTANTIATE_TEST_SUITE_P(All, MigratePairs,
                         testing::Combine(testing::ValuesIn(driver_names()), testing::ValuesIn(driver_names())),
                         [](const auto &info) { return std::get<0>(info.param) + "_to_" + std::get<1>(info.param); });

class MigrateTest : public testing::Test {
protected:
    void SetUp() override {
        store_ = open_store(world_ / "root", "vfs");
        import(*store_, world_, layers(), "app:1");
        ASSERT_TRUE(store_->create_container("app:1", "web", {}));
        request_.driver = "vfs";
        request_.root = world_ / "new";
    }
    void finish() {
        const auto ended = store_->finish_migration(false, {});
        ASSERT_TRUE(ended) << ended.error().text();
        store_ = open_store(world_ / "new", "");
    }
    World world_;
    std::unique_ptr<store::Store> store_;
    store::MigrateRequest request_;
};

TEST_F(MigrateTest, FinishCopiesWhatChangedMeanwhile) {
    ASSERT_TRUE(store_->migrate(request_, {}));
    import(*store_, world_, {layers()[0], {{file("late"), "late"}}}, "late:1");
    ASSERT_TRUE(store_->create_container("late:1", "second", {}));
    change(*store_, "web");
    const auto kept = tree_of(*store_, "web");
    finish();
    EXPECT_TRUE(store_->find_image("late:1"));
    EXPECT_TRUE(store_->find_container("second"));
    EXPECT_EQ(tree_of(*store_, "web"), kept);
    expect_sound(*store_);
}

TEST_F(MigrateTest, WhatWasRemovedMeanwhileIsNotThere) {
    ASSERT_TRUE(store_->migrate(request_, {}));
    ASSERT_TRUE(store_->remove_container("web", false));
    ASSERT_TRUE(store_->remove_image("app:1", false, false));
    ASSERT_TRUE(store_->gc(false));
    finish();
    EXPECT_TRUE(store_->list_images()->empty());
    EXPECT_TRUE(store_->driver().list()->empty());
    EXPECT_TRUE(std::filesystem::is_empty(world_ / "new/blobs/sha256"));
    expect_sound(*store_);
}

TEST_F(MigrateTest, RunsGoOnAndRollbackLeavesNothing) {
    ASSERT_TRUE(store_->migrate(request_, {}));
    const auto again = store_->migrate(request_, {});
    ASSERT_TRUE(again) << again.error().text();
    EXPECT_EQ(again->layers + again->containers + again->blobs, 0U);
    auto other = request_;
    other.root = world_ / "third";
    EXPECT_EQ(store_->migrate(other, {}).error().code(), Errc::FailedPrecondition) << "one at a time";
    const auto records = records_of(*store_);
    ASSERT_TRUE(store_->rollback_migration({}));
    EXPECT_TRUE(std::filesystem::is_empty(world_ / "new"));
    EXPECT_EQ(records_of(*store_), records);
    EXPECT_EQ(store_->migration()->phase, store::MigratePhase::none);
    expect_sound(*store_);
    ASSERT_TRUE(store_->migrate(request_, {})) << "a new one begins";
    finish();
    expect_sound(*store_);
}

TEST_F(MigrateTest, LayerWithoutItsBlobComesFromItsTree) {
    const auto layer = store_->find_image("app:1")->layers[0];
    std::filesystem::remove(world_ / ("root/blobs/sha256/" + layer.blob.hex()));
    const auto copied = store_->migrate(request_, {});
    ASSERT_TRUE(copied) << copied.error().text();
    EXPECT_FALSE(copied->notes.empty());
    const auto kept = tree_of(*store_, "web");
    finish();
    EXPECT_EQ(tree_of(*store_, "web"), kept);
}

// They are not in a diff, so they do not come along; they must not stand in the way of the rest.
TEST_F(MigrateTest, NamesThatNoLayerCanStateAreSaidAndLeftOut) {
    {
        const auto at = store_->mount_container("web");
        ASSERT_TRUE(at) << at.error().text();
        std::ofstream(*at + "/etc/.wh.x") << "x";
        std::filesystem::create_directory(*at + "/.wh.d");
        std::ofstream(*at + "/.wh.d/below") << "below";
        std::ofstream(*at + "/etc/kept") << "kept";
        ASSERT_TRUE(store_->unmount_container("web"));
    }
    request_.verify_data = true;
    const auto copied = store_->migrate(request_, {});
    ASSERT_TRUE(copied) << copied.error().text();
    ASSERT_EQ(copied->notes.size(), 2U);
    EXPECT_NE((copied->notes[0] + copied->notes[1]).find("etc/.wh.x"), std::string::npos) << copied->notes[0];
    EXPECT_NE((copied->notes[0] + copied->notes[1]).find(".wh.d"), std::string::npos) << copied->notes[1];
    finish();
    const auto at = store_->mount_container("web");
    ASSERT_TRUE(at) << at.error().text();
    EXPECT_EQ(read_all(*at + "/etc/kept"), "kept");
    EXPECT_FALSE(std::filesystem::exists(*at + "/etc/.wh.x"));
    EXPECT_FALSE(std::filesystem::exists(*at + "/.wh.d"));
    ASSERT_TRUE(store_->unmount_container("web"));
    expect_sound(*store_);
}

TEST_F(MigrateTest, UnfinishedCopyIsNoStore) {
    ASSERT_TRUE(store_->migrate(request_, {}));
    store::StoreOptions options;
    options.root = world_ / "new";
    const auto opened = store::Store::open(options);
    ASSERT_FALSE(opened);
    EXPECT_NE(opened.error().text().find(world_ / "root"), std::string::npos) << opened.error().text();
}

TEST_F(MigrateTest, FinishWaitsForOthers) {
    ASSERT_TRUE(store_->migrate(request_, {}));
    auto other = open_store(world_ / "root", "vfs");
    const std::jthread closes([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(300));
        other.reset();
    });
    finish();
}

// Nobody else can have the store alone while it is copied: what is copied by then does not make others wait.
TEST_F(MigrateTest, FinishCopiesBeforeItIsAlone) {
    ASSERT_TRUE(store_->migrate(request_, {}));
    import(*store_, world_, {{{file("late"), "late"}}}, "late:1");
    auto other = open_store(world_ / "root", "vfs");
    bool copied = false;
    const auto ended = store_->finish_migration(false, [&](const store::ProgressEvent &event) {
        copied = copied || event.kind == store::ProgressEvent::Kind::layer_done;
        if (copied) other.reset();
    });
    ASSERT_TRUE(ended) << ended.error().text();
    EXPECT_TRUE(copied);
    EXPECT_EQ(ended->layers, 1U);
}

TEST_F(MigrateTest, BackToARootThatWasLeft) {
    const auto expect_sign = [&] {
        store::StoreOptions options;
        options.root = world_ / "root";
        const auto opened = store::Store::open(options);
        ASSERT_FALSE(opened);
        EXPECT_NE(opened.error().text().find(world_ / "new"), std::string::npos) << opened.error().text();
    };
    const auto records = records_of(*store_);
    ASSERT_TRUE(store_->migrate(request_, {}));
    const auto guard_was_there = [&] {
        std::filesystem::create_directory(world_ / "root/guard");
        std::ofstream(world_ / "root/guard/state.json") << "{}";
    };
    guard_was_there();
    ASSERT_TRUE(store_->refuse_creates(std::chrono::seconds(60), "full"));
    finish();
    for (const char *gone : {"root/guard", "root/refusal"})
        EXPECT_FALSE(std::filesystem::exists(std::filesystem::symlink_status(world_ / gone))) << gone;
    guard_was_there(); // one that did not know yet
    request_.root = world_ / "root";
    std::ofstream(world_ / "root/mine") << "mine";
    EXPECT_EQ(store_->migrate(request_, {}).error().code(), Errc::FailedPrecondition);
    expect_sign();
    std::filesystem::remove(world_ / "root/mine");
    ASSERT_TRUE(store_->migrate(request_, {}));
    expect_sign();
    ASSERT_TRUE(store_->rollback_migration({}));
    expect_sign();
    const auto again = store_->migrate(request_, {});
    ASSERT_TRUE(again) << again.error().text();
    const auto ended = store_->finish_migration(false, {});
    ASSERT_TRUE(ended) << ended.error().text();
    store_ = open_store(world_ / "root", "");
    EXPECT_EQ(records_of(*store_), records);
    expect_sound(*store_);
}

TEST_F(MigrateTest, ADriverThatDoesNotWorkThereLeavesNothing) {
    for (const auto *driver : {"btrfs", "zfs"}) { // the world is a tmpfs, or a plain directory
        request_.driver = driver;
        for (const auto &root : {std::string(), world_ / "new"}) {
            request_.root = root;
            const auto refused = store_->migrate(request_, {});
            if (refused) GTEST_SKIP() << driver << " works here";
            EXPECT_EQ(store_->migration()->phase, store::MigratePhase::none) << refused.error().text();
            EXPECT_FALSE(std::filesystem::exists(world_ / "root/" + driver));
            EXPECT_TRUE(root.empty() || std::filesystem::is_empty(root)) << refused.error().text();
        }
    }
    expect_sound(*store_);
}

TEST_F(MigrateTest, RollbackNeedsNoWorkingDriver) {
    ASSERT_TRUE(store_->migrate(request_, {}));
    std::filesystem::remove_all(request_.root + "/vfs");
    std::ofstream(request_.root + "/vfs") << "no directory";
    EXPECT_FALSE(store_->finish_migration(false, {}));
    const auto back = store_->rollback_migration({});
    ASSERT_TRUE(back) << back.error().text();
    ASSERT_EQ(back->notes.size(), 1U);
    EXPECT_NE(back->notes[0].find(request_.root + "/vfs"), std::string::npos) << back->notes[0];
    EXPECT_EQ(store_->migration()->phase, store::MigratePhase::none);
    EXPECT_FALSE(std::filesystem::exists(request_.root + "/shale.db")) << "nobody's copy any more";
    expect_sound(*store_);
}

TEST_F(MigrateTest, ForeignDirectoriesAreRefused) {
    std::filesystem::create_directories(world_ / "full");
    std::ofstream(world_ / "full/file") << "mine";
    for (const auto *root : {"full", "root/blobs/new", "."}) {
        request_.root = std::filesystem::path(world_ / root).lexically_normal().string();
        if (request_.root.ends_with('/')) request_.root.pop_back();
        EXPECT_FALSE(store_->migrate(request_, {})) << root;
    }
    EXPECT_TRUE(std::filesystem::exists(world_ / "full/file"));
    {
        open_store(world_ / "taken", "vfs");
    }
    request_.root = world_ / "taken";
    EXPECT_FALSE(store_->migrate(request_, {}));
    request_.root.clear();
    EXPECT_EQ(store_->migrate(request_, {}).error().code(), Errc::InvalidArgument) << "it is there already";
    EXPECT_EQ(store_->migration()->phase, store::MigratePhase::none);
    expect_sound(*store_);
}

// The rows of the old store say that the copy is whole; a disk that is not mounted, or lost a part, says otherwise.
TEST_F(MigrateTest, ACopyThatHasGoneIsNotBelieved) {
    ASSERT_TRUE(store_->migrate(request_, {}));
    std::filesystem::rename(request_.root, world_ / "unmounted");
    const auto refused = store_->finish_migration(false, {});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Errc::FailedPrecondition);
    EXPECT_NE(refused.error().text().find("mounted"), std::string::npos) << refused.error().text();
    EXPECT_FALSE(std::filesystem::exists(request_.root)) << "nothing is begun anew in its place";
    std::filesystem::rename(world_ / "unmounted", request_.root);

    const auto layer = store_->find_image("app:1")->layers[0];
    std::filesystem::remove_all(request_.root + "/vfs/" + to_string(layer.id));
    ASSERT_TRUE(std::filesystem::remove(request_.root + "/blobs/sha256/" + layer.blob.hex()));
    // A blob that was renamed and not synced when the power went: no row, wrong bytes.
    import(*store_, world_, {layers()[0], {{file("late"), "late"}}}, "late:1");
    std::ofstream(request_.root + "/blobs/sha256/" + store_->find_image("late:1")->layers[1].blob.hex()) << "torn";
    finish();
    EXPECT_TRUE(store_->find_image("late:1"));
    const auto checked = store_->check(store::CheckLevel::data, {});
    ASSERT_TRUE(checked);
    for (const auto &problem : checked->problems)
        ADD_FAILURE() << problem.object << " " << problem.what;
}

// What is mounted or lies where the driver's directory would be is not shale's to fill, nor to empty.
TEST_F(MigrateTest, ADriversDirectoryWithThingsInItIsRefused) {
    std::filesystem::create_directories(request_.root + "/vfs");
    std::ofstream(request_.root + "/vfs/mine") << "mine";
    EXPECT_EQ(store_->migrate(request_, {}).error().code(), Errc::FailedPrecondition);
    EXPECT_EQ(read_all(request_.root + "/vfs/mine"), "mine");
}

TEST_F(MigrateTest, WhatDoesNotFitIsRefusedFirst) {
    if (!cannot_mount().empty()) GTEST_SKIP() << cannot_mount();
    std::filesystem::create_directories(world_ / "small");
    ASSERT_TRUE(sys::mount_at({"tmpfs", "small", {"size=384k"}}, world_ / "small"));
    request_.root = world_ / "small/new";
    const auto estimate = store_->estimate_migration(request_);
    ASSERT_TRUE(estimate) << estimate.error().text();
    EXPECT_FALSE(estimate->fits());
    EXPECT_EQ(store_->migrate(request_, {}).error().code(), Errc::ResourceExhausted);
    EXPECT_FALSE(std::filesystem::exists(request_.root));
    request_.force = true;
    EXPECT_FALSE(store_->migrate(request_, {})) << "the disk is full in the middle";
    const auto back = store_->rollback_migration({});
    EXPECT_TRUE(back) << back.error().text();
    EXPECT_TRUE(std::filesystem::is_empty(request_.root));
    expect_sound(*store_);
}

// The root's room says nothing of a pool elsewhere; blobs still go to the root.
TEST_F(MigrateTest, RoomThatTheDriverHasElsewhereIsNotTheRoots) {
    if (!cannot_mount().empty()) GTEST_SKIP() << cannot_mount();
    std::filesystem::create_directories(world_ / "small");
    ASSERT_TRUE(sys::mount_at({"tmpfs", "small", {"size=384k"}}, world_ / "small"));
    {
        const auto at = store_->mount_container("web");
        ASSERT_TRUE(at) << at.error().text();
        std::ofstream(*at + "/big") << std::string(1U << 20U, 'b');
        ASSERT_TRUE(store_->unmount_container("web"));
    }
    request_.root = world_ / "small/new";
    const auto estimate = [&](const std::string &driver, drivers::DriverOptions options) {
        request_.driver = driver;
        request_.options = std::move(options);
        auto out = store_->estimate_migration(request_);
        EXPECT_TRUE(out) << out.error().text();
        return out.value_or(store::MigrateEstimate{});
    };
    for (const auto &elsewhere :
         {estimate("devicemapper", {{"pool", "device"}, {"device", "/dev/sdb"}}),
          estimate("devicemapper", {{"pool", "vg"}, {"vg", "vg0"}}), estimate("zfs", {{"dataset", "tank/shale"}})}) {
        EXPECT_TRUE(elsewhere.fits());
        EXPECT_TRUE(elsewhere.elsewhere) << "not compared";
        EXPECT_GE(elsewhere.bytes, 1U << 20U);
    }
    EXPECT_FALSE(estimate("devicemapper", {}).fits()) << "files of the root";
    EXPECT_FALSE(estimate("zfs", {}).fits()) << "a dataset below the root's own";
    request_.root = world_ / "roomy";
    EXPECT_TRUE(estimate("devicemapper", {}).fits());
    const auto small = estimate("devicemapper", {{"data_size", "512k"}});
    EXPECT_FALSE(small.fits());
    EXPECT_NE(small.file_system.find("data_size"), std::string::npos) << small.file_system;
    // A store whose blobs alone are too much is refused, whatever the driver.
    import(*store_, world_, {{{file("noise"), std::string(1U << 20U, 'n')}}}, "noise:1");
    request_.root = world_ / "small/new";
    const auto blobs = estimate("zfs", {{"dataset", "tank/shale"}});
    EXPECT_FALSE(blobs.fits());
    EXPECT_GT(blobs.blob_bytes, blobs.free_bytes) << "it is they that do not fit";
}

TEST(MigrateMounted, IsCopiedStillAndRefusedByName) {
    if (const auto why = cannot_test("overlay2"); !why.empty()) GTEST_SKIP() << why;
    const World world("overlay2");
    auto store = open_store(world / "root", "overlay2");
    import(*store, world, layers(), "app:1");
    ASSERT_TRUE(store->create_container("app:1", "web", {}));
    const auto at = store->mount_container("web");
    ASSERT_TRUE(at);
    std::ofstream(*at + "/live") << "live";
    store::MigrateRequest request;
    request.driver = "vfs";
    const auto copied = store->migrate(request, {});
    ASSERT_TRUE(copied) << copied.error().text();
    EXPECT_EQ(copied->containers, 1U) << "nothing wrote meanwhile";
    const auto refused = store->finish_migration(false, {});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Errc::FailedPrecondition);
    EXPECT_NE(refused.error().text().find("container web"), std::string::npos) << refused.error().text();
    std::ofstream(*at + "/later") << "later";
    ASSERT_TRUE(store->unmount_container("web"));
    const auto ended = store->finish_migration(false, {});
    ASSERT_TRUE(ended) << ended.error().text();
    EXPECT_EQ(ended->containers, 1U);
    EXPECT_EQ(store->driver().name(), "vfs");
    EXPECT_EQ(read_all(*store->mount_container("web") + "/later"), "later");
    EXPECT_FALSE(std::filesystem::exists(world / "root/overlay2"));
    expect_sound(*store);
}

} // namespace
} // namespace shale::test
