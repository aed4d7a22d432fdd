// SPDX-License-Identifier: Apache-2.0
// moby #20707, #20272: a thin pool runs full (of metadata, unseen), the kernel makes it read-only and containers hang;
// the repair is by hand. Here what could overflow it is refused before, with the figures, and work goes on when space
// returns.
#include "issues/issue_test.h"

namespace shale::test {
namespace {

SHALE_ISSUE_OF(Moby20707, "devicemapper");

TEST_P(Moby20707, AFullPoolRefusesAndGoesOn) {
    auto options = store_options(world_ / "root", GetParam());
    options.driver_options["metadata_size"] = "512K";
    auto opened = store::Store::open(options);
    ASSERT_TRUE(opened) << opened.error().text();
    auto &store = **opened;
    import(store, {{{file("a"), "a"}}}, "app:1");
    const auto name = [](int i) { return "c" + std::to_string(i); };
    int made = 0;
    Status done;
    while (done && made < 500) {
        const auto created = store.create_container("app:1", name(made), {});
        if (!created) {
            done = std::unexpected(created.error());
            break;
        }
        const auto at = store.mount_container(name(made));
        ASSERT_TRUE(at) << at.error().text();
        std::ofstream(*at + "/own") << "own";
        ASSERT_TRUE(store.unmount_container(name(made)));
        ++made;
    }
    ASSERT_FALSE(done);
    EXPECT_EQ(done.error().code(), Errc::ResourceExhausted) << done.error().text();
    EXPECT_NE(done.error().text().find("metadata is nearly full"), std::string::npos) << done.error().text();
    EXPECT_NE(done.error().text().find("metadata_size"), std::string::npos) << "what one can do";
    EXPECT_FALSE(store.find_container(name(made))) << "nothing is left of it";
    for (int i = 0; i < made; ++i)
        ASSERT_TRUE(store.remove_container(name(i), false));
    ASSERT_TRUE(store.gc(false));
    ASSERT_TRUE(store.create_container("app:1", "fresh", {}));
    const auto at = store.mount_container("fresh");
    ASSERT_TRUE(at) << at.error().text();
    std::ofstream(*at + "/own") << "own";
    EXPECT_EQ(read_all(*at + "/a"), "a");
    ASSERT_TRUE(store.unmount_container("fresh"));
    const auto checked = store.check(store::CheckLevel::data, {});
    ASSERT_TRUE(checked);
    EXPECT_TRUE(checked->problems.empty());
}

} // namespace
} // namespace shale::test
