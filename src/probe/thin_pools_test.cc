// SPDX-License-Identifier: Apache-2.0
#include "probe/thin_pools.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>

#include <fmt/format.h>

#include "base/fd.h"
#include "probe/devices.h"
#include "probe/test_root.h"
#include "sys/block.h"
#include "sys/loop.h"

namespace shale::probe {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

BlockDevice block(std::string name, std::string number, std::string kind, std::vector<std::string> below = {}) {
    BlockDevice out;
    out.name = std::move(name);
    out.number = std::move(number);
    out.kind = std::move(kind);
    out.below = std::move(below);
    return out;
}

DmDevice pool_device(std::string status, std::string table = "252:0 252:1 128 256 1 skip_block_zeroing") {
    return {"docker-pool", "252:2", "", 1, {0, 204'800, "thin-pool", std::move(table)}, std::move(status)};
}

TEST(ThinPoolTable, Parameters) {
    const auto table = parse_thin_pool_table("252:0 252:1 128 256 2 skip_block_zeroing error_if_no_space ");
    ASSERT_TRUE(table) << table.error().text();
    EXPECT_EQ(table->metadata_device, "252:0");
    EXPECT_EQ(table->data_device, "252:1");
    EXPECT_EQ(table->block_sectors, 128U);
    EXPECT_EQ(table->low_water_blocks, 256U);
    EXPECT_TRUE(table->error_if_no_space);
    EXPECT_FALSE(table->ignore_discard);
    EXPECT_FALSE(table->no_discard_passdown);
    EXPECT_TRUE(parse_thin_pool_table("7:1 7:0 1024 0 0"));
    EXPECT_TRUE(parse_thin_pool_table("7:1 7:0 1024 0"));
    EXPECT_TRUE(parse_thin_pool_table("7:1 7:0 1024 0 1 no_discard_passdown")->no_discard_passdown);
    EXPECT_TRUE(parse_thin_pool_table("7:1 7:0 1024 0 1 ignore_discard")->ignore_discard);
}

TEST(ThinPoolTable, OtherTextIsRefused) {
    for (const auto *text :
         {"", "252:0", "252:0 252:1 128", "/dev/a 252:1 128 0 0", "252:0 252:1 x 0 0", "252:0 252:1 128 0 2 one",
          "252:0 252:1 128 0 0 one", "252:0 252:1 99999999999 0 0", "252: 252:1 128 0", "252:0 252:1 128 -1"}) {
        const auto table = parse_thin_pool_table(text);
        ASSERT_FALSE(table) << text;
        EXPECT_EQ(table.error().code(), Errc::InvalidArgument);
    }
    EXPECT_FALSE(parse_thin_pool_table(std::string(100'000, 'x')));
}

TEST(ThinDevice, TableAndStatus) {
    const auto table = parse_thin_table("252:2 7");
    ASSERT_TRUE(table);
    EXPECT_EQ(table->pool, "252:2");
    EXPECT_EQ(table->device_id, 7U);
    EXPECT_TRUE(parse_thin_table("252:2 7 252:9")) << "with an external origin";
    for (const auto *text : {"", "252:2", "252:2 x", "252 7", "252:2 7 252:9 more"})
        EXPECT_FALSE(parse_thin_table(text));
    EXPECT_EQ(*parse_thin_status("2048 204799"), 2048U * 512);
    EXPECT_EQ(*parse_thin_status("0 -"), 0U);
    for (const auto *text : {"-", "Fail", "Error"})
        EXPECT_EQ(parse_thin_status(text).value(), std::nullopt) << text;
    for (const auto *text : {"", "1", "x -", "1 x", "1 2 3", "99999999999999999 1"})
        EXPECT_FALSE(parse_thin_status(text)) << text;
}

TEST(StandsOnLoop, ThroughPartitionsAndDeviceMapper) {
    const std::vector<BlockDevice> devices{
        block("dm-0", "252:0", "dm", {"sda"}),
        block("dm-1", "252:1", "dm", {"dm-0", "loop0p1"}),
        block("loop0", "7:0", "loop"),
        block("loop0p1", "259:0", "partition", {"loop0"}),
        block("sda", "8:0", "disk"),
        block("dm-8", "252:8", "dm", {"dm-9"}),
        block("dm-9", "252:9", "dm", {"dm-8"}),
    };
    EXPECT_TRUE(stands_on_loop("7:0", devices));
    EXPECT_TRUE(stands_on_loop("252:1", devices));
    EXPECT_FALSE(stands_on_loop("252:0", devices));
    EXPECT_FALSE(stands_on_loop("252:8", devices)) << "in a circle";
    EXPECT_FALSE(stands_on_loop("1:1", devices)) << "unknown";
}

TEST(ThinPools, PoolWithItsDevices) {
    const std::vector<DmDevice> thin{
        {"b", "252:5", "", 0, {0, 20'480, "thin", "252:2 9"}, "0 -"},
        pool_device("3 111/1024 5/1600 178 rw no_discard_passdown error_if_no_space needs_check 256 "),
        {"a", "252:4", "", 2, {0, 40'960, "thin", "252:2 1"}, "2048 40959"},
    };
    const std::vector<BlockDevice> devices{block("loop0", "252:1", "loop")};
    std::vector<Problem> problems;
    const auto pools = assemble_thin_pools(thin, devices, problems);
    ASSERT_EQ(pools.size(), 1U);
    const auto &pool = pools.front();
    EXPECT_EQ(pool.name, "docker-pool");
    EXPECT_EQ(pool.metadata_device, "252:0");
    EXPECT_EQ(pool.data_device, "252:1");
    EXPECT_EQ(pool.mode, "rw");
    EXPECT_EQ(pool.transaction, 3U);
    EXPECT_EQ(pool.used_metadata_blocks, 111U);
    EXPECT_EQ(pool.total_metadata_blocks, 1024U);
    EXPECT_EQ(pool.used_data_blocks, 5U);
    EXPECT_EQ(pool.total_data_blocks, 1600U);
    EXPECT_EQ(pool.data_block_bytes, 65'536U);
    EXPECT_TRUE(pool.needs_check);
    EXPECT_TRUE(pool.error_if_no_space);
    EXPECT_FALSE(pool.discard_passdown);
    EXPECT_TRUE(pool.held_metadata);
    EXPECT_TRUE(pool.on_loop);
    EXPECT_FALSE(pool.lvm);
    ASSERT_EQ(pool.devices.size(), 2U);
    EXPECT_EQ(pool.devices[0].name, "a");
    EXPECT_EQ(pool.devices[0].device_id, 1U);
    EXPECT_EQ(pool.devices[0].mapped_bytes, 2048U * 512);
    EXPECT_EQ(pool.devices[0].bytes, 40'960U * 512);
    EXPECT_TRUE(pool.devices[0].open);
    EXPECT_EQ(pool.devices[1].mapped_bytes, 0U);
    EXPECT_FALSE(pool.devices[1].open);
    EXPECT_THAT(problems, IsEmpty());
}

TEST(ThinPools, FailedPoolSaysNothingElse) {
    std::vector<Problem> problems;
    const std::vector<DmDevice> thin{
        pool_device("Fail", "252:0 252:1 128 256 2 no_discard_passdown error_if_no_space")};
    const auto pools = assemble_thin_pools(thin, {}, problems);
    ASSERT_EQ(pools.size(), 1U);
    EXPECT_EQ(pools[0].mode, "Fail");
    EXPECT_EQ(pools[0].total_data_blocks, 0U);
    EXPECT_TRUE(pools[0].error_if_no_space) << "as it was asked for";
    EXPECT_FALSE(pools[0].discard_passdown);
    EXPECT_FALSE(pools[0].on_loop);
    EXPECT_THAT(problems, IsEmpty());
    EXPECT_EQ(assemble_thin_pools(std::vector{pool_device("Error")}, {}, problems).front().mode, "Error");
}

TEST(ThinPools, WhatIsNotUnderstoodIsNamed) {
    const std::vector<DmDevice> thin{
        pool_device("0 1/2 3/4 - sideways"),
        {"strange", "252:7", "", 0, {0, 8, "thin-pool", "?"}, "-"},
        {"orphan", "252:8", "", 0, {0, 8, "thin", "252:77 1"}, "0 -"},
        {"odd", "252:9", "", 0, {0, 8, "thin", "252:2 1"}, "?"},
    };
    std::vector<Problem> problems;
    const auto pools = assemble_thin_pools(thin, {}, problems);
    ASSERT_EQ(pools.size(), 1U);
    EXPECT_EQ(pools[0].mode, "");
    EXPECT_EQ(pools[0].data_block_bytes, 65'536U) << "its table is known";
    ASSERT_EQ(problems.size(), 4U);
    EXPECT_EQ(problems[0].about, "thin pool docker-pool");
    EXPECT_EQ(problems[1].about, "thin pool strange");
    EXPECT_EQ(problems[2].about, "thin device orphan");
    EXPECT_THAT(problems[2].why, HasSubstr("252:77"));
    EXPECT_EQ(problems[3].about, "thin device odd");
}

TEST(ThinPools, PoolOfLvm) {
    auto device = pool_device("Fail");
    device.uuid = "LVM-abcdef-tpool";
    std::vector<Problem> problems;
    EXPECT_TRUE(assemble_thin_pools(std::vector{device}, {}, problems).front().lvm);
}

TEST(ThinPoolsOfHost, WithoutDeviceMapperThereAreNone) {
    const TestRoot made;
    std::vector<Problem> problems;
    EXPECT_THAT(read_thin_pools(made.host(), {}, {}, problems), IsEmpty());
    made.file("/proc/misc", "229 fuse\n237 loop-control\n");
    EXPECT_THAT(read_thin_pools(made.host(), {}, {}, problems), IsEmpty());
    made.file("/proc/misc", "236 device-mapper\n");
    EXPECT_THAT(read_thin_pools(made.host(), {}, {}, problems), IsEmpty());
    EXPECT_THAT(problems, IsEmpty());
}

TEST(ThinPoolsOfHost, DevicesThatCannotBeAskedAreNamed) {
    const TestRoot made;
    made.file("/proc/misc", "229 fuse\n236 device-mapper\n");
    std::vector<Problem> problems;
    const std::vector<BlockDevice> devices{block("dm-0", "252:0", "dm")};
    EXPECT_THAT(read_thin_pools(made.host(), devices, {}, problems), IsEmpty());
    ASSERT_EQ(problems.size(), 1U);
    EXPECT_EQ(problems[0].about, "/dev/mapper/control");
    EXPECT_THAT(problems[0].why, HasSubstr("missing"));
    made.file("/dev/mapper/control", "");
    EXPECT_THAT(read_thin_pools(made.host(), devices, {}, problems), IsEmpty());
    ASSERT_EQ(problems.size(), 2U);
    EXPECT_THAT(problems[1].why, HasSubstr("not the control of device-mapper (10:236)"));
}

/// A real pool on loop devices, with one thin device; gone with the object.
class LivePool {
public:
    explicit LivePool(const TestRoot &root) {
        metadata_ = attach(root, "/metadata", off_t{8} << 20);
        data_ = attach(root, "/data", off_t{64} << 20);
    }
    LivePool(const LivePool &) = delete;
    LivePool &operator=(const LivePool &) = delete;
    ~LivePool() {
        (void)sys::dm_remove(thin, sys::DmRemove::now);
        (void)sys::dm_remove(pool, sys::DmRemove::now);
    }
    Status make() const {
        TRY(sys::dm_create(pool, "", {{0, 131'072, "thin-pool", fmt::format("{} {} 128 16 0", metadata(), data())}}));
        TRY(sys::dm_message(pool, "create_thin 7"));
        const auto info = TRY(sys::dm_find(pool));
        return sys::dm_create(thin, "",
                              {{0, 40'960, "thin", fmt::format("{}:{} 7", info.value().major, info.value().minor)}});
    }
    [[nodiscard]] std::string metadata() const { return sys::look_at_block_device(metadata_.path).value().number; }
    [[nodiscard]] std::string data() const { return sys::look_at_block_device(data_.path).value().number; }
    const std::string pool = fmt::format("shale-probe-{}", ::getpid()), thin = pool + "-thin";

private:
    static sys::LoopDevice attach(const TestRoot &root, std::string_view name, off_t bytes) {
        const UniqueFd file(::open(root.here(name).c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
        EXPECT_EQ(::ftruncate(file.get(), bytes), 0);
        auto loop = sys::attach_loop(file.get(), false);
        EXPECT_TRUE(loop) << loop.error().text();
        return loop ? std::move(*loop) : sys::LoopDevice{};
    }
    sys::LoopDevice metadata_, data_;
};

TEST(LiveThinPools, OnLoopDevices) {
    if (const auto version = sys::dm_version(); !version) GTEST_SKIP() << version.error().text();
    if (const auto target = sys::dm_target_version("thin-pool"); !target) GTEST_SKIP() << target.error().text();
    if (::geteuid() != 0) GTEST_SKIP() << "needs root";
    const TestRoot root;
    const LivePool live(root);
    const auto made = live.make();
    ASSERT_TRUE(made) << made.error().text();
    const UniqueFd thin(::open(("/dev/mapper/" + live.thin).c_str(), O_RDWR | O_CLOEXEC));
    ASSERT_EQ(::pwrite(thin.get(), "x", 1, 0), 1);
    ASSERT_EQ(::fsync(thin.get()), 0);
    std::vector<Problem> problems;
    const auto host = Host::open("/");
    ASSERT_TRUE(host);
    const auto devices = read_block_devices(*host, problems);
    const auto pools = read_thin_pools(*host, devices, {}, problems);
    for (const auto &problem : problems)
        ADD_FAILURE() << problem.about << ": " << problem.why;
    const auto pool = std::ranges::find(pools, live.pool, &ThinPool::name);
    ASSERT_NE(pool, pools.end());
    EXPECT_EQ(pool->mode, "rw");
    EXPECT_EQ(pool->metadata_device, live.metadata());
    EXPECT_EQ(pool->data_device, live.data());
    EXPECT_EQ(pool->data_block_bytes, 65'536U);
    EXPECT_EQ(pool->total_data_blocks, 1024U);
    EXPECT_EQ(pool->used_data_blocks, 1U);
    EXPECT_GT(pool->total_metadata_blocks, pool->used_metadata_blocks);
    EXPECT_TRUE(pool->on_loop);
    EXPECT_FALSE(pool->lvm);
    EXPECT_FALSE(pool->monitored);
    ASSERT_EQ(pool->devices.size(), 1U);
    EXPECT_EQ(pool->devices[0].name, live.thin);
    EXPECT_EQ(pool->devices[0].device_id, 7U);
    EXPECT_EQ(pool->devices[0].bytes, 40'960U * 512);
    EXPECT_EQ(pool->devices[0].mapped_bytes, 65'536U);
    EXPECT_TRUE(pool->devices[0].open);
    const auto device = std::ranges::find(devices, live.pool, &BlockDevice::dm_name);
    ASSERT_NE(device, devices.end());
    EXPECT_EQ(device->kind, "dm");
    EXPECT_EQ(device->below.size(), 2U);
}

} // namespace
} // namespace shale::probe
