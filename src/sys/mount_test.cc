// SPDX-License-Identifier: Apache-2.0
#include "sys/mount.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/mount.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <set>

#include <fmt/format.h>

#include "sys/fs.h"
#include "sys/seam.h"

namespace shale::sys {
namespace {

using testing::HasSubstr;

TEST(MountInfo, Parses) {
    const auto table =
        parse_mountinfo("36 35 98:0 /mnt1 /a\\040b\\134c rw,noatime shared:1 master:2 - ext3 /dev/root rw\n"
                        "37 36 0:5 / /x rw - tmpfs  rw,size=1k\n");
    ASSERT_TRUE(table) << table.error().text();
    ASSERT_EQ(table->size(), 2U);
    EXPECT_EQ(table->front().target, "/a b\\c");
    EXPECT_THAT(table->front().optional_fields, testing::ElementsAre("shared:1", "master:2"));
    EXPECT_EQ(table->back().source, "");
    EXPECT_EQ(table->back().super_options, "rw,size=1k");
}

TEST(MountInfo, RefusesMalformedLines) {
    for (const char *text : {"x", "1 2 3 / / rw - a b c", "1 2 0:1 / / rw shared:1", "1 2 0:1 / / rw -",
                             "-1 2 0:1 / / rw - a b c", "1 2 0:1 / /", " ", "1 2 0: / / rw - a b c"}) {
        const auto table = parse_mountinfo(text);
        ASSERT_FALSE(table) << text;
        EXPECT_EQ(table.error().code(), Errc::InvalidArgument);
    }
    EXPECT_TRUE(parse_mountinfo("")->empty());
}

TEST(MountInfo, OfThisProcess) {
    const auto table = mount_table();
    ASSERT_TRUE(table) << table.error().text();
    EXPECT_FALSE(table->empty());
    EXPECT_TRUE(*is_mount_point("/proc"));
    EXPECT_FALSE(*is_mount_point("/proc/self"));
    EXPECT_FALSE(is_mount_point("/no/such/path"));
}

/// Pretends that the kernel lacks calls, or that it does not know "lowerdir+".
class OldKernel final : public Hook {
public:
    explicit OldKernel(std::set<Op> missing, bool no_lowerdir_plus = false)
        : missing_(std::move(missing)), no_lowerdir_plus_(no_lowerdir_plus) {
        set_hook(this);
    }
    ~OldKernel() override { set_hook(nullptr); }
    OldKernel(const OldKernel &) = delete;
    OldKernel &operator=(const OldKernel &) = delete;
    int before(const Call &call) noexcept override {
        ++calls;
        if (missing_.contains(call.op)) return ENOSYS;
        if (no_lowerdir_plus_ && call.op == Op::fsconfig && call.name != nullptr &&
            std::string_view(call.name) == "lowerdir+")
            return EINVAL;
        return 0;
    }
    int calls = 0;

private:
    std::set<Op> missing_;
    bool no_lowerdir_plus_;
};

class Mount : public testing::Test {
protected:
    void SetUp() override {
        if (::geteuid() != 0) GTEST_SKIP() << "needs root (mounts)";
        static const bool own = ::unshare(CLONE_NEWNS) == 0 &&
                                ::syscall(SYS_mount, nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
        if (!own) GTEST_SKIP() << "no mount name space of its own";
        root_ = "/var/tmp/shale-mount-XXXXXX";
        ASSERT_NE(::mkdtemp(root_.data()), nullptr);
    }
    void TearDown() override {
        if (root_.empty()) return;
        (void)unmount(root_ + "/mnt", umount_detach);
        EXPECT_TRUE(remove_tree(AT_FDCWD, root_.c_str()));
    }
    /// `count` lowers below root_/`base`, each with one file of its number.
    MountSpec overlay(const std::string &base, int count) {
        std::string lowers = "lowerdir=";
        for (const char *part : {"/mnt", "/upper", "/work"})
            EXPECT_EQ(::mkdir((root_ + part).c_str(), 0755), 0);
        if (!base.empty()) {
            EXPECT_TRUE(make_dirs(AT_FDCWD, root_ + base, 0755));
        }
        for (int i = 0; i < count; ++i) {
            const std::string dir = fmt::format("{}{}/{}", root_, base, i);
            EXPECT_EQ(::mkdir(dir.c_str(), 0755), 0);
            EXPECT_TRUE(open_at(AT_FDCWD, fmt::format("{}/f{}", dir, i).c_str(), O_CREAT | O_WRONLY, 0644));
            lowers += i == 0 ? "" : ":";
            for (const char c : dir) {
                if (c == ':' || c == ',' || c == '\\') lowers += '\\';
                lowers += c;
            }
        }
        return {
            "overlay", "overlay", {lowers, "upperdir=" + root_ + "/upper", "workdir=" + root_ + "/work", "index=off"}};
    }
    void expect_lowers(int count) {
        for (int i = 0; i < count; ++i)
            EXPECT_EQ(::access(fmt::format("{}/mnt/f{}", root_, i).c_str(), F_OK), 0) << i;
    }
    std::string root_;
};

TEST_F(Mount, OverlayByEveryRung) {
    const MountSpec spec = overlay("/l", 3);
    for (const auto &missing : {std::set<Op>{}, {Op::fsopen}, {Op::fsconfig}, {Op::fsmount}, {Op::move_mount}}) {
        const OldKernel hook(missing);
        const auto done = mount_at(spec, root_ + "/mnt");
        ASSERT_TRUE(done) << done.error().text();
        expect_lowers(3);
        ASSERT_TRUE(unmount(root_ + "/mnt"));
    }
    {
        const OldKernel hook({}, true);
        // 6.5+ limits the joined text to 255 bytes, older kernels do not.
        const auto done = mount_at(spec, root_ + "/mnt");
        ASSERT_TRUE(done) << done.error().text();
        expect_lowers(3);
    }
    ASSERT_TRUE(unmount(root_ + "/mnt"));
    EXPECT_FALSE(*is_mount_point(root_ + "/mnt"));
}

TEST_F(Mount, DetachedOverlayByEveryRung) {
    // More text than fsconfig takes for one option.
    const MountSpec spec = overlay("/" + std::string(200, 'l'), 3);
    for (const bool old : {false, true}) {
        const OldKernel hook({}, old); // Linux 6.1, Debian 12: neither "lowerdir+" nor long values
        const auto made = mount_detached(spec);
        ASSERT_TRUE(made) << made.error().text();
        for (int i = 0; i < 3; ++i)
            EXPECT_EQ(::faccessat(made->get(), fmt::format("f{}", i).c_str(), F_OK, 0), 0) << i;
        EXPECT_FALSE(*is_mount_point(spec.options[0].substr(9, spec.options[0].find(':') - 9))) << "out of sight";
    }
}

TEST_F(Mount, FiveHundredLowers) {
    const MountSpec spec = overlay("/a-long-name-so-that-the-options-never-fit-one-page", 500);
    const auto done = mount_at(spec, root_ + "/mnt");
    ASSERT_TRUE(done) << done.error().text();
    expect_lowers(500);
}

TEST_F(Mount, LegacyShortensPaths) {
    const MountSpec spec = overlay("/a-long-name-so-that-the-options-do-not-fit-one-page", 128);
    const std::string before = *path_of_fd(open_dir(AT_FDCWD, ".")->get());
    const auto done = mount_at(spec, root_ + "/mnt", MountApi::legacy);
    ASSERT_TRUE(done) << done.error().text();
    expect_lowers(128);
    EXPECT_EQ(*path_of_fd(open_dir(AT_FDCWD, ".")->get()), before) << "the process stays where it was";
}

TEST_F(Mount, LegacySaysWhatDoesNotFit) {
    std::string lowers = "lowerdir=/a";
    for (int i = 0; i < 2000; ++i)
        lowers += fmt::format(":/a/{}", i);
    const auto done = mount_at({"overlay", "overlay", {lowers}}, "/var/tmp", MountApi::legacy);
    ASSERT_FALSE(done);
    EXPECT_EQ(done.error().code(), Errc::ResourceExhausted);
}

TEST_F(Mount, OddCharacters) {
    const MountSpec spec = overlay("/o:d,d\\name", 2);
    for (const MountApi api : {MountApi::fsconfig, MountApi::legacy}) {
        const auto done = mount_at(spec, root_ + "/mnt", api);
        ASSERT_TRUE(done) << done.error().text();
        expect_lowers(2);
        ASSERT_TRUE(unmount(root_ + "/mnt"));
    }
}

TEST_F(Mount, PathsLongerThanFsconfigTakes) {
    const std::string part(100, 'p');
    const MountSpec spec = overlay("/" + part + "/" + part + "/" + part, 2);
    const auto done = mount_at(spec, root_ + "/mnt", MountApi::fsconfig);
    ASSERT_TRUE(done) << done.error().text();
    expect_lowers(2);
}

TEST_F(Mount, KernelsWordsAreInTheError) {
    MountSpec spec = overlay("", 2);
    spec.options.emplace_back("redirect_dir=sideways");
    auto done = mount_at(spec, root_ + "/mnt");
    ASSERT_FALSE(done);
    EXPECT_THAT(done.error().text(), HasSubstr("kernel: "));
    EXPECT_FALSE(*is_mount_point(root_ + "/mnt"));
    spec.options.back() = "index=off";
    done = mount_at(spec, root_ + "/missing");
    ASSERT_FALSE(done);
    EXPECT_EQ(done.error().sys_errno(), ENOENT);
}

TEST_F(Mount, BindReadOnlyByEveryRung) {
    for (const char *part : {"/mnt", "/from"})
        ASSERT_EQ(::mkdir((root_ + part).c_str(), 0755), 0);
    const MountSpec spec{"bind", root_ + "/from", {"rbind", "ro", "nosuid"}};
    for (const auto &missing : {std::set<Op>{}, {Op::open_tree}, {Op::mount_setattr}, {Op::move_mount}}) {
        const OldKernel hook(missing);
        const auto done = mount_at(spec, root_ + "/mnt");
        ASSERT_TRUE(done) << done.error().text();
        struct statvfs now{};
        ASSERT_EQ(::statvfs((root_ + "/mnt").c_str(), &now), 0);
        EXPECT_NE(now.f_flag & ST_RDONLY, 0U);
        EXPECT_NE(now.f_flag & ST_NOSUID, 0U);
        ASSERT_TRUE(unmount(root_ + "/mnt"));
    }
    EXPECT_FALSE(mount_at({"bind", root_ + "/from", {"colour=blue"}}, root_ + "/mnt"));
}

TEST_F(Mount, Detached) {
    const MountSpec spec = overlay("", 2);
    {
        const auto tree = mount_detached(spec);
        ASSERT_TRUE(tree) << tree.error().text();
        EXPECT_TRUE(stat_at(tree->get(), "f1"));
        const auto table = mount_table();
        for (const auto &entry : *table)
            EXPECT_FALSE(entry.target.starts_with(root_)) << entry.target;
    }
    const OldKernel hook({Op::fsopen});
    const auto none = mount_detached(spec);
    ASSERT_FALSE(none);
    EXPECT_EQ(none.error().code(), Errc::Unimplemented);
}

TEST_F(Mount, UnmountErrors) {
    const auto done = unmount(root_);
    ASSERT_FALSE(done);
    EXPECT_THAT(done.error().text(), HasSubstr("unmount"));
}

} // namespace
} // namespace shale::sys
