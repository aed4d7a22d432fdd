// SPDX-License-Identifier: Apache-2.0
#include "doctor/checks/thin_pools.h"

#include <gtest/gtest.h>

namespace shale::doctor::checks {
namespace {

constexpr uint64_t mib = uint64_t{1} << 20U;

TEST(ThinPools, LogicalVolumeOfAName) {
    EXPECT_EQ(logical_volume_of("vg-pool-tpool"), "vg/pool");
    EXPECT_EQ(logical_volume_of("docker-thinpool"), "docker/thinpool");
    EXPECT_EQ(logical_volume_of("my--vg-my--pool-tpool"), "my-vg/my-pool");
    for (const char *other : {"", "pool", "a-b-c", "vg-pool-tpool-x", "-pool", "vg-", "docker-253:0-1234-pool"})
        EXPECT_EQ(logical_volume_of(other), "") << other;
}

TEST(ThinPools, MetadataWanted) {
    probe::ThinPool pool;
    EXPECT_EQ(metadata_wanted(pool), 0U);
    pool.total_data_blocks = 1;
    EXPECT_EQ(metadata_wanted(pool), 2 * mib);
    pool.total_data_blocks = 1'638'400; // 100 GiB of 64 KiB: the kernel's advice is 75 MiB
    EXPECT_EQ(metadata_wanted(pool), 75 * mib);
    pool.devices.resize(10'000); // `thin_metadata_size -b64k -s100g -m10000` says 90 MiB
    EXPECT_EQ(metadata_wanted(pool), 90 * mib);
    pool.total_data_blocks = UINT64_C(1) << 40U;
    EXPECT_EQ(metadata_wanted(pool), uint64_t{255} * ((1U << 14U) - 64) * thin_metadata_block_bytes);
}

TEST(ThinPools, PathOfADevice) {
    probe::Facts facts;
    facts.devices.resize(2);
    facts.devices[0].number = "8:1";
    facts.devices[0].name = "sda1";
    facts.devices[1].number = "253:0";
    facts.devices[1].name = "dm-0";
    facts.devices[1].dm_name = "vg-meta";
    EXPECT_EQ(device_path(facts, "8:1"), "/dev/sda1");
    EXPECT_EQ(device_path(facts, "253:0"), "/dev/mapper/vg-meta");
    EXPECT_EQ(device_path(facts, "9:9"), "/dev/block/9:9");
}

TEST(ThinPools, StoresOnAPool) {
    probe::Facts facts;
    facts.stores.resize(4);
    facts.stores[0].engine = "docker";
    facts.stores[0].driver = "devicemapper";
    facts.stores[0].settings["storage-opts"] = "dm.basesize=10G,dm.thinpooldev=/dev/mapper/vg-pool,dm.fs=xfs";
    facts.stores[1].engine = "shale";
    facts.stores[1].driver = "devicemapper";
    facts.stores[2].engine = "containerd";
    facts.stores[2].driver = "devmapper";
    facts.stores[2].settings["thin pool"] = "ctd";
    facts.stores[3].engine = "docker";
    facts.stores[3].driver = "overlay2";
    const auto on = [&](const char *name) {
        probe::ThinPool pool;
        pool.name = name;
        return stores_on(facts, pool);
    };
    EXPECT_EQ(on("vg-pool"), std::vector<const probe::Store *>{&facts.stores[0]});
    EXPECT_EQ(on("vg-pool-tpool"), std::vector<const probe::Store *>{&facts.stores[0]});
    EXPECT_EQ(on("shale-1-2-pool"), std::vector<const probe::Store *>{&facts.stores[1]});
    EXPECT_EQ(on("ctd"), std::vector<const probe::Store *>{&facts.stores[2]});
    EXPECT_TRUE(on("docker-8:1-99-pool").empty());
    facts.stores[0].settings.clear();
    EXPECT_EQ(on("docker-8:1-99-pool"), std::vector<const probe::Store *>{&facts.stores[0]});
}

} // namespace
} // namespace shale::doctor::checks
