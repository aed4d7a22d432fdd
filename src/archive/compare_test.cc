// SPDX-License-Identifier: Apache-2.0
// compare_trees.
#include "archive/compare.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "archive/pack.h"
#include "archive/test_tree.h"
#include "archive/unpack.h"

namespace shale::archive {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class Compare : public testing::Test {
protected:
    /// Both trees: a/f, b
    void SetUp() override {
        for (const auto *tree : {&one, &two}) {
            tree->dir("a");
            tree->file("a/f", "same");
            tree->file("b", "same");
        }
    }
    std::vector<std::string> differences() {
        for (const auto *tree : {&one, &two})
            tree->times("a", 1000);
        CompareOptions options;
        options.contents = [](std::string_view) { return true; };
        options.links = options.contents;
        options.root = false;
        return TestTree::must(compare_trees(one.fd(), two.fd(), options)).differences;
    }
    TestTree one, two;
};

TEST_F(Compare, EqualTreesAreEqual) {
    EXPECT_THAT(differences(), IsEmpty());
}

TEST_F(Compare, EveryDifferenceIsNamed) {
    one.file("a/gone");
    two.file("a/new");
    two.file("a/f", "diff");
    two.file("b", "same", 0600);
    EXPECT_THAT(differences(),
                ElementsAre(HasSubstr("/a/gone: is missing"), HasSubstr("/a/new: is only in the copy"),
                            HasSubstr("/a/f: has other content"), HasSubstr("/b: mode 0644, copy 0600")));
}

TEST_F(Compare, WhatNoLayerCanStateIsPassedOver) {
    one.file("a/.wh.x", "left out");
    one.dir("a/.wh.d");
    one.file("a/.wh.d/below");
    one.file(".wh..wh..opq");
    two.file(".wh.b");
    one.hard("b", ".wh.link");
    one.xattr("b", "user.a=b", "left out");
    const UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    const std::string path = one.path() + "/s";
    ASSERT_LT(path.size(), sizeof name.sun_path);
    path.copy(name.sun_path, path.size());
    ASSERT_EQ(::bind(socket.get(), reinterpret_cast<const sockaddr *>(&name), sizeof name), 0);
    EXPECT_THAT(differences(), IsEmpty());
    two.file("a/.whx");
    two.xattr("b", "user.ab", "counts");
    EXPECT_THAT(differences(), ElementsAre(HasSubstr("/a/.whx"), HasSubstr("/b: has other extended attributes")));
}

} // namespace
} // namespace shale::archive
