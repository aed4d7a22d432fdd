// SPDX-License-Identifier: Apache-2.0
#include "probe/devices.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>

#include <fmt/format.h>

#include "probe/test_root.h"

namespace shale::probe {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

/// A disk with a partition, a loop device, one of device-mapper on it, and an array, as sysfs lays them out.
class Devices : public testing::Test {
protected:
    Devices() { made.file("/proc/self/mountinfo", ""); }

    void add(const std::string &name, const std::string &place, std::string_view number, std::string_view size) const {
        const std::string dir = "/sys/devices/" + place;
        made.file(dir + "/dev", fmt::format("{}\n", number));
        made.file(dir + "/size", fmt::format("{}\n", size));
        made.file(dir + "/ro", "0\n");
        made.link("../../devices/" + place, "/sys/class/block/" + name);
    }
    void add_disk() const {
        add("sda", "pci0000:00/ata1/block/sda", "8:0", "2048");
        made.file("/sys/devices/pci0000:00/ata1/block/sda/queue/rotational", "1\n");
        made.file("/sys/devices/pci0000:00/ata1/block/sda/queue/discard_max_bytes", "0\n");
        add("sda1", "pci0000:00/ata1/block/sda/sda1", "8:1", "1024");
        made.file("/sys/devices/pci0000:00/ata1/block/sda/sda1/partition", "1\n");
    }
    std::vector<BlockDevice> read() { return read_block_devices(made.host(), problems); }
    BlockDevice read_one(const std::string &name) {
        const auto all = read();
        const auto found = std::ranges::find(all, name, &BlockDevice::name);
        EXPECT_NE(found, all.end()) << name;
        return found == all.end() ? BlockDevice{} : *found;
    }

    TestRoot made;
    std::vector<Problem> problems;
};

TEST_F(Devices, DiskAndPartition) {
    add_disk();
    made.file("/sys/devices/pci0000:00/ata1/block/sda/sda1/ro", "1\n");
    const auto all = read();
    ASSERT_EQ(all.size(), 2U);
    EXPECT_EQ(all[0].name, "sda");
    EXPECT_EQ(all[0].number, "8:0");
    EXPECT_EQ(all[0].kind, "disk");
    EXPECT_EQ(all[0].bytes, 2048U * 512);
    EXPECT_TRUE(all[0].rotational);
    EXPECT_FALSE(all[0].discard);
    EXPECT_FALSE(all[0].read_only);
    EXPECT_THAT(all[0].below, IsEmpty());
    EXPECT_EQ(all[1].name, "sda1");
    EXPECT_EQ(all[1].kind, "partition");
    EXPECT_TRUE(all[1].rotational) << "that of its disk";
    EXPECT_TRUE(all[1].read_only);
    EXPECT_THAT(all[1].below, ElementsAre("sda"));
    EXPECT_THAT(problems, IsEmpty());
}

TEST_F(Devices, LoopAndItsFile) {
    add("loop0", "virtual/block/loop0", "7:0", "8");
    add("loop1", "virtual/block/loop1", "7:1", "8");
    add("loop2", "virtual/block/loop2", "7:2", "0");
    add("loop3", "virtual/block/loop3", "7:3", "8");
    made.file("/sys/devices/virtual/block/loop0/loop/backing_file", "/var/lib/docker/data\n");
    made.file("/sys/devices/virtual/block/loop1/loop/backing_file", "/var/lib/a b\n.img (deleted)\n");
    made.file("/sys/devices/virtual/block/loop3/loop/backing_file", "/var/lib/odd (deleted)\n");
    made.file("/var/lib/odd (deleted)", "");
    made.file("/sys/devices/virtual/block/loop0/queue/discard_max_bytes", "4294966784\n");
    const auto all = read();
    ASSERT_EQ(all.size(), 4U);
    EXPECT_EQ(all[0].kind, "loop");
    EXPECT_EQ(all[0].file, "/var/lib/docker/data");
    EXPECT_FALSE(all[0].file_deleted);
    EXPECT_TRUE(all[0].discard);
    EXPECT_EQ(all[1].file, "/var/lib/a b\n.img");
    EXPECT_TRUE(all[1].file_deleted);
    EXPECT_EQ(all[2].file, "") << "nothing is attached";
    EXPECT_EQ(all[3].file, "/var/lib/odd (deleted)") << "a file has that very name";
    EXPECT_FALSE(all[3].file_deleted);
    EXPECT_THAT(problems, IsEmpty());
}

TEST_F(Devices, DeviceMapperAndArray) {
    add("dm-0", "virtual/block/dm-0", "253:0", "8");
    made.file("/sys/devices/virtual/block/dm-0/dm/name", "docker-thinpool\n");
    made.file("/sys/devices/virtual/block/dm-0/dm/uuid", "LVM-abc\n");
    made.link("../../sda", "/sys/devices/virtual/block/dm-0/slaves/sda");
    made.link("../../loop0", "/sys/devices/virtual/block/dm-0/slaves/loop0");
    add("md_home", "virtual/block/md_home", "9:127", "8");
    made.file("/sys/devices/virtual/block/md_home/md/level", "raid1\n");
    const auto dm = read_one("dm-0");
    EXPECT_EQ(dm.kind, "dm");
    EXPECT_EQ(dm.dm_name, "docker-thinpool");
    EXPECT_EQ(dm.dm_uuid, "LVM-abc");
    EXPECT_THAT(dm.below, ElementsAre("loop0", "sda"));
    const auto md = read_one("md_home");
    EXPECT_EQ(md.kind, "md");
    EXPECT_EQ(md.level, "raid1");
}

TEST_F(Devices, MountedTargets) {
    add_disk();
    made.file("/proc/self/mountinfo", "20 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
                                      "21 20 8:1 /var/lib /mnt/a\\040b rw - ext4 /dev/sda1 rw\n"
                                      "22 20 0:21 / /proc rw - proc proc rw\n");
    const auto all = read();
    ASSERT_EQ(all.size(), 2U);
    EXPECT_THAT(all[0].mounted, IsEmpty());
    EXPECT_THAT(all[1].mounted, ElementsAre("/", "/mnt/a b"));
}

TEST_F(Devices, WhatIsBrokenIsNamed) {
    add("sda", "virtual/block/sda", "8:0", "many");
    made.file("/proc/self/mountinfo", "nonsense\n");
    made.dir("/sys/devices/virtual/block/sda/queue/rotational");
    ASSERT_EQ(::mkfifo(made.here("/sys/devices/virtual/block/sda/slaves").c_str(), 0644), 0); // no directory
    EXPECT_EQ(read_one("sda").bytes, 0U);
    ASSERT_EQ(problems.size(), 4U);
    EXPECT_EQ(problems[0].about, "/proc/self/mountinfo");
    EXPECT_EQ(problems[1].about, "/sys/class/block/sda/size");
    EXPECT_THAT(problems[1].why, HasSubstr("many"));
    EXPECT_EQ(problems[2].about, "/sys/class/block/sda/queue/rotational");
    EXPECT_EQ(problems[3].about, "/sys/class/block/sda/slaves");
}

TEST_F(Devices, GoneOrHiddenIsLeftOut) {
    made.link("../../devices/virtual/block/loop9", "/sys/class/block/loop9");
    made.file("/sys/devices/virtual/nvme0c0n1/size", "8\n");
    made.link("../../devices/virtual/nvme0c0n1", "/sys/class/block/nvme0c0n1");
    EXPECT_THAT(read(), IsEmpty());
    EXPECT_THAT(problems, IsEmpty());
}

TEST_F(Devices, HugeSizeDoesNotWrap) {
    add("sda", "virtual/block/sda", "8:0", "18446744073709551615");
    EXPECT_EQ(read_one("sda").bytes, UINT64_MAX);
}

TEST_F(Devices, WithoutSysfs) {
    EXPECT_THAT(read(), IsEmpty());
    ASSERT_EQ(problems.size(), 1U);
    EXPECT_EQ(problems[0].about, "/sys/class/block");
}

TEST(DeviceKind, ByName) {
    EXPECT_EQ(block_device_kind("loop12"), "loop");
    EXPECT_EQ(block_device_kind("dm-3"), "dm");
    EXPECT_EQ(block_device_kind("md127"), "md");
    EXPECT_EQ(block_device_kind("md_d0"), "md");
    EXPECT_EQ(block_device_kind("zram0"), "zram");
    EXPECT_EQ(block_device_kind("zd16"), "zvol");
    EXPECT_EQ(block_device_kind("sr0"), "cdrom");
    for (const auto *disk : {"sda", "vda", "nvme0n1", "mmcblk0", "loop", "ramdisk", "mdx", ""})
        EXPECT_EQ(block_device_kind(disk), "disk") << disk;
}

TEST(LiveDevices, EachHasItsNumber) {
    const auto host = Host::open("/");
    ASSERT_TRUE(host) << host.error().text();
    if (!host->is_dir("/sys/class/block")) GTEST_SKIP() << "no sysfs here";
    std::vector<Problem> problems;
    const auto all = read_block_devices(*host, problems);
    for (const auto &problem : problems)
        ADD_FAILURE() << problem.about << ": " << problem.why;
    for (const auto &device : all) {
        EXPECT_EQ(host->read("/sys/class/block/" + device.name + "/dev").value_or(""), device.number + "\n");
        if (!device.mounted.empty()) {
            EXPECT_TRUE(device.mounted.front().starts_with('/'));
        }
    }
    EXPECT_TRUE(std::ranges::is_sorted(all, {}, &BlockDevice::name));
}

} // namespace
} // namespace shale::probe
