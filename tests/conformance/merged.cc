// SPDX-License-Identifier: Apache-2.0
// An archive means what its entries do one after the other on the merged tree: hard links to files of the parents, and
// paths that lead through symlinks of the parents.
#include <fmt/format.h>

#include "conformance/fixture.h"
#include "sys/fs.h"

namespace shale::conformance {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class Merged : public DriverTest {
protected:
    static bool is_link(const std::string &path) { return S_ISLNK(status_of(path).st_mode); }
    static bool is_dir(const std::string &path) { return S_ISDIR(status_of(path).st_mode); }
    static ino_t inode_of(const std::string &path) { return status_of(path).st_ino; }
};

class DeferredLinks : public Merged {};
class ImpliedOverSymlink : public Merged {};

TEST_P(DeferredLinks, TargetOverwrittenLater) {
    const LayerId base = import({}, Archive().file("f", "old", 0640, 3, 4).file("dir/g", "old g"));
    const LayerId top = import({base}, Archive()
                                           .link("l", "f")
                                           .link("k", "f")
                                           .file("f", "new")
                                           .link("m", "dir/g")
                                           .dir("dir")
                                           .dir("dir/g")
                                           .link("n", "f"));
    const std::string seen = view(top, {base});
    EXPECT_EQ(get(seen + "/l"), "old");
    EXPECT_EQ(mode_of(seen + "/l"), 0640U);
    EXPECT_EQ(owner_of(seen + "/l"), "3:4");
    EXPECT_EQ(get(seen + "/k"), "old");
    EXPECT_EQ(inode_of(seen + "/k"), inode_of(seen + "/l"));
    EXPECT_EQ(status_of(seen + "/l").st_nlink, 2U + links_of_parents(1));
    EXPECT_EQ(get(seen + "/f"), "new");
    EXPECT_EQ(get(seen + "/n"), "new") << "by then the layer had the file";
    EXPECT_EQ(get(seen + "/m"), "old g");
    EXPECT_TRUE(is_dir(seen + "/dir/g"));
}

TEST_P(DeferredLinks, TargetDeletedLater) {
    const LayerId base = import({}, Archive().file("f", "old").dir("d").file("d/g", "g").file("d/h", "h"));
    const LayerId top =
        import({base}, Archive().link("l", "f").link("m", "f").whiteout("f").link("n", "d/g").dir("d").opaque("d"));
    const std::string seen = view(top, {base});
    EXPECT_EQ(get(seen + "/l"), "old");
    EXPECT_EQ(inode_of(seen + "/m"), inode_of(seen + "/l"));
    EXPECT_FALSE(exists(seen + "/f"));
    EXPECT_EQ(get(seen + "/n"), "g");
    EXPECT_THAT(names_in(seen + "/d"), IsEmpty());
}

TEST_P(DeferredLinks, TargetDeletedBeforeIsRefused) {
    const LayerId base = import({}, Archive().file("f", "old").dir("d").file("d/g", "g"));
    for (Archive *archive :
         {&(new Archive)->whiteout("f").link("l", "f"), &(new Archive)->dir("d").opaque("d").link("l", "d/g"),
          &(new Archive)->whiteout("d").dir("d").link("l", "d/g"), &(new Archive)->whiteout("d").link("l", "d/g")}) {
        const std::unique_ptr<Archive> owner(archive);
        const auto done = try_import(next(), {base}, archive->bytes());
        ASSERT_FALSE(done);
        EXPECT_EQ(done.error().code(), Errc::InvalidArgument) << done.error().text();
    }
}

TEST_P(DeferredLinks, Chains) {
    const LayerId base = import({}, Archive().dir("d").file("d/f", "old"));
    const LayerId top = import({base}, Archive()
                                           .link("a", "d/f")
                                           .link("b", "a")
                                           .link("c", "b")
                                           .file("a", "new a")
                                           .link("e", "a")
                                           .dir("s")
                                           .link("s/x", "c")
                                           .symlink("t", "s")
                                           .link("y", "t/x"));
    const std::string seen = view(top, {base});
    EXPECT_EQ(get(seen + "/a"), "new a");
    EXPECT_EQ(get(seen + "/e"), "new a");
    for (const char *name : {"/b", "/c", "/s/x", "/y"}) {
        EXPECT_EQ(get(seen + name), "old") << name;
        EXPECT_EQ(inode_of(seen + name), inode_of(seen + "/d/f")) << name;
    }
    EXPECT_EQ(status_of(seen + "/d/f").st_nlink, 5U + links_of_parents(1));
}

TEST_P(DeferredLinks, TargetReplacedByADeferredLink) {
    const LayerId base = import({}, Archive().file("f", "f").file("g", "g"));
    const LayerId top = import({base}, Archive().link("l", "f").link("f", "g").link("m", "f"));
    const std::string seen = view(top, {base});
    EXPECT_EQ(get(seen + "/l"), "f");
    EXPECT_EQ(get(seen + "/f"), "g");
    EXPECT_EQ(get(seen + "/m"), "g");
    EXPECT_EQ(inode_of(seen + "/m"), inode_of(seen + "/g"));
}

TEST_P(DeferredLinks, ThroughSymlinksOfTheLayer) {
    const LayerId base = import({}, Archive().dir("a").file("a/f", "a").dir("b").file("b/f", "b"));
    const LayerId top = import({base}, Archive()
                                           .symlink("s", "a")
                                           .link("l", "s/f")
                                           .symlink("s", "b")
                                           .link("m", "s/f")
                                           .symlink("up", "/../../b/../a")
                                           .link("n", "up/f"));
    const std::string seen = view(top, {base});
    EXPECT_EQ(get(seen + "/l"), "a") << "the symlink as it was then";
    EXPECT_EQ(get(seen + "/m"), "b");
    EXPECT_EQ(get(seen + "/n"), "a");
    EXPECT_EQ(inode_of(seen + "/l"), inode_of(seen + "/a/f"));
    EXPECT_TRUE(is_link(seen + "/s"));
}

TEST_P(DeferredLinks, ThroughSymlinksOfTheParents) {
    const LayerId base =
        import({}, Archive().dir("usr").dir("usr/bin").file("usr/bin/x", "x").file("usr/bin/y", "old y"));
    const LayerId middle = import(
        {base},
        Archive().symlink("bin", "usr/bin").symlink("abs", "/bin").symlink("far", "../../../../usr/./bin/../bin"));
    const std::vector<LayerId> parents = over({base, middle});
    const LayerId top = import(parents, Archive()
                                            .link("l", "bin/x")
                                            .link("m", "abs/x")
                                            .link("n", "far/x")
                                            .dir("usr")
                                            .dir("usr/bin")
                                            .file("usr/bin/y", "new y")
                                            .link("o", "bin/y"));
    const std::string seen = view(top, parents);
    for (const char *name : {"/l", "/m", "/n"}) {
        EXPECT_EQ(get(seen + name), "x") << name;
        EXPECT_EQ(inode_of(seen + name), inode_of(seen + "/usr/bin/x")) << name;
    }
    EXPECT_EQ(get(seen + "/o"), "new y") << "the parents' symlink leads to the layer's own file";
    EXPECT_TRUE(is_link(seen + "/bin"));
}

TEST_P(DeferredLinks, NeverLeaveTheRoot) {
    put(scratch_ + "/secret", "host");
    const LayerId base = import({}, Archive()
                                        .symlink("out", scratch_)
                                        .symlink("up", "../../../../../../../../../.." + scratch_)
                                        .symlink("proc", "/proc/self/root" + scratch_)
                                        .symlink("loop", "pool")
                                        .symlink("pool", "loop"));
    for (const char *target : {"out/secret", "up/secret", "proc/secret", "loop/secret"}) {
        const auto done = try_import(next(), {base}, Archive().link("l", target).bytes());
        ASSERT_FALSE(done) << target;
        EXPECT_EQ(done.error().code(), Errc::InvalidArgument) << done.error().text();
    }
    EXPECT_EQ(status_of(scratch_ + "/secret").st_nlink, 1U);
}

TEST_P(DeferredLinks, LayersDirectoryInPlaceOfTheParentsSymlink) {
    const LayerId base = import({}, Archive().dir("usr").file("usr/x", "x").symlink("bin", "usr"));
    const auto done = try_import(next(), {base}, Archive().dir("bin").link("l", "bin/x").bytes());
    ASSERT_FALSE(done) << "bin is the layer's own, empty directory by then";
    EXPECT_THAT(done.error().text(), HasSubstr("exists neither in this layer nor in a parent"));
    // The other way round the link is older than the directory.
    const LayerId top = import({base}, Archive().link("l", "bin/x").dir("bin"));
    EXPECT_EQ(get(view(top, {base}) + "/l"), "x");
}

TEST_P(DeferredLinks, ToASymlinkAndAFifo) {
    const LayerId base = import({}, Archive().symlink("s", "nowhere").fifo("p"));
    const LayerId top = import({base}, Archive().link("l", "s").link("q", "p").file("s", "now a file"));
    const std::string seen = view(top, {base});
    EXPECT_TRUE(is_link(seen + "/l"));
    EXPECT_TRUE(S_ISFIFO(status_of(seen + "/q").st_mode));
    EXPECT_EQ(inode_of(seen + "/q"), inode_of(seen + "/p"));
    EXPECT_EQ(get(seen + "/s"), "now a file");
}

TEST_P(ImpliedOverSymlink, UsrMergedImageStaysMerged) {
    const LayerId base = import({}, Archive()
                                        .dir("usr", 0711, 1, 2, 111)
                                        .dir("usr/bin", 0751, 3, 4, 222)
                                        .file("usr/bin/sh", "sh")
                                        .file("usr/bin/old", "old")
                                        .symlink("bin", "usr/bin"));
    const LayerId top = import(
        {base}, Archive().file("bin/foo", "foo").link("bin/bar", "bin/foo").whiteout("bin/old").link("l", "bin/sh"));
    const std::string seen = view(top, {base});
    EXPECT_TRUE(is_link(seen + "/bin"));
    EXPECT_EQ(get(seen + "/usr/bin/foo"), "foo");
    EXPECT_EQ(inode_of(seen + "/usr/bin/bar"), inode_of(seen + "/usr/bin/foo"));
    EXPECT_THAT(names_in(seen + "/usr/bin"), ElementsAre("bar", "foo", "sh"));
    EXPECT_EQ(inode_of(seen + "/l"), inode_of(seen + "/usr/bin/sh"));
    EXPECT_EQ(mode_of(seen + "/usr"), 0711U);
    EXPECT_EQ(owner_of(seen + "/usr"), "1:2");
    EXPECT_EQ(mode_of(seen + "/usr/bin"), 0751U);
    EXPECT_EQ(owner_of(seen + "/usr/bin"), "3:4");
    EXPECT_EQ(status_of(seen + "/usr/bin").st_mtim.tv_sec, 222);
    EXPECT_THAT(names_in(seen), ElementsAre("bin", "l", "usr")) << "nothing is left of the work";
}

TEST_P(ImpliedOverSymlink, AboveTwoLayersAndTwoLinks) {
    const LayerId one = import({}, Archive().dir("data").dir("data/real", 0750, 5, 5).file("data/real/a", "a"));
    const LayerId two = import({one}, Archive().dir("opt").symlink("opt/second", "../data/real"));
    const LayerId three = import(over({one, two}), Archive().symlink("first", "/opt/second"));
    const std::vector<LayerId> parents = over({one, two, three});
    const LayerId top = import(parents, Archive().file("first/b", "b").dir("first/sub", 0700).file("first/sub/c", "c"));
    const std::string seen = view(top, parents);
    EXPECT_TRUE(is_link(seen + "/first"));
    EXPECT_TRUE(is_link(seen + "/opt/second"));
    EXPECT_THAT(names_in(seen + "/data/real"), ElementsAre("a", "b", "sub"));
    EXPECT_EQ(get(seen + "/data/real/sub/c"), "c");
    EXPECT_EQ(mode_of(seen + "/data/real/sub"), 0700U);
    EXPECT_EQ(owner_of(seen + "/data/real"), "5:5");
}

TEST_P(ImpliedOverSymlink, NestedDirectoriesMergeAndStatedEntriesWin) {
    const LayerId base = import({}, Archive()
                                        .dir("usr")
                                        .dir("usr/lib")
                                        .dir("usr/lib/x", 0711, 7, 7)
                                        .file("usr/lib/x/low", "low")
                                        .file("usr/lib/gone", "gone")
                                        .dir("usr/lib/d")
                                        .file("usr/lib/d/low", "low")
                                        .symlink("lib", "usr/lib"));
    const LayerId top = import({base}, Archive()
                                           .file("lib/x/a", "a")
                                           .file("lib/both", "implied")
                                           .dir("lib/y", 0700, 8, 8)
                                           .file("lib/y/a", "a")
                                           .whiteout("lib/gone")
                                           .whiteout("lib/stays")
                                           .whiteout("lib/d")
                                           .dir("usr/lib")
                                           .file("usr/lib/both", "stated")
                                           .file("usr/lib/stays", "stated")
                                           .file("usr/lib/y/b", "b")
                                           .dir("usr/lib/d")
                                           .file("usr/lib/d/new", "new"));
    const std::string seen = view(top, {base});
    EXPECT_TRUE(is_link(seen + "/lib"));
    EXPECT_THAT(names_in(seen + "/usr/lib"), ElementsAre("both", "d", "stays", "x", "y"));
    EXPECT_EQ(get(seen + "/usr/lib/both"), "stated");
    EXPECT_EQ(get(seen + "/usr/lib/stays"), "stated");
    EXPECT_THAT(names_in(seen + "/usr/lib/x"), ElementsAre("a", "low"));
    EXPECT_EQ(owner_of(seen + "/usr/lib/x"), "7:7");
    EXPECT_THAT(names_in(seen + "/usr/lib/y"), ElementsAre("a", "b"));
    EXPECT_EQ(mode_of(seen + "/usr/lib/y"), 0700U) << "lib/y is stated, usr/lib/y only implied";
    EXPECT_EQ(owner_of(seen + "/usr/lib/y"), "8:8");
    EXPECT_THAT(names_in(seen + "/usr/lib/d"), ElementsAre("new")) << "the deletion went along";
}

TEST_P(ImpliedOverSymlink, LinksBelowLinks) {
    const LayerId base = import({}, Archive()
                                        .dir("usr")
                                        .dir("usr/lib")
                                        .dir("usr/share")
                                        .symlink("usr/lib/doc", "../share")
                                        .symlink("lib", "usr/lib")
                                        .dir("usr/bin")
                                        .symlink("usr/bin/X11", ".")
                                        .symlink("back", "/"));
    const LayerId top = import(
        {base}, Archive().file("lib/doc/readme", "readme").file("usr/bin/X11/X11/x", "x").file("back/back/top", "top"));
    const std::string seen = view(top, {base});
    EXPECT_EQ(get(seen + "/usr/share/readme"), "readme");
    EXPECT_TRUE(is_link(seen + "/usr/lib/doc"));
    EXPECT_TRUE(is_link(seen + "/usr/bin/X11"));
    EXPECT_THAT(names_in(seen + "/usr/bin"), ElementsAre("X11", "x"));
    EXPECT_EQ(get(seen + "/top"), "top");
    EXPECT_THAT(names_in(seen), ElementsAre("back", "lib", "top", "usr"));
}

TEST_P(ImpliedOverSymlink, OpaqueGoesAlong) {
    const LayerId base = import({}, Archive().dir("real").file("real/old", "old").symlink("l", "real"));
    const LayerId top = import({base}, Archive().opaque("l").file("l/new", "new"));
    const std::string seen = view(top, {base});
    EXPECT_TRUE(is_link(seen + "/l"));
    EXPECT_THAT(names_in(seen + "/real"), ElementsAre("new"));
}

TEST_P(ImpliedOverSymlink, WhatTheLayerStatesOrDeletesIsNotFollowed) {
    const LayerId base = import({}, Archive()
                                        .dir("real")
                                        .file("real/old", "old")
                                        .symlink("stated", "real")
                                        .symlink("deleted", "real")
                                        .symlink("late", "real"));
    const LayerId top = import({base}, Archive()
                                           .dir("stated", 0700)
                                           .file("stated/f", "1")
                                           .whiteout("deleted")
                                           .file("deleted/f", "2")
                                           .file("late/f", "3")
                                           .dir("late"));
    const std::string seen = view(top, {base});
    for (const char *name : {"/stated", "/deleted", "/late"}) {
        EXPECT_TRUE(is_dir(seen + name)) << name;
        EXPECT_THAT(names_in(seen + name), ElementsAre("f")) << name;
    }
    EXPECT_THAT(names_in(seen + "/real"), ElementsAre("old"));
}

TEST_P(ImpliedOverSymlink, LeadsNowhere) {
    std::string chain = "c0";
    Archive archive;
    archive.symlink("loop", "pool")
        .symlink("pool", "loop")
        .symlink("self", "self/x")
        .symlink("dangling", "missing/dir");
    archive.file("plain", "p").symlink("to-file", "plain").symlink("c0", "c1");
    for (int i = 1; i < 60; ++i)
        archive.symlink(fmt::format("c{}", i), fmt::format("c{}", i + 1));
    archive.dir("c60").symlink("in-self", "in-self-dir/../in-self/x").dir("in-self-dir");
    const LayerId base = import({}, archive);
    Archive top_archive;
    for (const char *name : {"loop", "pool", "self", "dangling", "to-file", "c0", "in-self"})
        top_archive.file(fmt::format("{}/f", name), name).file(fmt::format("{}/x/f", name), "x");
    const LayerId top = import({base}, top_archive);
    const std::string seen = view(top, {base});
    for (const char *name : {"loop", "pool", "self", "dangling", "to-file", "c0", "in-self"}) {
        EXPECT_TRUE(is_dir(fmt::format("{}/{}", seen, name))) << name;
        EXPECT_EQ(get(fmt::format("{}/{}/f", seen, name)), name);
        EXPECT_EQ(get(fmt::format("{}/{}/x/f", seen, name)), "x");
    }
    EXPECT_EQ(get(seen + "/plain"), "p");
}

TEST_P(ImpliedOverSymlink, NeverLeavesTheRoot) {
    sys::make_dir(AT_FDCWD, (scratch_ + "/host").c_str(), 0755).value();
    put(scratch_ + "/host/victim", "host");
    const std::string host = scratch_ + "/host";
    const std::string inside = host.substr(1);
    const LayerId base = import({}, Archive()
                                        .dir(inside)
                                        .symlink("abs", host)
                                        .symlink("up", "../../../../../../../../../../../.." + host)
                                        .symlink("none", "/proc/self/root" + host)
                                        .symlink("root", "/")
                                        .symlink("above", "../../.."));
    const LayerId top = import({base}, Archive()
                                           .file("abs/victim", "1")
                                           .file("up/other", "2")
                                           .file("none/victim", "3")
                                           .file("root/at-root", "4")
                                           .file("above/at-root-too", "5")
                                           .whiteout("up/gone"));
    const std::string seen = view(top, {base});
    EXPECT_EQ(get(seen + host + "/victim"), "1");
    EXPECT_EQ(get(seen + host + "/other"), "2");
    EXPECT_EQ(get(seen + "/none/victim"), "3") << "/proc is not in the image: the link leads nowhere";
    EXPECT_EQ(get(seen + "/at-root"), "4");
    EXPECT_EQ(get(seen + "/at-root-too"), "5");
    EXPECT_TRUE(is_link(seen + "/root"));
    EXPECT_EQ(get(host + "/victim"), "host");
    EXPECT_THAT(names_in(host), ElementsAre("victim"));
}

TEST_P(ImpliedOverSymlink, DeferredLinksGoAlong) {
    const LayerId base = import({}, Archive()
                                        .dir("usr")
                                        .dir("usr/bin")
                                        .file("usr/bin/x", "old x")
                                        .file("usr/bin/y", "y")
                                        .symlink("bin", "usr/bin"));
    const LayerId top = import({base}, Archive()
                                           .link("bin/a", "usr/bin/x")
                                           .link("b", "usr/bin/a")
                                           .file("bin/new", "new")
                                           .link("c", "usr/bin/new")
                                           .link("bin/y", "usr/bin/y"));
    const std::string seen = view(top, {base});
    EXPECT_TRUE(is_link(seen + "/bin"));
    EXPECT_THAT(names_in(seen + "/usr/bin"), ElementsAre("a", "new", "x", "y"));
    EXPECT_EQ(get(seen + "/usr/bin/a"), "old x");
    EXPECT_EQ(inode_of(seen + "/b"), inode_of(seen + "/usr/bin/x"));
    EXPECT_EQ(get(seen + "/c"), "new");
    EXPECT_EQ(get(seen + "/usr/bin/y"), "y") << "a link to itself by way of the symlink";
}

INSTANTIATE_TEST_SUITE_P(Drivers, DeferredLinks, testing::ValuesIn(driver_names()),
                         [](const auto &info) { return info.param; });
INSTANTIATE_TEST_SUITE_P(Drivers, ImpliedOverSymlink, testing::ValuesIn(driver_names()),
                         [](const auto &info) { return info.param; });

} // namespace shale::conformance
