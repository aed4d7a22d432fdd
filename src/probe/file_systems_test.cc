// SPDX-License-Identifier: Apache-2.0
#include "probe/file_systems.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/statvfs.h>

#include "probe/test_root.h"
#include "sys/seam.h"

namespace shale::probe {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

std::vector<sys::MountEntry> table(std::string_view text) {
    auto out = sys::parse_mountinfo(text);
    EXPECT_TRUE(out) << out.error().text();
    return out.value_or(std::vector<sys::MountEntry>{});
}

std::vector<std::string> targets(const std::vector<sys::MountEntry> &mounts) {
    std::vector<std::string> out;
    for (const auto &mount : mounts)
        out.push_back(mount.target + "=" + std::to_string(mount.id));
    return out;
}

const std::vector<sys::MountEntry> &mounts() {
    static const auto out = table("1 0 0:1 / / rw - rootfs none rw\n"
                                  "2 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
                                  "3 2 8:2 / /mnt rw - xfs /dev/sdb rw\n"
                                  "4 3 8:3 / /mnt/var rw - ext4 /dev/sdc rw\n"
                                  "5 2 8:4 / /mnt2 rw - ext4 /dev/sdd rw\n"
                                  "6 2 0:9 / /data rw - nfs4 server:/x rw\n");
    return out;
}

TEST(FileSystems, Kinds) {
    using enum FileSystemKind;
    EXPECT_EQ(file_system_kind("ext4", "8:1"), local);
    EXPECT_EQ(file_system_kind("btrfs", "0:35"), local);
    EXPECT_EQ(file_system_kind("zfs", "0:36"), local);
    EXPECT_EQ(file_system_kind("not-invented-yet", "259:3"), local);
    EXPECT_EQ(file_system_kind("tmpfs", "0:22"), memory);
    EXPECT_EQ(file_system_kind("overlay", "0:44"), layered);
    EXPECT_EQ(file_system_kind("nfs4", "0:50"), remote);
    EXPECT_EQ(file_system_kind("ocfs2", "8:17"), remote); // on a disk, but others hold its locks
    EXPECT_EQ(file_system_kind("fuse.sshfs", "0:51"), user_space);
    EXPECT_EQ(file_system_kind("fuseblk", "8:33"), user_space);
    EXPECT_EQ(file_system_kind("proc", "0:5"), pseudo);
    EXPECT_EQ(file_system_kind("cgroup2", "0:26"), pseudo);
}

TEST(FileSystems, Options) {
    EXPECT_EQ(merged_options("rw,relatime", "rw,errors=continue"), "rw,relatime,errors=continue");
    EXPECT_EQ(merged_options("ro,noatime", "rw,prjquota"), "ro,noatime,prjquota");
    EXPECT_EQ(merged_options("rw", "ro"), "ro");
    EXPECT_EQ(merged_options("rw,nosuid", "rw,nosuid,x=1"), "rw,nosuid,x=1");
    EXPECT_EQ(merged_options("", ""), "rw");
}

TEST(FileSystems, MountAbove) {
    EXPECT_EQ(mount_above(mounts(), "/")->id, 2U); // the last of two
    EXPECT_EQ(mount_above(mounts(), "/etc")->id, 2U);
    EXPECT_EQ(mount_above(mounts(), "/mnt")->id, 3U);
    EXPECT_EQ(mount_above(mounts(), "/mnt/var/lib")->id, 4U);
    EXPECT_EQ(mount_above(mounts(), "/mnt/variable")->id, 3U);
    EXPECT_EQ(mount_above(mounts(), "/mnt3")->id, 2U);
    EXPECT_EQ(mount_above({}, "/"), nullptr);
}

TEST(FileSystems, MountsOfAHost) {
    EXPECT_THAT(targets(mounts_of_host(mounts(), "/mnt")), ElementsAre("/=3", "/var=4"));
    EXPECT_EQ(mounts_of_host(mounts(), "/").size(), mounts().size());
    // A directory that is no mount: what carries it comes first.
    EXPECT_THAT(targets(mounts_of_host(mounts(), "/mnt/var/disk")), ElementsAre("/=4"));
    EXPECT_THAT(targets(mounts_of_host(mounts(), "/srv")), ElementsAre("/=2"));
}

TEST(FileSystems, OfADirectory) {
    TestRoot root;
    root.file("/var/lib/store/file", "x");
    const auto host = root.host();
    std::vector<Problem> problems;
    const auto systems = read_file_systems(host, {"/var/lib/store", "/not/there"}, problems);
    ASSERT_FALSE(systems.empty());
    struct statvfs status{};
    ASSERT_EQ(::statvfs(root.path().c_str(), &status), 0);
    EXPECT_EQ(systems[0].target, "/");
    EXPECT_EQ(systems[0].total_bytes, status.f_blocks * status.f_frsize);
    EXPECT_EQ(systems[0].total_inodes, status.f_files);
    EXPECT_NE(systems[0].device, "");
    EXPECT_EQ(systems[0].d_type, true); // of any file system that tests run on: there is an entry in the root
    EXPECT_EQ(file_system_of(host, systems, "/var/lib/store/file"), 0U);
    EXPECT_EQ(file_system_of(host, systems, "/not/there"), std::nullopt);
}

TEST(FileSystems, OfThisHost) {
    const auto host = Host::open("/");
    ASSERT_TRUE(host);
    std::vector<Problem> problems;
    const auto systems = read_file_systems(*host, {}, problems);
    ASSERT_FALSE(systems.empty());
    EXPECT_EQ(systems[0].target, "/");
    EXPECT_GT(systems[0].total_bytes, 0U);
    for (const auto &one : systems)
        EXPECT_NE(one.type, "proc");
    EXPECT_EQ(file_system_of(*host, systems, "/"), 0U);
    EXPECT_EQ(file_system_of(*host, systems, "/proc/self"), std::nullopt);
}

/// Notes what is opened below the host's root.
class Opens : public sys::Hook {
public:
    int before(const sys::Call &call) noexcept override {
        if (call.op == sys::Op::openat2 && call.name != nullptr) names.emplace_back(call.name);
        return 0;
    }
    std::vector<std::string> names;
};

TEST(FileSystems, WhatMayHangIsNamedAndNotTouched) {
    TestRoot root;
    root.dir("/data/docker");
    root.dir("/var/lib/containers");
    root.dir("/media");
    const auto host = root.host();
    const auto these = table("6 2 0:9 / /data rw - nfs4 server:/x rw\n"
                             "7 2 0:10 / /var/lib rw - fuse.sshfs me@there: rw\n"
                             "8 2 0:11 / /home rw - fuse.portal portal rw\n"
                             "9 2 0:12 / /sys rw - sysfs sysfs rw\n"
                             "10 2 0:13 / /run rw - tmpfs tmpfs rw\n"
                             "11 2 8:1 / /media rw - fuseblk /dev/sdb1 rw\n");
    Opens opens;
    std::vector<Problem> problems;
    sys::set_hook(&opens);
    const auto systems = file_systems_of(host, these, {"/data/docker", "/var/lib/containers"}, problems);
    sys::set_hook(nullptr);
    EXPECT_THAT(systems, IsEmpty());
    EXPECT_THAT(opens.names, IsEmpty());
    std::vector<std::string> about;
    for (const auto &problem : problems)
        about.push_back(problem.about);
    EXPECT_THAT(about,
                ElementsAre("file system server:/x (nfs4) at /data", "file system me@there: (fuse.sshfs) at /var/lib",
                            "file system /dev/sdb1 (fuseblk) at /media"));
}

TEST(FileSystems, AMountThatOthersHideIsAProblem) {
    TestRoot root;
    root.dir("/hidden");
    const auto host = root.host();
    std::vector<Problem> problems;
    // The directory is there, but what lies on it is not the mount of the table.
    EXPECT_THAT(file_systems_of(host, table("9999999 2 8:77 / /hidden rw - ext4 /dev/sdx rw\n"), {}, problems),
                IsEmpty());
    ASSERT_EQ(problems.size(), 1U);
    EXPECT_EQ(problems[0].about, "file system /dev/sdx (ext4) at /hidden");
}

} // namespace
} // namespace shale::probe
