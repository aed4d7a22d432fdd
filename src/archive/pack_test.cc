// SPDX-License-Identifier: Apache-2.0
#include "archive/pack.h"

#include <gtest/gtest.h>

#include <sys/socket.h>
#include <sys/un.h>

#include <cstdio>

#include "archive/test_tree.h"
#include "sys/seam.h"

namespace shale::archive {
namespace {

class StringSink {
public:
    Sink sink() {
        return [this](std::span<const std::byte> bytes) -> Status {
            text.append(reinterpret_cast<const char *>(bytes.data()), bytes.size());
            return {};
        };
    }
    std::string text;
};

/// Names in the order of the archive, by GNU tar; links as "b=>a".
std::vector<std::string> names(const std::string &archive) {
    TestTree tree;
    tree.file("a.tar", archive);
    const std::string command =
        "LC_ALL=C tar -tvf " + tree.path() + "/a.tar 2>&1 | sed -E 's/^(\\S+\\s+){5}//; s/ link to /=>/; s/ -> /->/'";
    FILE *pipe = ::popen(command.c_str(), "r");
    std::vector<std::string> out;
    std::string text;
    for (int c = std::fgetc(pipe); c != EOF; c = std::fgetc(pipe)) {
        if (c != '\n') {
            text += static_cast<char>(c);
            continue;
        }
        out.push_back(std::move(text));
        text.clear();
    }
    EXPECT_EQ(::pclose(pipe), 0);
    return out;
}

using Names = std::vector<std::string>;

std::pair<std::string, PackReport> upper(const TestTree &tree, WhiteoutForm form) {
    StringSink out;
    auto report = TestTree::must(pack_upper(tree.fd(), form, {}, out.sink()));
    return {out.text, report};
}
std::string diff(const TestTree &lower, const TestTree &tree) {
    StringSink out;
    TestTree::must(pack_diff(lower.fd(), tree.fd(), {}, out.sink()));
    return out.text;
}

std::vector<std::string> list(const std::function<Status(const ChangeSink &)> &run) {
    std::vector<std::string> out;
    TestTree::must(run([&](const Change &change) -> Status {
        out.push_back(std::string(1, "ACD"[static_cast<int>(change.kind)]) + " " + change.path);
        return {};
    }));
    return out;
}

class RootTest : public testing::Test {
protected:
    void SetUp() override {
        if (::geteuid() != 0) GTEST_SKIP() << "needs root";
    }
};
using PackUpper = RootTest;

void fill_common(const TestTree &tree) {
    tree.dir("etc");
    tree.file("etc/passwd", "root", 04755, 5);
    tree.dir("opaque", 0700);
    tree.file("opaque/new", std::string(700'000, 'n'));
    tree.link("etc/passwd", "a-link");
    tree.hard("etc/passwd", "zz-hard");
}

TEST_F(PackUpper, TheThreeFormsGiveTheSameBytes) {
    TestTree trusted;
    TestTree user;
    TestTree oci;
    for (const TestTree *tree : {&trusted, &user, &oci})
        fill_common(*tree);
    for (const TestTree *tree : {&trusted, &user}) {
        tree->whiteout("etc/gone");
        tree->whiteout("b-gone");
    }
    trusted.xattr("opaque", "trusted.overlay.opaque", "y");
    trusted.xattr("etc", "trusted.overlay.origin", "z");
    user.xattr("opaque", "user.overlay.opaque", "y");
    oci.file("etc/.wh.gone", "", 0600, 77);
    oci.file(".wh.b-gone");
    oci.file("opaque/.wh..wh..opq");
    for (const TestTree *tree : {&trusted, &user, &oci}) {
        for (const char *name : {"etc", "opaque", "a-link"})
            tree->times(name, 9, 250'000'000);
    }
    const auto [one, report] = upper(trusted, WhiteoutForm::overlay_trusted);
    EXPECT_EQ(one, upper(user, WhiteoutForm::overlay_user).first);
    EXPECT_EQ(one, upper(oci, WhiteoutForm::oci_names).first);
    EXPECT_EQ(names(one), (Names{"a-link->etc/passwd", ".wh.b-gone", "etc/", "etc/.wh.gone", "etc/passwd", "opaque/",
                                 "opaque/.wh..wh..opq", "opaque/new", "zz-hard=>etc/passwd"}));
    EXPECT_EQ(report.entries, 9U);
    EXPECT_EQ(report.bytes, 700'004U);
}

TEST_F(PackUpper, MarkedEmptyFilesAreWhiteouts) {
    TestTree tree;
    tree.dir("x");
    tree.xattr("x", "trusted.overlay.opaque", "x");
    tree.file("x/gone");
    tree.xattr("x/gone", "trusted.overlay.whiteout", "");
    tree.file("x/stays");
    tree.file("y");
    tree.xattr("y", "trusted.overlay.whiteout", "");
    EXPECT_EQ(names(upper(tree, WhiteoutForm::overlay_trusted).first), (Names{"x/", "x/.wh.gone", "x/stays", "y"}));
}

TEST_F(PackUpper, RefusesRedirectAndMetacopy) {
    for (const char *key : {"trusted.overlay.redirect", "trusted.overlay.metacopy"}) {
        TestTree tree;
        tree.dir("d");
        tree.file("d/f");
        tree.xattr("d/f", key, "");
        StringSink out;
        auto refused = pack_upper(tree.fd(), WhiteoutForm::overlay_trusted, {}, out.sink());
        ASSERT_FALSE(refused);
        EXPECT_EQ(refused.error().code(), Errc::FailedPrecondition);
        EXPECT_NE(refused.error().text().find("\"d/f\""), std::string::npos);
    }
}

TEST(PackTree, SkipsWhatALayerCannotSay) {
    TestTree tree;
    tree.file(".wh.file");
    tree.dir(".wh.dir");
    tree.file(".wh.dir/below");
    tree.file("kept", "x");
    const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::snprintf(address.sun_path, sizeof address.sun_path, "%s/socket", tree.path().c_str());
    ASSERT_EQ(::bind(fd, reinterpret_cast<const sockaddr *>(&address), sizeof address), 0);
    ::close(fd);
    StringSink out;
    const auto report = TestTree::must(pack_tree(tree.fd(), {}, out.sink()));
    EXPECT_EQ(names(out.text), Names{"kept"});
    EXPECT_EQ(report.skipped_sockets, 1U);
    EXPECT_EQ(report.warnings.size(), 2U);
}

const std::string capability("\1\0\0\2\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20);

// Labels and signatures are the host's; capabilities belong to the file.
TEST_F(PackUpper, HostAttributesStay) {
    TestTree tree;
    tree.dir("d");
    tree.file("d/f", "x");
    for (const char *name : {"d", "d/f"}) {
        if (!sys::set_xattr(tree.fd(), name, "security.shale-test", "label"))
            GTEST_SKIP() << "this file system takes no attribute security.shale-test";
        tree.xattr(name, "user.kept", "u");
    }
    tree.xattr("d/f", "security.capability", capability);
    TestTree other;
    other.dir("d");
    other.file("d/f", "x");
    for (const char *name : {"d", "d/f"})
        other.xattr(name, "user.kept", "u");
    other.xattr("d/f", "security.capability", capability);
    for (const TestTree *one : {&tree, &other})
        one->times("d", 5);
    const auto check = [](const std::string &text) {
        EXPECT_EQ(text.find("shale-test"), std::string::npos);
        EXPECT_NE(text.find("SCHILY.xattr.security.capability="), std::string::npos);
        EXPECT_NE(text.find("SCHILY.xattr.user.kept=u"), std::string::npos);
    };
    StringSink upper;
    TestTree::must(pack_upper(tree.fd(), WhiteoutForm::overlay_trusted, {}, upper.sink()));
    check(upper.text);
    StringSink whole;
    TestTree::must(pack_tree(tree.fd(), {}, whole.sink()));
    check(whole.text);
    EXPECT_EQ(diff(tree, other), std::string(1024, '\0')) << "a label is no difference of two layers";
}

TEST(PackTree, IdMaps) {
    TestTree tree;
    tree.file("f");
    PackOptions options;
    options.uid_map = {{100'000, ::geteuid(), 1}};
    options.gid_map = {{7, ::getegid(), 1}};
    StringSink out;
    TestTree::must(pack_tree(tree.fd(), options, out.sink()));
    EXPECT_EQ(out.text.substr(108, 7), "0303240");
    EXPECT_EQ(out.text.substr(116, 7), "0000007");
    options.uid_map = {{0, 12'345'678, 1}};
    EXPECT_EQ(pack_tree(tree.fd(), options, out.sink()).error().code(), Errc::FailedPrecondition);
}

TEST(PackTree, GnuTarBringsTheTreeBack) {
    TestTree tree;
    fill_common(tree);
    tree.dir("deep");
    std::string path = "deep";
    for (int i = 0; i < 100; ++i) {
        path += "/a-rather-long-directory-name";
        tree.dir(path.c_str());
    }
    tree.file((path + "/leaf").c_str(), "leaf");
    tree.file("na\nme \xff", "odd");
    tree.times("etc/passwd", -5, 1);
    TestTree::must(sys::make_node(tree.fd(), "fifo", S_IFIFO | 0600, 0));
    StringSink out;
    TestTree::must(pack_tree(tree.fd(), {}, out.sink()));
    TestTree work;
    TestTree back;
    work.file("a.tar", out.text);
    ASSERT_EQ(std::system(("tar --xattrs -xpf " + work.path() + "/a.tar -C " + back.path()).c_str()), 0);
    EXPECT_EQ(back.dump(), tree.dump());
}

TEST(PackTree, FailureOfTheSinkAndOfReadsComesBack) {
    TestTree tree;
    tree.file("f", std::string(3'000'000, 'x'));
    auto failed = pack_tree(tree.fd(), {}, [](auto) -> Status { return fail(Errc::ResourceExhausted, "full"); });
    EXPECT_EQ(failed.error().code(), Errc::ResourceExhausted);
}

TEST(PackDiff, EqualTreesGiveNothing) {
    TestTree one;
    TestTree two;
    fill_common(one);
    TestTree::must(copy_tree(one.fd(), two.fd()));
    EXPECT_EQ(diff(one, two), std::string(1024, '\0'));
    EXPECT_EQ(diff(one, one), std::string(1024, '\0'));
    EXPECT_TRUE(list([&](const ChangeSink &sink) { return tree_changes(one.fd(), two.fd(), sink); }).empty());
}

TEST(PackDiff, ParentsComeFirstAndOnlyOnce) {
    TestTree one;
    for (const char *name : {"a", "a/b", "a/b/c", "same", "gone"})
        one.dir(name);
    one.file("a/b/c/f", "1");
    one.file("a/b/g", "1");
    one.file("gone/x");
    one.file("same/f");
    one.file("kind");
    TestTree two;
    TestTree::must(copy_tree(one.fd(), two.fd()));
    two.file("a/b/c/f", "2");
    TestTree::must(sys::remove_tree(two.fd(), "gone"));
    TestTree::must(sys::remove_tree(two.fd(), "kind"));
    two.dir("kind");
    two.file("kind/new");
    two.file("a/b/c/h", "1");
    EXPECT_EQ(names(diff(one, two)),
              (Names{"a/", "a/b/", "a/b/c/", "a/b/c/f", "a/b/c/h", ".wh.gone", "kind/", "kind/new"}));
    EXPECT_EQ(list([&](const ChangeSink &sink) { return tree_changes(one.fd(), two.fd(), sink); }),
              (Names{"C /a", "C /a/b", "C /a/b/c", "C /a/b/c/f", "A /a/b/c/h", "D /gone", "C /kind", "A /kind/new"}));
}

TEST(PackDiff, HardLinks) {
    TestTree one;
    one.file("m", "x");
    one.file("p", "x");
    one.hard("p", "q");
    TestTree two;
    TestTree::must(copy_tree(one.fd(), two.fd()));
    two.hard("m", "b");
    EXPECT_EQ(names(diff(one, two)), (Names{"b", "m=>b"})) << "the old name is pulled in";
    // One name moves: the number of links stays.
    TestTree three;
    TestTree::must(copy_tree(one.fd(), three.fd()));
    TestTree::must(sys::rename_at(three.fd(), "q", three.fd(), "r"));
    EXPECT_EQ(names(diff(one, three)), (Names{"p", ".wh.q", "r=>p"}));
    // Links that are cut.
    TestTree four;
    TestTree::must(copy_tree(one.fd(), four.fd()));
    TestTree::must(sys::unlink_at(four.fd(), "q"));
    four.file("q", "x");
    EXPECT_EQ(names(diff(one, four)), (Names{"p", "q"}));
}

TEST_F(PackUpper, ChangesOfAnUpperDirectory) {
    TestTree lower;
    for (const char *name : {"etc", "o", "o/d"})
        lower.dir(name);
    for (const char *name : {"etc/passwd", "etc/gone", "o/1", "o/2", "o/d/3"})
        lower.file(name);
    TestTree tree;
    tree.dir("etc");
    tree.file("etc/passwd");
    tree.file("etc-new");
    tree.whiteout("etc/gone");
    tree.whiteout("etc/never-was");
    tree.dir("o");
    tree.xattr("o", "trusted.overlay.opaque", "y");
    tree.file("o/1");
    tree.dir("o/d");
    auto run = [&](int below) {
        return list([&](const ChangeSink &sink) {
            return upper_changes(tree.fd(), WhiteoutForm::overlay_trusted, below, sink);
        });
    };
    EXPECT_EQ(run(lower.fd()), (Names{"C /etc", "A /etc-new", "D /etc/gone", "C /etc/passwd", "C /o", "C /o/1",
                                      "D /o/2", "C /o/d", "D /o/d/3"}));
    EXPECT_EQ(run(-1), (Names{"A /etc", "A /etc-new", "A /etc/passwd", "A /o", "A /o/1", "A /o/d"}));
}

TEST(DirStackTest, WalksDeeperThanItHoldsDescriptors) {
    TestTree tree;
    UniqueFd at = TestTree::must(sys::open_dir(tree.fd(), "."));
    for (int i = 0; i < 3000; ++i) {
        TestTree::must(sys::make_dir(at.get(), "d", 0755));
        at = TestTree::must(sys::open_dir(at.get(), "d"));
    }
    TestTree copy;
    EXPECT_EQ(TestTree::must(copy_tree(tree.fd(), copy.fd())).entries, 3000U);
    EXPECT_EQ(diff(tree, copy), std::string(1024, '\0'));
}

} // namespace
} // namespace shale::archive
