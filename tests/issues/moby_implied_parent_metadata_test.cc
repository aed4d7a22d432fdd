// SPDX-License-Identifier: Apache-2.0
// docker overlay2 and others: a layer that holds tmp/x without an entry for tmp/ resets the directory to 0755 root in
// the merged view, so /tmp loses its sticky bit. Here an implied directory keeps what the layers below say, also when
// layers unpack in parallel.
#include "issues/issue_test.h"

namespace shale::test {
namespace {

SHALE_ISSUE(ImpliedParent);

TEST_P(ImpliedParent, KeepsModeOfLowerLayers) {
    auto store = open();
    import(*store,
           {{{dir("tmp/", 01777), ""}, {dir("srv/", 0750), ""}}, {{file("tmp/x"), "x"}, {file("srv/y/z"), "z"}}},
           "app:1");
    ASSERT_TRUE(store->create_container("app:1", "c", {}));
    const auto at = store->mount_container("c");
    ASSERT_TRUE(at) << at.error().text();
    const auto mode = [&](const std::string &path) {
        return static_cast<unsigned>(std::filesystem::status(*at + path).permissions());
    };
    EXPECT_EQ(mode("/tmp"), 01777U);
    EXPECT_EQ(mode("/srv"), 0750U);
    EXPECT_EQ(mode("/srv/y"), 0755U);
    EXPECT_EQ(read_all(*at + "/srv/y/z"), "z");
    EXPECT_TRUE(store->unmount_container("c"));
}

} // namespace
} // namespace shale::test
