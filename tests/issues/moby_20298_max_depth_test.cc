// SPDX-License-Identifier: Apache-2.0
// moby #20298, for-linux #414, podman #13432: images of 125 and more layers fail with "max depth exceeded" or EINVAL
// because their mount options do not fit one page. Here 200 layers import, mount and read; a driver that stacks fewer
// by design says so before it unpacks anything.
#include "issues/issue_test.h"

namespace shale::test {
namespace {

SHALE_ISSUE(Moby20298);

TEST_P(Moby20298, TwoHundredLayersMount) {
    auto store = open();
    std::vector<Layer> layers;
    for (unsigned i = 0; i < deep(GetParam(), 200); ++i)
        layers.push_back({{file("f" + std::to_string(i)), std::to_string(i)}});
    if (const unsigned most = store->driver().max_depth(); most < 200) {
        write_docker_archive(world_ / "deep.tar", layers, "deep:1");
        store::ImportRequest request;
        request.source = world_ / "deep.tar";
        const auto refused = store->import_images(request, {});
        ASSERT_FALSE(refused);
        EXPECT_NE(refused.error().text().find("can stack " + std::to_string(most)), std::string::npos);
        EXPECT_TRUE(store->driver().list()->empty());
        layers.resize(most - 1);
    }
    const int top = static_cast<int>(layers.size()) - 1;
    import(*store, layers, "deep:1");
    ASSERT_TRUE(store->create_container("deep:1", "deep", {}));
    const auto at = store->mount_container("deep");
    ASSERT_TRUE(at) << at.error().text();
    for (const int i : {0, top / 2, top})
        EXPECT_EQ(read_all(*at + "/f" + std::to_string(i)), std::to_string(i));
    EXPECT_TRUE(store->unmount_container("deep"));
}

} // namespace
} // namespace shale::test
