// SPDX-License-Identifier: Apache-2.0
// The legacy overlay driver keeps an unchanged file as one inode in all layers. A copy of its directory without -H, or
// a restore, breaks that silently: every layer holds its own copy, space is used many times over, and a later damage to
// one is no longer damage to all. Here: check finds the file, --repair links it again, containers keep their content.
#include "issues/issue_test.h"

namespace shale::test {
namespace {

SHALE_ISSUE_OF(LegacyOverlayLostLinks, "overlay");

TEST_P(LegacyOverlayLostLinks, AreFoundAndLinkedAgain) {
    auto store = open();
    ASSERT_TRUE(store->driver().links_to_parents());
    const auto image = import(*store,
                              {{{dir("usr/"), ""}, {file("usr/lib.so"), std::string(9000, 'x')}, {file("other"), "o"}},
                               {{file("new"), "n"}},
                               {{file("other"), "o"}}},
                              "app:1");
    const auto path = [&](size_t layer, const char *name) {
        return std::filesystem::path(world_ / ("root/" + GetParam())) / to_string(image.layers[layer].id) / "fs" / name;
    };
    EXPECT_TRUE(std::filesystem::equivalent(path(0, "usr/lib.so"), path(2, "usr/lib.so")));
    EXPECT_FALSE(std::filesystem::equivalent(path(1, "other"), path(2, "other"))) << "its layer states it anew";
    EXPECT_TRUE(store->check(store::CheckLevel::data, {})->problems.empty());
    ASSERT_TRUE(store->create_container("app:1", "runs", {}));

    // What `cp -a` without the other layers makes of it: the same in everything but the inode.
    const auto lost = path(1, "usr/lib.so");
    const auto when = std::filesystem::last_write_time(lost);
    std::filesystem::copy_file(lost, lost.string() + ".copy");
    std::filesystem::last_write_time(lost.string() + ".copy", when);
    std::filesystem::rename(lost.string() + ".copy", lost);

    auto report = store->check(store::CheckLevel::full, {});
    ASSERT_TRUE(report) << report.error().text();
    ASSERT_EQ(report->problems.size(), 2U) << "in its layer, and where the next one parts from it";
    for (const auto &problem : report->problems)
        EXPECT_NE(problem.what.find("usr/lib.so has lost its hard link"), std::string::npos) << problem.what;
    report = store->check(store::CheckLevel::full, {}, true);
    ASSERT_TRUE(report);
    for (const auto &problem : report->problems)
        EXPECT_TRUE(problem.repaired) << problem.object << " " << problem.what;
    EXPECT_TRUE(store->check(store::CheckLevel::data, {})->problems.empty());
    EXPECT_TRUE(std::filesystem::equivalent(path(0, "usr/lib.so"), path(1, "usr/lib.so")));
    EXPECT_TRUE(std::filesystem::equivalent(path(0, "usr/lib.so"), path(2, "usr/lib.so")));
    const auto at = store->mount_container("runs");
    ASSERT_TRUE(at) << at.error().text();
    EXPECT_EQ(read_all(*at + "/usr/lib.so"), std::string(9000, 'x'));
    EXPECT_TRUE(store->unmount_container("runs"));
}

} // namespace
} // namespace shale::test
