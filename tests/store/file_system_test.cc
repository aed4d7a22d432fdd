// SPDX-License-Identifier: Apache-2.0
// File systems that a store cannot begin on, or go on with: refused before anything is made, with the reason.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fmt/format.h>

#include <filesystem>

#include "store/store.h"
#include "support/world.h"

namespace shale::test {
namespace {

using testing::HasSubstr;
constexpr uint64_t mib = uint64_t{1} << 20U;

class FileSystemTest : public testing::Test {
protected:
    void SetUp() override {
        if (const std::string why = cannot_mount(); !why.empty()) GTEST_SKIP() << why;
    }
    World world_;
};

TEST_F(FileSystemTest, WithoutTypesHoldsNoOverlay) {
    const std::string disk = world_ / "disk";
    ASSERT_TRUE(std::filesystem::create_directory(disk));
    const auto mounted = mount_new("ext4", 64 * mib, disk, {}, {"-O", "^filetype"});
    ASSERT_TRUE(mounted) << mounted.error().text();
    for (const std::string driver : {"overlay2", "overlay", "erofs"}) {
        const auto opened = store::Store::open(store_options(disk + "/" + driver, driver));
        ASSERT_FALSE(opened) << driver;
        EXPECT_EQ(opened.error().code(), Errc::FailedPrecondition);
        EXPECT_THAT(opened.error().text(), HasSubstr("gives no d_type here")) << driver;
    }
    EXPECT_TRUE(store::Store::open(store_options(disk + "/overlay2", "vfs")))
        << "nothing was recorded of the other driver";
    // The one that is chosen where none is named needs no types either.
    const auto chosen = store::Store::open(store_options(disk + "/chosen", ""));
    ASSERT_TRUE(chosen) << chosen.error().text();
    EXPECT_EQ((*chosen)->driver().name(), "vfs");
}

TEST_F(FileSystemTest, WithoutInodesNamesTheHolders) {
    const std::string disk = world_ / "disk";
    ASSERT_TRUE(std::filesystem::create_directory(disk));
    const auto mounted = mount_new("ext4", 64 * mib, disk, {}, {"-N", "400"});
    ASSERT_TRUE(mounted) << mounted.error().text();
    auto store = open_store(disk + "/store", "vfs");
    ASSERT_TRUE(store->create_container("", "few", {}));
    const auto many = store->create_container("", "many", {});
    ASSERT_TRUE(many) << many.error().text();
    std::string tree;
    for (const auto &entry :
         std::filesystem::recursive_directory_iterator(fmt::format("{}/vfs/{}", store->root(), many->id.value)))
        if (entry.is_directory()) tree = entry.path();
    ASSERT_FALSE(tree.empty());
    for (int i = 0;; ++i)
        if (!UniqueFd(::open(fmt::format("{}/{}", tree, i).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600))) break;
    const auto refused = store->create_container("", "next", {});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Errc::ResourceExhausted);
    EXPECT_THAT(refused.error().text(), HasSubstr("inodes: 0 of "));
    EXPECT_THAT(refused.error().text(), HasSubstr("top holders among the containers: many (3"));
    EXPECT_THAT(refused.error().text(), HasSubstr(", few ("));
    const auto left = store->list_containers();
    ASSERT_TRUE(left) << left.error().text();
    EXPECT_EQ(left->size(), 2U);
    const auto removed = store->remove_container("many", false);
    EXPECT_TRUE(removed) << removed.error().text();
    EXPECT_TRUE(store->reap());
    EXPECT_TRUE(store->create_container("", "next", {}));
}

} // namespace
} // namespace shale::test
