// SPDX-License-Identifier: Apache-2.0
// containerd #3671, moby #23184: a power cut leaves committed layers with empty files, the digest is on record, and
// pulling again changes nothing. Here: check finds the file, --repair re-applies the layer from its blob, the image
// keeps its ids.
#include "issues/issue_test.h"

namespace shale::test {
namespace {

SHALE_ISSUE(Containerd3671);

TEST_P(Containerd3671, TruncatedFileIsFoundAndMended) {
    auto store = open();
    const auto image = import(*store, {{{dir("usr/"), ""}, {file("usr/lib.so"), std::string(9000, 'x')}}}, "app:1");
    const auto for_the_file = [&](const std::function<void(const std::string &)> &body) {
        in_layer(*store, image.layers[0].id, [&](const std::string &layer) {
            for (const auto *tree : {"/usr/lib.so", "/fs/usr/lib.so", "/diff/usr/lib.so", "/image.erofs"})
                if (std::filesystem::exists(layer + tree)) body(layer + tree);
        });
    };
    std::string before, named = "usr/lib.so";
    for_the_file([&](const std::string &path) {
        if (path.ends_with(".erofs")) named = "image"; // one file is all the layer
        before = read_all(path);
        std::filesystem::resize_file(path, 0);
    });
    auto report = store->check(store::CheckLevel::full, {});
    ASSERT_TRUE(report) << report.error().text();
    ASSERT_FALSE(report->problems.empty());
    EXPECT_NE(report->problems[0].what.find(named), std::string::npos) << report->problems[0].what;
    report = store->check(store::CheckLevel::full, {}, true);
    ASSERT_TRUE(report);
    EXPECT_TRUE(report->problems.at(0).repaired);
    for_the_file([&](const std::string &path) { EXPECT_TRUE(read_all(path) == before); });
    EXPECT_TRUE(store->check(store::CheckLevel::data, {})->problems.empty());
    EXPECT_EQ(store->find_image("app:1")->layers[0].id, image.layers[0].id);
}

} // namespace
} // namespace shale::test
