// SPDX-License-Identifier: Apache-2.0
// A guard refuses what is new: all ways to make something hear of it, with the reason, and all that makes room goes on.
#include "store/refusal.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <ctime>
#include <string>

#include "crash/hooks.h"
#include "store/snapshots.h"
#include "support/world.h"
#include "sys/fs.h"

namespace shale::test {
namespace {

using std::chrono::seconds;
using testing::HasSubstr;

class RefusalTest : public testing::Test {
protected:
    [[nodiscard]] int root() const { return root_.get(); }
    void put(const std::string &text) {
        (void)sys::unlink_at(root(), "refusal");
        ASSERT_TRUE(sys::make_symlink(text, root(), "refusal"));
    }

    World world_;
    UniqueFd root_ = std::move(*sys::make_dirs(AT_FDCWD, world_ / "root"));
    UniqueFd tmp_ = std::move(*sys::make_dirs(root_.get(), "tmp"));
};

TEST_F(RefusalTest, LastsUntilItsTimeOrUntilItIsTakenBack) {
    EXPECT_EQ(*store::why_refused(root(), 1000), std::nullopt);
    ASSERT_TRUE(store::refuse_creates(root(), 1000, seconds(60), "inodes: 12 of 1,000 free"));
    EXPECT_EQ(*store::why_refused(root(), 1000), "inodes: 12 of 1,000 free");
    EXPECT_EQ(*store::why_refused(root(), 1059), "inodes: 12 of 1,000 free");
    EXPECT_EQ(*store::why_refused(root(), 1060), std::nullopt) << "whoever refused has died";
    ASSERT_TRUE(store::refuse_creates(root(), 1050, seconds(60), "again"));
    EXPECT_EQ(*store::why_refused(root(), 1100), "again");
    const auto refused = store::creates_allowed(root(), 1100);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Errc::ResourceExhausted);
    EXPECT_THAT(refused.error().text(), HasSubstr("again"));
    ASSERT_TRUE(store::allow_creates(root()));
    ASSERT_TRUE(store::allow_creates(root())) << "none is fine";
    EXPECT_TRUE(store::creates_allowed(root(), 1100));
    EXPECT_TRUE(sys::list_dir(tmp_.get())->empty());
}

TEST_F(RefusalTest, NoTextKeepsAStoreFromWorking) {
    for (const char *text : {"nonsense", "99999999999999999999 far", "1000", "1000x why", "-5 why", "900 past",
                             "5000 set by a clock that was an hour ahead"}) {
        put(text);
        EXPECT_EQ(*store::why_refused(root(), 1000), std::nullopt) << text;
    }
    ASSERT_TRUE(store::refuse_creates(root(), 1000, std::chrono::hours(24), std::string(10'000, 'x')));
    EXPECT_EQ((*store::why_refused(root(), 1000))->size(), 2000U) << "a symlink has room for it";
    EXPECT_EQ(*store::why_refused(root(), 1000 + store::longest_refusal.count()), std::nullopt);
}

TEST_F(RefusalTest, WhatIsNewIsRefusedAndTheRestGoesOn) {
    if (const auto why = cannot_mount(); !why.empty()) GTEST_SKIP() << why;
    auto store = open_store(world_ / "root", "overlay2");
    write_docker_archive(world_ / "image.tar", {{{file("f"), "x"}}}, "small:1");
    ASSERT_TRUE(store->import_images({world_ / "image.tar", {}, {}}, {}));
    const std::string image = "small:1";
    ASSERT_TRUE(store->create_container(image, "before", {}));
    store::Snapshots snapshots(*store);
    ASSERT_TRUE(snapshots.prepare("a", "", {}));
    {
        FailNext full(sys::Op::symlink, ENOSPC); // just when it is wanted: the reserve makes room
        ASSERT_TRUE(store->refuse_creates(seconds(60), "bytes: 95 % of /disk in use"));
        EXPECT_TRUE(full.failed_);
    }
    EXPECT_EQ(*store->why_refused(), "bytes: 95 % of /disk in use");
    const auto status_of = [](const auto &result) { return result ? Status() : std::unexpected(result.error()); };
    for (const Status &refused :
         {status_of(store->create_container(image, "after", {})), status_of(snapshots.prepare("b", "", {})),
          status_of(store->import_images({world_ / "image.tar", {}, {}}, {}))}) {
        ASSERT_FALSE(refused);
        EXPECT_EQ(refused.error().code(), Errc::ResourceExhausted);
        EXPECT_THAT(refused.error().text(), HasSubstr("bytes: 95 % of /disk in use"));
    }
    EXPECT_TRUE(snapshots.commit("layer", "a", {}, ""));
    EXPECT_TRUE(snapshots.view("look", "layer", {})) << "takes nothing";
    EXPECT_TRUE(store->mount_container("before"));
    EXPECT_TRUE(store->unmount_container("before"));
    EXPECT_TRUE(store->remove_container("before", false));
    EXPECT_TRUE(store->gc(false));
    ASSERT_TRUE(store->allow_creates());
    EXPECT_TRUE(store->create_container(image, "after", {}));
}

} // namespace
} // namespace shale::test
