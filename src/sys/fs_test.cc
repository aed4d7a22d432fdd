// SPDX-License-Identifier: Apache-2.0
#include "sys/fs.h"

#include <gtest/gtest.h>

#include <dirent.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <functional>
#include <thread>

#include "sys/seam.h"

namespace shale::sys {
namespace {

/// Fails chosen calls and counts all.
class FaultHook final : public Hook {
public:
    explicit FaultHook(std::function<int(const Call &)> decide) : decide_(std::move(decide)) { set_hook(this); }
    FaultHook(const FaultHook &) = delete;
    FaultHook &operator=(const FaultHook &) = delete;
    ~FaultHook() override { set_hook(nullptr); }
    int before(const Call &call) noexcept override { return decide_(call); }

private:
    std::function<int(const Call &)> decide_;
};

// <sys/mount.h> of the C library is shadowed by ours.
long mount_raw(const char *source, const std::string &target, const char *type, unsigned long flags) {
    return ::syscall(SYS_mount, source, target.c_str(), type, flags, nullptr);
}
long unmount_raw(const std::string &target) {
    return ::syscall(SYS_umount2, target.c_str(), 0);
}

class FsTest : public testing::Test {
protected:
    void SetUp() override {
        std::string name = testing::TempDir() + "shale-fs-XXXXXX";
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        path_ = name;
        auto opened = open_dir(AT_FDCWD, path_.c_str());
        ASSERT_TRUE(opened) << opened.error().text();
        root_ = std::move(*opened);
    }
    void TearDown() override {
        root_.reset();
        (void)remove_tree(AT_FDCWD, path_.c_str());
    }
    [[nodiscard]] int root() const { return root_.get(); }
    void write(const char *name, std::string_view data) const {
        auto written = write_file_durably(root(), name, data, 0644);
        ASSERT_TRUE(written) << written.error().text();
    }
    std::string path_;
    UniqueFd root_;
};

TEST_F(FsTest, OpenDoesNotFollowTheLastComponent) {
    write("file", "x");
    ASSERT_TRUE(make_symlink("file", root(), "link"));
    auto opened = open_at(root(), "link", O_RDONLY);
    ASSERT_FALSE(opened);
    EXPECT_EQ(opened.error().sys_errno(), ELOOP);
    EXPECT_NE(opened.error().text().find("open \"link\""), std::string::npos) << opened.error().text();
    EXPECT_EQ(*read_link(root(), "link"), "file");
}

TEST_F(FsTest, WriteFileDurablyReplacesAndLeavesNothingBehind) {
    write("state", "one");
    write("state", "two");
    EXPECT_EQ(*read_file(root(), "state", 100), "two");
    EXPECT_EQ(list_dir(root())->size(), 1U);
    {
        FaultHook hook([](const Call &call) { return call.op == Op::rename ? EIO : 0; });
        EXPECT_FALSE(write_file_durably(root(), "state", "three"));
    }
    EXPECT_EQ(list_dir(root())->size(), 1U);
    EXPECT_EQ(*read_file(root(), "state", 100), "two");
    auto absolute = write_file_durably(AT_FDCWD, (path_ + "/state").c_str(), "four");
    ASSERT_TRUE(absolute) << absolute.error().text();
    EXPECT_EQ(*read_file(root(), "state", 100), "four");
    EXPECT_EQ(stat_at(root(), "state")->st_mode & 07777U, 0600U);
}

TEST_F(FsTest, ReadFileIsBounded) {
    write("big", std::string(10'000, 'x'));
    EXPECT_EQ(read_file(root(), "big", 10'000)->size(), 10'000U);
    auto refused = read_file(root(), "big", 9'999);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Errc::ResourceExhausted);
    write("empty", "");
    EXPECT_EQ(*read_file(root(), "empty", 0), "");
}

TEST_F(FsTest, InjectedEintrIsRetriedButNotForEver) {
    int left = 50;
    int asked = 0;
    {
        FaultHook hook([&](const Call &call) { return call.op == Op::mkdir && ++asked > 0 && left-- > 0 ? EINTR : 0; });
        EXPECT_TRUE(make_dir(root(), "d", 0700));
    }
    EXPECT_EQ(asked, 51);
    asked = 0;
    {
        FaultHook hook([&](const Call &call) { return call.op == Op::mkdir && ++asked > 0 ? EINTR : 0; });
        auto made = make_dir(root(), "e", 0700);
        ASSERT_FALSE(made);
        EXPECT_EQ(made.error().sys_errno(), EINTR);
    }
    EXPECT_EQ(asked, 101);
    EXPECT_FALSE(stat_if_exists(root(), "e")->has_value());
}

TEST_F(FsTest, MakeDirs) {
    ASSERT_TRUE(make_dirs(root(), "a/b//./c/"));
    ASSERT_TRUE(make_dirs(root(), "a/b/c"));
    EXPECT_TRUE(S_ISDIR(stat_at(root(), "a/b/c")->st_mode));
    EXPECT_FALSE(make_dirs(root(), "a/../x"));
    ASSERT_TRUE(make_symlink("a", root(), "link"));
    EXPECT_FALSE(make_dirs(root(), "link/x"));
    ASSERT_TRUE(make_dirs(AT_FDCWD, path_ + "/abs/olute"));
    EXPECT_TRUE(S_ISDIR(stat_at(root(), "abs/olute")->st_mode));
}

TEST_F(FsTest, MetadataOfNamesDescriptorsAndPathDescriptors) {
    write("file", "x");
    ASSERT_TRUE(make_symlink("nowhere", root(), "link"));
    const timespec when{-5, 123'456'789};
    ASSERT_TRUE(set_times(root(), "link", when, when));
    EXPECT_EQ(stat_at(root(), "link")->st_mtim.tv_nsec, 123'456'789);
    auto path_fd = open_at(root(), "file", O_PATH);
    ASSERT_TRUE(path_fd);
    ASSERT_TRUE(chmod_fd(path_fd->get(), 0640));
    ASSERT_TRUE(set_times(path_fd->get(), "", when, when));
    ASSERT_TRUE(chown_at(path_fd->get(), "", ::geteuid(), ::getegid()));
    EXPECT_EQ(stat_at(path_fd->get(), "")->st_mode & 07777U, 0640U);
    EXPECT_EQ(stat_at(root(), "file")->st_mtim.tv_sec, -5);
    ASSERT_TRUE(chmod_at(root(), "file", 0600));
    EXPECT_EQ(stat_at(root(), "file")->st_mode & 07777U, 0600U);
    EXPECT_FALSE(chmod_at(root(), "link", 0600));
    ASSERT_TRUE(make_link(path_fd->get(), "", root(), "second"));
    EXPECT_EQ(stat_at(root(), "file")->st_nlink, 2U);
    EXPECT_NE(path_of_fd(root())->find("shale-fs-"), std::string::npos);
}

TEST_F(FsTest, Xattrs) {
    write("file", "x");
    const std::string value("a\0b", 3);
    auto set = set_xattr(root(), "file", "user.one", value);
    if (!set && set.error().sys_errno() == EOPNOTSUPP) GTEST_SKIP() << "no user attributes here";
    ASSERT_TRUE(set) << set.error().text();
    auto path_fd = open_at(root(), "file", O_PATH);
    auto fd = open_at(root(), "file", O_RDONLY);
    ASSERT_TRUE(set_xattr(path_fd->get(), "", "user.two", std::string(3000, 'v')));
    ASSERT_TRUE(set_xattr_fd(fd->get(), "user.three", ""));
    for (int at : {path_fd->get(), fd->get()}) {
        EXPECT_EQ(list_xattrs(at, "")->size(), 3U);
        EXPECT_EQ(get_xattr(at, "", "user.one")->value(), value);
        EXPECT_EQ(get_xattr(at, "", "user.two")->value().size(), 3000U);
    }
    EXPECT_EQ(list_xattrs(root(), "file")->size(), 3U);
    EXPECT_FALSE(get_xattr(root(), "file", "user.none")->has_value());
    ASSERT_TRUE(remove_xattr(root(), "file", "user.two"));
    EXPECT_FALSE(get_xattr(fd->get(), "", "user.two")->has_value());
    ASSERT_TRUE(make_symlink("file", root(), "link"));
    EXPECT_TRUE(list_xattrs(root(), "link")->empty()) << "not followed";
}

TEST_F(FsTest, ListDirResolvesAndBounds) {
    for (int i = 0; i < 5000; ++i)
        ASSERT_TRUE(make_dir(root(), std::to_string(i).c_str(), 0700));
    for (int pass = 0; pass < 2; ++pass) {
        auto listed = list_dir(root());
        ASSERT_TRUE(listed);
        ASSERT_EQ(listed->size(), 5000U);
        EXPECT_EQ(listed->front().type, DT_DIR);
    }
    EXPECT_EQ(list_dir(root(), 4999).error().code(), Errc::ResourceExhausted);
    auto path_fd = open_at(root(), ".", O_PATH | O_DIRECTORY);
    EXPECT_EQ(list_dir(path_fd->get())->size(), 5000U);
}

TEST_F(FsTest, RemoveTreeDeep) {
    UniqueFd at = std::move(*open_dir(root(), "."));
    for (int i = 0; i < 5000; ++i) {
        ASSERT_TRUE(make_dir(at.get(), "deep", 0700));
        ASSERT_TRUE(make_symlink("/", at.get(), "link"));
        at = std::move(*open_dir(at.get(), "deep"));
    }
    int removed = 0;
    auto done = remove_tree(root(), "deep", [&] { ++removed; });
    ASSERT_TRUE(done) << done.error().text();
    EXPECT_EQ(removed, 5000 + 4999);
    ASSERT_TRUE(remove_tree(root(), "deep")) << "missing is fine";
    ASSERT_TRUE(remove_tree(root(), "link"));
    EXPECT_TRUE(list_dir(root())->empty());
}

// By an absolute path, the mount that the tree must not leave is that of the path, not that of the working directory.
/// chattr +i and +a, as a container may leave them; moby has let such layers stay for ever.
TEST_F(FsTest, RemoveTreeThawsWhatIsImmutable) {
    ASSERT_TRUE(make_dir(root(), "top", 0755));
    ASSERT_TRUE(make_dir(root(), "top/dir", 0755));
    for (const char *name : {"top/file", "top/dir/file"})
        ASSERT_TRUE(open_at(root(), name, O_WRONLY | O_CREAT, 0600));
    for (const auto &[name, flag] :
         {std::pair("top/file", FS_IMMUTABLE_FL), {"top/dir/file", FS_APPEND_FL}, {"top/dir", FS_APPEND_FL}}) {
        const UniqueFd fd = open_at(root(), name, O_RDONLY).value_or(UniqueFd());
        int flags = 0;
        ASSERT_EQ(::ioctl(fd.get(), FS_IOC_GETFLAGS, &flags), 0) << name;
        flags |= flag;
        if (::ioctl(fd.get(), FS_IOC_SETFLAGS, &flags) != 0) GTEST_SKIP() << "needs root (chattr +i)";
    }
    EXPECT_NE(::unlinkat(root(), "top/file", 0), 0);
    const auto done = remove_tree(root(), "top");
    EXPECT_TRUE(done) << done.error().text();
    EXPECT_FALSE(*stat_if_exists(root(), "top"));
}

TEST(RemoveTree, AbsolutePathOnAnotherMount) {
    const auto mount_of = [](const char *of) {
        struct statx found{};
        EXPECT_EQ(::statx(AT_FDCWD, of, 0, STATX_MNT_ID, &found), 0);
        return found.stx_mnt_id;
    };
    if (mount_of(".") == mount_of("/dev/shm")) GTEST_SKIP() << "the working directory is on /dev/shm";
    std::string path = "/dev/shm/shale-fs-test-XXXXXX";
    if (::mkdtemp(path.data()) == nullptr) GTEST_SKIP() << "/dev/shm cannot be written to";
    ASSERT_EQ(::mkdir((path + "/a").c_str(), 0700), 0);
    ASSERT_EQ(::mkdir((path + "/a/b").c_str(), 0700), 0);
    const auto below = remove_tree(AT_FDCWD, (path + "/a/").c_str());
    EXPECT_TRUE(below) << below.error().text();
    const auto all = remove_tree(AT_FDCWD, path.c_str());
    EXPECT_TRUE(all) << all.error().text();
    EXPECT_NE(::access(path.c_str(), F_OK), 0);
}

TEST_F(FsTest, RemoveTreeWideByTwoAtOnce) {
    UniqueFd top = std::move(*make_dirs(root(), "top"));
    for (int d = 0; d < 40; ++d) {
        UniqueFd dir = std::move(*make_dirs(top.get(), "d" + std::to_string(d) + "/e"));
        for (int i = 0; i < 500; ++i)
            ASSERT_TRUE(open_at(dir.get(), std::to_string(i).c_str(), O_CREAT | O_WRONLY, 0600));
    }
    std::atomic<int> removed{0};
    auto reap = [&] {
        auto done = remove_tree(root(), "top", [&] { ++removed; });
        EXPECT_TRUE(done) << done.error().text();
    };
    std::thread one(reap);
    std::thread two(reap);
    one.join();
    two.join();
    EXPECT_EQ(removed, 20'000 + 80 + 1);
    EXPECT_TRUE(list_dir(root())->empty());
}

TEST_F(FsTest, WhatGoesGoesByManyThreadsAndTheRestStays) {
    const auto names = std::vector<std::string>{"a", "b", "missing"};
    for (const auto &name : {names[0], names[1]})
        for (int d = 0; d < 30; ++d) {
            UniqueFd dir = std::move(*make_dirs(root(), name + "/d" + std::to_string(d) + "/e"));
            for (int i = 0; i < 50; ++i)
                ASSERT_TRUE(open_at(dir.get(), std::to_string(i).c_str(), O_CREAT | O_WRONLY, 0600));
            ASSERT_TRUE(make_symlink("/", dir.get(), "link"));
        }
    UniqueFd deep = std::move(*open_dir(root(), "b"));
    for (int i = 0; i < 150; ++i) {
        ASSERT_TRUE(make_dir(deep.get(), "deep", 0700));
        deep = std::move(*open_dir(deep.get(), "deep"));
    }
    ASSERT_TRUE(make_dir(root(), "another", 0700));
    std::atomic<int> removed{0};
    remove_what_goes(root(), names, {3, nullptr, [&] { ++removed; }});
    EXPECT_EQ(removed, 2 * 30 * (2 + 51) + 1) << "all but what is too deep";
    EXPECT_FALSE(*stat_if_exists(root(), "a"));
    EXPECT_EQ(list_dir(open_dir(root(), "b")->get())->size(), 1U);
    EXPECT_TRUE(*stat_if_exists(root(), "another"));
    ASSERT_TRUE(remove_tree(root(), "b", [&] { ++removed; }));
    EXPECT_EQ(removed, 2 * 30 * (2 + 51) + 2 + 150);

    ASSERT_TRUE(make_dirs(root(), "a/d"));
    const std::atomic<bool> cancel{true};
    remove_what_goes(root(), names, {2, &cancel, {}});
    EXPECT_TRUE(*stat_if_exists(root(), "a/d")) << "cancelled before it began";
}

TEST_F(FsTest, RemoveTreeStopsAtMounts) {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root";
    ASSERT_TRUE(make_dirs(root(), "top/a/mnt"));
    const std::string target = path_ + "/top/a/mnt";
    if (mount_raw("none", target, "tmpfs", 0) != 0) GTEST_SKIP() << "cannot mount here";
    remove_what_goes(root(), std::vector<std::string>{"top"}, {2, nullptr, {}});
    auto refused = remove_tree(root(), "top");
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Errc::FailedPrecondition);
    EXPECT_NE(refused.error().text().find("top/a/mnt"), std::string::npos) << refused.error().text();
    ASSERT_EQ(unmount_raw(target), 0);
    // A bind mount has the same device number.
    ASSERT_TRUE(make_dirs(root(), "other/kept"));
    ASSERT_EQ(mount_raw((path_ + "/other").c_str(), target, nullptr, MS_BIND), 0);
    EXPECT_FALSE(remove_tree(root(), "top"));
    ASSERT_EQ(unmount_raw(target), 0);
    EXPECT_TRUE(stat_if_exists(root(), "other/kept")->has_value());
    EXPECT_TRUE(remove_tree(root(), "top"));
}

TEST_F(FsTest, CopyLadder) {
    // 300 KiB of data, a hole up to 1 MiB, data, and a hole at the end.
    const std::string block(size_t{300} << 10U, 'd');
    auto from = open_at(root(), "from", O_RDWR | O_CREAT, 0600);
    ASSERT_TRUE(from);
    ASSERT_TRUE(write_all(from->get(), std::as_bytes(std::span(block))));
    ASSERT_TRUE(pwrite_all(from->get(), std::as_bytes(std::span(block)).first(5000), uint64_t{1} << 20U));
    const uint64_t size = uint64_t{2} << 20U;
    ASSERT_TRUE(truncate_fd(from->get(), size));
    const auto wanted = *read_file(root(), "from", size);
    for (int rung = 0; rung < 3; ++rung) {
        for (int error : {ENOSYS, EOPNOTSUPP, EXDEV, EINVAL}) {
            FaultHook hook([&](const Call &call) {
                if (call.op == Op::clone_range) return rung > 0 ? error : 0;
                if (call.op == Op::copy_range) return rung > 1 ? error : 0;
                return 0;
            });
            auto to = open_at(root(), "to", O_RDWR | O_CREAT | O_TRUNC, 0600);
            auto method = copy_file_data(from->get(), to->get(), size);
            ASSERT_TRUE(method) << method.error().text();
            EXPECT_EQ(*read_file(root(), "to", size), wanted);
            if (rung == 2) {
                EXPECT_EQ(*method, CopyMethod::read_write);
            }
            if (rung == 1) {
                EXPECT_NE(*method, CopyMethod::reflink);
            }
            EXPECT_LE(stat_at(to->get(), "")->st_blocks, stat_at(from->get(), "")->st_blocks + 16);
        }
    }
    FaultHook hook([&](const Call &call) { return call.op == Op::copy_range || call.op == Op::clone_range ? EIO : 0; });
    auto to = open_at(root(), "to", O_RDWR | O_CREAT | O_TRUNC, 0600);
    EXPECT_EQ(copy_file_data(from->get(), to->get(), size).error().sys_errno(), EIO);
}

TEST_F(FsTest, LocksBelongToTheOpenFile) {
    write("lock", "");
    auto one = open_at(root(), "lock", O_RDWR);
    auto two = open_at(root(), "lock", O_RDWR);
    ASSERT_TRUE(lock_range(one->get(), 10, 1, LockMode::shared));
    EXPECT_TRUE(*try_lock_range(two->get(), 10, 1, LockMode::shared));
    EXPECT_FALSE(*try_lock_range(two->get(), 10, 1, LockMode::exclusive));
    EXPECT_TRUE(*try_lock_range(two->get(), 11, 1, LockMode::exclusive)) << "another byte";
    ASSERT_TRUE(unlock_range(one->get(), 10, 1));
    EXPECT_TRUE(*try_lock_range(two->get(), 10, 1, LockMode::exclusive));
    EXPECT_FALSE(*try_lock_range(one->get(), 10, 1, LockMode::shared));
    std::atomic<bool> got{false};
    std::thread waiter([&] {
        EXPECT_TRUE(lock_range(one->get(), 10, 1, LockMode::exclusive));
        got = true;
    });
    ::usleep(50'000);
    EXPECT_FALSE(got);
    two->reset();
    waiter.join();
    EXPECT_TRUE(got);
}

} // namespace
} // namespace shale::sys
