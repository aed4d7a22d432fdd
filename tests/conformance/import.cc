// SPDX-License-Identifier: Apache-2.0
// Layer archives onto parents: what an import must mend with the parents' help, and what it must keep.
#include <sys/sysmacros.h>

#include <fmt/format.h>

#include "conformance/fixture.h"
#include "sys/fs.h"

namespace shale::conformance {

using testing::ElementsAre;
using testing::HasSubstr;

class Import : public DriverTest {};

TEST_P(Import, ImpliedDirectoriesTakeTheParents) {
    const LayerId base =
        import({}, Archive().dir("a", 0750, 5, 6, 111).dir("a/b", 01777, 7, 8, 222).file("a/b/old", "o"));
    const LayerId middle = import({base}, Archive().file("other", "x"));
    const LayerId top = import(over({base, middle}), Archive().file("a/b/new", "n").file("fresh/dir/f", "f"));
    const std::string seen = view(top, over({base, middle}));
    EXPECT_EQ(mode_of(seen + "/a"), 0750U);
    EXPECT_EQ(owner_of(seen + "/a"), "5:6");
    EXPECT_EQ(status_of(seen + "/a").st_mtim.tv_sec, 111);
    EXPECT_EQ(mode_of(seen + "/a/b"), 01777U);
    EXPECT_EQ(owner_of(seen + "/a/b"), "7:8");
    EXPECT_EQ(mode_of(seen + "/fresh/dir"), 0755U);
    EXPECT_EQ(owner_of(seen + "/fresh/dir"), "0:0");
    EXPECT_THAT(names_in(seen + "/a/b"), ElementsAre("new", "old"));
}

TEST_P(Import, ImpliedDirectoryXattrs) {
    archive::Entry dir;
    dir.type = archive::EntryType::directory;
    dir.path = "d/";
    dir.mode = 0711;
    dir.xattrs = {{"user.test", "kept"}};
    const LayerId base = import({}, Archive().entry(dir));
    const LayerId top = import({base}, Archive().file("d/f", "x"));
    EXPECT_EQ(xattr_of(view(top, {base}) + "/d", "user.test"), "kept");
}

TEST_P(Import, ImpliedBelowOpaqueIsFresh) {
    const LayerId base = import({}, Archive().dir("a").dir("a/b", 0700, 5, 5).file("a/b/old", "o"));
    const LayerId top = import({base}, Archive().dir("a").opaque("a").file("a/b/new", "n"));
    const std::string seen = view(top, {base});
    EXPECT_EQ(mode_of(seen + "/a/b"), 0755U) << "the parents' a/b is gone: nothing is taken from it";
    EXPECT_THAT(names_in(seen + "/a/b"), ElementsAre("new"));
}

TEST_P(Import, ImpliedOverWhiteoutInBetween) {
    const LayerId base = import({}, Archive().dir("a", 0700, 5, 5).file("a/old", "o"));
    const LayerId middle = import({base}, Archive().whiteout("a"));
    const LayerId top = import(over({base, middle}), Archive().file("a/new", "n"));
    const std::string seen = view(top, over({base, middle}));
    EXPECT_EQ(mode_of(seen + "/a"), 0755U);
    EXPECT_THAT(names_in(seen + "/a"), ElementsAre("new"));
}

TEST_P(Import, OpaqueDirectory) {
    const LayerId base = import({}, Archive().dir("d").file("d/a", "1").dir("d/sub").file("d/sub/b", "2"));
    const LayerId top = import({base}, Archive().dir("d", 0711).opaque("d").file("d/c", "3"));
    const std::string seen = view(top, {base});
    EXPECT_THAT(names_in(seen + "/d"), ElementsAre("c"));
    EXPECT_EQ(mode_of(seen + "/d"), 0711U);
}

TEST_P(Import, WhiteoutThenAgain) {
    const LayerId base = import({}, Archive().dir("d").file("d/a", "1").file("f", "old"));
    const LayerId gone = import({base}, Archive().whiteout("d").whiteout("f"));
    EXPECT_FALSE(exists(view(gone, {base}) + "/d"));
    const LayerId back =
        import(over({base, gone}), Archive().dir("d", 0700).file("d/b", "2").dir("f").file("f/x", "new"));
    const std::string seen = view(back, over({base, gone}));
    EXPECT_THAT(names_in(seen + "/d"), ElementsAre("b"));
    EXPECT_EQ(get(seen + "/f/x"), "new") << "a file became a directory";
}

TEST_P(Import, WhiteoutAndAgainInOneLayer) {
    const LayerId base = import({}, Archive().dir("d").file("d/a", "1"));
    const LayerId top = import({base}, Archive().whiteout("d").dir("d").file("d/b", "2"));
    EXPECT_THAT(names_in(view(top, {base}) + "/d"), ElementsAre("b"));
}

TEST_P(Import, WhiteoutOfNothing) {
    const LayerId base = import({}, Archive().file("f", "x").whiteout("never"));
    const LayerId top = import({base}, Archive().whiteout("nor/this"));
    EXPECT_EQ(get(view(top, {base}) + "/f"), "x");
    EXPECT_FALSE(exists(view(top, {base}) + "/never"));
    EXPECT_FALSE(exists(view(top, {base}) + "/nor/this"));
}

TEST_P(Import, TypeChanges) {
    const LayerId base = import({}, Archive().dir("d").file("d/a", "1").file("f", "x").symlink("l", "f"));
    const LayerId top = import({base}, Archive().file("d", "now a file").symlink("f", "d").file("l", "plain"));
    const std::string seen = view(top, {base});
    EXPECT_EQ(get(seen + "/d"), "now a file");
    EXPECT_TRUE(S_ISLNK(status_of(seen + "/f").st_mode));
    EXPECT_EQ(get(seen + "/l"), "plain");
}

TEST_P(Import, HardLinksInALayer) {
    const LayerId base = import({}, Archive().dir("d").file("d/a", "one").link("b", "d/a").link("d/c", "b"));
    const std::string seen = view(base, {});
    EXPECT_EQ(get(seen + "/d/c"), "one");
    EXPECT_EQ(status_of(seen + "/b").st_ino, status_of(seen + "/d/a").st_ino);
    EXPECT_EQ(status_of(seen + "/b").st_nlink, 3U);
}

TEST_P(Import, HardLinksAcrossLayers) {
    archive::Entry target;
    target.path = "a/b/file";
    target.mode = 04711;
    target.uid = 3;
    target.gid = 4;
    target.xattrs = {{"user.test", "v"}};
    const LayerId base = import({}, Archive().dir("a", 0750, 9, 9).dir("a/b", 0711).entry(target, "data"));
    const LayerId middle = import({base}, Archive().file("z", "z"));
    const LayerId top =
        import(over({base, middle}), Archive().dir("n", 0700).link("n/x", "a/b/file").link("y", "a/b/file"));
    const std::string seen = view(top, over({base, middle}));
    EXPECT_EQ(get(seen + "/n/x"), "data");
    EXPECT_EQ(mode_of(seen + "/y"), 04711U);
    EXPECT_EQ(owner_of(seen + "/y"), "3:4");
    EXPECT_EQ(xattr_of(seen + "/y", "user.test"), "v");
    EXPECT_EQ(status_of(seen + "/y").st_ino, status_of(seen + "/n/x").st_ino);
    EXPECT_EQ(status_of(seen + "/y").st_ino, status_of(seen + "/a/b/file").st_ino);
    EXPECT_EQ(status_of(seen + "/y").st_nlink, 3U + links_of_parents(2));
    EXPECT_EQ(owner_of(seen + "/a"), "9:9");
    EXPECT_EQ(mode_of(seen + "/a/b"), 0711U);
}

TEST_P(Import, HardLinkToWhatIsDeleted) {
    const LayerId base = import({}, Archive().file("f", "x"));
    const LayerId gone = import({base}, Archive().whiteout("f"));
    const auto done = try_import(next(), over({base, gone}), Archive().link("l", "f").bytes());
    ASSERT_FALSE(done);
    EXPECT_EQ(done.error().code(), Errc::InvalidArgument);
    EXPECT_THAT(done.error().text(), HasSubstr("exists neither in this layer nor in a parent"));
}

TEST_P(Import, HardLinkThroughSymlinkStaysInside) {
    const LayerId base = import({}, Archive().symlink("out", "/etc"));
    const auto done = try_import(next(), {base}, Archive().link("l", "out/hostname").bytes());
    EXPECT_FALSE(done) << "a hard link must not reach the host's /etc";
}

TEST_P(Import, Xattrs) {
    archive::Entry file;
    file.path = "ping";
    file.mode = 0755;
    const std::string capability("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
                                 20);
    file.xattrs = {{"user.test", "v"}, {"security.capability", capability}};
    const LayerId base = import({}, Archive().entry(file, "elf"));
    EXPECT_EQ(xattr_of(view(base, {}) + "/ping", "user.test"), "v");
    EXPECT_EQ(xattr_of(view(base, {}) + "/ping", "security.capability"), capability);
    const std::string path = start(next(), {base});
    EXPECT_EQ(xattr_of(path + "/ping", "security.capability"), capability);
}

TEST_P(Import, DevicesAndFifos) {
    const LayerId base = import({}, Archive().dir("dev").device("dev/null", 1, 3).fifo("pipe"));
    const std::string seen = view(base, {});
    EXPECT_TRUE(S_ISCHR(status_of(seen + "/dev/null").st_mode));
    EXPECT_EQ(status_of(seen + "/dev/null").st_rdev, makedev(1, 3));
    EXPECT_TRUE(S_ISFIFO(status_of(seen + "/pipe").st_mode));
    EXPECT_EQ(mode_of(seen + "/pipe"), 0640U);
}

TEST_P(Import, ApplyJunk) {
    const LayerId id = next();
    EXPECT_FALSE(try_import(id, {}, std::string(2048, 'j')));
    ASSERT_DONE(driver_->remove(id));
    ASSERT_DONE(try_import(next(), {}, Archive().file("f", "x").bytes()));
}

INSTANTIATE_TEST_SUITE_P(Drivers, Import, testing::ValuesIn(driver_names()),
                         [](const auto &info) { return info.param; });

} // namespace shale::conformance
