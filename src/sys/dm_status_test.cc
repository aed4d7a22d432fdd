// SPDX-License-Identifier: Apache-2.0
// The lines are a Linux 6.1 kernel's own (thin-pool 1.22.0), each brought about on purpose.
#include "sys/dm_status.h"

#include <gtest/gtest.h>

#include <string>

namespace shale::sys {
namespace {

using Discard = ThinPoolStatus::Discard;

ThinPoolStatus pool(std::string_view text) {
    const auto out = parse_thin_pool_status(text);
    EXPECT_TRUE(out) << out.error().text();
    return out.value_or(ThinPoolStatus{});
}

TEST(ThinPoolStatus, Fresh) {
    const auto status = pool("0 111/1024 0/4096 - rw no_discard_passdown queue_if_no_space - 256 ");
    EXPECT_EQ(status.mode, PoolMode::read_write);
    EXPECT_EQ(status.transaction, 0U);
    EXPECT_EQ(status.used_metadata_blocks, 111U);
    EXPECT_EQ(status.total_metadata_blocks, 1024U);
    EXPECT_EQ(status.used_data_blocks, 0U);
    EXPECT_EQ(status.total_data_blocks, 4096U);
    EXPECT_FALSE(status.held_root);
    EXPECT_EQ(status.discard, Discard::not_passed_down);
    EXPECT_FALSE(status.error_if_no_space);
    EXPECT_FALSE(status.needs_check);
    EXPECT_EQ(status.metadata_low_water_blocks, 256U);
    EXPECT_EQ(pool("0 29/128 0/131072 - rw no_discard_passdown queue_if_no_space - 32 ").total_metadata_blocks, 128U);
}

TEST(ThinPoolStatus, MetadataSnapshotAndTransaction) {
    const auto status = pool("7 121/1024 702/4096 178 rw no_discard_passdown queue_if_no_space - 256 ");
    EXPECT_EQ(status.transaction, 7U);
    EXPECT_EQ(status.held_root, 178U);
    EXPECT_EQ(status.used_data_blocks, 702U);
}

TEST(ThinPoolStatus, Features) {
    EXPECT_EQ(pool("0 111/1024 0/256 - ro discard_passdown queue_if_no_space - 256 ").mode, PoolMode::read_only);
    EXPECT_EQ(pool("0 111/1024 0/256 - rw ignore_discard queue_if_no_space - 256 ").discard, Discard::ignored);
    EXPECT_EQ(pool("1 112/1024 0/4096 - rw discard_passdown queue_if_no_space - 256 ").discard, Discard::passed_down);
}

TEST(ThinPoolStatus, OutOfData) {
    auto status = pool("0 114/1024 256/256 - out_of_data_space discard_passdown queue_if_no_space - 256 ");
    EXPECT_EQ(status.mode, PoolMode::out_of_data_space);
    EXPECT_FALSE(status.error_if_no_space);
    status = pool("0 114/1024 256/256 - out_of_data_space discard_passdown error_if_no_space - 256 ");
    EXPECT_TRUE(status.error_if_no_space);
    EXPECT_EQ(pool("0 114/1024 256/512 - rw discard_passdown queue_if_no_space - 256 ").mode, PoolMode::read_write);
}

TEST(ThinPoolStatus, OutOfMetadataIsReadOnlyAndFull) {
    const auto status = pool("0 128/128 24061/131072 - ro no_discard_passdown queue_if_no_space - 32 ");
    EXPECT_EQ(status.mode, PoolMode::read_only);
    EXPECT_EQ(status.used_metadata_blocks, status.total_metadata_blocks);
    EXPECT_FALSE(status.needs_check);
}

TEST(ThinPoolStatus, FailErrorAndNeedsCheck) {
    EXPECT_EQ(pool("Fail").mode, PoolMode::failed);
    EXPECT_EQ(pool("Error").mode, PoolMode::error);
    const auto status = pool("0 112/1024 64/512 - ro discard_passdown queue_if_no_space needs_check 256 ");
    EXPECT_EQ(status.mode, PoolMode::read_only);
    EXPECT_TRUE(status.needs_check);
}

TEST(ThinPoolStatus, OlderKernelsSayLess) {
    EXPECT_FALSE(pool("0 111/1024 0/4096 - rw discard_passdown queue_if_no_space -").metadata_low_water_blocks);
    EXPECT_EQ(pool("0 111/1024 0/4096 - rw").mode, PoolMode::read_write);
}

TEST(ThinPoolStatus, OtherTextIsRefused) {
    for (const auto *text :
         {"", " ", "Fail 1", "0", "0 1/2 3/4 -", "0 1/2 3/4 - sideways", "0 3/2 3/4 - rw", "0 1/2 5/4 - rw",
          "-1 1/2 3/4 - rw", "0 1 3/4 - rw", "0 1/2 3/4 x rw", "0 1/2 3/4 - rw new_feature", "0 1/2 3/4 - rw 5 -",
          "99999999999999999999 1/2 3/4 - rw", "0 1/ 3/4 - rw", "0 /2 3/4 - rw"}) {
        const auto out = parse_thin_pool_status(text);
        EXPECT_FALSE(out) << text;
        if (!out) {
            EXPECT_EQ(out.error().code(), Errc::InvalidArgument);
        }
    }
    EXPECT_FALSE(parse_thin_pool_status("0 1/2 3/4 - rw" + std::string(100'000, ' ')));
}

} // namespace
} // namespace shale::sys
