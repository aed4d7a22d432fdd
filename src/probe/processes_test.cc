// SPDX-License-Identifier: Apache-2.0
#include "probe/processes.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <vector>

#include <fmt/format.h>

#include "base/fd.h"
#include "probe/processes_watches.h"
#include "probe/test_root.h"
#include "sys/fs.h"
#include "sys/seam.h"

namespace shale::probe {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TEST(InotifyLine, DeviceAndInode) {
    // Linux 6.18 on ext4 of 254:0, and 4.19 on an anonymous device.
    auto watch = parse_inotify_line("inotify wd:2 ino:1e1 sdev:fe00000 mask:2c0 ignored_mask:0 fhandle-bytes:8 "
                                    "fhandle-type:1 f_handle:e1010000a5a5a5a5");
    ASSERT_TRUE(watch);
    EXPECT_EQ(watch->device, "254:0");
    EXPECT_EQ(watch->inode, 0x1e1U);
    watch = parse_inotify_line("inotify wd:1 ino:ffffffffffffffff sdev:2d mask:800afce ignored_mask:0");
    ASSERT_TRUE(watch);
    EXPECT_EQ(watch->device, "0:45");
    EXPECT_EQ(watch->inode, UINT64_MAX);
    EXPECT_EQ(parse_inotify_line("inotify wd:1 ino:1 sdev:10300005")->device, "259:5");
}

TEST(InotifyLine, OtherLinesAreNone) {
    for (const auto *line :
         {"", "pos:\t0", "fanotify ino:1 sdev:2", "inotify wd:1", "inotify wd:1 ino:xyz sdev:1",
          "inotify wd:1 ino:1 sdev:", "inotify wd:1 ino:1", "inotify wd:1 ino:10000000000000000 sdev:1",
          "inotify wd:1 ino:1 sdev:100000000", "inotify wd:1 ino:1z sdev:1"})
        EXPECT_FALSE(parse_inotify_line(line)) << line;
}

TEST(InotifyLine, FileHandle) {
    auto handle = parse_file_handle("inotify wd:2 ino:1e1 sdev:fe00000 mask:2c0 ignored_mask:0 fhandle-bytes:8 "
                                    "fhandle-type:4d f_handle:e1010000A5a500ff");
    ASSERT_TRUE(handle);
    EXPECT_EQ(handle->type, 0x4d);
    EXPECT_EQ(handle->bytes, std::string("\xe1\x01\0\0\xa5\xa5\0\xff", 8));
    const std::string longest(256, '1');
    handle = parse_file_handle("inotify wd:2 fhandle-bytes:80 fhandle-type:7fffffff f_handle:" + longest + "\n");
    ASSERT_TRUE(handle);
    EXPECT_EQ(handle->bytes, std::string(128, '\x11'));
    for (const auto &line :
         {std::string("inotify wd:1 ino:1 sdev:1 mask:1 ignored_mask:0 "), // without CONFIG_EXPORTFS
          std::string(" fhandle-bytes:2 fhandle-type:1"), std::string(" fhandle-bytes:2 fhandle-type:1 f_handle:"),
          std::string(" fhandle-bytes:0 fhandle-type:1 f_handle:"),
          std::string(" fhandle-bytes:2 fhandle-type:1 f_handle:123"),
          std::string(" fhandle-bytes:2 fhandle-type:1 f_handle:12345"),
          std::string(" fhandle-bytes:2 fhandle-type:1 f_handle:123x"),
          std::string(" fhandle-bytes:2 fhandle-type:1 f_handle:-1-1"),
          std::string(" fhandle-bytes:2 fhandle-type:80000000 f_handle:1234"),
          std::string(" fhandle-bytes:2 f_handle:1234"), std::string(" fhandle-type:1 f_handle:1234"),
          " fhandle-bytes:81 fhandle-type:1 f_handle:11" + longest})
        EXPECT_FALSE(parse_file_handle(line)) << line;
}

TEST(DescriptorInfo, MountId) {
    EXPECT_EQ(mount_id_in("pos:\t0\nflags:\t0100001\nmnt_id:\t29\nino:\t5\n"), 29U);
    EXPECT_EQ(mount_id_in("pos:\t0\nino:\t5\n"), std::nullopt);
    EXPECT_EQ(mount_id_in("mnt_id:\tx\n"), std::nullopt);
}

TEST(CgroupText, MemoryThenUnified) {
    EXPECT_EQ(parse_cgroup("0::/system.slice/docker.service\n"), "/system.slice/docker.service");
    EXPECT_EQ(parse_cgroup("9:name=systemd:/a\n4:cpu,memory:/docker/x:y\n0::/b\n"), "/docker/x:y");
    EXPECT_EQ(parse_cgroup("0::/b\n9:name=systemd:/a\n3:cpuset:/c\n"), "/b");
    EXPECT_EQ(parse_cgroup(""), "");
    EXPECT_EQ(parse_cgroup("nonsense\n:::\n"), "");
}

TEST(ProcessNames, ThatMatter) {
    for (const auto *name : {"dockerd", "containerd", "containerd-shim", "kubelet", "crio", "dmeventd", "shaled"})
        EXPECT_TRUE(is_container_daemon(name)) << name;
    for (const auto *name : {"", "docker", "containerd-stre", "sh", "xdockerd"})
        EXPECT_FALSE(is_container_daemon(name)) << name;
}

TEST(FileSystemTypes, OnDisk) {
    for (const auto *type : {"ext4", "xfs", "btrfs", "zfs", "overlay", "fuseblk", "fuse.fuse-overlayfs"})
        EXPECT_TRUE(is_disk_file_system(type)) << type;
    for (const auto *type : {"tmpfs", "proc", "nfs4", "fuse", "fuse.sshfs", "cgroup2", "devtmpfs"})
        EXPECT_FALSE(is_disk_file_system(type)) << type;
}

/// A made-up /proc: links are links like others there, and stay in its root.
class MadeUp : public testing::Test {
protected:
    void process(int pid, std::string_view name) const {
        const std::string dir = fmt::format("/proc/{}", pid);
        root.file(dir + "/comm", fmt::format("{}\n", name));
        root.file(dir + "/cgroup", "0::/\n");
        root.file(dir + "/status", "Name:\tx\nUid:\t1000\t1001\t1000\t1000\n");
        root.file(dir + "/mountinfo", "29 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 29 0:30 / /tmp rw - tmpfs tmpfs rw\n");
        root.link("mnt:[4026531841]", dir + "/ns/mnt");
        root.dir(dir + "/fd");
        root.dir(dir + "/fdinfo");
    }
    void descriptor(int pid, int number, std::string_view target, std::string_view info) const {
        root.link(target, fmt::format("/proc/{}/fd/{}", pid, number));
        root.file(fmt::format("/proc/{}/fdinfo/{}", pid, number), info);
    }
    ProcessFacts read(const ProcessLimits &limits = {}) { return read_processes(root.host(), problems, limits); }

    static constexpr std::string_view on_disk = "pos:\t0\nflags:\t0100001\nmnt_id:\t29\nino:\t5\n";
    TestRoot root;
    std::vector<Problem> problems;
};

TEST_F(MadeUp, Processes) {
    process(10, "dockerd");
    process(9, "odd)\nname (x");
    root.file("/proc/10/cmdline", std::string_view("/usr/bin/dockerd\0--data-root\0/x y\0", 34));
    root.file("/proc/9/cmdline", "not kept");
    root.file("/proc/10/cgroup", "0::/system.slice/docker.service\n");
    root.dir("/proc/sys");
    root.dir("/proc/99999999999999999999");
    root.dir("/proc/77"); // ended: nothing is in it
    const auto facts = read();
    ASSERT_EQ(facts.processes.size(), 2U);
    EXPECT_EQ(facts.processes[0].pid, 9);
    EXPECT_EQ(facts.processes[0].command, "odd)\nname (x");
    EXPECT_THAT(facts.processes[0].arguments, IsEmpty());
    EXPECT_EQ(facts.processes[1].pid, 10);
    EXPECT_EQ(facts.processes[1].cgroup, "/system.slice/docker.service");
    EXPECT_EQ(facts.processes[1].mount_namespace, 4'026'531'841U);
    EXPECT_EQ(facts.processes[1].uid, 1001U);
    EXPECT_THAT(facts.processes[1].arguments, ElementsAre("/usr/bin/dockerd", "--data-root", "/x y"));
    EXPECT_THAT(problems, IsEmpty());
}

TEST_F(MadeUp, DeletedFiles) {
    process(5, "java");
    root.file("/var/log/a.log (deleted)", std::string(10'000, 'x'));
    root.file("/tmp/b (deleted)", "in memory");
    root.file("/var/log/c", "has its name");
    descriptor(5, 3, "/var/log/a.log (deleted)", on_disk);
    descriptor(5, 4, "/var/log/a.log (deleted)", on_disk);
    descriptor(5, 5, "/tmp/b (deleted)", "mnt_id:\t30\n");
    descriptor(5, 6, "/var/log/c", on_disk);
    descriptor(5, 7, "/var/log/gone (deleted)", on_disk);
    descriptor(5, 8, "socket:[12] (deleted)", on_disk);
    const auto facts = read();
    ASSERT_EQ(facts.deleted_files.size(), 1U) << "each inode once";
    const auto &file = facts.deleted_files.front();
    struct stat status{};
    ASSERT_EQ(::stat(root.here("/var/log/a.log (deleted)").c_str(), &status), 0);
    EXPECT_EQ(file.pid, 5);
    EXPECT_EQ(file.command, "java");
    EXPECT_EQ(file.path, "/var/log/a.log");
    EXPECT_EQ(file.inode, status.st_ino);
    EXPECT_EQ(file.device, device_of(status));
    EXPECT_EQ(file.bytes, static_cast<uint64_t>(status.st_blocks) * 512);
    EXPECT_THAT(problems, IsEmpty());
}

TEST_F(MadeUp, LinksDoNotLeadOut) {
    process(5, "evil");
    const TestRoot outside;
    outside.file("/secret (deleted)", "x");
    descriptor(5, 3, outside.here("/secret (deleted)"), on_disk);
    root.link(outside.path(), "/proc/6");
    EXPECT_THAT(read().deleted_files, IsEmpty());
}

TEST_F(MadeUp, Watches) {
    process(5, "kubelet");
    const std::string line = "inotify wd:1 ino:a sdev:800001 mask:1 ignored_mask:0 \n";
    descriptor(5, 3, "anon_inode:inotify",
               "pos:\t0\nmnt_id:\t15\n" + line + line + "inotify wd:2 ino:b sdev:800001 mask:1 ignored_mask:0 \n");
    descriptor(5, 4, "anon_inode:inotify", line);
    const auto facts = read();
    EXPECT_EQ(facts.processes.front().inotify_instances, 2U);
    ASSERT_EQ(facts.inotify_watches.size(), 2U);
    EXPECT_EQ(facts.inotify_watches[0].pid, 5);
    EXPECT_EQ(facts.inotify_watches[0].command, "kubelet");
    EXPECT_EQ(facts.inotify_watches[0].device, "8:1");
    EXPECT_EQ(facts.inotify_watches[0].inode, 10U);
    EXPECT_EQ(facts.inotify_watches[0].watches, 3U);
    EXPECT_EQ(facts.inotify_watches[1].inode, 11U);
    EXPECT_EQ(facts.inotify_watches[1].watches, 1U);
}

/// As btrfs has it: one superblock, and inode 256 in each subvolume.
TEST_F(MadeUp, WatchesOfTwoSubvolumesAreTwo) {
    process(5, "kubelet");
    const auto line = [](int number, std::string_view handle) {
        return fmt::format("inotify wd:{} ino:100 sdev:2d mask:1 ignored_mask:0 fhandle-bytes:4 fhandle-type:4d "
                           "f_handle:{}\n",
                           number, handle);
    };
    descriptor(5, 3, "anon_inode:inotify", line(1, "00000105") + line(2, "00000106"));
    descriptor(5, 4, "anon_inode:inotify", line(1, "00000106"));
    const auto facts = read();
    ASSERT_EQ(facts.inotify_watches.size(), 2U);
    for (const auto &watch : facts.inotify_watches) {
        EXPECT_EQ(watch.device, "0:45");
        EXPECT_EQ(watch.inode, 256U);
    }
    EXPECT_EQ(facts.inotify_watches[0].watches, 1U);
    EXPECT_EQ(facts.inotify_watches[1].watches, 2U);
}

TEST_F(MadeUp, ManyWatchesAreReadInPieces) {
    process(5, "kubelet");
    std::string text;
    for (int i = 0; i < 5000; ++i)
        text += fmt::format("inotify wd:{:x} ino:{:x} sdev:1 mask:1 \n", i, i);
    descriptor(5, 3, "anon_inode:inotify",
               text + std::string(200'000, 'x') + "\ninotify wd:9 ino:ffffff sdev:1 \n" +
                   "inotify wd:9 ino:fffffe sdev:1"); // no newline at the end
    const auto facts = read();
    ASSERT_EQ(facts.inotify_watches.size(), 5002U);
    for (uint64_t i = 0; i < 5000; ++i)
        EXPECT_EQ(facts.inotify_watches[i].inode, i);
    EXPECT_EQ(facts.inotify_watches[5001].inode, 0xffffffU);
}

TEST_F(MadeUp, LimitsCutAndSaySo) {
    process(5, "a");
    process(6, "b");
    for (int fd = 0; fd < 5; ++fd)
        descriptor(5, fd, "anon_inode:inotify", fmt::format("inotify wd:1 ino:{} sdev:1 \n", fd));
    descriptor(6, 0, "anon_inode:inotify", "inotify wd:1 ino:9 sdev:1 \n");
    EXPECT_EQ(read({.descriptors = 6, .watches = 6}).inotify_watches.size(), 6U);
    EXPECT_THAT(problems, IsEmpty());
    EXPECT_EQ(read({.descriptors = 5, .watches = 6}).inotify_watches.size(), 5U);
    ASSERT_EQ(problems.size(), 1U);
    EXPECT_EQ(problems[0].about, "open files of processes");
    EXPECT_THAT(problems[0].why, HasSubstr("more than 5"));
    EXPECT_EQ(read({.descriptors = 6, .watches = 3}).inotify_watches.size(), 3U);
    ASSERT_EQ(problems.size(), 2U);
    EXPECT_EQ(problems[1].about, "inotify watches");
    const auto facts = read({.descriptors = 2, .watches = 9});
    EXPECT_EQ(facts.inotify_watches.size(), 2U);
    EXPECT_EQ(facts.processes.size(), 2U) << "processes are listed all the same";
}

TEST_F(MadeUp, BrokenOnesAreNamedNotMany) {
    for (int pid = 1; pid <= 30; ++pid) {
        root.file(fmt::format("/proc/{}/comm", pid), "x\n");
        ASSERT_EQ(::mkfifo(root.here(fmt::format("/proc/{}/cgroup", pid)).c_str(), 0644), 0);
    }
    EXPECT_EQ(read().processes.size(), 30U);
    ASSERT_EQ(problems.size(), 21U);
    EXPECT_EQ(problems[0].about, "cgroup of process 1");
    EXPECT_THAT(problems[0].why, HasSubstr("not a regular file"));
    EXPECT_EQ(problems[20].why, "10 more problems like these");
}

TEST_F(MadeUp, MountTableThatIsBroken) {
    process(5, "x");
    root.file("/proc/5/mountinfo", "nonsense\n");
    root.file("/var/a (deleted)", "x");
    descriptor(5, 3, "/var/a (deleted)", on_disk);
    (void)read();
    ASSERT_EQ(problems.size(), 1U);
    EXPECT_EQ(problems[0].about, "mounts of process 5");
}

TEST_F(MadeUp, DeniedOnesAreCountedOnce) {
    for (int pid = 1; pid <= 3; ++pid) {
        process(pid, "x");
        if (pid > 1) {
            ASSERT_EQ(::chmod(root.here(fmt::format("/proc/{}/fd", pid)).c_str(), 0), 0);
        }
    }
    as_a_user([&] { EXPECT_EQ(read().processes.size(), 3U); });
    ASSERT_EQ(problems.size(), 1U);
    EXPECT_THAT(problems[0].why, HasSubstr("2 of 3 processes"));
}

TEST(NoProc, IsNamed) {
    const TestRoot root;
    std::vector<Problem> problems;
    EXPECT_THAT(read_processes(root.host(), problems).processes, IsEmpty());
    ASSERT_EQ(problems.size(), 1U);
    EXPECT_EQ(problems[0].about, "/proc");
}

} // namespace
} // namespace shale::probe
