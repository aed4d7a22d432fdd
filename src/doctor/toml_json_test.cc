// SPDX-License-Identifier: Apache-2.0
#include "doctor/toml_json.h"

#include <string>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace shale::doctor {
namespace {

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

TEST(TomlJson, Nothing) {
    const auto document = parse_toml("");
    ASSERT_TRUE(document);
    EXPECT_TRUE(document->is_object());
    EXPECT_TRUE(document->empty());
}

} // namespace
} // namespace shale::doctor
