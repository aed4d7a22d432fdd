// SPDX-License-Identifier: Apache-2.0
#include "oci/reference.h"

#include <gtest/gtest.h>

#include "oci/image.h"

namespace shale::oci {
namespace {

TEST(Reference, Normalises) {
    const std::string digest = "@" + Digest::of("x").text();
    const std::vector<std::pair<std::string, std::string>> cases = {
        {"debian", "debian:latest"},
        {"debian:12", "debian:12"},
        {"host:5000/a/b:tag", "host:5000/a/b:tag"},
        {"host:5000/a/b", "host:5000/a/b:latest"},
        {"localhost/a__b.c-d--e_f", "localhost/a__b.c-d--e_f:latest"},
        {"Example.org/a", "Example.org/a:latest"},
        {"[::1]:5000/a", "[::1]:5000/a:latest"},
        {"a" + digest, "a" + digest},
        {"a:1" + digest, "a:1" + digest},
        {std::string(255, 'a'), std::string(255, 'a') + ":latest"},
        {"a:" + std::string(128, 't'), "a:" + std::string(128, 't')},
    };
    for (const auto &[in, out] : cases) {
        const auto got = normalize_reference(in);
        ASSERT_TRUE(got) << got.error().text();
        EXPECT_EQ(*got, out);
        EXPECT_EQ(*normalize_reference(*got), *got);
    }
}

TEST(Reference, Refuses) {
    const std::vector<std::string> cases = {"",
                                            " ",
                                            "a b",
                                            "a/../b",
                                            "..",
                                            "../a",
                                            "a..b",
                                            "/a",
                                            "a/",
                                            "a//b",
                                            "A",
                                            "a/B",
                                            ":tag",
                                            "a:",
                                            "a:.t",
                                            "a:-t",
                                            "a:t t",
                                            "a:b:c",
                                            "-a",
                                            "a-",
                                            "_a",
                                            "a___b",
                                            "a._b",
                                            "a\n",
                                            std::string("a\0b", 3),
                                            "a\x7f",
                                            "a@sha256:12",
                                            "a@",
                                            "@",
                                            "host:port/a",
                                            "host:/a",
                                            ":5000/a",
                                            "h..t/a",
                                            "-h.x/a",
                                            "[/a",
                                            "[]/a",
                                            "[::1]x/a",
                                            "a:" + std::string(129, 't'),
                                            std::string(256, 'a'),
                                            "\xc3\xa4",
                                            "a:\xc3\xa4",
                                            "host:123456/a"};
    for (const std::string &text : cases) {
        const auto got = normalize_reference(text);
        ASSERT_FALSE(got) << text << " gave " << *got;
        EXPECT_EQ(got.error().code(), Errc::InvalidArgument);
        for (const char c : got.error().text())
            EXPECT_GE(c, ' ');
    }
}

TEST(Reference, TagAndStem) {
    EXPECT_EQ(tag_of("host:5000/a:b"), "b");
    EXPECT_EQ(tag_of("host:5000/a"), "");
    EXPECT_EQ(tag_of("a@" + Digest::of("x").text()), "");
    EXPECT_EQ(stem_name("/x/Debian_12.tar.gz"), "debian-12");
    EXPECT_EQ(stem_name("layout/"), "layout");
    EXPECT_EQ(stem_name("..."), "");
    EXPECT_EQ(stem_name(""), "");
    EXPECT_TRUE(is_tag("12"));
    EXPECT_FALSE(is_tag("a/b"));
}

} // namespace
} // namespace shale::oci
