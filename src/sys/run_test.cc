// SPDX-License-Identifier: Apache-2.0
#include "sys/run.h"

#include <gtest/gtest.h>
#include <signal.h>

#include "sys/seam.h"

namespace shale::sys {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(RunTool, GivesOutputErrorsAndStatus) {
    const auto done = run_tool({"/bin/sh", "-c", "echo out; echo err >&2; exit 3"}, seconds(20));
    ASSERT_TRUE(done) << done.error().text();
    EXPECT_EQ(done->output, "out\n");
    EXPECT_EQ(done->errors, "err\n");
    EXPECT_EQ(done->exit_status, 3);
    const auto failed = run_tool_or_fail({"/bin/sh", "-c", "echo why >&2; exit 3"}, seconds(20));
    ASSERT_FALSE(failed);
    EXPECT_NE(failed.error().text().find("why"), std::string::npos);
}

TEST(RunTool, InheritsNothing) {
    const auto done = run_tool({"/bin/sh", "-c", "ls /proc/self/fd | wc -l; cat; echo $LC_ALL"}, seconds(20));
    ASSERT_TRUE(done) << done.error().text();
    EXPECT_EQ(done->output, "4\nC\n"); // 0 1 2 and ls's own directory
}

TEST(RunTool, OutputIsBounded) {
    const auto done = run_tool({"/bin/sh", "-c", "head -c 3000000 /dev/zero"}, seconds(60));
    ASSERT_TRUE(done) << done.error().text();
    EXPECT_EQ(done->output.size(), size_t{1} << 20U);
}

TEST(RunTool, TheDeadlineKillsItsChildrenToo) {
    const auto done = run_tool({"/bin/sh", "-c", "sleep 1000 & sleep 1000"}, milliseconds(200));
    ASSERT_FALSE(done);
    EXPECT_EQ(done.error().code(), Errc::DeadlineExceeded);
}

TEST(RunTool, TheDeadlineCountsAfterTheOutputIsClosedToo) {
    const auto begin = std::chrono::steady_clock::now();
    const auto done = run_tool({"/bin/sh", "-c", "exec >&- 2>&-; sleep 1000"}, milliseconds(200));
    ASSERT_FALSE(done);
    EXPECT_EQ(done.error().code(), Errc::DeadlineExceeded);
    EXPECT_LT(std::chrono::steady_clock::now() - begin, seconds(20));
}

TEST(RunTool, AChildThatStaysBehindIsNotWaitedFor) {
    const auto begin = std::chrono::steady_clock::now();
    const auto done = run_tool({"/bin/sh", "-c", "sleep 30 & echo $!; exit 5"}, seconds(60));
    ASSERT_TRUE(done) << done.error().text();
    EXPECT_EQ(done->exit_status, 5);
    EXPECT_LT(std::chrono::steady_clock::now() - begin, seconds(20));
    EXPECT_EQ(::kill(std::stoi(done->output), SIGKILL), 0) << done->output;
}

TEST(RunTool, AMissingProgramIsNamed) {
    const auto found = find_tool("no-such-program", "some-package");
    ASSERT_FALSE(found);
    EXPECT_EQ(found.error().code(), Errc::NotFound);
    EXPECT_NE(found.error().text().find("some-package"), std::string::npos);
    const auto done = run_tool({"/nonexistent"}, seconds(20));
    ASSERT_TRUE(done);
    EXPECT_EQ(done->exit_status, 127);
}

TEST(RunTool, PassesTheSeam) {
    class Refuse : public Hook {
    public:
        int before(const Call &call) noexcept override { return call.op == Op::exec ? EAGAIN : 0; }
    } hook;
    set_hook(&hook);
    const auto done = run_tool({"/bin/true"}, seconds(20));
    set_hook(nullptr);
    ASSERT_FALSE(done);
    EXPECT_EQ(done.error().sys_errno(), EAGAIN);
}

} // namespace
} // namespace shale::sys
