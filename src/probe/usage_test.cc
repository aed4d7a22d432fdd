// SPDX-License-Identifier: Apache-2.0
#include "probe/usage.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "probe/test_root.h"

namespace shale::probe {
namespace {

namespace fs = std::filesystem;

class UsageTest : public testing::Test {
protected:
    void make(const std::string &path, size_t bytes) {
        const fs::path at = fs::path(root_.path()) / path;
        fs::create_directories(at.parent_path());
        std::ofstream(at) << std::string(bytes, 'x');
    }
    [[nodiscard]] uint64_t blocks_of(const std::string &path) const {
        struct stat st{};
        EXPECT_EQ(::lstat((fs::path(root_.path()) / path).c_str(), &st), 0);
        return static_cast<uint64_t>(st.st_blocks) * 512;
    }
    std::vector<CountedTree> count(const std::vector<std::string> &paths, unsigned threads = 2) {
        CountOptions options;
        options.threads = threads;
        return count_trees(*Host::open(root_.path()), paths, options);
    }
    TestRoot root_;
};

TEST_F(UsageTest, CountsBlocksAndInodesOfEveryKind) {
    make("tree/a", 10'000);
    make("tree/sub/b", 1);
    fs::create_symlink("nowhere", fs::path(root_.path()) / "tree/link");
    ASSERT_EQ(::mkfifo((fs::path(root_.path()) / "tree/fifo").c_str(), 0600), 0);
    const auto counted = count({"/tree"});
    ASSERT_EQ(counted.size(), 1U);
    EXPECT_TRUE(counted[0].usage.complete);
    EXPECT_EQ(counted[0].usage.inodes, 6U);
    EXPECT_EQ(counted[0].usage.exclusive_inodes, 6U);
    uint64_t bytes = 0;
    for (const char *path : {"tree", "tree/a", "tree/sub", "tree/sub/b", "tree/link", "tree/fifo"})
        bytes += blocks_of(path);
    EXPECT_EQ(counted[0].usage.bytes, bytes);
}

TEST_F(UsageTest, AFileWithSeveralNamesIsCountedOnceAndMayBelongToOthers) {
    make("one/a", 5'000);
    const fs::path root = root_.path();
    fs::create_hard_link(root / "one/a", root / "one/b");
    make("one/c", 5'000);
    fs::create_directories(root / "two");
    fs::create_hard_link(root / "one/c", root / "two/c");
    const auto counted = count({"/one", "/two"});
    EXPECT_EQ(counted[0].usage.inodes, 3U);
    EXPECT_EQ(counted[0].usage.exclusive_inodes, 2U) << "c has a name in two, too";
    EXPECT_EQ(counted[0].usage.bytes - counted[0].usage.exclusive_bytes, blocks_of("one/c"));
    EXPECT_EQ(counted[1].usage.inodes, 2U);
    EXPECT_EQ(counted[1].usage.exclusive_inodes, 1U);
}

TEST_F(UsageTest, WhatIsNotThereIsNothingAndAFileIsItself) {
    make("file", 5'000);
    const auto counted = count({"/missing", "/file"});
    EXPECT_EQ(counted[0].usage.inodes, 0U);
    EXPECT_TRUE(counted[0].usage.complete);
    EXPECT_EQ(counted[1].usage.inodes, 1U);
    EXPECT_EQ(counted[1].usage.bytes, blocks_of("file"));
}

TEST_F(UsageTest, ALinkAtTheRootIsNotFollowed) {
    make("tree/a", 1);
    fs::create_symlink("tree", fs::path(root_.path()) / "link");
    EXPECT_EQ(count({"/link"})[0].usage.inodes, 1U);
}

TEST_F(UsageTest, ManyTreesAndThreadsGiveTheSame) {
    std::vector<std::string> paths;
    for (int tree = 0; tree < 40; ++tree) {
        for (int file = 0; file < 25; ++file)
            make("t" + std::to_string(tree) + "/d" + std::to_string(file % 5) + "/f" + std::to_string(file), 100);
        paths.push_back("/t" + std::to_string(tree));
    }
    for (const unsigned threads : {1U, 2U, 7U})
        for (const auto &counted : count(paths, threads))
            EXPECT_EQ(counted.usage.inodes, 31U) << counted.path;
}

TEST_F(UsageTest, WhereNoThreadCanBeStartedOneDoesIt) {
    make("tree/a/b", 1);
    pthread_attr_t before{}, huge{};
    ASSERT_EQ(::pthread_getattr_default_np(&before), 0);
    ASSERT_EQ(::pthread_attr_init(&huge), 0);
    ASSERT_EQ(::pthread_attr_setstacksize(&huge, size_t{1} << 56U), 0); // no address space has that
    ASSERT_EQ(::pthread_setattr_default_np(&huge), 0);
    const auto counted = count({"/tree"}, 8);
    ASSERT_EQ(::pthread_setattr_default_np(&before), 0);
    ::pthread_attr_destroy(&huge);
    ::pthread_attr_destroy(&before);
    EXPECT_TRUE(counted[0].usage.complete);
    EXPECT_EQ(counted[0].usage.inodes, 3U);
}

TEST_F(UsageTest, ADeepTreeNeedsADescriptorOnlyWhereSomethingWaits) {
    std::string path = "tree";
    for (int level = 0; level < 300; ++level)
        path += "/d";
    make(path + "/f", 1);
    rlimit before{};
    ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
    rlimit few = before;
    few.rlim_cur = 100;
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &few), 0);
    const auto counted = count({"/tree"}, 1);
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
    EXPECT_TRUE(counted[0].usage.complete);
    EXPECT_EQ(counted[0].usage.inodes, 302U);
}

TEST_F(UsageTest, PagesAreCountedAndDropped) {
    make("tree/a", 20'000);
    ::sync(); // dirty pages stay
    CountOptions options;
    options.page_cache = CountOptions::PageCache::counted;
    const auto host = root_.host();
    EXPECT_GE(count_trees(host, {"/tree"}, options)[0].resident_bytes, 20'000U);
    options.page_cache = CountOptions::PageCache::dropped;
    EXPECT_GE(count_trees(host, {"/tree"}, options)[0].resident_bytes, 20'000U) << "what was there before";
    struct statfs status{};
    ASSERT_EQ(::statfs(root_.path().c_str(), &status), 0);
    constexpr long tmpfs_magic = 0x01021994;
    if (status.f_type == tmpfs_magic) GTEST_SKIP() << "pages of a tmpfs are the file";
    options.page_cache = CountOptions::PageCache::counted;
    EXPECT_EQ(count_trees(host, {"/tree"}, options)[0].resident_bytes, 0U);
}

TEST_F(UsageTest, WhatCannotBeReadIsSaid) {
    make("tree/closed/a", 1);
    fs::permissions(fs::path(root_.path()) / "tree/closed", fs::perms::none);
    std::vector<CountedTree> counted;
    as_a_user([&] { counted = count({"/tree"}, 1); });
    ASSERT_EQ(counted.size(), 1U);
    fs::permissions(fs::path(root_.path()) / "tree/closed", fs::perms::owner_all);
    EXPECT_FALSE(counted[0].usage.complete);
    ASSERT_EQ(counted[0].problems.size(), 1U);
    EXPECT_THAT(counted[0].problems[0].why, testing::HasSubstr("Permission denied"));
}

} // namespace
} // namespace shale::probe
