// SPDX-License-Identifier: Apache-2.0
// A store, records and all, on a dataset at its quota: every create ends in a named error; when there is room again,
// work goes on without repair.
#include <fcntl.h>
#include <gtest/gtest.h>

#include <fstream>
#include <random>

#include "support/world.h"
#include "sys/fs.h"
#include "sys/zfs.h"

namespace shale::test {
namespace {

TEST(ZfsQuota, WorkGoesOnWhenThereIsRoomAgain) {
    if (const auto why = cannot_test("zfs"); !why.empty()) GTEST_SKIP() << why;
    const World world("zfs");
    const auto zfs = sys::Zfs::open();
    const auto home = sys::zfs_dataset_of(sys::open_dir(AT_FDCWD, world.path().c_str())->get());
    ASSERT_TRUE(zfs && home);
    std::string noise(3U << 20U, '\0');
    std::mt19937 random(3); // NOLINT: the same each time
    for (char &c : noise)
        c = static_cast<char>(random());
    const World outside; // archives lie elsewhere
    write_docker_archive(outside / "base.tar", {{{file("a"), "a"}}}, "base:1");
    write_docker_archive(outside / "big.tar", {{{file("a"), "a"}}, {{file("big"), noise}}}, "big:1");

    auto store = open_store(world / "root", "zfs");
    store::ImportRequest request;
    request.source = outside / "base.tar";
    ASSERT_TRUE(store->import_images(request, {}));
    ASSERT_TRUE(store->create_container("base:1", "filler", {}));
    const auto at = store->mount_container("filler");
    ASSERT_TRUE(at);
    ASSERT_TRUE(zfs->set(*home, {{"quota", std::to_string(zfs->get(*home)->used + (2U << 20U))}}));
    std::ofstream(*at + "/fill") << noise;
    (void)zfs->sync_pool(sys::zfs_pool_of(*home));

    for (int i = 0; i < 5; ++i) {
        const auto made = store->create_container("base:1", "try" + std::to_string(i), {});
        if (made) continue; // ZFS counts with some slack
        EXPECT_EQ(made.error().code(), Errc::ResourceExhausted) << made.error().text();
    }
    request.source = outside / "big.tar";
    const auto refused = store->import_images(request, {});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Errc::ResourceExhausted) << refused.error().text();

    ASSERT_TRUE(zfs->set(*home, {{"quota", "none"}}));
    const auto imported = store->import_images(request, {});
    EXPECT_TRUE(imported) << imported.error().text();
    const auto made = store->create_container("big:1", "after", {});
    EXPECT_TRUE(made) << made.error().text();
    ASSERT_TRUE(store->unmount_container("filler"));
    EXPECT_TRUE(store->remove_container("filler", false));
    const auto collected = store->gc(false);
    EXPECT_TRUE(collected) << collected.error().text();
    const auto checked = store->check(store::CheckLevel::data, {});
    ASSERT_TRUE(checked) << checked.error().text();
    for (const auto &problem : checked->problems)
        ADD_FAILURE() << problem.object << " " << problem.what;
}

} // namespace
} // namespace shale::test
