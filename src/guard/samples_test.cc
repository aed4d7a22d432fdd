// SPDX-License-Identifier: Apache-2.0
#include "guard/samples.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

namespace shale::guard {
namespace {

std::vector<std::string> lines(const std::vector<Sample> &samples) {
    std::vector<std::string> out;
    for (const auto &one : samples)
        out.push_back(std::string(name_of(one.kind)) + " " + one.subject + " " + std::to_string(one.used) + "/" +
                      std::to_string(one.total) + " " + one.unit);
    return out;
}

probe::FileSystem ext4(std::string target) {
    probe::FileSystem out;
    out.target = std::move(target);
    out.type = "ext4";
    out.total_bytes = 1000;
    out.free_bytes = 400;
    out.available_bytes = 350;
    out.total_inodes = 64;
    out.free_inodes = 4;
    return out;
}

TEST(Samples, OfFileSystemsThatCarryAStoreOnly) {
    probe::Facts facts;
    facts.file_systems = {ext4("/"), ext4("/data"), ext4("/other")};
    facts.file_systems[1].projects = {{7, 90, 3, 100, 0}, {8, 5, 3, 0, 10}};
    EXPECT_THAT(lines(samples_of({facts, {1, 0, 1, no_carrier}})),
                testing::ElementsAre("bytes / 600/950 bytes", "bytes /data 600/950 bytes", "inodes / 60/64 inodes",
                                     "inodes /data 60/64 inodes", "project_quota /data:7 90/100 bytes"));
}

TEST(Samples, OfBtrfs) {
    probe::Facts facts;
    facts.file_systems = {ext4("/b")};
    auto &fs = facts.file_systems[0];
    fs.total_inodes = fs.free_inodes = 0;
    fs.btrfs = probe::BtrfsSpace{};
    fs.btrfs->device_bytes = 1000;
    fs.btrfs->unallocated_bytes = 300;
    fs.btrfs->global_reserve_bytes = 8;
    fs.btrfs->groups = {{"data", "single", 500, 480}, {"metadata", "dup", 100, 50}, {"system", "dup", 1, 1}};
    fs.btrfs->qgroups = {{0, 257, 40, 40, 0, 0, true}, {0, 258, 40, 30, 50, 0, true}, {1, 100, 70, 69, 1000, 70, true}};
    EXPECT_THAT(lines(samples_of({facts, {0}})),
                testing::ElementsAre("bytes /b 600/950 bytes", "btrfs_unallocated /b 700/1000 bytes",
                                     "btrfs_metadata /b 58/250 bytes", "btrfs_qgroup /b:0/258 40/50 bytes",
                                     "btrfs_qgroup /b:1/100 69/70 bytes"));
}

TEST(Samples, OfPools) {
    probe::Facts facts;
    probe::ThinPool pool;
    pool.name = "pool";
    pool.used_data_blocks = 10;
    pool.total_data_blocks = 20;
    pool.data_block_bytes = 65'536;
    pool.used_metadata_blocks = 3;
    pool.total_metadata_blocks = 4;
    probe::ThinPool failed;
    failed.name = "failed";
    failed.mode = "Fail";
    facts.thin_pools = {pool, failed};
    probe::ZfsPool tank;
    tank.name = "tank";
    tank.size_bytes = 100;
    tank.allocated_bytes = 91;
    facts.zfs_pools = {tank};
    probe::ZfsDataset quota;
    quota.name = "tank/a";
    quota.type = "filesystem";
    probe::ZfsDataset ref = quota, free = quota, snapshot = quota;
    quota.used_bytes = 9;
    quota.quota_bytes = 10;
    ref.name = "tank/b";
    ref.used_bytes = 100;
    ref.referenced_bytes = 4;
    ref.refquota_bytes = 5;
    free.name = "tank/c";
    free.used_bytes = 100;
    snapshot.name = "tank/a@s";
    snapshot.type = "snapshot";
    snapshot.quota_bytes = 1;
    facts.zfs_datasets = {quota, ref, free, snapshot};
    EXPECT_THAT(lines(samples_of({facts, {}})),
                testing::ElementsAre("thin_data pool 655360/1310720 bytes", "thin_metadata pool 12288/16384 bytes",
                                     "zfs_capacity tank 91/100 bytes", "zfs_quota tank/a 9/10 bytes",
                                     "zfs_quota tank/b 4/5 bytes"));
}

TEST(Samples, OfThisHost) {
    const auto host = probe::Host::open();
    ASSERT_TRUE(host);
    const std::vector<Place> places = {{std::filesystem::current_path().string(), "overlay2"}, {"/", "vfs"}};
    const auto seen = look(*host, places);
    ASSERT_EQ(seen.carriers.size(), 2U);
    EXPECT_LT(seen.carriers[0], seen.facts.file_systems.size());
    const auto samples = samples_of(seen);
    ASSERT_FALSE(samples.empty());
    EXPECT_EQ(samples.front().kind, Kind::bytes);
    EXPECT_GT(samples.front().used, 0U);
    EXPECT_LE(samples.front().used, samples.front().total);
}

} // namespace
} // namespace shale::guard
