// SPDX-License-Identifier: Apache-2.0
// CVE-2021-41091, CVE-2021-41103: directories of layers were open to every user of the host, set-uid programs in them
// too.
#include "issues/issue_test.h"

namespace shale::test {
namespace {

SHALE_ISSUE(Cve202141091);

TEST_P(Cve202141091, OthersCannotEnterLayers) {
    auto store = open();
    const auto image = import(*store, {{{file("su", 04755), "x"}}}, "app:1");
    const auto mode = [&](const std::string &path) {
        return static_cast<unsigned>(std::filesystem::status(world_ / path).permissions()) & 0777U;
    };
    EXPECT_EQ(mode("root") & 0066U, 0U);
    EXPECT_EQ(mode("root/blobs") & 0077U, 0U);
    EXPECT_EQ(mode("root/shale.db") & 0077U, 0U);
    EXPECT_EQ(mode("root/" + driver_of(GetParam()) + "/" + to_string(image.layers[0].id)) & 0077U, 0U);
}

} // namespace
} // namespace shale::test
