// SPDX-License-Identifier: Apache-2.0
#include "guard/resource.h"

#include <gtest/gtest.h>

#include <limits>

namespace shale::guard {
namespace {

constexpr uint64_t most = std::numeric_limits<uint64_t>::max();

TEST(Resource, NamesGoBothWays) {
    for (const auto &[kind, name] : kind_names) {
        EXPECT_EQ(name_of(kind), name);
        EXPECT_EQ(kind_named(name), kind);
    }
    EXPECT_EQ(kind_named("byte"), std::nullopt);
    EXPECT_EQ(kind_named(""), std::nullopt);
}

TEST(Resource, FreeIsNeverNegative) {
    EXPECT_EQ(free_of({Kind::bytes, "/", 30, 100}), 70U);
    EXPECT_EQ(free_of({Kind::btrfs_qgroup, "/", 130, 100}), 0U);
    EXPECT_EQ(free_of({Kind::bytes, "/", 5, 0}), 0U);
}

TEST(Resource, PercentagesAreExactAndDoNotOverflow) {
    EXPECT_EQ(amount_at(1000, 90), 900U);
    EXPECT_EQ(amount_at(7, 90), 7U) << "6.3: six of seven are less than 90 %";
    EXPECT_EQ(amount_at(0, 90), 0U);
    EXPECT_EQ(amount_at(most, 100), most);
    EXPECT_EQ(amount_at(most, 400), most);
    EXPECT_EQ(amount_at(most, 50), most / 2 + 1);
    // 90 % of 2^64 - 1 is 16,602,069,666,338,596,453.5
    EXPECT_EQ(amount_at(most, 90), 16'602'069'666'338'596'454U);
    EXPECT_TRUE(is_at({Kind::bytes, "/", most, most}, 100));
    EXPECT_FALSE(is_at({Kind::bytes, "/", most - 1, most}, 100));
    EXPECT_TRUE(is_at({Kind::bytes, "/", 900, 1000}, 90));
    EXPECT_FALSE(is_at({Kind::bytes, "/", 899, 1000}, 90));
}

TEST(Resource, WithoutATotalNothingIsNear) {
    EXPECT_FALSE(is_at({Kind::inodes, "/", 5, 0}, 0));
    EXPECT_FALSE(is_at({Kind::inodes, "/", most, 0}, 100));
    EXPECT_EQ(percent_of({Kind::inodes, "/", 5, 0}), 0);
    EXPECT_EQ(text_of({Kind::inodes, "/", 1234, 0, "inodes"}), "1,234 inodes in use, without a limit");
}

TEST(Resource, TextHasTheFigures) {
    EXPECT_EQ(text_of({Kind::bytes, "/", uint64_t{45} << 30U, uint64_t{50} << 30U}),
              "90.0 % in use (45.0 GiB of 50.0 GiB), 5.0 GiB free");
    EXPECT_EQ(text_of({Kind::inodes, "/", 89'999, 100'000, "inodes"}),
              "89.9 % in use (89,999 inodes of 100,000 inodes), 10,001 inodes free");
    EXPECT_EQ(text_of({Kind::depth, "layer 7", 600, 500, "layers"}),
              "120.0 % in use (600 layers of 500 layers), 0 layers free");
    EXPECT_EQ(text_of({Kind::depth, "layer 7", 899'999'999'999'999'999, 1'000'000'000'000'000'000, ""}).substr(0, 4),
              "89.9");
    // Floats say 28.999999999999996 for 29 of 100.
    EXPECT_EQ(text_of({Kind::depth, "layer 7", 29, 100, "layers"}),
              "29.0 % in use (29 layers of 100 layers), 71 layers free");
}

} // namespace
} // namespace shale::guard
