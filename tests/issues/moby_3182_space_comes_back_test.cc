// SPDX-License-Identifier: Apache-2.0
// moby #3182, #33025: images and containers are deleted, and the thin pool's file stays as large as it ever was. Here
// the space is back in the pool, and below it, when gc has run.
#include <sys/stat.h>

#include "issues/issue_test.h"

namespace shale::test {
namespace {

SHALE_ISSUE_OF(Moby3182, "devicemapper");

TEST_P(Moby3182, SpaceComesBack) {
    auto store = open();
    import(*store, {{{file("a"), "a"}}}, "small:1");
    const std::string direct = world_ / "root/devicemapper.disk";
    const std::string data = std::filesystem::exists(direct) ? direct : world_ / "root/devicemapper/pool/data";
    const auto used = [&] {
        struct stat status{};
        EXPECT_EQ(::stat(data.c_str(), &status), 0);
        return status.st_blocks * 512;
    };
    if (data == direct) {
        store.reset();
        auto options = store_options(world_ / "root", GetParam());
        options.driver_options["discard"] = "on"; // a device keeps its size: only for files it is the default
        auto opened = store::Store::open(options);
        ASSERT_TRUE(opened) << opened.error().text();
        store = std::move(*opened);
    }
    const auto before = used();
    import(*store, {{{file("big"), std::string(size_t{24} << 20U, 'b')}}}, "big:1");
    EXPECT_GT(used(), before + (24 << 20));
    ASSERT_TRUE(store->remove_image("big:1", false, false));
    ASSERT_TRUE(store->gc(false));
    EXPECT_LT(used(), before + (4 << 20));
}

} // namespace
} // namespace shale::test
