// SPDX-License-Identifier: Apache-2.0
// Every tree is unpacked beside a "host" directory and "dest-evil", a sibling with the same prefix; after each case
// both must be as they were.
#include "archive/extract.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "archive/tar_test_util.h"
#include "base/fd.h"
#include "sys/fs.h"
// The same tests over another kind of tree: a header with Target, as below (tests/CMakeLists.txt).
#ifdef SHALE_EXTRACT_SINK
#include SHALE_EXTRACT_SINK
#endif

namespace shale::archive {
namespace {
using namespace testing;
namespace fs = std::filesystem;

bool is_root() {
    return ::geteuid() == 0;
}

#ifndef SHALE_EXTRACT_SINK
/// Unpacks so that the tree can be looked at below `dest`, an empty directory.
class Target {
public:
    [[nodiscard]] static std::string cannot_test() { return {}; }
    [[nodiscard]] static bool is_directory() { return true; }
    Result<ExtractReport> unpack(TarReader &tar, const std::string &dest, const ExtractOptions &options) {
        const UniqueFd root(::open(dest.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        return extract_tar(tar, root.get(), options);
    }
    void clear() {}
};
#endif

std::string slurp(const fs::path &path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
}

class Extract : public ::testing::Test {
protected:
    void SetUp() override {
        if (const auto why = Target::cannot_test(); !why.empty()) GTEST_SKIP() << why;
        std::string pattern = (fs::temp_directory_path() / "shale-extract-XXXXXX").string();
        ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
        base_ = pattern;
        fs::create_directories(base_ / "host");
        fs::create_directories(base_ / "dest-evil");
        std::ofstream(base_ / "host/hello") << "host secret";
        std::ofstream(base_ / "host/perm400") << "host secret";
        ::chmod((base_ / "host/perm400").c_str(), 0400);
        std::ofstream(base_ / "dest-evil/secret") << "evil secret";
        before_ = outside();
        // Without root neither chown nor mknod work; the tests of names and links still do.
        options_.owners = is_root() ? OwnerPolicy::keep : OwnerPolicy::squash;
        options_.whiteouts = is_root() ? WhiteoutForm::overlay_trusted : WhiteoutForm::oci_names;
        fresh();
    }
    void TearDown() override {
        if (base_.empty()) return;
        target_.clear();
        EXPECT_EQ(outside(), before_) << "something outside the root changed";
        EXPECT_TRUE(sys::remove_tree(AT_FDCWD, base_.c_str())); // not remove_all: a descriptor for each level
    }
    void fresh() {
        target_.clear();
        EXPECT_TRUE(sys::remove_tree(AT_FDCWD, dest().c_str()));
        fs::create_directory(dest());
        ::chmod(dest().c_str(), 0755);
    }
    [[nodiscard]] fs::path dest() const { return base_ / "dest"; }
    [[nodiscard]] std::string outside() const {
        std::string out;
        for (auto it = fs::recursive_directory_iterator(base_); it != fs::recursive_directory_iterator(); ++it) {
            const auto &item = *it;
            const auto path = item.path().lexically_relative(base_).string();
            if (path == "dest") {
                it.disable_recursion_pending(); // deeper, in one test, than descriptors reach
                continue;
            }
            struct stat info{};
            ::lstat(item.path().c_str(), &info);
            out += path + " " + std::to_string(info.st_mode) + " " + std::to_string(info.st_nlink) + " " +
                   std::to_string(info.st_uid) + " " + std::to_string(info.st_mtim.tv_sec) + "." +
                   std::to_string(info.st_mtim.tv_nsec) + (S_ISREG(info.st_mode) ? slurp(item.path()) : "") + "\n";
        }
        return out;
    }
    Result<ExtractReport> unpack(const std::string &tar) {
        TarReader reader(source_of(tar), options_.limits);
        return target_.unpack(reader, dest(), options_);
    }
    ExtractReport must(const std::string &tar) {
        auto got = unpack(tar);
        EXPECT_TRUE(got) << got.error().text();
        return got ? *got : ExtractReport{};
    }
    void refused(const std::string &tar, std::string_view text, Errc code = Errc::InvalidArgument) {
        fresh();
        auto got = unpack(tar);
        ASSERT_FALSE(got) << text;
        EXPECT_EQ(got.error().code(), code) << got.error().text();
        EXPECT_NE(got.error().text().find(text), std::string::npos) << got.error().text();
        EXPECT_NE(got.error().text().find("entry "), std::string::npos) << got.error().text();
    }
    struct stat info(const std::string &name) {
        struct stat out{};
        EXPECT_EQ(::lstat((dest() / name).c_str(), &out), 0) << name;
        return out;
    }
    bool exists(const std::string &name) {
        struct stat out{};
        return ::lstat((dest() / name).c_str(), &out) == 0;
    }
    std::string read(const std::string &name) { return slurp(dest() / name); }
    bool whited(const std::string &name) {
        if (options_.whiteouts == WhiteoutForm::oci_names) {
            const fs::path path(name);
            return exists((path.parent_path() / (".wh." + path.filename().string())).string());
        }
        if (!exists(name)) return false;
        const auto st = info(name);
        return S_ISCHR(st.st_mode) && st.st_rdev == 0;
    }
    bool opaque(const std::string &name) {
        if (options_.whiteouts == WhiteoutForm::oci_names) return exists((fs::path(name) / ".wh..wh..opq").string());
        const char *key =
            options_.whiteouts == WhiteoutForm::overlay_trusted ? "trusted.overlay.opaque" : "user.overlay.opaque";
        char value = 0;
        return ::lgetxattr((dest() / name).c_str(), key, &value, 1) == 1 && value == 'y';
    }

    fs::path base_;
    Target target_;
    std::string before_;
    ExtractOptions options_;
};

std::string wh(const std::string &name) {
    return file(name);
}

TEST_F(Extract, PlainTree) {
    auto report = must(dir("./") + dir("a", 0750) + file("a/f", "text", 0640) + symlink("a/s", "f") +
                       link("a/l", "a/f") + file("a/empty") + dir("b") + end());
    EXPECT_EQ(read("a/f"), "text");
    EXPECT_EQ(info("a/f").st_mode & 07777U, 0640U);
    EXPECT_EQ(info("a/f").st_nlink, 2U);
    EXPECT_EQ(info("a").st_mode & 07777U, 0750U);
    EXPECT_EQ(info("a").st_mtim.tv_sec, 1'000'000'000);
    EXPECT_EQ(info("a/s").st_mtim.tv_sec, 1'000'000'000);
    EXPECT_EQ(info("").st_mtim.tv_sec, 1'000'000'000);
    EXPECT_EQ(fs::read_symlink(dest() / "a/s"), "f");
    EXPECT_TRUE(report.has_root_entry);
    EXPECT_TRUE(report.implied_dirs.empty());
    EXPECT_EQ(report.inodes, 5U);
    EXPECT_EQ(report.bytes, 4U);
    EXPECT_EQ(report.entries, 7U);
}

TEST_F(Extract, NamesStayInside) {
    std::string up;
    for (int i = 0; i < 30; ++i)
        up += "../";
    for (const std::string &name :
         {std::string("../host/pwn"), std::string("/../host/pwn"), up + "host/pwn", std::string("/host/pwn"),
          std::string("a/../../host/pwn"), std::string("./././host/pwn")}) {
        fresh();
        must(file(name, "x"));
        EXPECT_EQ(read("host/pwn"), "x") << name;
    }
    fresh();
    must(file("..gitme", "1") + file("...", "2") + file("back\\slash", "3") + file("new\nline", "4") +
         file("\xff\xfe", "5"));
    EXPECT_EQ(read("..gitme") + read("...") + read("back\\slash") + read("new\nline") + read("\xff\xfe"), "12345");
    fresh();
    must(member({.name = "..", .type = '5', .mode = 0777}));
    EXPECT_EQ(info("").st_mode & 07777U, 0777U);
    for (const char *name : {".", "./", "/", "..", "a/.."}) {
        refused(symlink(name, "../host"), "root");
        refused(member({.name = name, .type = '7'}), "root");
    }
    refused(file(""), "without a name");
    refused(file(std::string(256, 'n').insert(100, "")).substr(0, 0) + pax({{"path", std::string(256, 'n')}}) +
                file("x"),
            "256 bytes");
}

// A symlink whose target holds a whiteout's name must not make a directory that reads as a deletion (of ".." too) later
// on.
TEST_F(Extract, SymlinkToWhiteoutNameIsRefused) {
    for (const std::string target : {".wh...", ".wh..", ".wh.etc", ".wh..wh..opq", "a/.wh.../b"}) {
        fresh();
        refused(symlink("s", target) + file("s/x", "x"), "stands for a deletion");
    }
}

TEST_F(Extract, SymlinkParentsAreScoped) {
    for (const std::string target : {"../host", "/host", "../../../../host", "/../host"}) {
        fresh();
        must(symlink("l", target) + file("l/pwn", "x"));
        EXPECT_EQ(read("host/pwn"), "x") << target;
    }
    fresh();
    must(symlink("l", (base_ / "host").string()) + file("l/pwn", "x") +
         member({.name = "l/d", .type = '5', .mode = 0777}));
    EXPECT_TRUE(fs::is_symlink(dest() / "l"));
    EXPECT_EQ(slurp(dest().string() + (base_ / "host/pwn").string()), "x");
    // two hops
    fresh();
    must(dir("inner") + symlink("inner/go_up", "..") + symlink("inner/go_up/escape", "../host") +
         file("inner/go_up/escape/pwn", "x"));
    EXPECT_EQ(read("host/pwn"), "x");
    // links of the image itself
    fresh();
    must(dir("run") + dir("usr") + dir("usr/bin") + symlink("bin", "usr/bin") + dir("var") +
         symlink("var/run", "/run") + file("bin/sh", "s") + file("var/run/pid", "p"));
    EXPECT_EQ(read("usr/bin/sh") + read("run/pid"), "sp");
    refused(symlink("a", "b") + symlink("b", "a") + file("a/x"), "loop");
    refused(symlink("a", "a") + file("a/x"), "loop");
    fresh();
    must(symlink("p", "/proc/self/root") + file("p/x", "1") + symlink("q", "/proc/self/cwd") + file("q/y", "2"));
    EXPECT_EQ(read("proc/self/root/x") + read("proc/self/cwd/y"), "12");
    refused(symlink("e", ""), "without a target");
    std::string chain = dir("d0");
    for (int i = 1; i <= 30; ++i)
        chain += symlink("d" + std::to_string(i), "d" + std::to_string(i - 1));
    fresh();
    must(chain + file("d30/x", "deep"));
    EXPECT_EQ(read("d0/x"), "deep");
}

TEST_F(Extract, DirectoryReplacedBySymlink) {
    must(dir("d") + file("d/a", "1") + symlink("d", "../host") + file("d/pwn", "2") + dir("d") + file("d/b", "3"));
    EXPECT_EQ(read("host/pwn"), "2");
    EXPECT_FALSE(exists("d/a"));
    EXPECT_EQ(read("d/b"), "3");
    EXPECT_TRUE(S_ISDIR(info("d").st_mode));
}

TEST_F(Extract, LastComponentIsNeverFollowed) {
    for (const std::string &second : {file("s", "new", 0777), dir("s", 0777), member({.name = "s", .type = '6'})}) {
        fresh();
        must(symlink("s", "../host/hello") + second);
        EXPECT_FALSE(fs::is_symlink(dest() / "s"));
    }
    fresh();
    must(pax({{"SCHILY.xattr.user.x", "1"}}) +
         member({.name = "s", .type = '2', .link = (base_ / "host/hello").string(), .mode = 0777}));
    EXPECT_TRUE(fs::is_symlink(dest() / "s"));
}

TEST_F(Extract, LaterEntryWins) {
    must(file("f", "1") + link("g", "f") + file("f", "2"));
    EXPECT_EQ(read("f"), "2");
    EXPECT_EQ(read("g"), "1");
    fresh();
    auto report = must(dir("d") + file("d/x/y", "1") + file("d", "2") + dir("e", 0700) + dir("e", 0751) +
                       file("p", "1") + dir("p"));
    EXPECT_EQ(read("d"), "2");
    EXPECT_EQ(info("e").st_mode & 07777U, 0751U);
    EXPECT_TRUE(S_ISDIR(info("p").st_mode));
    EXPECT_TRUE(report.implied_dirs.empty());
    EXPECT_EQ(report.inodes, 3U);
    refused(file("f", "x") + file("f/child", "y"), "is not a directory");
    refused(member({.name = "f", .type = '6'}) + file("f/child", "y"), "is not a directory");
    fresh();
    // What umoci writes where a file takes the place of a directory.
    report = must(file("f", "x") + file("f/.wh.child", "") + file("f/.wh..wh..opq", "") + file("f/sub/.wh.x", "") +
                  file("g", "y"));
    EXPECT_EQ(read("f"), "x");
    EXPECT_EQ(read("g"), "y");
    EXPECT_EQ(report.whiteouts, 0U);
    EXPECT_TRUE(report.implied_dirs.empty());
    fresh();
    must(member({.name = "f", .type = '6'}) + file("f", "y"));
    EXPECT_EQ(read("f"), "y");
}

TEST_F(Extract, ImpliedParents) {
    const mode_t old = ::umask(077);
    auto report =
        must(file("a/b/c/f", "x", 0666) + dir("a/b", 0711) + dir("z", 0777) + symlink("l", "z/q") + file("l/f"));
    ::umask(old);
    EXPECT_EQ(report.implied_dirs, (std::vector<std::string>{"a", "a/b/c", "z/q"}));
    EXPECT_EQ(info("a").st_mode & 07777U, 0755U);
    EXPECT_EQ(info("a/b/c/f").st_mode & 07777U, 0666U);
    EXPECT_EQ(info("a/b").st_mode & 07777U, 0711U);
    EXPECT_EQ(info("z").st_mode & 07777U, 0777U);
    EXPECT_FALSE(report.has_root_entry);
}

TEST_F(Extract, HardLinks) {
    auto report = must(file("a/f", "x") + link("b/l", "/a/f") + link("m", "../../a/f") + symlink("s", "../host/hello") +
                       link("t", "s", 0777) + link("host/l", "../host/hello") + link("e", "../dest-evil/secret") +
                       symlink("up", "../host") + link("u", "up/hello"));
    EXPECT_EQ(info("a/f").st_nlink, 3U);
    EXPECT_TRUE(fs::is_symlink(dest() / "t"));
    EXPECT_EQ(info("s").st_nlink, 2U);
    ASSERT_EQ(report.deferred_links.size(), 3U);
    EXPECT_EQ(report.deferred_links[0].path, "host/l");
    EXPECT_EQ(report.deferred_links[0].target, "host/hello");
    EXPECT_EQ(report.deferred_links[1].target, "dest-evil/secret");
    EXPECT_FALSE(exists("e"));
    refused(dir("d") + link("l", "d"), "directory");
    refused(link("l", "/"), "directory");
    refused(link("l", ".."), "directory");
    refused(file("f") + link("f", "f"), "its own target");
    refused(file("f") + link("f", "./x/../f"), "its own target");
    refused(dir("d") + file("d/f") + symlink("s", "d") + link("d/f", "s/f"), "its own target");
    refused(file("d/f") + link("d", "d/f"), "below");
    refused(link("l", ""), "no target");
    fresh();
    report = must(link("l", "missing") + file("l", "x"));
    EXPECT_TRUE(report.deferred_links.empty());
    options_.max_deferred_links = 1;
    refused(link("a", "x") + link("b", "x"), "hard links", Errc::ResourceExhausted);
}

// What a deferred link means is settled when it is read, not at the end.
TEST_F(Extract, DeferredLinks) {
    auto report = must(dir("stated") + link("a", "low") + link("b", "a") + file("low", "new") + link("c", "low") +
                       symlink("s", "stated") + link("d", "s/x") + symlink("s", "gone/../y") + link("e", "s/x") +
                       file("implied/f") + link("g", "implied/x") + dir("implied/h") + link("i", "implied/h/x") +
                       link("j", "a") + file("a", "late"));
    std::string got;
    for (const auto &link : report.deferred_links)
        got += link.path + ">" + link.target + ":" + std::to_string(link.stated_depth) + " ";
    EXPECT_EQ(got, "b>low:0 d>stated/x:1 e>gone/../y/x:0 g>implied/x:0 i>implied/h/x:0 j>low:0 ");
    EXPECT_EQ(read("c"), "new");
    EXPECT_EQ(read("a"), "late");
    refused(symlink("s", ".") + link("l", "s/l"), "its own target");
    refused(dir("d") + wh("d/.wh..wh..opq") + link("l", "d/x"), "deletes the target");
    refused(wh(".wh.d") + link("l", "d/x"), options_.whiteouts == WhiteoutForm::oci_names ? "deletes" : "directories");
    refused(symlink("s", "t") + symlink("t", "s") + link("l", "s/x"), "directories");
}

// A directory in place of something that the layer deletes owes nothing to the parents.
TEST_F(Extract, ImpliedInPlaceOfADeletion) {
    auto report = must(wh(".wh.a") + file("a/f") + file("b/f") + wh(".wh.b") + file("c/f"));
    EXPECT_EQ(report.implied_dirs, std::vector<std::string>{"c"});
    EXPECT_TRUE(opaque("a") && opaque("b"));
}

TEST_F(Extract, WhiteoutRefusals) {
    for (const char *name : {".wh.", ".wh..", ".wh...", "etc/.wh...", "etc/.wh..", "etc/.wh."})
        refused(wh(name), "whiteout");
    refused(file(".wh.etc/f"), "whiteout");
    refused(dir(".wh.etc"), "regular file");
    refused(symlink(".wh.etc", "x"), "regular file");
    refused(file("f") + link("l", ".wh.f"), "whiteout");
}

TEST_F(Extract, Whiteouts) {
    std::vector<WhiteoutForm> forms{WhiteoutForm::oci_names};
    if (is_root()) forms = {WhiteoutForm::overlay_trusted, WhiteoutForm::overlay_user, WhiteoutForm::oci_names};
    for (auto form : forms) {
        options_.whiteouts = form;
        SCOPED_TRACE(static_cast<int>(form));
        fresh();
        auto report = must(dir("a") + wh("a/.wh.gone") + wh("a/.wh.gone") + wh(".wh.dir"));
        EXPECT_TRUE(whited("a/gone"));
        EXPECT_TRUE(whited("dir"));
        EXPECT_EQ(report.whiteouts, 2U);
        EXPECT_EQ(info("a").st_mtim.tv_sec, 1'000'000'000);
        // of a name of the same layer: before and after
        fresh();
        report = must(file("before", "1") + wh(".wh.before") + wh(".wh.after") + file("after", "2") + dir("d1") +
                      file("d1/x") + wh(".wh.d1") + wh(".wh.d2") + dir("d2") + wh(".wh.d3") + file("d3/x"));
        EXPECT_EQ(read("before") + read("after"), "12");
        for (const char *name : {"d1", "d2", "d3"}) {
            EXPECT_TRUE(opaque(name)) << name;
            EXPECT_TRUE(S_ISDIR(info(name).st_mode));
        }
        EXPECT_TRUE(exists("d1/x") && exists("d3/x"));
        EXPECT_EQ(report.whiteouts, 0U);
        EXPECT_EQ(report.opaque_dirs, 3U);
        EXPECT_FALSE(whited("after") || exists(".wh.after") || exists(".wh.d2") || exists(".wh.d3"));
        EXPECT_EQ(info("d1").st_mtim.tv_sec, 1'000'000'000);
        // opaque: first, last, at the root, without an entry of the directory
        fresh();
        report = must(wh("p/.wh..wh..opq") + file("p/x") + dir("q") + file("q/x") + wh("q/.wh..wh..opq") +
                      wh(".wh..wh..opq") + wh("q/.wh..wh..opq"));
        EXPECT_TRUE(opaque("p") && opaque("q") && opaque(""));
        EXPECT_TRUE(exists("p/x") && exists("q/x"));
        EXPECT_EQ(report.opaque_dirs, 3U);
        EXPECT_EQ(report.implied_dirs, std::vector<std::string>{"p"});
        // through symlinks that leave the root
        fresh();
        must(symlink("s", "../host") + wh("s/.wh.hello") + wh("s/.wh..wh..opq"));
        EXPECT_TRUE(whited("host/hello"));
        EXPECT_TRUE(opaque("host"));
        // AUFS
        fresh();
        report =
            must(dir(".wh..wh.plnk") + file(".wh..wh.plnk/1.2") + file(".wh..wh.aufs") + link(".wh.x", ".wh..wh.aufs"));
        EXPECT_EQ(report.warnings.size(), 3U);
        EXPECT_TRUE(whited("x"));
        refused(wh(".wh.t") + link("l", "t"), "deletes the target");
    }
}

TEST_F(Extract, OverlayTricks) {
    refused(member({.name = "c", .type = '3'}), "0:0");
    refused(member({.name = "c", .type = '3', .major = 4096, .minor = 1}), "out of range");
    fresh();
    auto report = must(
        pax({{"SCHILY.xattr.trusted.overlay.opaque", "y"}, {"SCHILY.xattr.user.overlay.redirect", "/x"}}) + dir("d"));
    EXPECT_FALSE(opaque("d"));
    EXPECT_EQ(report.skipped_xattrs, 2U);
    EXPECT_EQ(report.warnings.size(), 2U);
}

TEST_F(Extract, HostAttributesAreLeftOut) {
    auto report = must(pax({{"SCHILY.xattr.security.selinux", "u:r:t:s0"},
                            {"SCHILY.xattr.security.ima", "x"},
                            {"SCHILY.xattr.security.shale-test", "x"},
                            {"SCHILY.xattr.system.nfs4_acl", "x"},
                            {"SCHILY.xattr.user.kept", "u"}}) +
                       file("f"));
    EXPECT_EQ(report.skipped_xattrs, 4U);
    EXPECT_EQ(report.warnings.size(), 4U);
    char value = 0;
    EXPECT_EQ(::lgetxattr((dest() / "f").c_str(), "security.shale-test", &value, 1), -1);
    EXPECT_EQ(::lgetxattr((dest() / "f").c_str(), "user.kept", &value, 1), 1);
}

TEST_F(Extract, SetIdBitsOwnersAndCapabilities) {
    if (!is_root()) GTEST_SKIP() << "needs root";
    const std::string capability("\1\0\0\2\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20);
    must(member({.name = "su", .data = "x", .mode = 06755, .uid = 5, .gid = 6}) +
         pax({{"SCHILY.xattr.security.capability", capability}}) +
         member({.name = "cap", .data = "x", .mode = 0755, .uid = 5, .gid = 6}) +
         member({.name = "sg", .type = '5', .mode = 02775, .uid = 1, .gid = 50}) + file("sg/f") + dir("sg/d") +
         member({.name = "sg/s", .type = '2', .link = "x", .uid = 7, .gid = 8}) + file("sg/imp/f") +
         pax({{"uid", "3000000"}}) + file("big") + member({.name = "st", .type = '5', .mode = 01777}));
    EXPECT_EQ(info("su").st_mode & 07777U, 06755U);
    EXPECT_EQ(info("su").st_uid, 5U);
    std::array<char, 32> value{};
    EXPECT_EQ(::lgetxattr((dest() / "cap").c_str(), "security.capability", value.data(), value.size()), 20);
    EXPECT_EQ(info("sg").st_mode & 07777U, 02775U);
    EXPECT_EQ(info("sg/f").st_gid, 0U);
    EXPECT_EQ(info("sg/d").st_gid, 0U);
    EXPECT_EQ(info("sg/d").st_mode & 07777U, 0755U);
    EXPECT_EQ(info("sg/imp").st_mode & 07777U, 0755U);
    EXPECT_EQ(info("sg/imp/f").st_gid, 0U);
    EXPECT_EQ(info("sg/s").st_uid, 7U);
    EXPECT_EQ(info("big").st_uid, 3'000'000U);
    EXPECT_EQ(info("st").st_mode & 07777U, 01777U);
    for (int64_t id : {int64_t{0xffffffff}, int64_t{1} << 32U})
        refused(member({.name = "a", .uid_field = base256(id, 8)}), "out of range");
}

TEST_F(Extract, IdMap) {
    if (!is_root()) GTEST_SKIP() << "needs root";
    options_.uid_map = {{0, 100'000, 1000}};
    options_.gid_map = {{0, 200'000, 10}, {10, 300'000, 10}};
    must(member({.name = "a/f", .uid = 5, .gid = 12}));
    EXPECT_EQ(info("a/f").st_uid, 100'005U);
    EXPECT_EQ(info("a/f").st_gid, 300'002U);
    EXPECT_EQ(info("a").st_uid, 100'000U);
    refused(member({.name = "f", .uid = 1000}), "uid 1000 is not in the id map");
    options_.owners = OwnerPolicy::squash;
    fresh();
    EXPECT_EQ(must(member({.name = "f", .uid = 1000})).squashed_owners, 1U);
}

TEST_F(Extract, Devices) {
    if (!is_root()) GTEST_SKIP() << "needs root";
    const std::string tar = member({.name = "n", .type = '3', .mode = 0666, .major = 1, .minor = 3}) +
                            member({.name = "b", .type = '4', .mode = 0660, .gid = 6, .major = 8, .minor = 1});
    must(tar);
    EXPECT_EQ(info("n").st_rdev, makedev(1, 3));
    EXPECT_EQ(info("n").st_mode, S_IFCHR | 0666U);
    EXPECT_EQ(info("b").st_gid, 6U);
    options_.allow_devices = false;
    fresh();
    EXPECT_EQ(must(tar).skipped_devices, 2U);
    EXPECT_FALSE(exists("n"));
}

TEST_F(Extract, TimesAndModes) {
    must(pax({{"mtime", "1.000000005"}}) + file("ns") + member({.name = "neg", .mtime = -7}) + dir("d") +
         file("d/e/f") + file("z") + file("d/late") + dir("x") + symlink("d/s", "q") + file("x/1") + wh("d/.wh.y") +
         pax({{"mtime", "99999999999999"}}) + file("huge"));
    EXPECT_EQ(info("ns").st_mtim.tv_nsec, 5);
    EXPECT_EQ(info("neg").st_mtim.tv_sec, -7);
    EXPECT_EQ(info("d").st_mtim.tv_sec, 1'000'000'000);
    EXPECT_EQ(info("x").st_mtim.tv_sec, 1'000'000'000);
    fresh();
    must(dir("locked", 0000) + file("locked/f", "1") + file("other") + file("locked/g", "2") + dir("locked/sub", 0000) +
         file("locked/sub/h", "3"));
    EXPECT_EQ(info("locked").st_mode & 07777U, 0U);
    EXPECT_EQ(info("locked").st_mtim.tv_sec, 1'000'000'000);
    ::chmod((dest() / "locked").c_str(), 0700);
    EXPECT_EQ(info("locked/sub").st_mode & 07777U, 0U);
    ::chmod((dest() / "locked/sub").c_str(), 0700);
    EXPECT_EQ(read("locked/f") + read("locked/g") + read("locked/sub/h"), "123");
}

TEST_F(Extract, SparseFile) {
    must(pax({{"GNU.sparse.size", "100000"}, {"GNU.sparse.map", "5000,3,20000,2"}}) + file("s", "abcde"));
    const std::string got = read("s");
    ASSERT_EQ(got.size(), 100'000U);
    EXPECT_EQ(got.substr(5000, 3) + got.substr(20'000, 2), "abcde");
    EXPECT_EQ(std::ranges::count(got, '\0'), 99'995);
}

TEST_F(Extract, VeryDeepTree) {
    std::string path;
    for (int i = 0; i < 1500; ++i)
        path += "d/";
    auto report = must(pax({{"path", path + "f"}}) + file("x", "1") + pax({{"path", path + "g"}}) + file("x", "2") +
                       file("top") + pax({{"path", path + "h"}}) + file("x", "3") + link("l", "top"));
    EXPECT_EQ(report.implied_dirs.size(), 1500U);
    EXPECT_EQ(report.implied_dirs.back().size(), 2999U);
    EXPECT_EQ(report.inodes, 1504U);
}

TEST_F(Extract, CancelAndBrokenArchive) {
    UniqueFd root(::open(dest().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    std::atomic<bool> cancel = true;
    TarReader reader(source_of(file("a")), {});
    auto got = extract_tar(reader, root.get(), options_, &cancel);
    ASSERT_FALSE(got);
    EXPECT_EQ(got.error().code(), Errc::Canceled);
    EXPECT_FALSE(unpack(file("a", std::string(9000, 'x')).substr(0, 3000)));
}

} // namespace
} // namespace shale::archive
