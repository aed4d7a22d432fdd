// SPDX-License-Identifier: Apache-2.0
#include "probe/btrfs_space.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/btrfs_tree.h>

#include "probe/test_root.h"

namespace shale::probe {
namespace {

using testing::IsEmpty;
using testing::SizeIs;

void qgroup(const TestRoot &root, const std::string &name, const char *limit_flags) {
    const std::string dir = "/qgroups/" + name;
    root.file(dir + "/referenced", "1000\n");
    root.file(dir + "/exclusive", "400\n");
    root.file(dir + "/limit_flags", std::string(limit_flags) + "\n");
    root.file(dir + "/max_referenced", "5000\n");
    root.file(dir + "/max_exclusive", "6000\n");
    root.file(dir + "/rsv_data", "0\n");
}

void state(const TestRoot &root, const char *enabled, const char *inconsistent) {
    root.file("/qgroups/enabled", enabled);
    root.file("/qgroups/inconsistent", inconsistent);
    root.file("/qgroups/drop_subtree_threshold", "8\n");
}

TEST(BtrfsSpace, NamesBlockGroups) {
    const auto name = [](uint64_t flags) {
        const auto group = block_group(flags, 8, 3);
        EXPECT_EQ(group.total_bytes, 8U);
        EXPECT_EQ(group.used_bytes, 3U);
        return group.kind + " " + group.profile;
    };
    EXPECT_EQ(name(BTRFS_BLOCK_GROUP_DATA), "data single");
    EXPECT_EQ(name(BTRFS_BLOCK_GROUP_METADATA | BTRFS_BLOCK_GROUP_DUP), "metadata dup");
    EXPECT_EQ(name(BTRFS_BLOCK_GROUP_SYSTEM | BTRFS_BLOCK_GROUP_RAID1C3), "system raid1c3");
    EXPECT_EQ(name(BTRFS_BLOCK_GROUP_DATA | BTRFS_BLOCK_GROUP_METADATA | BTRFS_BLOCK_GROUP_RAID10), "mixed raid10");
    EXPECT_EQ(name(BTRFS_BLOCK_GROUP_DATA | BTRFS_BLOCK_GROUP_RAID0 | BTRFS_BLOCK_GROUP_RAID1), "data 0x18");
    EXPECT_EQ(name(0), "0x0 single");
}

TEST(BtrfsSpace, NamesOfQgroups) {
    const auto plain = qgroup_of_name("0_257");
    ASSERT_TRUE(plain);
    EXPECT_EQ(plain->level, 0U);
    EXPECT_EQ(plain->id, 257U);
    EXPECT_EQ(qgroup_of_name("1_0")->level, 1U);
    for (const char *name : {"enabled", "mode", "0_", "_1", "0_1_2", "70000_1", "-1_5", "0_99999999999999999999"})
        EXPECT_FALSE(qgroup_of_name(name)) << name;
}

TEST(BtrfsSpace, ReadsQgroups) {
    TestRoot root;
    state(root, "1\n", "1\n");
    root.file("/qgroups/mode", "qgroup\n");
    qgroup(root, "0_5", "0");
    qgroup(root, "0_256", "1");
    qgroup(root, "0_300", "2");
    qgroup(root, "1_300", "3");
    BtrfsSpace space;
    std::vector<Problem> problems;
    read_qgroups(root.host(), "/qgroups", space, problems);
    mark_left_over_qgroups({256, 257}, space);
    EXPECT_THAT(problems, IsEmpty());
    EXPECT_EQ(space.quota, "full");
    EXPECT_TRUE(space.quota_inconsistent);
    ASSERT_THAT(space.qgroups, SizeIs(4)); // by name: 0_256, 0_300, 0_5, 1_300
    EXPECT_EQ(space.qgroups[0].id, 256U);
    EXPECT_EQ(space.qgroups[0].referenced_bytes, 1000U);
    EXPECT_EQ(space.qgroups[0].exclusive_bytes, 400U);
    EXPECT_EQ(space.qgroups[0].limit_referenced_bytes, 5000U);
    EXPECT_EQ(space.qgroups[0].limit_exclusive_bytes, 0U);
    EXPECT_TRUE(space.qgroups[0].has_subvolume);
    EXPECT_EQ(space.qgroups[1].limit_referenced_bytes, 0U);
    EXPECT_EQ(space.qgroups[1].limit_exclusive_bytes, 6000U);
    EXPECT_FALSE(space.qgroups[1].has_subvolume);
    EXPECT_TRUE(space.qgroups[2].has_subvolume); // the top one
    EXPECT_TRUE(space.qgroups[3].has_subvolume); // a group of groups has none to miss
    EXPECT_EQ(space.qgroups[3].limit_exclusive_bytes, 6000U);
}

TEST(BtrfsSpace, ModesOfQuota) {
    const auto mode = [](const char *enabled, const char *text) {
        TestRoot root;
        state(root, enabled, "0\n");
        if (text != nullptr) root.file("/qgroups/mode", text);
        BtrfsSpace space;
        std::vector<Problem> problems;
        read_qgroups(root.host(), "/qgroups", space, problems);
        EXPECT_THAT(problems, IsEmpty());
        EXPECT_FALSE(space.quota_inconsistent);
        return space.quota;
    };
    EXPECT_EQ(mode("1\n", "squota\n"), "simple");
    EXPECT_EQ(mode("1\n", "qgroup\n"), "full");
    EXPECT_EQ(mode("1\n", nullptr), "full"); // before Linux 6.7
    EXPECT_EQ(mode("0\n", nullptr), "off");
}

TEST(BtrfsSpace, BrokenFiguresAreProblems) {
    TestRoot root;
    state(root, "1\n", "0\n");
    qgroup(root, "0_256", "0");
    root.file("/qgroups/0_256/exclusive", "many\n");
    BtrfsSpace space;
    std::vector<Problem> problems;
    read_qgroups(root.host(), "/qgroups", space, problems);
    ASSERT_THAT(problems, SizeIs(1));
    EXPECT_EQ(problems[0].about, "/qgroups/0_256/exclusive");
    EXPECT_THAT(space.qgroups, SizeIs(1));
}

TEST(BtrfsSpace, WhatIsNoBtrfsSaysSo) {
    TestRoot root;
    const auto proc = Host::open("/");
    ASSERT_TRUE(proc);
    const auto fd = proc->open_path("/proc", O_RDONLY | O_DIRECTORY);
    ASSERT_TRUE(fd);
    std::vector<Problem> problems;
    const auto space = read_btrfs_space(fd->get(), *proc, "/proc", problems);
    EXPECT_THAT(space.groups, IsEmpty());
    EXPECT_THAT(problems, SizeIs(2)); // block groups; devices and quota
}

} // namespace
} // namespace shale::probe
