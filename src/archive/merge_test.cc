// SPDX-License-Identifier: Apache-2.0
// merge_upper and copy_tree.
#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <random>

#include "archive/pack.h"
#include "archive/test_tree.h"
#include "sys/seam.h"

namespace shale::archive {
namespace {

class Merge : public testing::TestWithParam<WhiteoutForm> {
protected:
    void SetUp() override {
        if (GetParam() != WhiteoutForm::oci_names && ::geteuid() != 0) GTEST_SKIP() << "needs root";
    }
    void whiteout(const std::string &directory, const char *name) const {
        if (GetParam() == WhiteoutForm::oci_names) {
            staged.file((directory + ".wh." + name).c_str());
        } else {
            staged.whiteout((directory + name).c_str());
        }
    }
    void opaque(const std::string &directory) const {
        if (GetParam() == WhiteoutForm::oci_names) {
            staged.file((directory + "/.wh..wh..opq").c_str());
        } else {
            const bool user = GetParam() == WhiteoutForm::overlay_user;
            staged.xattr(directory.c_str(), user ? "user.overlay.opaque" : "trusted.overlay.opaque", "y");
        }
    }
    std::string merged() {
        const auto root = TestTree::must(sys::stat_at(target.fd(), ""));
        TestTree::must(merge_upper(staged.fd(), GetParam(), target.fd()));
        EXPECT_TRUE(TestTree::must(sys::list_dir(staged.fd())).empty());
        const auto after = TestTree::must(sys::stat_at(target.fd(), ""));
        EXPECT_EQ(after.st_mtim.tv_nsec, root.st_mtim.tv_nsec);
        return target.dump();
    }
    TestTree staged, target, wanted;
};

TEST_P(Merge, EveryKindOverEveryKind) {
    target.dir("dir-dir", 0700);
    target.file("dir-dir/stays", "s");
    target.file("dir-dir/goes", "g");
    target.dir("dir-file");
    target.file("dir-file/below");
    target.file("file-dir");
    target.file("file-file", "old");
    target.link("dir-dir", "link-dir");
    target.dir("gone");
    target.file("gone/below");
    target.dir("opaque");
    target.dir("opaque/sub");
    target.file("opaque/sub/x");
    target.file("opaque/kept", "old");

    for (const TestTree *tree : {&staged, &wanted}) {
        tree->dir("dir-dir", 01777);
        tree->file("dir-file", "f");
        tree->dir("file-dir", 0711);
        tree->file("file-dir/n", "n");
        tree->file("file-file", "new", 0600, 3);
        tree->dir("link-dir");
        tree->file("link-dir/n");
        tree->dir("new");
        tree->dir("new/sub");
        tree->file("new/sub/one", "1");
        tree->hard("new/sub/one", "new/two");
        tree->dir("opaque", 0750);
        tree->file("opaque/kept", "new");
    }
    whiteout("dir-dir/", "goes");
    whiteout("", "gone");
    whiteout("", "never-was");
    opaque("opaque");
    // Marks in directories that are new as a whole do nothing and may not stay.
    opaque("new");
    whiteout("new/sub/", "nothing");
    wanted.file("dir-dir/stays", "s");
    for (const TestTree *tree : {&staged, &wanted}) {
        for (const char *name : {"dir-dir", "file-dir", "link-dir", "new", "new/sub", "opaque"})
            tree->times(name, 44, 55);
    }
    EXPECT_EQ(merged(), wanted.dump());
}

TEST_P(Merge, AttributesOfDirectoriesAreReplaced) {
    target.dir("d");
    target.xattr("d", "user.old", "1");
    target.xattr("d", "user.both", "1");
    staged.dir("d");
    staged.xattr("d", "user.both", "2");
    staged.xattr("d", "user.new", "3");
    wanted.dir("d");
    wanted.xattr("d", "user.both", "2");
    wanted.xattr("d", "user.new", "3");
    for (const TestTree *tree : {&staged, &wanted})
        tree->times("d", 1);
    EXPECT_EQ(merged(), wanted.dump());
}

TEST_P(Merge, HostAttributesOfTheTargetStay) {
    target.dir("d");
    staged.dir("d");
    if (::geteuid() != 0 || !sys::set_xattr(target.fd(), "d", "security.shale-test", "label"))
        GTEST_SKIP() << "needs root and a file system that takes an attribute security.shale-test";
    wanted.dir("d");
    wanted.xattr("d", "security.shale-test", "label");
    for (const TestTree *tree : {&staged, &wanted})
        tree->times("d", 1);
    EXPECT_EQ(merged(), wanted.dump());
}

/// A driver whose trees are file systems of their own stages in the tree.
TEST(MergeOfAStageInItsTree, AnOpaqueRootSparesIt) {
    TestTree target, wanted;
    target.file("old");
    target.dir("stage");
    target.file("stage/.wh..wh..opq");
    target.file("stage/new", "n");
    const UniqueFd stage = TestTree::must(sys::open_dir(target.fd(), "stage"));
    TestTree::must(merge_upper(stage.get(), WhiteoutForm::oci_names, target.fd()));
    wanted.dir("stage");
    wanted.file("new", "n");
    EXPECT_EQ(target.dump(), wanted.dump());
}

TEST_P(Merge, FailuresComeBack) {
    staged.file("f");
    class FailRename final : public sys::Hook {
        int before(const sys::Call &call) noexcept override { return call.op == sys::Op::rename ? EIO : 0; }
    } hook;
    sys::set_hook(&hook);
    auto failed = merge_upper(staged.fd(), GetParam(), target.fd());
    sys::set_hook(nullptr);
    ASSERT_FALSE(failed);
    EXPECT_EQ(failed.error().sys_errno(), EIO);
}

INSTANTIATE_TEST_SUITE_P(Forms, Merge,
                         testing::Values(WhiteoutForm::overlay_trusted, WhiteoutForm::overlay_user,
                                         WhiteoutForm::oci_names));

/// A small random tree: names collide between trees, kinds and contents differ.
void grow(const TestTree &tree, std::mt19937 &random) {
    std::vector<std::string> directories{""};
    std::vector<std::string> files;
    for (int i = 0; i < 40; ++i) {
        const std::string path =
            directories[random() % directories.size()] + std::string(1, static_cast<char>('a' + random() % 6));
        if (TestTree::must(sys::stat_if_exists(tree.fd(), path.c_str()))) continue;
        switch (random() % 5) {
        case 0:
        case 1:
            tree.dir(path.c_str(), random() % 2 == 0 ? 0755 : 0700);
            directories.push_back(path + "/");
            break;
        case 2:
            tree.link(random() % 2 == 0 ? "a" : "b", path.c_str());
            break;
        case 3:
            if (!files.empty()) {
                tree.hard(files[random() % files.size()].c_str(), path.c_str());
                break;
            }
            [[fallthrough]];
        default:
            tree.file(path.c_str(), random() % 2 == 0 ? "one" : "two", 0644, static_cast<time_t>(random() % 2));
            files.push_back(path);
        }
    }
    for (const auto &directory : directories)
        if (!directory.empty()) tree.times(directory.c_str(), static_cast<time_t>(random() % 2));
}

TEST(DiffAndMerge, MergingTheDifferenceOfTwoTreesGivesTheSecond) {
    std::mt19937 random(20'261'124); // NOLINT: the same trees each time
    for (int round = 0; round < 40; ++round) {
        TestTree from;
        TestTree to;
        grow(from, random);
        if (random() % 2 == 0) TestTree::must(copy_tree(from.fd(), to.fd()));
        grow(to, random);
        TestTree work;
        auto out = TestTree::must(sys::open_at(work.fd(), "a.tar", O_WRONLY | O_CREAT, 0600));
        TestTree::must(pack_diff(from.fd(), to.fd(), {},
                                 [&](std::span<const std::byte> bytes) { return sys::write_all(out.get(), bytes); }));
        work.dir("staged");
        const std::string command = "tar -xpf " + work.path() + "/a.tar -C " + work.path() + "/staged";
        ASSERT_EQ(std::system(command.c_str()), 0);
        auto staged = TestTree::must(sys::open_dir(work.fd(), "staged"));
        TestTree::must(merge_upper(staged.get(), WhiteoutForm::oci_names, from.fd()));
        ASSERT_EQ(from.dump(), to.dump()) << "round " << round;
        EXPECT_TRUE(TestTree::must(sys::list_dir(staged.get())).empty());
    }
}

TEST(CopyTree, EverythingComesOver) {
    TestTree from;
    from.dir("d", 01777);
    from.file("d/set-id", "x", 06755, -7);
    from.hard("d/set-id", "again");
    from.link("nowhere", "link");
    from.times("link", 3, 4);
    from.xattr("d/set-id", "user.a", "v");
    from.xattr("d", "user.dir", "w");
    TestTree::must(sys::make_node(from.fd(), "fifo", S_IFIFO | 0640, 0));
    if (::geteuid() == 0) {
        from.whiteout("null");
        TestTree::must(sys::make_node(from.fd(), "block", S_IFBLK | 0640, makedev(7, 200)));
        TestTree::must(sys::chown_at(from.fd(), "link", 12, 34));
        TestTree::must(sys::chown_at(from.fd(), "d", 12, 34));
        from.xattr("again", "trusted.t", "t");
    }
    auto sparse = TestTree::must(sys::open_at(from.fd(), "sparse", O_WRONLY | O_CREAT, 0600));
    TestTree::must(sys::truncate_fd(sparse.get(), 5'000'000));
    from.times("d", 100, 200);
    TestTree::must(sys::chmod_fd(from.fd(), 0711));
    from.times("", 8, 9);
    TestTree to;
    const auto report = TestTree::must(copy_tree(from.fd(), to.fd()));
    EXPECT_EQ(to.dump(true, true), from.dump(true, true));
    EXPECT_EQ(report.bytes, 5'000'001U);
    EXPECT_LT(TestTree::must(sys::stat_at(to.fd(), "sparse")).st_blocks, 100);
}

TEST(CopyTree, HostAttributesStayBehind) {
    TestTree from;
    from.file("f", "x");
    from.xattr("f", "user.kept", "1");
    from.xattr("f", "user.overlay.origin", "o");
    if (::geteuid() != 0 || !sys::set_xattr(from.fd(), "f", "security.shale-test", "label"))
        GTEST_SKIP() << "needs root and a file system that takes an attribute security.shale-test";
    TestTree to;
    TestTree::must(copy_tree(from.fd(), to.fd()));
    EXPECT_EQ(TestTree::must(sys::get_xattr(to.fd(), "f", "user.kept")), "1");
    EXPECT_EQ(TestTree::must(sys::get_xattr(to.fd(), "f", "user.overlay.origin")), "o");
    EXPECT_EQ(TestTree::must(sys::get_xattr(to.fd(), "f", "security.shale-test")), std::nullopt);
}

} // namespace
} // namespace shale::archive
