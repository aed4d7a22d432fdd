// SPDX-License-Identifier: Apache-2.0
#include "doctor/hosts/times.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "probe/test_root.h"

namespace shale::doctor {
namespace {

TEST(Times, AreReadAsGoWritesThem) {
    EXPECT_EQ(rfc3339_s("1970-01-01T00:00:01Z"), 1U);
    EXPECT_EQ(rfc3339_s("2023-04-11T21:13:26.123456789Z"), 1681247606U);
    EXPECT_EQ(rfc3339_s("2023-04-11T23:13:26+02:00"), 1681247606U);
    EXPECT_EQ(rfc3339_s("2026-11-28T13:16:03.123456789Z"), 1795871763U);
    EXPECT_EQ(rfc3339_s("2026-11-28T13:16:03-05:30"), 1795871763U + 19800);
    for (const char *const bad : {"", "0001-01-01T00:00:00Z", "2023-04-11", "2023-13-11T21:13:26Z",
                                  "2023-04-11T21:13:26", "2023-04-11T21:13:26+2:00", "20230411T211326ZZZZZZZZZZ",
                                  "2023-02-30T00:00:00Z", "2026-11-28T13:16:03.Zx", "yyyy-11-28T13:16:03Z"})
        EXPECT_EQ(rfc3339_s(bad), 0U) << bad;
}

TEST(Times, AProcessBegan) {
    const probe::TestRoot root;
    root.file("/proc/stat", "cpu 1 2\nbtime 1000\nprocesses 5\n");
    root.file("/proc/7/stat", "7 (a) b) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4500 1 1\n"); // the name holds anything
    EXPECT_EQ(started_s(root.host(), 7), 1045U);
    EXPECT_EQ(started_s(root.host(), 8), std::nullopt);
    root.file("/proc/8/stat", "8 (cut");
    EXPECT_EQ(started_s(root.host(), 8), std::nullopt);
}

} // namespace
} // namespace shale::doctor
