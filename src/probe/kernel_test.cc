// SPDX-License-Identifier: Apache-2.0
#include "probe/kernel.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "probe/test_root.h"

namespace shale::probe {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::Pair;
using testing::UnorderedElementsAre;

TEST(KernelText, FileSystems) {
    EXPECT_THAT(parse_file_systems("nodev\tsysfs\n\text4\nnodev\toverlay\n\n"),
                ElementsAre("sysfs", "ext4", "overlay"));
    EXPECT_THAT(parse_file_systems(""), IsEmpty());
}

TEST(KernelText, CommandLine) {
    EXPECT_THAT(parse_command_line("BOOT_IMAGE=/vmlinuz root=UUID=a-b ro quiet  dyndbg=\"file a.c +p\" \"x y\"=1\n"),
                UnorderedElementsAre(Pair("BOOT_IMAGE", "/vmlinuz"), Pair("root", "UUID=a-b"), Pair("ro", ""),
                                     Pair("quiet", ""), Pair("dyndbg", "file a.c +p"), Pair("x y", "1")));
    EXPECT_THAT(parse_command_line("a=1 a=2"), ElementsAre(Pair("a", "2")));
    EXPECT_THAT(parse_command_line("a=\"never closed b"), ElementsAre(Pair("a", "never closed b")));
    EXPECT_THAT(parse_command_line("=x \"\" \n"), IsEmpty());
    EXPECT_THAT(parse_command_line("a=1 -- password=x"), ElementsAre(Pair("a", "1")));
}

TEST(KernelText, Memory) {
    EXPECT_THAT(parse_memory("MemTotal:       24683652 kB\nHugePages_Total:       3\nActive(anon): 2 kB\n"
                             "Odd: 1 MB\nBad: x kB\nHuge: 18446744073709551615 kB\n:\n"),
                UnorderedElementsAre(Pair("MemTotal", 24683652ULL * 1024), Pair("HugePages_Total", 3),
                                     Pair("Active(anon)", 2048)));
}

TEST(KernelText, Vmstat) {
    EXPECT_THAT(parse_vmstat("nr_free_pages 5322272\nkswapd_low_wmark_hit_quickly 0\nodd\nneg -1\n"),
                UnorderedElementsAre(Pair("nr_free_pages", 5322272), Pair("kswapd_low_wmark_hit_quickly", 0)));
}

TEST(KernelText, Pressure) {
    const auto io = parse_pressure("some avg10=42.88 avg60=38.00 avg300=29.31 total=4520499130\n"
                                   "full avg10=0.10 avg60=0.20 avg300=0.30 total=0\n");
    ASSERT_TRUE(io);
    EXPECT_DOUBLE_EQ(io->some_10s, 42.88);
    EXPECT_DOUBLE_EQ(io->some_60s, 38);
    EXPECT_DOUBLE_EQ(io->some_300s, 29.31);
    EXPECT_DOUBLE_EQ(io->full_300s, 0.3);
    const auto cpu = parse_pressure("some avg10=1.00 avg60=nan avg300=1e999 total=1\n");
    ASSERT_TRUE(cpu);
    EXPECT_DOUBLE_EQ(cpu->some_10s, 1);
    EXPECT_DOUBLE_EQ(cpu->some_60s, 0);
    EXPECT_DOUBLE_EQ(cpu->some_300s, 0);
    EXPECT_FALSE(parse_pressure("full avg10=0.10\n"));
    EXPECT_FALSE(parse_pressure(""));
}

TEST(KernelText, Uptime) {
    EXPECT_EQ(parse_uptime("12345.67 99.00\n"), 12345U);
    EXPECT_EQ(parse_uptime(""), std::nullopt);
}

sys::MountEntry hierarchy(const char *type, const char *target, const char *options) {
    sys::MountEntry out;
    out.type = type;
    out.target = target;
    out.super_options = options;
    return out;
}

constexpr std::string_view v1_table = "#subsys_name\thierarchy\tnum_cgroups\tenabled\n"
                                      "cpu\t1\t1\t1\nmemory\t4\t75\t1\npids\t5\t1\t0\nio\t0\t4\t1\n";

TEST(KernelCgroups, Unified) {
    const auto out = cgroups_of({hierarchy("cgroup2", "/sys/fs/cgroup", "rw,nsdelegate")}, v1_table, "cpu io memory\n");
    EXPECT_EQ(out.version, 2);
    EXPECT_FALSE(out.hybrid);
    EXPECT_THAT(out.controllers, ElementsAre("cpu", "io", "memory"));
}

TEST(KernelCgroups, Legacy) {
    const auto out = cgroups_of({hierarchy("cgroup", "/sys/fs/cgroup/memory", "rw,memory")}, v1_table, "");
    EXPECT_EQ(out.version, 1);
    EXPECT_FALSE(out.hybrid);
    EXPECT_THAT(out.controllers, ElementsAre("cpu", "memory")); // pids is disabled, io has no hierarchy
}

TEST(KernelCgroups, Hybrid) {
    const auto out = cgroups_of({hierarchy("cgroup", "/sys/fs/cgroup/memory", "rw,memory"),
                                 hierarchy("cgroup", "/sys/fs/cgroup/systemd", "rw,xattr,name=systemd"),
                                 hierarchy("cgroup2", "/sys/fs/cgroup/unified", "rw")},
                                v1_table, "hugetlb\n");
    EXPECT_EQ(out.version, 1);
    EXPECT_TRUE(out.hybrid);
    EXPECT_THAT(out.controllers, ElementsAre("cpu", "hugetlb", "memory"));
}

TEST(KernelCgroups, ANameAloneIsNoLegacyHost) {
    const auto named = hierarchy("cgroup", "/sys/fs/cgroup/systemd", "rw,xattr,name=systemd");
    EXPECT_EQ(cgroups_of({hierarchy("cgroup2", "/sys/fs/cgroup", "rw"), named}, v1_table, "cpu\n").version, 2);
    EXPECT_EQ(cgroups_of({named}, v1_table, "").version, 1);
    EXPECT_EQ(cgroups_of({}, v1_table, "").version, 0);
}

TEST(KernelSettings, ParametersOfModules) {
    TestRoot root;
    root.file("/sys/module/overlay/parameters/redirect_dir", "N\n");
    root.file("/sys/module/zfs/parameters/zfs_arc_max", "0\n");
    root.file("/sys/module/ext4/parameters/write_only", "x");
    std::filesystem::permissions(root.here("/sys/module/ext4/parameters/write_only"),
                                 std::filesystem::perms::owner_write);
    root.file("/sys/module/xfs/parameters/huge", std::string(100'000, 'x'));
    std::vector<Problem> problems;
    EXPECT_THAT(read_module_parameters(root.host(), problems),
                ElementsAre(Pair("overlay.redirect_dir", "N"), Pair("zfs.zfs_arc_max", "0")));
    ASSERT_EQ(problems.size(), 1U);
    EXPECT_EQ(problems[0].about, "/sys/module/xfs/parameters/huge");
}

TEST(KernelSettings, Sysctls) {
    TestRoot root;
    root.file("/proc/sys/fs/inotify/max_user_watches", "65536\n");
    root.file("/proc/sys/fs/file-nr", "1\t0\t9\n");
    root.file("/proc/sys/user/max_mnt_namespaces", "100\n");
    root.file("/proc/sys/vm/drop_caches", "0\n");
    root.file("/proc/sys/vm/vfs_cache_pressure", "100\n");
    std::vector<Problem> problems;
    EXPECT_THAT(read_sysctls(root.host(), problems),
                ElementsAre(Pair("fs.file-nr", "1\t0\t9"), Pair("fs.inotify.max_user_watches", "65536"),
                            Pair("user.max_mnt_namespaces", "100"), Pair("vm.vfs_cache_pressure", "100")));
    EXPECT_THAT(problems, IsEmpty());
}

TEST(KernelOfADisk, HasAHostnameOnly) {
    TestRoot root;
    root.file("/etc/hostname", "# made by hand\n\n node-7 \n");
    root.file("/proc/meminfo", "MemTotal: 4 kB\n"); // of another kernel: nothing of it counts
    root.file("/proc/pressure/io", "some avg10=1.00 avg60=1.00 avg300=1.00 total=1\n");
    std::vector<Problem> problems;
    const auto host = root.host();
    const auto kernel = read_kernel(host, problems);
    EXPECT_EQ(kernel.hostname, "node-7");
    EXPECT_EQ(kernel.release, "");
    EXPECT_EQ(kernel.memory_bytes, 0U);
    EXPECT_THAT(read_memory(host, problems), IsEmpty());
    EXPECT_THAT(read_pressure(host, problems), IsEmpty());
    EXPECT_EQ(read_cgroups(host, problems).version, 0);
    EXPECT_THAT(problems, IsEmpty());
}

TEST(KernelOfThisHost, IsRead) {
    const auto host = Host::open("/");
    ASSERT_TRUE(host);
    std::vector<Problem> problems;
    const auto kernel = read_kernel(*host, problems);
    EXPECT_NE(kernel.release, "");
    EXPECT_NE(kernel.architecture, "");
    EXPECT_GT(kernel.memory_bytes, uint64_t{1} << 20U);
    EXPECT_GT(kernel.processors, 0);
    EXPECT_THAT(kernel.file_systems, Contains("proc"));
    EXPECT_THAT(kernel.sysctls, Contains(Pair("fs.file-max", testing::Ne(""))));
    EXPECT_THAT(read_memory(*host, problems), Contains(Pair("MemTotal", kernel.memory_bytes)));
    EXPECT_THAT(read_vmstat(*host, problems), Contains(Pair("nr_free_pages", testing::Gt(0U))));
}

} // namespace
} // namespace shale::probe
