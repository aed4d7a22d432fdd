// SPDX-License-Identifier: Apache-2.0
#include "sys/zfs.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>

#include "sys/fs.h"

namespace shale::sys {
namespace {

using testing::HasSubstr;

TEST(ZfsText, ListRows) {
    const auto rows =
        parse_zfs_list("tank/shale\t98304\t24576\t0\t24576\t1000000\t0\t-\t-\n"
                       "tank/shale/v2\t4096\t2048\t1024\t300000\t5000\t10485760\tnone\ttank/shale/v1@sealed\n");
    ASSERT_TRUE(rows) << rows.error().text();
    ASSERT_EQ(rows->size(), 2U);
    EXPECT_EQ((*rows)[0].name, "tank/shale");
    EXPECT_EQ((*rows)[0].available, 1'000'000U);
    EXPECT_EQ((*rows)[0].origin, "");
    EXPECT_EQ((*rows)[1].quota, 10'485'760U);
    EXPECT_EQ((*rows)[1].refquota, 0U);
    EXPECT_EQ((*rows)[1].own_bytes(), 3072U);
    EXPECT_EQ((*rows)[1].origin, "tank/shale/v1@sealed");
    EXPECT_TRUE(parse_zfs_list("")->empty());
}

TEST(ZfsText, MalformedRows) {
    for (const auto *text : {"tank\n", "tank\t1\t2\t3\t4\t5\t6\t7\n", "tank\t1\t2\t3\t4\t5\t6\t7\t-\textra\n",
                             "tank\t1K\t2\t3\t4\t5\t6\t7\t-\n", "\t1\t2\t3\t4\t5\t6\t7\t-\n", "\n",
                             "tank\t99999999999999999999\t2\t3\t4\t5\t6\t7\t-\n"}) {
        const auto rows = parse_zfs_list(text);
        ASSERT_FALSE(rows) << text;
        EXPECT_EQ(rows.error().code(), Errc::InvalidArgument);
        EXPECT_THAT(rows.error().text(), HasSubstr("line 1"));
    }
}

// The words are those of OpenZFS 2.1.11.
TEST(ZfsText, WordsToErrno) {
    EXPECT_EQ(zfs_errno_of("cannot open 'tank/x': dataset does not exist"), ENOENT);
    EXPECT_EQ(zfs_errno_of("could not find any snapshots to destroy; check snapshot names."), ENOENT);
    EXPECT_EQ(zfs_errno_of("cannot create 'tank/x': dataset already exists"), EEXIST);
    EXPECT_EQ(zfs_errno_of("cannot destroy 'tank/a@s': snapshot has dependent clones use '-R'"), EEXIST);
    EXPECT_EQ(zfs_errno_of("cannot destroy 'tank/a': dataset is busy"), EBUSY);
    EXPECT_EQ(zfs_errno_of("cannot destroy 'tank/a': filesystem has children"), EBUSY);
    EXPECT_EQ(zfs_errno_of("cannot create 'tank/x': out of space"), ENOSPC);
    EXPECT_EQ(zfs_errno_of("cannot create snapshot 'tank/x@s': disk quota exceeded"), EDQUOT);
    EXPECT_EQ(zfs_errno_of("something else"), EIO);
}

TEST(ZfsText, Names) {
    EXPECT_TRUE(is_zfs_name("tank"));
    EXPECT_TRUE(is_zfs_name("tank/a b/c:d_e.f-1"));
    for (const auto *bad : {"", "/tank", "tank/", "tank//a", "tank/..", "tank/.", "tank@s", "tank/a#b", "tank/\n", "-o",
                            "tank/-x", "tank/a%b"})
        EXPECT_FALSE(is_zfs_name(bad)) << bad;
    EXPECT_FALSE(is_zfs_name(std::string(256, 'a')));
    EXPECT_EQ(zfs_pool_of("tank/a@s"), "tank");
    EXPECT_EQ(zfs_pool_of("tank@s"), "tank");
}

TEST(Zfs, ElsewhereIsSaidInWords) {
    const auto proc = open_dir(AT_FDCWD, "/proc");
    ASSERT_TRUE(proc);
    EXPECT_FALSE(is_zfs(proc->get()));
    const auto dataset = zfs_dataset_of(proc->get());
    ASSERT_FALSE(dataset);
    EXPECT_EQ(dataset.error().code(), Errc::FailedPrecondition);
    EXPECT_THAT(dataset.error().text(), HasSubstr("not on ZFS"));
    if (stat_if_exists(AT_FDCWD, "/sys/module/zfs")->has_value()) GTEST_SKIP() << "for hosts without ZFS";
    const auto opened = Zfs::open();
    ASSERT_FALSE(opened);
    EXPECT_THAT(opened.error().text(), testing::StartsWith("this kernel has no ZFS"));
}

} // namespace
} // namespace shale::sys
