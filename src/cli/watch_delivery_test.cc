// SPDX-License-Identifier: Apache-2.0
#include "cli/watch_delivery.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <fstream>
#include <iterator>
#include <string>

namespace shale::cli {
namespace {

constexpr int64_t time_ns = 1'700'000'000'500'000'000;

WatchEvent event(std::string kind, std::string path) {
    return {.time_ns = time_ns,
            .kind = std::move(kind),
            .path = std::move(path),
            .inode_before = 7,
            .inode_after = 0,
            .source = "",
            .is_stale = false};
}

TEST(WatchEventTest, HostileNamesStayOnTheirLine) {
    EXPECT_EQ(event_line(event("deleted", "/etc/a\n2023 replaced /x\x1b[2J")),
              "2023-11-14T22:13:20.5Z deleted    /etc/a\\x0a2023 replaced /x\\x1b[2J\n");
    WatchEvent one = event("deleted", "/a\n\"\xff");
    EXPECT_EQ(event_json(one),
              "{\"time\":\"2023-11-14T22:13:20.5Z\",\"event\":\"deleted\",\"path\":\"/a\\n\\\"\xEF\xBF\xBD\","
              "\"inode_before\":7,\"inode_after\":null}\n");
    one.source = "/srv/a";
    one.is_stale = true;
    EXPECT_TRUE(event_json(one).ends_with(",\"source\":\"/srv/a\",\"stale\":true}\n")) << event_json(one);
}

TEST(SignalTest, NamesAndNumbers) {
    for (const char *text : {"HUP", "SIGHUP", "hup", "1"})
        EXPECT_EQ(parse_signal(text).value_or(0), SIGHUP) << text;
    EXPECT_EQ(parse_signal("USR1").value_or(0), SIGUSR1);
    for (const char *text : {"", "0", "-1", "9999", "SIG", "FROB", "1x"})
        EXPECT_EQ(parse_signal(text).error().code(), Errc::InvalidArgument) << text;
}

class CommandRunnerTest : public testing::Test {
protected:
    void SetUp() override {
        std::string name = testing::TempDir() + "shale-run-XXXXXX";
        const int fd = ::mkstemp(name.data());
        ASSERT_GE(fd, 0);
        ::close(fd);
        out_ = name;
        ::setenv("SHALE_TEST_OUT", out_.c_str(), 1);
        sigemptyset(&none_);
    }
    void TearDown() override { ::unlink(out_.c_str()); }
    void finish(CommandRunner &runner) const {
        for (int i = 0; i < 100 && runner.is_busy(); ++i) {
            runner.step();
            pollfd ended{runner.fd(), POLLIN, 0};
            if (runner.fd() >= 0) ::poll(&ended, 1, 10'000);
        }
        EXPECT_FALSE(runner.is_busy());
    }
    [[nodiscard]] std::string written() const {
        std::ifstream in(out_);
        return {std::istreambuf_iterator<char>(in), {}};
    }
    std::string out_;
    sigset_t none_{};
};

TEST_F(CommandRunnerTest, OneAtATimeWithTheEventInItsEnvironment) {
    CommandRunner runner({"sh", "-c", "printf '%s %s;' \"$SHALE_EVENT\" \"$SHALE_PATH\" >>\"$SHALE_TEST_OUT\""}, none_,
                         022);
    runner.add(event("replaced", "/a b"));
    runner.step();
    runner.add(event("created", "/c"));
    runner.add(event("modified", "/c")); // it waits: the last one counts
    runner.add(event("deleted", "/d"));
    EXPECT_EQ(runner.fd() >= 0, true);
    finish(runner);
    EXPECT_EQ(written(), "replaced /a b;modified /c;deleted /d;");
}

TEST_F(CommandRunnerTest, AFailureIsNotTheEnd) {
    CommandRunner missing({"/nonexistent/program"}, none_, 022);
    missing.add(event("created", "/a"));
    finish(missing);
    CommandRunner runner({"sh", "-c", "printf x >>\"$SHALE_TEST_OUT\"; exit 3"}, none_, 022);
    runner.add(event("created", "/a"));
    runner.add(event("created", "/b"));
    finish(runner);
    EXPECT_EQ(written(), "xx");
}

TEST_F(CommandRunnerTest, WithoutACommandNothingRuns) {
    CommandRunner runner({}, none_, 022);
    runner.add(event("created", "/a"));
    runner.step();
    EXPECT_FALSE(runner.is_busy());
}

} // namespace
} // namespace shale::cli
