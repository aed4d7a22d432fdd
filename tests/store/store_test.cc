// SPDX-License-Identifier: Apache-2.0
// The store on the vfs driver: no root needed. What depends on mounts is in conformance, crash and issues.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "store/records.h"
#include "support/world.h"
#include "sys/fs.h"

namespace shale::test {
namespace {

const Layer base_layer{{dir("etc/"), ""}, {file("etc/a"), "a"}, {file("etc/b"), "bb"}};
const Layer second_layer{{dir("etc/"), ""}, {whiteout("etc/a"), ""}, {file("c"), std::string(10'000, 'c')}};

class StoreTest : public testing::Test {
protected:
    store::ImportedImage import(store::Store &store, const std::vector<Layer> &layers, const std::string &name) {
        write_docker_archive(world_ / "image.tar", layers, name);
        store::ImportRequest request;
        request.source = world_ / "image.tar";
        auto imported = store.import_images(request, {});
        EXPECT_TRUE(imported) << imported.error().text();
        return imported ? imported->at(0) : store::ImportedImage{};
    }
    std::unique_ptr<store::Store> open() { return open_store(world_ / "root", "vfs"); }
    World world_;
};

TEST_F(StoreTest, ImportRecordsLayersAndNames) {
    auto store = open();
    const auto imported = import(*store, {base_layer, second_layer}, "demo:1");
    EXPECT_EQ(imported.layers_unpacked, 2U);
    EXPECT_EQ(imported.image.names, std::vector<std::string>{"demo:1"});
    const auto image = store->find_image("demo:1");
    ASSERT_TRUE(image);
    ASSERT_EQ(image->layers.size(), 2U);
    EXPECT_EQ(image->layers[1].parent, image->layers[0].id);
    EXPECT_EQ(image->layers[1].chain_id, chain_id(image->layers[0].diff_id, image->layers[1].diff_id));
    EXPECT_EQ(store->find_image(image->config.hex().substr(0, 10))->manifest, image->manifest);
    EXPECT_EQ(store->find_layer(image->layers[1].chain_id.text())->id, image->layers[1].id);
}

TEST_F(StoreTest, SecondImportSharesLayers) {
    auto store = open();
    import(*store, {base_layer, second_layer}, "demo:1");
    const auto again = import(*store, {base_layer, second_layer}, "demo:2");
    EXPECT_EQ(again.layers_unpacked, 0U);
    EXPECT_EQ(again.layers_shared, 2U);
    EXPECT_EQ(again.image.names.size(), 2U);
    const auto other = import(*store, {base_layer, {{file("z"), "z"}}}, "other:1");
    EXPECT_EQ(other.layers_shared, 1U);
    EXPECT_EQ(store->list_layers()->size(), 3U);
}

TEST_F(StoreTest, WrongDiffIdLeavesNothing) {
    auto store = open();
    write_docker_archive(world_ / "image.tar", {base_layer, second_layer}, "demo:1");
    std::string bytes = read_all(world_ / "image.tar");
    const auto at = bytes.find("ccccccccc");
    ASSERT_NE(at, std::string::npos);
    bytes[at] = 'X';
    std::ofstream(world_ / "image.tar", std::ios::binary) << bytes;
    store::ImportRequest request;
    request.source = world_ / "image.tar";
    const auto imported = store->import_images(request, {});
    ASSERT_FALSE(imported);
    EXPECT_EQ(imported.error().code(), Errc::DataLoss) << imported.error().text();
    EXPECT_TRUE(store->list_layers()->empty());
    EXPECT_TRUE(store->list_images()->empty());
    EXPECT_TRUE(store->driver().list()->empty());
    EXPECT_TRUE(std::filesystem::is_empty(world_ / "root/tmp"));
}

TEST_F(StoreTest, RemoveImageFreesWhatNothingElseUses) {
    auto store = open();
    import(*store, {base_layer, second_layer}, "demo:1");
    import(*store, {base_layer}, "small:1");
    const auto dry = store->remove_image("demo:1", false, true);
    ASSERT_TRUE(dry);
    EXPECT_TRUE(dry->deleted);
    EXPECT_EQ(store->list_images()->size(), 2U) << "a dry run changes nothing";
    ASSERT_TRUE(store->remove_image("demo:1", false, false));
    EXPECT_EQ(store->list_layers()->size(), 1U);
    EXPECT_TRUE(store->find_image("small:1"));
    EXPECT_EQ(store->find_image("demo:1").error().code(), Errc::NotFound);
    ASSERT_TRUE(store->reap());
    EXPECT_EQ(store->driver().trash()->layers, 0U);
    EXPECT_TRUE(store->check(store::CheckLevel::data, {})->problems.empty());
}

TEST_F(StoreTest, ImageInUseByContainerStays) {
    auto store = open();
    import(*store, {base_layer}, "demo:1");
    ASSERT_TRUE(store->create_container("demo:1", "web", {}));
    const auto refused = store->remove_image("demo:1", false, false);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Errc::FailedPrecondition);
    EXPECT_NE(refused.error().text().find("web"), std::string::npos);
    ASSERT_TRUE(store->remove_image("demo:1", true, false));
    EXPECT_EQ(store->list_layers()->size(), 1U) << "the container's layer stays";
    ASSERT_TRUE(store->remove_container("web", false));
    ASSERT_TRUE(store->gc(false));
    EXPECT_TRUE(store->list_layers()->empty());
}

TEST_F(StoreTest, LeaseKeepsLayersUntilItEnds) {
    auto store = open();
    const auto image = import(*store, {base_layer, second_layer}, "demo:1").image;
    const auto lease = store->create_lease("", std::nullopt);
    ASSERT_TRUE(lease);
    ASSERT_TRUE(store->add_lease_ref(*lease, "layer:" + to_string(image.layers[1].id)));
    EXPECT_EQ(store->add_lease_ref(*lease, "layer:../x").error().code(), Errc::InvalidArgument);
    EXPECT_EQ(store->create_lease(*lease, std::nullopt).error().code(), Errc::AlreadyExists);
    ASSERT_TRUE(store->remove_image("demo:1", false, false));
    EXPECT_EQ(store->list_layers()->size(), 2U);
    ASSERT_TRUE(store->delete_lease(*lease));
    ASSERT_TRUE(store->gc(false));
    EXPECT_TRUE(store->list_layers()->empty());
    ASSERT_TRUE(store->create_lease("past", -1));
    ASSERT_TRUE(store->gc(false));
}

TEST_F(StoreTest, IdsAreNeverReused) {
    auto store = open();
    import(*store, {base_layer}, "demo:1");
    std::vector<LayerId> seen;
    for (int i = 0; i < 3; ++i) {
        const auto made = store->create_container("demo:1", "web", {});
        ASSERT_TRUE(made);
        for (const LayerId old : seen)
            EXPECT_NE(old, made->id);
        seen.push_back(made->id);
        ASSERT_TRUE(store->remove_container("web", false));
        if (i == 1) {
            store.reset();
            // An unclean boot: the counter must jump to its durable mark.
            auto records = store::Records::open(world_ / "root/shale.db", true, false);
            ASSERT_TRUE(records);
            auto tx = (*records)->begin(store::Sync::synced);
            ASSERT_TRUE(tx);
            ASSERT_TRUE(tx->prepare("UPDATE meta SET value = 'another boot' WHERE key = 'boot'")->run());
            ASSERT_TRUE(tx->prepare("UPDATE meta SET value = 1 WHERE key = 'next_id'")->run());
            ASSERT_TRUE(tx->commit());
            store = open();
        }
    }
    EXPECT_GE(seen.back().value, 1025U);
}

TEST_F(StoreTest, OtherDriverIsRefusedWhileThereAreImages) {
    {
        import(*open(), {base_layer}, "demo:1");
    }
    store::StoreOptions options;
    options.root = world_ / "root";
    options.driver = "overlay2";
    const auto other = store::Store::open(options);
    ASSERT_FALSE(other);
    EXPECT_EQ(other.error().code(), Errc::FailedPrecondition);
    EXPECT_NE(other.error().text().find("vfs"), std::string::npos);
    EXPECT_NE(other.error().text().find("1 images"), std::string::npos) << other.error().text();
}

TEST_F(StoreTest, ContainerNamesAreChecked) {
    auto store = open();
    for (const auto *bad : {"../x", "a/b", "-x", " ", "a b"})
        EXPECT_EQ(store->create_container("", bad, {}).error().code(), Errc::InvalidArgument) << bad;
    ASSERT_TRUE(store->create_container("", "empty", {}));
    EXPECT_EQ(store->create_container("", "empty", {}).error().code(), Errc::AlreadyExists);
    EXPECT_EQ(store->create_container("no-such", "x", {}).error().code(), Errc::NotFound);
}

TEST_F(StoreTest, CommitRoundTrip) {
    auto store = open();
    import(*store, {base_layer}, "demo:1");
    ASSERT_TRUE(store->create_container("demo:1", "work", {}));
    const auto at = store->mount_container("work");
    ASSERT_TRUE(at) << at.error().text();
    std::ofstream(*at + "/etc/new") << "new";
    std::filesystem::remove(*at + "/etc/a");
    std::vector<std::string> changes;
    ASSERT_TRUE(store->container_changes("work", [&](const archive::Change &change) -> Status {
        changes.push_back(std::to_string(static_cast<int>(change.kind)) + change.path);
        return {};
    }));
    EXPECT_EQ(changes, (std::vector<std::string>{"1/etc", "2/etc/a", "0/etc/new"}));
    store::CommitRequest request;
    request.container = "work";
    request.name = "demo:2";
    const auto committed = store->commit_container(request);
    ASSERT_TRUE(committed) << committed.error().text();
    EXPECT_EQ(committed->image.layers.size(), 2U);
    EXPECT_EQ(committed->image.layers[1].diff_id, committed->diff_id);
    ASSERT_TRUE(store->create_container("demo:2", "next", {}));
    const auto next = store->mount_container("next");
    ASSERT_TRUE(next);
    EXPECT_EQ(read_all(*next + "/etc/new"), "new");
    EXPECT_FALSE(std::filesystem::exists(*next + "/etc/a"));
    EXPECT_TRUE(store->check(store::CheckLevel::data, {})->problems.empty());
}

TEST_F(StoreTest, ExportImportKeepsDigests) {
    auto store = open();
    const auto before = import(*store, {base_layer, second_layer}, "demo:1").image;
    for (const auto format :
         {oci::ExportFormat::oci_dir, oci::ExportFormat::oci_archive, oci::ExportFormat::docker_archive}) {
        const std::string out = world_ / ("out" + std::to_string(static_cast<int>(format)));
        ASSERT_TRUE(store->export_image("demo:1", format, out)) << static_cast<int>(format);
        auto other = open_store(world_ / ("root" + std::to_string(static_cast<int>(format))), "vfs");
        store::ImportRequest request;
        request.source = out;
        const auto imported = other->import_images(request, {});
        ASSERT_TRUE(imported) << imported.error().text();
        EXPECT_EQ(imported->at(0).image.config, before.config);
        if (format != oci::ExportFormat::docker_archive) {
            EXPECT_EQ(imported->at(0).image.manifest, before.manifest);
        }
        EXPECT_EQ(imported->at(0).image.layers[1].diff_id, before.layers[1].diff_id);
    }
}

TEST_F(StoreTest, TwoProcessesImportTheSameImageAtOnce) {
    write_docker_archive(world_ / "image.tar", {base_layer, second_layer}, "demo:1");
    std::vector<pid_t> children;
    for (int i = 0; i < 4; ++i) {
        const pid_t child = fork();
        if (child == 0) {
            store::StoreOptions options;
            options.root = world_ / "root";
            options.driver = "vfs";
            auto store = store::Store::open(options);
            if (!store) _exit(3);
            store::ImportRequest request;
            request.source = world_ / "image.tar";
            _exit((*store)->import_images(request, {}) ? 0 : 4);
        }
        children.push_back(child);
    }
    for (const pid_t child : children) {
        int status = 0;
        waitpid(child, &status, 0);
        EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
    }
    auto store = open();
    EXPECT_EQ(store->list_layers()->size(), 2U);
    EXPECT_EQ(store->driver().list()->size(), 2U);
    EXPECT_TRUE(store->check(store::CheckLevel::data, {})->problems.empty());
}

TEST_F(StoreTest, DamageIsFoundAndRepaired) {
    auto store = open();
    const auto image = import(*store, {base_layer, second_layer}, "demo:1").image;
    EXPECT_TRUE(store->check(store::CheckLevel::full, {})->problems.empty()) << "no false alarm";
    const std::string layer = world_ / ("root/vfs/" + to_string(image.layers[1].id) + "/fs");
    std::filesystem::resize_file(layer + "/c", 0);
    std::filesystem::remove(layer + "/etc/b");
    auto report = store->check(store::CheckLevel::full, {});
    ASSERT_TRUE(report);
    EXPECT_FALSE(report->problems.empty());
    ASSERT_TRUE(store->check(store::CheckLevel::full, {}, true));
    report = store->check(store::CheckLevel::data, {});
    for (const auto &problem : report->problems)
        ADD_FAILURE() << problem.object << " " << problem.what;
}

TEST_F(StoreTest, SpaceSumsUpToStatfs) {
    auto store = open();
    import(*store, {base_layer, second_layer}, "demo:1");
    const auto space = store->space();
    ASSERT_TRUE(space) << space.error().text();
    uint64_t sum = 0;
    for (const auto &row : space->rows)
        sum += row.bytes;
    EXPECT_EQ(sum, space->fs_used);
    EXPECT_EQ(space->images.size(), 1U);
    EXPECT_GT(space->images[0].bytes, 10'000U);
}

} // namespace
} // namespace shale::test
