// SPDX-License-Identifier: Apache-2.0
// What needs no device-mapper: options, sizes, tables, names, and what a status means.
#include "drivers/devicemapper/devicemapper.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sys/fs.h"

namespace shale::drivers::devicemapper {
namespace {

using sys::PoolMode;
using sys::ThinPoolStatus;
using testing::HasSubstr;

constexpr uint64_t kib = 1024, mib = 1024 * kib, gib = 1024 * mib, tib = 1024 * gib;

// The table of docs/operations.md.
TEST(DevicemapperSizes, MetadataByPoolAndBlock) {
    struct Row {
        uint64_t data, with_64k, with_256k, with_1m;
    };
    for (const auto &row : {Row{10 * gib, 44 * mib, 36 * mib, 32 * mib}, Row{100 * gib, 132 * mib, 60 * mib, 40 * mib},
                            Row{500 * gib, 532 * mib, 160 * mib, 64 * mib}, Row{tib, 1056 * mib, 288 * mib, 96 * mib},
                            Row{4 * tib, 4128 * mib, 1056 * mib, 288 * mib},
                            Row{16 * tib, 16'256 * mib + 256 * kib, 4128 * mib, 1056 * mib}}) {
        EXPECT_EQ(metadata_size_for(row.data, 64 * kib), row.with_64k) << row.data;
        EXPECT_EQ(metadata_size_for(row.data, 256 * kib), row.with_256k) << row.data;
        EXPECT_EQ(metadata_size_for(row.data, mib), row.with_1m) << row.data;
    }
    EXPECT_EQ(metadata_size_for(100 * gib, 64 * kib, 10'000), 416 * mib);
    EXPECT_EQ(metadata_size_for(0, 64 * kib, 0), 8 * mib);
    // Never less than the kernel's own advice: 48 bytes a block.
    for (uint64_t data = gib; data <= 8 * tib; data *= 2)
        EXPECT_GE(metadata_size_for(data, 64 * kib, 0), data / (64 * kib) * 48);
}

TEST(DevicemapperSizes, BlocksOfMetadataThatTheKernelUses) {
    EXPECT_EQ(usable_metadata_blocks(0), 0U);
    EXPECT_EQ(usable_metadata_blocks(512 * kib), 128U);
    EXPECT_EQ(usable_metadata_blocks(512 * kib + 4095), 128U);
    EXPECT_EQ(usable_metadata_blocks(17 * gib), 255U * (16'384 - 64));
}

TEST(DevicemapperSizes, APartGrowsInStepsUpToAMost) {
    using Part = SpacePool::Part;
    const auto size = [](Part part, uint64_t now, unsigned percent, uint64_t most) {
        return size_after(part, now, percent, most, 64 * kib);
    };
    EXPECT_EQ(size(Part::data, gib, 20, tib), (gib / 100 * 20 + gib + 64 * kib) / (64 * kib) * (64 * kib));
    EXPECT_EQ(size(Part::data, gib, 20, gib + 100 * kib), gib + 64 * kib) << "whole blocks below the most";
    EXPECT_EQ(size(Part::data, 64 * kib, 1, tib), 128 * kib) << "a block at least";
    EXPECT_EQ(size(Part::metadata, 8 * mib, 50, 0), 12 * mib) << "in units of 64 KiB; the most is of data";
    for (const uint64_t most : {uint64_t{0}, gib, gib + 63 * kib}) {
        const auto full = size(Part::data, gib, 20, most);
        ASSERT_FALSE(full) << most;
        EXPECT_EQ(full.error().code(), Errc::ResourceExhausted);
        EXPECT_NE(full.error().text().find("1.0 GiB of data"), std::string::npos) << full.error().text();
    }
    EXPECT_FALSE(size(Part::metadata, 16 * gib, 20, tib)) << "the kernel uses no more";
}

TEST(DevicemapperTables, ThePoolHasWholeBlocks) {
    Attached devices;
    devices.metadata = {"/dev/a", "7:0", 8 * mib};
    devices.data = {"/dev/b", "7:1", 10 * mib + 100 * kib};
    const auto target = pool_target(devices, 64 * kib);
    EXPECT_EQ(target.type, "thin-pool");
    EXPECT_EQ(target.start_sectors, 0U);
    EXPECT_EQ(target.length_sectors, (10 * mib + 64 * kib) / 512);
    EXPECT_EQ(target.parameters, "7:0 7:1 128 0 1 error_if_no_space");
}

TEST(DevicemapperTables, MetadataOnADeviceIsAsItsLabelSays) {
    Config config;
    config.device = "/dev/sdb";
    EXPECT_TRUE(same_metadata(config, 8 * mib)) << "no option";
    config.metadata_bytes = 8 * mib;
    EXPECT_TRUE(same_metadata(config, 8 * mib));
    config.metadata_bytes = 8 * mib - 1;
    EXPECT_TRUE(same_metadata(config, 8 * mib)) << "the label has it rounded up";
    for (const uint64_t other : {8 * mib + 1, 4 * mib, 16 * mib}) {
        config.metadata_bytes = other;
        const auto refused = same_metadata(config, 8 * mib);
        ASSERT_FALSE(refused) << other;
        EXPECT_EQ(refused.error().code(), Errc::FailedPrecondition);
        EXPECT_THAT(refused.error().text(), testing::AllOf(HasSubstr("/dev/sdb"), HasSubstr("metadata_size=8388608"),
                                                           HasSubstr(std::to_string(other))));
    }
}

TEST(DevicemapperVolumes, ListsAreOfPaddedNames) {
    constexpr std::string_view wanted = "vg/shale_0123_meta";
    EXPECT_TRUE(lists_volume("  vg/shale_0123_meta\n", wanted));
    EXPECT_TRUE(lists_volume("  vg/a_longer_name_than_that\n  vg/shale_0123_meta        \n", wanted));
    EXPECT_TRUE(lists_volume("  vg/shale_0123_meta        \r\n  vg/a_longer_name_than_that\n", wanted));
    EXPECT_TRUE(lists_volume("vg/shale_0123_meta", wanted)) << "without an end of line";
    for (const auto *other : {"", "\n", "   ", "  \n \n", "  vg/shale_0123_meta2\n", "  vg/shale_0123_met\n",
                              "  othervg/shale_0123_meta\n", "  vg/shale_0123_data   \n  vg/x vg/shale_0123_meta\n"})
        EXPECT_FALSE(lists_volume(other, wanted)) << other;
}

TEST(DevicemapperNames, ComeFromThePlaceOfTheDirectory) {
    const auto names = [](const char *path) {
        const auto dir = sys::open_dir(AT_FDCWD, path);
        EXPECT_TRUE(dir);
        const auto pool = Pool::open(dir->get(), {});
        EXPECT_TRUE(pool);
        return std::pair((*pool)->name(), (*pool)->device_name(VolumeId{17}));
    };
    const auto [pool, volume] = names("/proc");
    EXPECT_THAT(pool, testing::MatchesRegex("shale-[0-9a-f]+-[0-9a-f]+-pool"));
    EXPECT_EQ(volume, pool.substr(0, pool.size() - 4) + "17");
    EXPECT_NE(names("/sys").first, pool);
    EXPECT_EQ(names("/proc/../proc").first, pool);
}

TEST(DevicemapperState, EachIsNamedWithTheWayOut) {
    Config config;
    ThinPoolStatus status;
    const auto text = [&] {
        const auto done = usable(status, config, "p");
        EXPECT_TRUE(done || done.error().code() == Errc::FailedPrecondition);
        return done ? std::string() : done.error().text();
    };
    EXPECT_THAT(text(), HasSubstr("(Fail)"));
    status.mode = PoolMode::error;
    EXPECT_THAT(text(), HasSubstr("(Error)"));
    status.mode = PoolMode::read_only;
    status.used_metadata_blocks = 127;
    status.total_metadata_blocks = 128;
    EXPECT_THAT(text(), HasSubstr("is read-only"));
    status.used_metadata_blocks = 128;
    EXPECT_THAT(text(), testing::AllOf(HasSubstr("128 of 128"), HasSubstr("Raise metadata_size")));
    config.backing = Backing::volumes;
    EXPECT_THAT(text(), HasSubstr("Raise metadata_size"));
    config.backing = Backing::device;
    EXPECT_THAT(text(), testing::AllOf(HasSubstr("128 of 128"), HasSubstr("shale migrate"),
                                       testing::Not(HasSubstr("Raise metadata_size"))));
    status.needs_check = true;
    EXPECT_THAT(text(), HasSubstr("--clear-needs-check-flag"));
    status = {};
    status.mode = PoolMode::read_write;
    EXPECT_EQ(text(), "");
    status.mode = PoolMode::out_of_data_space;
    EXPECT_EQ(text(), "") << "what is there can be used and removed";
}

TEST(DevicemapperState, RoomIsRefusedWithTheFigures) {
    Config config;
    config.block_bytes = 64 * kib;
    ThinPoolStatus status;
    status.mode = PoolMode::read_write;
    status.total_metadata_blocks = 2048;
    status.total_data_blocks = 1000;
    const auto text = [&] {
        const auto done = has_room(status, config, "p");
        EXPECT_TRUE(done || done.error().code() == Errc::ResourceExhausted);
        return done ? std::string() : done.error().text();
    };
    status.used_metadata_blocks = 2048 * 95 / 100 - 48;
    status.used_data_blocks = 949;
    EXPECT_EQ(text(), "");
    status.used_data_blocks = 950;
    EXPECT_THAT(text(), testing::AllOf(HasSubstr("data space"), HasSubstr("950 of 1000 blocks of 64.0 KiB"),
                                       HasSubstr("95.0 %"), HasSubstr("data_size")));
    status.used_data_blocks = 0;
    ++status.used_metadata_blocks;
    EXPECT_THAT(text(), testing::AllOf(HasSubstr("metadata"), HasSubstr("1898 of 2048 blocks of 4.0 KiB"),
                                       HasSubstr("option metadata_max"), HasSubstr("metadata_size")));
    status.used_metadata_blocks = 0;
    status.mode = PoolMode::out_of_data_space;
    EXPECT_THAT(text(), HasSubstr("data space"));
}

TEST(DevicemapperState, WhereMetadataCannotGrowNobodyIsToldToRaiseIt) {
    Config config;
    config.block_bytes = 64 * kib;
    ThinPoolStatus status;
    status.mode = PoolMode::read_write;
    status.used_metadata_blocks = status.total_metadata_blocks = 2048;
    status.total_data_blocks = 1000;
    const auto text = [&](Backing backing) {
        config.backing = backing;
        const auto done = has_room(status, config, "p");
        EXPECT_FALSE(done);
        return done ? std::string() : done.error().text();
    };
    EXPECT_THAT(text(Backing::loop), HasSubstr("or raise metadata_size"));
    EXPECT_THAT(text(Backing::volumes), HasSubstr("or raise metadata_size"));
    EXPECT_THAT(text(Backing::device),
                testing::AllOf(testing::Not(HasSubstr("raise metadata_size")), HasSubstr("shale migrate")));
    status.used_metadata_blocks = 0;
    status.used_data_blocks = 1000;
    EXPECT_THAT(text(Backing::loop), HasSubstr("or raise data_size"));
    EXPECT_THAT(text(Backing::device), testing::AllOf(HasSubstr("data_size"), HasSubstr("next activation")));
}

TEST(DevicemapperState, APoolWithoutSpaceDidNotTakeAll) {
    Config config;
    config.block_bytes = 64 * kib;
    ThinPoolStatus status;
    status.mode = PoolMode::read_write;
    status.total_metadata_blocks = 2048;
    status.used_data_blocks = status.total_data_blocks = 1000;
    EXPECT_TRUE(took_all(status, config, "p")) << "full, and nothing was dropped";
    status.mode = PoolMode::out_of_data_space;
    const auto dropped = took_all(status, config, "p");
    ASSERT_FALSE(dropped);
    EXPECT_EQ(dropped.error().code(), Errc::ResourceExhausted);
    EXPECT_THAT(dropped.error().text(), HasSubstr("1000 of 1000 blocks of 64.0 KiB"));
    status.mode = PoolMode::read_only;
    EXPECT_EQ(took_all(status, config, "p").error().code(), Errc::FailedPrecondition);
}

TEST(DevicemapperOptions, GoodAndBad) {
    const auto config = read_config({{"data_size", "1T"}, {"fs", "xfs"}, {"mkfs", " -m  crc=1 "}});
    ASSERT_TRUE(config) << config.error().text();
    EXPECT_EQ(config->data_bytes, tib);
    EXPECT_EQ(config->mkfs, (std::vector<std::string>{"-m", "crc=1"}));
    EXPECT_EQ(config->discard, Discard::on);
    EXPECT_EQ(read_config({{"pool", "device"}, {"device", "/dev/sdb"}})->discard, Discard::on);
    EXPECT_EQ(read_config({{"discard", "off"}})->discard, Discard::off);
    for (const auto &bad : std::vector<DriverOptions>{{{"pool", "device"}},
                                                      {{"device", "/dev/sdb"}},
                                                      {{"pool", "device"}, {"device", "sdb"}},
                                                      {{"pool", "vg"}, {"vg", "-x"}},
                                                      {{"block_size", "32K"}},
                                                      {{"block_size", "100K"}},
                                                      {{"base_size", "1M"}},
                                                      {{"data_max", "100"}},
                                                      {{"data_size", "0"}},
                                                      {{"inodes", "5"}},
                                                      {{"size", "5G"}},
                                                      {{"fs", "btrfs"}},
                                                      {{"discard", "auto"}},
                                                      {{"basesize", "10G"}}}) {
        const auto read = read_config(bad);
        ASSERT_FALSE(read) << bad.begin()->first << "=" << bad.begin()->second;
        EXPECT_EQ(read.error().code(), Errc::InvalidArgument);
    }
}

} // namespace
} // namespace shale::drivers::devicemapper
