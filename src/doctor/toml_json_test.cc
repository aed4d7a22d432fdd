// SPDX-License-Identifier: Apache-2.0
#include "doctor/toml_json.h"

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace shale::doctor {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

std::string repeated(std::string_view text, size_t times) {
    std::string out;
    for (size_t i = 0; i < times; ++i)
        out += text;
    return out;
}

TEST(TomlJson, TablesArraysAndScalars) {
    const auto document = parse_toml("version = 2\nroot = '/x'\nlist = [1, 2.5, true, \"a.b\"]\n"
                                     "[plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = \"overlayfs\"\n"
                                     "[[worker]]\nwhen = 2026-01-02\n");
    ASSERT_TRUE(document) << document.error().text();
    EXPECT_EQ((*document)["version"], 2);
    EXPECT_EQ((*document)["root"], "/x");
    EXPECT_EQ((*document)["list"].dump(), R"([1,2.5,true,"a.b"])");
    EXPECT_EQ((*document)["plugins"]["io.containerd.grpc.v1.cri"]["containerd"]["snapshotter"], "overlayfs");
    EXPECT_EQ((*document)["worker"][0]["when"], "2026-01-02");
}

TEST(TomlJson, AnErrorSaysItsLine) {
    const auto document = parse_toml("a = 1\nb = \n");
    ASSERT_FALSE(document);
    EXPECT_EQ(document.error().code(), Errc::InvalidArgument);
    EXPECT_TRUE(document.error().message().starts_with("line 2: ")) << document.error().message();
}

TEST(TomlJson, AKeyThatNoneBeginsLike) {
    const auto document = parse_toml("[:x]\n");
    ASSERT_FALSE(document);
    EXPECT_EQ(document.error().code(), Errc::InvalidArgument);
}

TEST(TomlJson, DepthIsBounded) {
    for (const std::string &text :
         {"[" + repeated("a.", 1'000'000) + "b]\n", repeated("a.", 65) + "b = 1\n", "x = " + repeated("[", 1000),
          "x = " + repeated("{a=", 1000), "y = '''\n'''\nx = {" + repeated("\"k\".", 70) + "z = 1}\n"}) {
        const auto document = parse_toml(text);
        ASSERT_FALSE(document);
        EXPECT_EQ(document.error().code(), Errc::ResourceExhausted) << document.error().text();
    }
}

TEST(TomlJson, DotsInTextAreNoDepth) {
    const std::string dots = repeated("a.", 1000);
    const auto document = parse_toml("# " + dots + "\nx = \"" + dots + "\\\"" + dots + "\"\ny = '" + dots +
                                     "'\nz = \"\"\"\n" + dots + "\n\"\"\"\nlist = [" + repeated("1.5, ", 200) + "]\n");
    ASSERT_TRUE(document) << document.error().text();
    EXPECT_EQ((*document)["list"].size(), 200U);
}

TEST(TomlJson, SizeIsBounded) {
    const auto document = parse_toml(std::string(max_toml_bytes + 1, ' '));
    ASSERT_FALSE(document);
    EXPECT_EQ(document.error().code(), Errc::ResourceExhausted);
}

TEST(TomlJson, TextsByTheirPath) {
    const auto document = parse_toml(R"(# a comment
root = "/srv/a#b"   # another
[storage] # one more
driver='over\lay'
  size = 10_000
on = true
mode = 0o700
"quoted key" = "tab\tend\"\\"
list = ["a", 'b', # inside
  "3", ["c"],
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
    ASSERT_TRUE(document) << document.error().text();
    EXPECT_EQ(toml_text(*document, {"root"}), "/srv/a#b");
    EXPECT_EQ(toml_text(*document, {"storage", "driver"}), "over\\lay");
    EXPECT_EQ(toml_text(*document, {"storage", "size"}), "10000");
    EXPECT_EQ(toml_text(*document, {"storage", "on"}), "true");
    EXPECT_EQ(toml_text(*document, {"storage", "mode"}), "448");
    EXPECT_EQ(toml_text(*document, {"storage", "quoted key"}), "tab\tend\"\\");
    EXPECT_EQ(toml_text(*document, {"storage", "options", "mount"}), "two\nlines");
    EXPECT_THAT(toml_texts(*document, {"storage", "list"}), ElementsAre("a", "b", "3"));
    EXPECT_THAT(toml_texts(*document, {"storage", "driver"}), ElementsAre("over\\lay"));
    EXPECT_THAT(toml_texts(*document, {"storage", "empty"}), IsEmpty());
    EXPECT_EQ(toml_at(*document, {"snapshotter"})->size(), 2U);
}

TEST(TomlJson, WhatIsNotThereHasNoText) {
    const auto document = parse_toml("a = 1\nlist = [1]\n[table]\nb = 2\n");
    ASSERT_TRUE(document) << document.error().text();
    EXPECT_EQ(toml_at(*document, {"none"}), nullptr);
    EXPECT_EQ(toml_at(*document, {"a", "b"}), nullptr);
    EXPECT_EQ(toml_text(*document, {"table"}), "");
    EXPECT_EQ(toml_text(*document, {"list"}), "");
    EXPECT_EQ(toml_text(*document, {"none", "b"}), "");
    EXPECT_THAT(toml_texts(*document, {"table"}), IsEmpty());
    EXPECT_THAT(toml_texts(*document, {"none"}), IsEmpty());
    EXPECT_EQ(toml_at(nlohmann::json(), {"a"}), nullptr); // of a file that could not be read
}

TEST(TomlJson, WhatIsNoNumberHasNoText) {
    const auto document = parse_toml("a = nan\nb = [inf, -inf, 2.5]\n");
    ASSERT_TRUE(document) << document.error().text();
    EXPECT_EQ(toml_text(*document, {"a"}), "");
    EXPECT_THAT(toml_texts(*document, {"b"}), ElementsAre("", "", "2.5"));
}

TEST(TomlJson, EndsOnEveryInput) {
    const std::string text = "[a]\nb = [\"c\", 'd', [1, [2]]]\r\ne = \"\"\"f\n\"\"\" # g\n[[h]]\ni.j = {k=\"l\"}\n";
    for (size_t size = 0; size <= text.size(); ++size)
        (void)parse_toml(text.substr(0, size));
    for (size_t at = 0; at < text.size(); ++at)
        for (const char c : {'\0', '\n', '"', '\'', '[', ']', '=', '#', '\\', ',', '\xff'}) {
            std::string changed = text;
            changed[at] = c;
            if (const auto document = parse_toml(changed)) {
                EXPECT_LE(document->size(), 10U);
            }
        }
}

TEST(TomlJson, Nothing) {
    const auto document = parse_toml("");
    ASSERT_TRUE(document);
    EXPECT_TRUE(document->is_object());
    EXPECT_TRUE(document->empty());
}

} // namespace
} // namespace shale::doctor
