// SPDX-License-Identifier: Apache-2.0
#include "doctor/hosts/toml_values.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace shale::doctor {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST(TomlValues, ReadsTablesTextsAndLists) {
    const TomlValues values = toml_values(R"(# a comment
root = "/srv/a#b"   # another
[storage] # one more
driver='over\lay'
  size = 10_000
on = true
"quoted key" = "tab\tend\"\\"
list = ["a", 'b', # inside
  3,
]
empty = []
[ storage . options ]
mount = """two
lines"""
[[snapshotter]]
root = "/one"
[[snapshotter]]
root = "/two"
)");
    EXPECT_EQ(values.not_understood, std::nullopt);
    EXPECT_EQ(values.text("", "root"), "/srv/a#b");
    EXPECT_EQ(values.text("storage", "driver"), "over\\lay");
    EXPECT_EQ(values.text("storage", "size"), "10_000");
    EXPECT_EQ(values.text("storage", "on"), "true");
    EXPECT_EQ(values.text("storage", "quotedkey"), "tab\tend\"\\");
    ASSERT_NE(values.find("storage", "list"), nullptr);
    EXPECT_THAT(values.find("storage", "list")->values, ElementsAre("a", "b", "3"));
    EXPECT_THAT(values.find("storage", "empty")->values, IsEmpty());
    EXPECT_EQ(values.text("storage", "empty"), "");
    EXPECT_EQ(values.text("storage.options", "mount"), "two\nlines");
    EXPECT_EQ(values.text("snapshotter", "root"), "/two"); // the last one
    EXPECT_EQ(values.find("snapshotter", "none"), nullptr);
}

TEST(TomlValues, PassesOverWhatItDoesNotKnow) {
    const TomlValues values =
        toml_values("a = 1\nwhat is this\nb = \"no end\nc = { x = 1, y = 2 }\nd = 4\n[broken\ne = 5\n");
    EXPECT_EQ(values.not_understood, 2U);
    EXPECT_EQ(values.text("", "a"), "1");
    EXPECT_EQ(values.find("", "b"), nullptr);
    EXPECT_EQ(values.text("", "d"), "4");
}

TEST(TomlValues, EndsOnEveryInput) {
    const std::string text = "[a]\nb = [\"c\", 'd', [1, [2]]]\r\ne = \"\"\"f\n\"\"\" # g\n[[h]]\ni.j = {k=\"l\"}\n";
    for (size_t size = 0; size <= text.size(); ++size)
        (void)toml_values(text.substr(0, size));
    for (size_t at = 0; at < text.size(); ++at)
        for (const char c : {'\0', '\n', '"', '\'', '[', ']', '=', '#', '\\', ',', '\xff'}) {
            std::string changed = text;
            changed[at] = c;
            EXPECT_LE(toml_values(changed).values.size(), 10U);
        }
    const TomlValues many = toml_values([] {
        std::string out;
        for (int i = 0; i < 20'000; ++i)
            out += "x = 1\n";
        return out;
    }());
    EXPECT_EQ(many.values.size(), 10'000U);
    EXPECT_EQ(many.not_understood, 10'001U);
}

} // namespace
} // namespace shale::doctor
