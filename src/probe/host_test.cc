// SPDX-License-Identifier: Apache-2.0
#include "probe/host.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "probe/test_root.h"
#include "sys/seam.h"

namespace shale::probe {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class HostTest : public testing::Test {
protected:
    TestRoot root_;
    Host host_ = root_.host();
};

std::vector<std::string> names_of(const Result<std::vector<sys::DirEntry>> &entries) {
    std::vector<std::string> out;
    if (!entries) return {entries.error().text()};
    for (const auto &entry : *entries)
        out.push_back(entry.name);
    return out;
}

TEST_F(HostTest, ReadsWithOrWithoutALeadingSlash) {
    root_.file("/etc/hostname", "node-1\n");
    EXPECT_EQ(host_.read("/etc/hostname").value_or(""), "node-1\n");
    EXPECT_EQ(host_.read("etc/hostname").value_or(""), "node-1\n");
    EXPECT_EQ(host_.read("//etc/hostname").value_or(""), "node-1\n");
    EXPECT_EQ(names_of(host_.list("/")), std::vector<std::string>{"etc"});
}

TEST_F(HostTest, LinksLeadWhereTheyWouldOnTheHost) {
    root_.file("/data/secret", "of the host");
    root_.link("/data", "/var/lib/absolute");
    root_.link("../../../../../../../../data", "/var/lib/climbing");
    EXPECT_EQ(host_.read("/var/lib/absolute/secret").value_or(""), "of the host");
    EXPECT_EQ(host_.read("/var/lib/climbing/secret").value_or(""), "of the host");
    root_.link("/etc/passwd", "/passwd"); // the test's host has none, this one has
    EXPECT_EQ(host_.read("/passwd").error().code(), Errc::NotFound);
    EXPECT_EQ(host_.read("/../../../../../etc/passwd").error().code(), Errc::NotFound);
}

TEST_F(HostTest, LoopsEnd) {
    root_.link("/b", "/a");
    root_.link("/a", "/b");
    EXPECT_EQ(host_.read("/a").error().sys_errno(), ELOOP);
    EXPECT_FALSE(host_.is_dir("/a"));
    EXPECT_EQ(host_.stat("/a").error().sys_errno(), ELOOP);
}

TEST_F(HostTest, OnlyRegularFilesAreRead) {
    root_.dir("/dir");
    ASSERT_EQ(::mkfifo(root_.here("/fifo").c_str(), 0600), 0);
    EXPECT_EQ(host_.read("/dir").error().code(), Errc::InvalidArgument);
    EXPECT_EQ(host_.read("/fifo").error().code(), Errc::InvalidArgument); // and it does not wait for a writer
    EXPECT_TRUE(host_.open_path("/fifo", O_RDONLY));
}

TEST_F(HostTest, ReadsUpToTheLimit) {
    const std::string text(10'000, 'x');
    root_.file("/file", text);
    root_.file("/empty", "");
    EXPECT_EQ(host_.read("/file", 10'000).value_or(""), text);
    const auto over = host_.read("/file", 9'999);
    ASSERT_FALSE(over);
    EXPECT_EQ(over.error().code(), Errc::ResourceExhausted);
    EXPECT_THAT(over.error().text(), HasSubstr("/file"));
    EXPECT_EQ(host_.read("/empty", 0).value_or("?"), "");
}

TEST_F(HostTest, MissingIsNoErrorWhereItMayBe) {
    root_.file("/file", "x");
    EXPECT_EQ(host_.read_if_there("/none").value_or("?"), std::nullopt);
    EXPECT_EQ(host_.read_if_there("/file").value_or("?"), "x");
    EXPECT_EQ(names_of(host_.list_if_there("/none/none")), std::vector<std::string>{});
    EXPECT_FALSE(host_.list_if_there("/file")); // there, but no directory
    EXPECT_EQ(host_.stat("/none")->has_value(), false);
    EXPECT_EQ(host_.stat("/file/none")->has_value(), false);
    EXPECT_EQ((*host_.stat("/file"))->st_size, 1);
}

TEST_F(HostTest, ListsSortedAndBounded) {
    for (const char *name : {"/d/c", "/d/a", "/d/b"})
        root_.file(name, "");
    EXPECT_THAT(names_of(host_.list("/d", 3)), ElementsAre("a", "b", "c"));
    EXPECT_EQ(host_.list("/d", 2).error().code(), Errc::ResourceExhausted);
}

TEST_F(HostTest, NulInAPathIsRefused) {
    root_.file("/etc/hostname", "x");
    EXPECT_EQ(host_.read(std::string("/etc/hostname\0.json", 19)).error().code(), Errc::InvalidArgument);
}

TEST_F(HostTest, HereIsThePathOfThisProcess) {
    EXPECT_FALSE(host_.live());
    EXPECT_EQ(host_.here("/var/lib"), host_.root() + "/var/lib");
    EXPECT_EQ(host_.here("var"), host_.root() + "/var");
    EXPECT_EQ(host_.here("/"), host_.root());
    struct stat status{};
    root_.dir("/var/lib");
    EXPECT_EQ(::stat(host_.here("/var/lib").c_str(), &status), 0);
}

TEST(HostOpen, RootIsLive) {
    for (const char *name : {"/", "//", "/usr/.."}) {
        const auto host = Host::open(name);
        ASSERT_TRUE(host) << host.error().text();
        EXPECT_TRUE(host->live()) << name;
        EXPECT_EQ(host->here("etc"), "/etc");
        EXPECT_EQ(host->here("/"), "/");
        EXPECT_TRUE(host->is_dir("/proc/self"));
    }
}

TEST(HostOpen, TrailingSlashesAndLinksAreResolved) {
    TestRoot root;
    root.dir("/mnt");
    root.link("mnt", "/link");
    const auto plain = Host::open(root.here("/mnt"));
    ASSERT_TRUE(plain);
    EXPECT_EQ(Host::open(root.here("/mnt//"))->root(), plain->root());
    EXPECT_EQ(Host::open(root.here("/link"))->root(), plain->root());
}

TEST(HostOpen, SaysWhatIsWrong) {
    TestRoot root;
    root.file("/file", "");
    EXPECT_EQ(Host::open(root.here("/none")).error().code(), Errc::NotFound);
    EXPECT_EQ(Host::open(root.here("/file")).error().code(), Errc::InvalidArgument);
}

TEST(HostOpen, MagicLinksAreNotFollowed) {
    const auto host = Host::open("/");
    ASSERT_TRUE(host);
    EXPECT_FALSE(host->open_path("/proc/self/root", O_PATH));
    EXPECT_TRUE(host->open_path("/proc/self/ns/mnt", O_PATH | O_NOFOLLOW)); // the link itself
}

TEST(HostOpen, OldKernelsAreNamed) {
    class NoOpenat2 : public sys::Hook {
        int before(const sys::Call &call) noexcept override { return call.op == sys::Op::openat2 ? ENOSYS : 0; }
    } hook;
    sys::set_hook(&hook);
    const auto host = Host::open("/");
    sys::set_hook(nullptr);
    ASSERT_FALSE(host);
    EXPECT_EQ(host.error().code(), Errc::Unimplemented);
    EXPECT_THAT(host.error().text(), HasSubstr("Linux 5.6"));
}

} // namespace
} // namespace shale::probe
