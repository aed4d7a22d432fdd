// SPDX-License-Identifier: Apache-2.0
#include "cli/snapshotters.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace shale::cli {
namespace {

using testing::HasSubstr;

Result<std::vector<Snapshotter>> of_file(const std::string &text) {
    const std::vector<Source> sources{TRY(parse_toml(text, "shale.toml"))};
    return resolve_snapshotters(sources, "/var/lib/shale", drivers::registry());
}
std::string refusal(const std::string &text) {
    const auto result = of_file(text);
    if (result) return "accepted";
    EXPECT_EQ(result.error().code(), Errc::InvalidArgument);
    return result.error().text();
}

TEST(Snapshotters, WithoutTablesThereIsOne) {
    const auto one = of_file("root = \"/srv/shale\"\n[driver]\nname = \"vfs\"\n");
    ASSERT_TRUE(one) << one.error().text();
    ASSERT_EQ(one->size(), 1U);
    EXPECT_EQ((*one)[0].name, "shale");
    EXPECT_EQ((*one)[0].socket, "/run/shale/shale.sock");
    EXPECT_EQ((*one)[0].settings.root, "/srv/shale");
    EXPECT_EQ((*one)[0].settings.driver, "vfs");
}

TEST(Snapshotters, SeveralTakeTheirOwnDriversOptions) {
    const auto two = of_file(R"(
[[snapshotter]]
name = "shale"
driver = "overlay2"
root = "/var/lib/shale"
socket = "/run/shale/shale.sock"
[[snapshotter]]
name = "shale-vfs"
driver = "vfs"
root = "/var/lib/shale-vfs"
socket = "/run/shale/vfs.sock"
[driver.overlay2]
redirect_dir = "on"
[shaled]
metrics = "127.0.0.1:9450"
)");
    ASSERT_TRUE(two) << two.error().text();
    ASSERT_EQ(two->size(), 2U);
    EXPECT_EQ((*two)[0].settings.driver_options.at("redirect_dir"), "on");
    EXPECT_TRUE((*two)[1].settings.driver_options.empty());
    const std::string text = containerd_config(*two);
    EXPECT_THAT(text,
                HasSubstr("[proxy_plugins.\"shale-vfs\"]\n  type = \"snapshot\"\n  address = \"/run/shale/vfs.sock\""));
    EXPECT_THAT(text, HasSubstr("[proxy_plugins.\"shale-vfs\".exports]\n    root = \"/var/lib/shale-vfs\""));
    EXPECT_THAT(text, HasSubstr("enable_remote_snapshot_annotations = \"true\""));
    EXPECT_THAT(text.substr(0, text.find("shale-vfs")), HasSubstr("\"rebase\""));
    EXPECT_THAT(text.substr(text.find("shale-vfs")), testing::Not(HasSubstr("\"rebase\"")))
        << "a copy stands on its parent";
}

TEST(Snapshotters, FlagsTakeThePlaceOfTables) {
    Source flags;
    flags.name = "flag";
    flags.snapshotters = {{"flag", {}, "vfs", "/flag", "/flag.sock"}};
    const std::vector<Source> sources{flags, *parse_toml("[[snapshotter]]\nname = \"file\"\nroot = \"/file\"", "f")};
    const auto one = resolve_snapshotters(sources, "/var/lib/shale", drivers::registry());
    ASSERT_TRUE(one) << one.error().text();
    ASSERT_EQ(one->size(), 1U);
    EXPECT_EQ((*one)[0].settings.root, "/flag");
    EXPECT_EQ((*one)[0].name, "shale");
}

TEST(Snapshotters, WrongOnesAreNamed) {
    const std::string a = "[[snapshotter]]\nname = \"a\"\nroot = \"/a\"\nsocket = \"/a.sock\"\n";
    const std::string b = "[[snapshotter]]\nname = \"b\"\nroot = \"/b\"\nsocket = \"/b.sock\"\n";
    EXPECT_EQ(refusal(a + b), "accepted");
    EXPECT_THAT(refusal(a + a), HasSubstr("name \"a\" already"));
    EXPECT_THAT(refusal(a + "[[snapshotter]]\nname = \"b\"\nroot = \"/a\"\nsocket = \"/b.sock\"\n"),
                HasSubstr("root \"/a\" already"));
    EXPECT_THAT(refusal(a + "[[snapshotter]]\nname = \"b\"\nsocket = \"/b.sock\"\n"), HasSubstr("each needs a root"));
    EXPECT_THAT(refusal("[[snapshotter]]\nname = \"a/b\"\n"), HasSubstr("shale.toml:1"));
    EXPECT_THAT(refusal("[[snapshotter]]\nname = \"btrfs\"\n"), HasSubstr("call it \"shale-btrfs\""));
    EXPECT_THAT(refusal("[[snapshotter]]\nsocket = \"run.sock\"\n"), HasSubstr("absolute"));
    EXPECT_THAT(refusal("[[snapshotter]]\nsockte = \"/x\"\n"), HasSubstr("did you mean socket?"));
    EXPECT_THAT(refusal("[[snapshotter]]\ndriver = \"nosuch\"\n"), HasSubstr("nosuch"));
    EXPECT_THAT(refusal("snapshotter = \"x\"\n"), HasSubstr("[[snapshotter]]"));
    EXPECT_THAT(refusal("[shaled]\nmetric = \"x\"\n"), HasSubstr("did you mean metrics?"));
}

} // namespace
} // namespace shale::cli
