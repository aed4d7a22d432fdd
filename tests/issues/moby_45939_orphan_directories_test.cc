// SPDX-License-Identifier: Apache-2.0
// moby #45939, #21925: overlay2 directories that no record owns fill the disk and nothing lists them. Here the driver
// lists what it owns, check names the orphan, df shows its bytes, gc takes it - and nothing else.
#include "issues/issue_test.h"

namespace shale::test {
namespace {

SHALE_ISSUE(Moby45939);

TEST_P(Moby45939, OrphanIsNamedCountedAndCollected) {
    auto store = open();
    import(*store, {{{file("a"), "a"}}}, "app:1");
    auto staged = store->driver().stage(LayerId{900}, {});
    ASSERT_TRUE(staged);
    ASSERT_TRUE(staged->tree->create_file(staged->tree->root(), "left-behind", 0644));
    const auto report = store->check(store::CheckLevel::quick, {});
    ASSERT_TRUE(report);
    ASSERT_EQ(report->problems.size(), 1U);
    EXPECT_EQ(report->problems[0].object, "directory of layer 900");
    const auto dry = store->gc(true);
    ASSERT_TRUE(dry);
    EXPECT_EQ(dry->leftovers, 1U);
    EXPECT_EQ(store->driver().list()->size(), 2U) << "a dry run removes nothing";
    ASSERT_TRUE(store->gc(false));
    EXPECT_EQ(store->driver().list()->size(), 1U);
    EXPECT_TRUE(store->check(store::CheckLevel::data, {})->problems.empty());
}

} // namespace
} // namespace shale::test
