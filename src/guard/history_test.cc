// SPDX-License-Identifier: Apache-2.0
#include "guard/history.h"

#include <gtest/gtest.h>

namespace shale::guard {
namespace {

std::vector<Row> rows(uint64_t used) {
    Row row;
    row.sample = {Kind::inodes, "/data", used, 1000, "inodes"};
    return {row};
}

TEST(History, KeepsTheLastHourOfWhatIsThere) {
    History history;
    for (uint64_t i = 0; i < 400; ++i)
        history.add(rows(i), Time(Duration(10'000 * i)));
    const auto points = history.of(Kind::inodes, "/data");
    ASSERT_EQ(points.size(), History::most_points);
    EXPECT_EQ(points.front().percent, 4.0);
    EXPECT_EQ(points.back().percent, 39.9);
    EXPECT_EQ(points.back().time, Time(Duration(3'990'000)));
    EXPECT_TRUE(history.of(Kind::bytes, "/data").empty());
    history.add({}, Time(Duration(4'000'000)));
    EXPECT_TRUE(history.of(Kind::inodes, "/data").empty());
}

} // namespace
} // namespace shale::guard
