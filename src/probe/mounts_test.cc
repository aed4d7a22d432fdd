// SPDX-License-Identifier: Apache-2.0
#include "probe/mounts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "probe/test_root.h"

namespace shale::probe {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

constexpr std::string_view root_mount =
    "21 1 8:1 / / rw,relatime shared:1 master:2 - ext4 /dev/sda1 rw,errors=continue\n";
constexpr std::string_view overlay_mount = "40 21 0:44 / /var/lib/docker/overlay2/x/merged rw - overlay overlay rw\n";

void process(const TestRoot &root, const std::string &pid, uint64_t space, const char *command,
             std::string_view mounts) {
    root.link("mnt:[" + std::to_string(space) + "]", "/proc/" + pid + "/ns/mnt");
    root.file("/proc/" + pid + "/comm", std::string(command) + "\n");
    root.file("/proc/" + pid + "/mountinfo", mounts);
}

TEST(Mounts, NamespaceId) {
    EXPECT_EQ(namespace_id("mnt:[4026531841]"), 4026531841U);
    EXPECT_EQ(namespace_id("pid:[4026531836]"), 0U);
    EXPECT_EQ(namespace_id("mnt:[x]"), 0U);
    EXPECT_EQ(namespace_id("mnt:["), 0U);
    EXPECT_EQ(namespace_id(""), 0U);
}

TEST(Mounts, OneRepresentativeEach) {
    TestRoot root;
    process(root, "1", 500, "init", root_mount);
    process(root, "100", 500, "dockerd", "this is not asked for");
    process(root, "9", 600, "nginx", std::string(root_mount) + std::string(overlay_mount));
    process(root, "30", 600, "nginx", "nor this");
    root.dir("/proc/77"); // a zombie: nothing in it
    root.file("/proc/uptime", "1.00 1.00\n");
    root.link("30", "/proc/self");
    std::vector<Problem> problems;
    const auto spaces = mount_namespaces_in_proc(root.host(), problems);
    EXPECT_THAT(problems, IsEmpty());
    ASSERT_THAT(spaces, SizeIs(2));
    EXPECT_EQ(spaces[0].id, 500U);
    EXPECT_EQ(spaces[0].pid, 1);
    EXPECT_EQ(spaces[0].command, "init");
    EXPECT_EQ(spaces[0].processes, 2U);
    EXPECT_FALSE(spaces[0].ours);
    ASSERT_THAT(spaces[0].mounts, SizeIs(1));
    EXPECT_EQ(spaces[0].mounts[0].propagation, "shared:1 master:2");
    EXPECT_EQ(spaces[0].mounts[0].super_options, "rw,errors=continue");
    EXPECT_EQ(spaces[0].mounts[0].device, "8:1");
    EXPECT_EQ(spaces[1].pid, 9);
    EXPECT_TRUE(spaces[1].ours);
    EXPECT_THAT(spaces[1].mounts, SizeIs(2));
}

TEST(Mounts, TheNextProcessAnswersForOneThatHasEnded) {
    TestRoot root;
    root.link("mnt:[500]", "/proc/3/ns/mnt"); // its mountinfo has gone
    process(root, "8", 500, "sh", root_mount);
    std::vector<Problem> problems;
    const auto spaces = mount_namespaces_in_proc(root.host(), problems);
    ASSERT_THAT(spaces, SizeIs(1));
    EXPECT_EQ(spaces[0].pid, 8);
    EXPECT_EQ(spaces[0].processes, 2U);
    EXPECT_THAT(spaces[0].mounts, SizeIs(1));
    EXPECT_THAT(problems, IsEmpty());
}

TEST(Mounts, NobodyAnswers) {
    TestRoot root;
    root.link("mnt:[500]", "/proc/3/ns/mnt");
    std::vector<Problem> problems;
    const auto spaces = mount_namespaces_in_proc(root.host(), problems);
    ASSERT_THAT(spaces, SizeIs(1));
    EXPECT_THAT(spaces[0].mounts, IsEmpty());
    ASSERT_THAT(problems, SizeIs(1));
    EXPECT_EQ(problems[0].about, "mounts of process 3");
}

TEST(Mounts, BadLinesDoNotHideTheOthers) {
    std::vector<Problem> problems;
    const auto mounts = parse_mounts("garbage\n" + std::string(root_mount) + "1 2 x\n\n", 10, "here", problems);
    EXPECT_THAT(mounts, SizeIs(1));
    ASSERT_THAT(problems, SizeIs(1));
    EXPECT_EQ(problems[0].about, "here");
    EXPECT_THAT(problems[0].why, HasSubstr("2 lines"));
}

TEST(Mounts, WhatIsCutIsSaid) {
    std::string text;
    for (int i = 0; i < 5; ++i)
        text += root_mount;
    std::vector<Problem> problems;
    EXPECT_THAT(parse_mounts(text, 3, "here", problems), SizeIs(3));
    ASSERT_THAT(problems, SizeIs(1));
    EXPECT_THAT(problems[0].why, HasSubstr("2 mounts"));
}

TEST(Mounts, ADiskHasNone) {
    TestRoot root;
    process(root, "1", 500, "init", root_mount);
    std::vector<Problem> problems;
    EXPECT_THAT(read_mount_namespaces(root.host(), problems), IsEmpty());
}

TEST(Mounts, OfThisHost) {
    const auto host = Host::open("/");
    ASSERT_TRUE(host);
    std::vector<Problem> problems;
    const auto spaces = read_mount_namespaces(*host, problems);
    const auto ours = std::ranges::find_if(spaces, &MountNamespace::ours);
    ASSERT_NE(ours, spaces.end());
    EXPECT_GT(ours->processes, 0U);
    EXPECT_TRUE(std::ranges::any_of(ours->mounts, [](const auto &mount) { return mount.target == "/"; }));
}

} // namespace
} // namespace shale::probe
