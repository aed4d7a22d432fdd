// SPDX-License-Identifier: Apache-2.0
// moby #43080, #40132: a container whose dataset is gone cannot be removed for ever after ("dataset does not exist").
// Here what is not there is removed.
#include <filesystem>

#include "issues/issue_test.h"
#include "sys/zfs.h"

namespace shale::test {
namespace {

SHALE_ISSUE_OF(Moby43080, "zfs");

TEST_P(Moby43080, AMissingDatasetIsRemoved) {
    auto store = open();
    import(*store, {{{file("a"), "a"}}}, "app:1");
    const auto made = store->create_container("app:1", "gone", {});
    ASSERT_TRUE(made) << made.error().text();
    const auto specs = store->driver().mounts(made->id, {}, drivers::Driver::Access::read_write);
    ASSERT_TRUE(specs) << specs.error().text();
    ASSERT_TRUE(sys::Zfs::open()->destroy(specs->front().source));
    const auto removed = store->remove_container("gone", false);
    EXPECT_TRUE(removed) << removed.error().text();
    const auto collected = store->gc(false);
    EXPECT_TRUE(collected) << collected.error().text();
    EXPECT_EQ(store->driver().trash()->layers, 0U);
    EXPECT_TRUE(store->check(store::CheckLevel::data, {})->problems.empty());
}

} // namespace
} // namespace shale::test
