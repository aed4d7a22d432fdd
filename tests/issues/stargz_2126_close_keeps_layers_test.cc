// SPDX-License-Identifier: Apache-2.0
// stargz-snapshotter #2126: closing the snapshotter deleted good snapshots. Here opening and closing, any number of
// times, changes nothing.
#include "issues/issue_test.h"

namespace shale::test {
namespace {

SHALE_ISSUE(Stargz2126);

TEST_P(Stargz2126, OpenAndCloseChangeNothing) {
    const auto image = import(*open(), {{{file("a"), "a"}}, {{file("b"), "b"}}}, "app:1");
    for (int i = 0; i < 3; ++i)
        open();
    auto store = open();
    EXPECT_EQ(store->list_layers()->size(), 2U);
    EXPECT_EQ(store->find_image("app:1")->manifest, image.manifest);
    EXPECT_TRUE(store->check(store::CheckLevel::data, {})->problems.empty());
}

} // namespace
} // namespace shale::test
