// SPDX-License-Identifier: Apache-2.0
// moby #20298, for-linux #414, podman #13432: images of 125 and more layers fail with "max depth exceeded" or EINVAL
// because their mount options do not fit one page. Here 200 layers import, mount and read.
#include "issues/issue_test.h"

namespace shale::test {
namespace {

SHALE_ISSUE(Moby20298);

TEST_P(Moby20298, TwoHundredLayersMount) {
    auto store = open();
    std::vector<Layer> layers;
    for (int i = 0; i < 200; ++i)
        layers.push_back({{file("f" + std::to_string(i)), std::to_string(i)}});
    import(*store, layers, "deep:1");
    ASSERT_TRUE(store->create_container("deep:1", "deep", {}));
    const auto at = store->mount_container("deep");
    ASSERT_TRUE(at) << at.error().text();
    for (const int i : {0, 99, 199})
        EXPECT_EQ(read_all(*at + "/f" + std::to_string(i)), std::to_string(i));
    EXPECT_TRUE(store->unmount_container("deep"));
}

} // namespace
} // namespace shale::test
