// SPDX-License-Identifier: Apache-2.0
// moby #20147, #14707: after a change of storage driver all images seem gone. Here the other driver is refused, by name
// and figures.
#include "issues/issue_test.h"

namespace shale::test {
namespace {

SHALE_ISSUE(Moby20147);

TEST_P(Moby20147, OtherDriverIsRefused) {
    {
        import(*open(), {{{file("a"), "a"}}}, "app:1");
    }
    store::StoreOptions options;
    options.root = world_ / "root";
    options.driver = GetParam() == "vfs" ? "overlay2" : "vfs";
    const auto other = store::Store::open(options);
    ASSERT_FALSE(other);
    EXPECT_EQ(other.error().code(), Errc::FailedPrecondition);
    EXPECT_NE(other.error().text().find(driver_of(GetParam())), std::string::npos) << other.error().text();
    EXPECT_TRUE(open()->find_image("app:1"));
}

} // namespace
} // namespace shale::test
