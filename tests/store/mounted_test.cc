// SPDX-License-Identifier: Apache-2.0
// The store's containers where they are mounted: on overlay2, so root is needed.
#include <gtest/gtest.h>
#include <sys/mount.h>

#include <filesystem>
#include <fstream>

#include "support/world.h"
#include "sys/mount.h"

namespace shale::test {
namespace {

class MountedTest : public testing::Test {
protected:
    void SetUp() override {
        if (const auto why = cannot_mount(); !why.empty()) GTEST_SKIP() << why;
        store_ = open_store(world_ / "root", "overlay2");
        write_docker_archive(world_ / "image.tar", {{{dir("etc/"), ""}, {file("etc/a"), "a"}}}, "demo:1");
        store::ImportRequest request;
        request.source = world_ / "image.tar";
        const auto imported = store_->import_images(request, {});
        ASSERT_TRUE(imported) << imported.error().text();
        const auto made = store_->create_container("demo:1", "web", {});
        ASSERT_TRUE(made) << made.error().text();
    }
    std::string mount(const std::string &target = {}) {
        const auto at = store_->mount_container("web", target);
        EXPECT_TRUE(at) << at.error().text();
        return at.value_or("");
    }
    World world_;
    std::unique_ptr<store::Store> store_;
};

TEST_F(MountedTest, ADiffDuringWhichTheContainerChangesIsRefused) {
    const std::string at = mount();
    std::ofstream(at + "/first") << "1";
    const auto quiet = store_->container_diff("web", [](std::span<const std::byte>) -> Status { return {}; });
    ASSERT_TRUE(quiet) << quiet.error().text();
    int writes = 0;
    const auto torn = store_->container_diff("web", [&](std::span<const std::byte>) -> Status {
        std::ofstream(at + "/first", std::ios::app) << ++writes;
        return {};
    });
    ASSERT_FALSE(torn);
    EXPECT_EQ(torn.error().code(), Errc::Aborted);
    EXPECT_NE(torn.error().text().find(at), std::string::npos) << torn.error().text();
    EXPECT_GT(writes, 0);
}

TEST_F(MountedTest, CommitOfAMountedContainerTakesItsChanges) {
    std::ofstream(mount() + "/new") << "new";
    store::CommitRequest request;
    request.container = "web";
    request.name = "demo:2";
    const auto committed = store_->commit_container(request);
    ASSERT_TRUE(committed) << committed.error().text();
    ASSERT_TRUE(store_->create_container("demo:2", "child", {}));
    const auto child = store_->mount_container("child");
    ASSERT_TRUE(child) << child.error().text();
    EXPECT_EQ(read_all(*child + "/new"), "new");
    EXPECT_TRUE(store_->unmount_container("child"));
}

TEST_F(MountedTest, ExportOfAMountedContainerIsItsTree) {
    std::ofstream(mount() + "/new") << "new";
    std::string tar;
    const auto report = store_->export_container("web", [&](std::span<const std::byte> bytes) -> Status {
        tar.append(reinterpret_cast<const char *>(bytes.data()), bytes.size());
        return {};
    });
    ASSERT_TRUE(report) << report.error().text();
    EXPECT_NE(tar.find("etc/a"), std::string::npos);
    EXPECT_NE(tar.find("new"), std::string::npos);
}

TEST_F(MountedTest, AForeignMountOnAnOldTargetIsNotTheContainers) {
    const std::string target = world_ / "target";
    std::filesystem::create_directory(target);
    EXPECT_EQ(mount(target), target);
    EXPECT_EQ(store_->find_container("web")->mounted_at, target);
    // Unmounted behind the store's back, and the place is used for something else.
    ASSERT_EQ(umount2(target.c_str(), 0), 0);
    ASSERT_EQ(::mount("tmpfs", target.c_str(), "tmpfs", 0, nullptr), 0);
    EXPECT_EQ(store_->find_container("web")->mounted_at, "");
    EXPECT_TRUE(store_->unmount_container("web"));
    const auto still = sys::is_mount_point(target);
    EXPECT_TRUE(still.value_or(false)) << "another's mount stays";
    EXPECT_TRUE(store_->remove_container("web", true));
    EXPECT_TRUE(sys::is_mount_point(target).value_or(false));
    ASSERT_EQ(umount2(target.c_str(), 0), 0);
}

TEST_F(MountedTest, AMountedContainerKeepsRepairFromItsLayers) {
    mount();
    const auto layer = store_->list_layers()->at(0);
    std::ofstream(world_ / ("root/overlay2/" + std::to_string(layer.id.value) + "/diff/etc/a")) << "damaged";
    const auto refused = store_->check(store::CheckLevel::data, {}, true);
    ASSERT_TRUE(refused) << refused.error().text();
    ASSERT_FALSE(refused->problems.empty());
    EXPECT_FALSE(refused->problems[0].repaired);
    EXPECT_NE(refused->problems[0].what.find("web uses it and is mounted"), std::string::npos)
        << refused->problems[0].what;
    ASSERT_TRUE(store_->unmount_container("web"));
    const auto repaired = store_->check(store::CheckLevel::data, {}, true);
    ASSERT_TRUE(repaired) << repaired.error().text();
    ASSERT_FALSE(repaired->problems.empty());
    EXPECT_TRUE(repaired->problems[0].repaired) << repaired->problems[0].what;
    EXPECT_EQ(read_all(mount() + "/etc/a"), "a");
}

} // namespace
} // namespace shale::test
