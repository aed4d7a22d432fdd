// SPDX-License-Identifier: Apache-2.0
// Containers of a host that is a tree of files: who is one, of what class, who is slowed and who is ended.
#include "guard/workloads.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "guard/evict.h"
#include "guard/ground.h"
#include "probe/test_root.h"

namespace shale::guard {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

const std::string id_a(64, 'a'), id_b(64, 'b');

class Workloads : public testing::Test {
protected:
    Workloads() {
        root_.file("/proc/self/mountinfo", "31 30 0:27 / /sys/fs/cgroup/blkio rw - cgroup cgroup rw,blkio\n"
                                           "32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n");
        root_.link("mnt:[100]", "/proc/self/ns/mnt");
        process(1, 100, "/", host_mounts);
        process(50, 100, "/system.slice/dockerd.service", host_mounts);
        process(60, 101, "/system.slice/private.service", host_mounts); // a service with a namespace of its own
    }
    /// `group`: in blkio.
    void process(int pid, int space, const std::string &group, std::string_view mounts, std::string_view more = "") {
        const std::string at = fmt::format("/proc/{}", pid);
        root_.link(fmt::format("mnt:[{}]", space), at + "/ns/mnt");
        root_.file(at + "/mountinfo", mounts);
        root_.file(at + "/cgroup", fmt::format("8:blkio:{0}\n4:memory:{0}\n0::/\n", group));
        root_.file(at + "/comm", fmt::format("p{}\n", pid));
        root_.file(at + "/status", more);
    }
    void container(int pid, int space, const std::string &group, std::string_view upper) {
        process(pid, space, group, overlay(upper), "NSpid:\t" + std::to_string(pid) + "\t1\n");
    }
    static std::string overlay(std::string_view upper) {
        return fmt::format("90 1 0:{0} / / rw - overlay overlay rw,lowerdir=/l,upperdir={1},workdir=/w\n"
                           "91 90 0:5 / /dev rw - tmpfs tmpfs rw\n"
                           "92 90 8:1 /etc/hosts /etc/hosts ro - ext4 /dev/sda1 rw\n",
                           40, upper);
    }
    std::vector<Workload> read() {
        problems_.clear();
        const auto host = root_.host();
        const auto cgroups = Cgroups::read(host);
        EXPECT_TRUE(cgroups);
        return read_workloads(host, *cgroups, problems_);
    }
    static constexpr std::string_view host_mounts = "20 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
                                                    "21 20 8:16 / /data rw - ext4 /dev/sdb rw\n";
    probe::TestRoot root_;
    std::vector<probe::Problem> problems_;
};

TEST_F(Workloads, AreProcessesWithARootOfTheirOwn) {
    container(200, 102, "/docker/" + id_a, "/data/overlay2/x/diff");
    process(201, 102, "/docker/" + id_a, overlay("/data/overlay2/x/diff"));
    const auto all = read();
    ASSERT_THAT(all, SizeIs(1)) << "neither the host's nor a service with a mount namespace of its own";
    EXPECT_EQ(all[0].cgroup, "/docker/" + id_a);
    EXPECT_EQ(all[0].id, id_a);
    EXPECT_EQ(all[0].init, 200);
    EXPECT_THAT(all[0].pids, ElementsAre(200, 201));
    EXPECT_THAT(all[0].io_groups, ElementsAre("/docker/" + id_a));
    ASSERT_THAT(all[0].seats, SizeIs(1)) << "what is read-only and what is memory is no seat";
    EXPECT_EQ(all[0].seats[0].device, "8:16");
    EXPECT_EQ(all[0].seats[0].inside, "/overlay2/x/diff");
    EXPECT_EQ(all[0].qos, Qos::standard);
    EXPECT_THAT(problems_, IsEmpty());
}

TEST_F(Workloads, WhoSharesACgroupWithTheHostIsNeverTouched) {
    container(200, 102, "/", "/data/a/diff");                        // in none of its own
    container(300, 103, "/system.slice/dockerd.service", "/data/b"); // with the daemon
    EXPECT_THAT(read(), IsEmpty());
    ASSERT_THAT(problems_, SizeIs(2));
    EXPECT_THAT(problems_[0].why, HasSubstr("no cgroup of its own"));
    EXPECT_THAT(problems_[1].why, HasSubstr("process 50 of the host"));
}

TEST_F(Workloads, NamespacesWithinAContainerAreIts) {
    container(200, 102, "/docker/" + id_a + "/init.scope", "/data/a/diff");
    process(201, 102, "/docker/" + id_a + "/x.service", overlay("/data/a/diff"));
    process(202, 104, "/docker/" + id_a + "/y.service", overlay("/data/a/diff"));
    const auto all = read();
    ASSERT_THAT(all, SizeIs(1));
    EXPECT_EQ(all[0].cgroup, "/docker/" + id_a);
    EXPECT_THAT(all[0].pids, ElementsAre(200, 201, 202));
    EXPECT_THAT(all[0].io_groups, SizeIs(3)) << "with v1 a limit is of one group alone";
}

TEST_F(Workloads, ClassesOfKubernetesAreInThePath) {
    const std::string pod = "/pod0/" + id_a;
    EXPECT_EQ(qos_of_cgroup("/kubepods/besteffort" + pod), Qos::batch);
    EXPECT_EQ(qos_of_cgroup("/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice/x"), Qos::batch);
    EXPECT_EQ(qos_of_cgroup("/kubepods/burstable" + pod), Qos::standard);
    EXPECT_EQ(qos_of_cgroup("/kubepods" + pod), Qos::critical);
    EXPECT_EQ(qos_of_cgroup("/docker/" + id_a), std::nullopt);
    EXPECT_EQ(engine_id_in("/system.slice/docker-" + id_a + ".scope"), id_a);
    EXPECT_EQ(engine_id_in("/x/" + id_a + "a"), "") << "65 digits are no id";
    EXPECT_EQ(engine_id_in(""), "");
}

TEST_F(Workloads, DockersLabelIsRead) {
    const std::string file = "/var/lib/docker/containers/" + id_a + "/config.v2.json";
    root_.file(file, R"({"Config": {"Labels": {"shale.qos": "critical"}}})");
    EXPECT_EQ(qos_of_docker(root_.host(), "/var/lib/docker", id_a), Qos::critical);
    for (const std::string_view text : {"", "{", "[]", R"({"Config": 3})", R"({"Config": {"Labels": null}})",
                                        R"({"Config": {"Labels": {"shale.qos": "best"}}})"}) {
        root_.file(file, text);
        EXPECT_EQ(qos_of_docker(root_.host(), "/var/lib/docker", id_a), std::nullopt) << text;
    }
    EXPECT_EQ(qos_of_docker(root_.host(), "/var/lib/docker", id_b), std::nullopt);
}

TEST_F(Workloads, TheGroundTellsWhoWritesThere) {
    container(200, 102, "/docker/" + id_a, "/data/overlay2/x/diff");
    container(300, 103, "/docker/" + id_b, "/var/lib/docker/overlay2/y/diff");
    root_.file("/sys/dev/block/8:1/partition", "1\n");
    root_.file("/sys/dev/block/dev", "8:0\n");
    probe::Facts facts;
    facts.file_systems.resize(2);
    facts.file_systems[0].target = "/";
    facts.file_systems[0].device = "8:1";
    facts.file_systems[1].target = "/data";
    facts.file_systems[1].device = "8:16";
    const auto host = root_.host();
    const auto all = read();
    ASSERT_THAT(all, SizeIs(2));
    const Ground data = ground_of(host, facts, {Kind::bytes, "/data", 1, 2, "bytes"});
    const Ground root = ground_of(host, facts, {Kind::inodes, "/", 1, 2, "inodes"});
    for (const Workload &one : all) {
        const Seat &seat = one.seats.front();
        EXPECT_EQ(lies_on(host, data, seat), one.id == id_a);
        EXPECT_EQ(lies_on(host, root, seat), one.id == id_b);
        EXPECT_THAT(blocks_of(host, data, seat), ElementsAre(one.id == id_a ? "8:16" : "8:0")) << "a whole disk";
    }
    EXPECT_THAT(ground_of(host, facts, {Kind::bytes, "/gone", 1, 2, "bytes"}).why_not, HasSubstr("/gone"));
    EXPECT_THAT(ground_of(host, facts, {Kind::zfs_capacity, "tank", 1, 2, "bytes"}).why_not, HasSubstr("ZFS"));
}

TEST_F(Workloads, OnASubvolumeOrADataset) {
    probe::Facts facts;
    facts.file_systems.resize(1);
    facts.file_systems[0].target = "/b:c";
    facts.file_systems[0].type = "btrfs";
    facts.file_systems[0].device = "0:50";
    const auto host = root_.host();
    const Ground own = ground_of(host, facts, {Kind::btrfs_qgroup, "/b:c:0/257", 1, 2, "bytes"});
    EXPECT_TRUE(lies_on(host, own, {"0:50", "btrfs", "/dev/x", "rw,subvolid=257,subvol=/s", "/s", ""}));
    EXPECT_FALSE(lies_on(host, own, {"0:50", "btrfs", "/dev/x", "rw,subvolid=2577,subvol=/s", "/s", ""}));
    EXPECT_FALSE(ground_of(host, facts, {Kind::btrfs_qgroup, "/b:c:1/5", 1, 2, "bytes"}).why_not.empty());
    const Ground tank = ground_of(host, facts, {Kind::zfs_quota, "tank/a", 1, 2, "bytes"});
    EXPECT_TRUE(lies_on(host, tank, {"0:60", "zfs", "tank/a/b", "rw", "/", ""}));
    EXPECT_FALSE(lies_on(host, tank, {"0:60", "zfs", "tank/ab", "rw", "/", ""}));
}

TEST(Victim, IsOfTheLowestClassAndNeverCritical) {
    const auto workload = [](std::string name, Qos qos) {
        Workload out;
        out.cgroup = std::move(name);
        out.qos = qos;
        return out;
    };
    const Workload critical = workload("c", Qos::critical), standard = workload("s", Qos::standard),
                   one = workload("1", Qos::batch), two = workload("2", Qos::batch), three = workload("3", Qos::batch);
    const auto takes = [&](const Workload &which) -> uint64_t { return which.cgroup == "3" ? 9 : 1; };
    const std::vector<Candidate> all{{&critical, 900}, {&standard, 800}, {&one, 5}, {&two, 7}};
    EXPECT_EQ(choose_victim(all, takes), &two) << "of batch who writes most";
    const std::vector<Candidate> equal{{&one, 5}, {&three, 5}, {&two, 5}};
    EXPECT_EQ(choose_victim(equal, takes), &three) << "of equals who takes most";
    const std::vector<Candidate> upper{{&critical, 900}, {&standard, 0}};
    EXPECT_EQ(choose_victim(upper, takes), &standard);
    EXPECT_EQ(choose_victim(std::span(all.data(), 1), takes), nullptr);
    EXPECT_EQ(choose_victim({}, takes), nullptr);
}

} // namespace
} // namespace shale::guard
