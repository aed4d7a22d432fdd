// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstdlib>
#include <cstring>

#include "base/fd.h"
#include "daemon/args.h"
#include "daemon/log.h"
#include "daemon/notify.h"

namespace shale::daemon {
namespace {

using testing::HasSubstr;

TEST(ShaledArguments, Flags) {
    const auto line =
        parse_command_line({"--root", "/r", "--driver=vfs", "--listen", "unix:///run/x.sock", "--storage-opt",
                            "size=1G", "--metrics=127.0.0.1:9", "--log-format", "json", "--log-level=warn"});
    ASSERT_TRUE(line) << line.error().text();
    const cli::Source &flags = line->globals.flags;
    ASSERT_EQ(flags.snapshotters.size(), 1U);
    EXPECT_EQ(flags.snapshotters[0].root, "/r");
    EXPECT_EQ(flags.snapshotters[0].driver, "vfs");
    EXPECT_EQ(flags.snapshotters[0].socket, "/run/x.sock");
    ASSERT_EQ(flags.storage_opts.size(), 1U);
    EXPECT_EQ(flags.metrics, "127.0.0.1:9");
    EXPECT_EQ(flags.log_format, "json");
    EXPECT_EQ(flags.log_level, "warn");
    EXPECT_TRUE(parse_command_line({"--config", "/x"})->globals.flags.snapshotters.empty());
}

TEST(ShaledArguments, WrongOnes) {
    for (const auto &words : {std::vector<std::string>{"--root"}, {"--rot", "/r"}, {"serve"}, {""}}) {
        const auto line = parse_command_line(words);
        ASSERT_FALSE(line);
        EXPECT_EQ(line.error().code(), Errc::InvalidArgument);
        EXPECT_THAT(line.error().text(), HasSubstr("--help"));
    }
}

TEST(Log, Text) {
    EXPECT_EQ(format_event(LogFormat::text, LogLevel::warning, 0, "call failed",
                           {{"key", "a b\n"}, {"code", "NotFound"}, {"empty", ""}}),
              "warning call failed key=\"a b\\n\" code=NotFound empty=\"\"\n");
}

TEST(Log, Json) {
    EXPECT_EQ(format_event(LogFormat::json, LogLevel::error, 1'000'000'000, "say \"x\"", {{"key", "\x1b[0m\xff"}}),
              "{\"time\":\"1970-01-01T00:00:01Z\",\"level\":\"error\",\"message\":\"say \\\"x\\\"\","
              "\"key\":\"\\u001b[0m\xEF\xBF\xBD\"}\n");
    const std::string line =
        format_event(LogFormat::json, LogLevel::info, 0, "m", {{"key", std::string(100'000, 'x')}});
    EXPECT_LT(line.size(), 2'000U) << "a stranger does not choose how much is written";
}

TEST(Log, Levels) {
    EXPECT_EQ(parse_log_level("warn"), LogLevel::warning);
    EXPECT_EQ(parse_log_level("error"), LogLevel::error);
    EXPECT_EQ(parse_log_level("loud"), std::nullopt);
    EXPECT_EQ(parse_log_format("xml"), std::nullopt);
    Log log;
    EXPECT_FALSE(log.says(LogLevel::debug));
    log.set(LogFormat::text, LogLevel::debug);
    EXPECT_TRUE(log.says(LogLevel::debug));
}

TEST(Notify, WordsArrive) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const std::string name = "@shale-notify-test-" + std::to_string(getpid());
    std::memcpy(address.sun_path, name.data(), name.size());
    address.sun_path[0] = '\0';
    UniqueFd fd(::socket(AF_UNIX, SOCK_DGRAM, 0));
    ASSERT_EQ(::bind(fd.get(), reinterpret_cast<const sockaddr *>(&address),
                     static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size())),
              0);
    setenv("NOTIFY_SOCKET", name.c_str(), 1);
    const auto told = [&](std::string_view state) {
        EXPECT_TRUE(notify(state));
        char text[200];
        return std::string(text, static_cast<size_t>(::recv(fd.get(), text, sizeof text, MSG_DONTWAIT)));
    };
    EXPECT_EQ(told("READY=1\nSTATUS=x"), "READY=1\nSTATUS=x");
    EXPECT_THAT(told("RELOADING=1"), testing::MatchesRegex("RELOADING=1\nMONOTONIC_USEC=[0-9]+"));
    setenv("NOTIFY_SOCKET", "relative", 1);
    EXPECT_EQ(notify("READY=1").error().code(), Errc::InvalidArgument);
    unsetenv("NOTIFY_SOCKET");
    EXPECT_TRUE(notify("READY=1"));
}

} // namespace
} // namespace shale::daemon
