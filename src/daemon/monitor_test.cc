// SPDX-License-Identifier: Apache-2.0
#include "daemon/monitor.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "sys/fs.h"

namespace shale::daemon {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

constexpr std::chrono::hours ages{1};     ///< patience that no test sees the end of
constexpr std::chrono::seconds hangs{30}; ///< what takes longer does not come
constexpr std::string_view empty_line = "\r\n\r\n";

class Client {
public:
    explicit Client(const std::string &path) : fd_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        const timeval patience{hangs.count(), 0};
        ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::memcpy(address.sun_path, path.data(), path.size());
        EXPECT_EQ(::connect(fd_.get(), reinterpret_cast<const sockaddr *>(&address), sizeof address), 0);
    }
    /// Whether there is still somebody who could read it.
    bool say(std::string_view text) {
        return ::send(fd_.get(), text.data(), text.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(text.size());
    }
    /// All that comes before the other end closes.
    std::string hear() {
        std::string out;
        char buffer[4096];
        ssize_t got = 0;
        while ((got = ::recv(fd_.get(), buffer, sizeof buffer, 0)) > 0)
            out.append(buffer, static_cast<size_t>(got));
        EXPECT_TRUE(got == 0 || errno == ECONNRESET) << "nobody closes: " << std::strerror(errno);
        return out;
    }
    std::string ask(std::string_view path) {
        EXPECT_TRUE(say("GET " + std::string(path) + " HTTP/1.1" + std::string(empty_line)));
        return hear();
    }

private:
    UniqueFd fd_;
};

class MonitorTest : public testing::Test {
protected:
    void SetUp() override {
        char name[] = "/tmp/shale-monitor.XXXXXX";
        ASSERT_NE(mkdtemp(name), nullptr);
        dir_ = name;
        socket_ = dir_ + "/metrics";
    }
    void TearDown() override { EXPECT_TRUE(sys::remove_tree(AT_FDCWD, dir_.c_str())); }
    std::unique_ptr<Monitor> start(std::chrono::milliseconds patience) {
        auto monitor = Monitor::start(socket_, {}, nullptr, patience);
        EXPECT_TRUE(monitor) << monitor.error().text();
        return std::move(*monitor);
    }

    std::string dir_, socket_;
};

TEST_F(MonitorTest, Answers) {
    const auto monitor = start(ages);
    EXPECT_THAT(Client(socket_).ask("/healthz"), StartsWith("HTTP/1.1 200 OK\r\n"));
    EXPECT_THAT(Client(socket_).ask("/metrics?x=1"), HasSubstr("\nshale_build_info{version=\""));
    EXPECT_THAT(Client(socket_).ask("/"), HasSubstr("Content-Type: text/html; charset=utf-8\r\n"));
    EXPECT_THAT(Client(socket_).ask("/dashboard.json"), HasSubstr("\"version\": 1"));
    EXPECT_THAT(Client(socket_).ask("/nothing"), StartsWith("HTTP/1.1 404 Not Found\r\n"));
    Client odd(socket_);
    EXPECT_TRUE(odd.say("what?\r\n\r\n"));
    EXPECT_THAT(odd.hear(), StartsWith("HTTP/1.1 400 Bad Request\r\n"));
}

TEST(MonitorHost, ANameFromElsewhereIsRefused) {
    const auto listener = frontends::listen_loopback("127.0.0.1:0");
    ASSERT_TRUE(listener) << listener.error().text();
    sockaddr_in address{};
    socklen_t size = sizeof address;
    ASSERT_EQ(::getsockname(listener->get(), reinterpret_cast<sockaddr *>(&address), &size), 0);
    const UniqueFd wake(::eventfd(0, EFD_CLOEXEC));
    std::thread server([&] {
        frontends::serve_http(
            listener->get(), wake.get(), [](std::string_view) { return frontends::HttpReply{200, {}, "secret"}; },
            hangs);
    });
    const auto asked_as = [&](std::string_view head) {
        const UniqueFd client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        EXPECT_EQ(::connect(client.get(), reinterpret_cast<const sockaddr *>(&address), sizeof address), 0);
        const std::string request = "GET / HTTP/1.1\r\n" + std::string(head) + "\r\n";
        EXPECT_EQ(::send(client.get(), request.data(), request.size(), MSG_NOSIGNAL),
                  static_cast<ssize_t>(request.size()));
        std::string out(4096, '\0');
        const ssize_t got = ::recv(client.get(), out.data(), out.size(), 0);
        out.resize(got > 0 ? static_cast<size_t>(got) : 0);
        return out;
    };
    for (const auto *head : {"", "Host: localhost\r\n", "host:127.0.0.1:9100\r\n", "A: b\r\nHOST:  LocalHost:1 \r\n",
                             "Host: [::1]:80\r\n", "Host: [::1]\r\n"})
        EXPECT_THAT(asked_as(head), HasSubstr("secret")) << head;
    for (const auto *head : {"Host: example.org\r\n", "Host: 127.0.0.1.example.org\r\n",
                             "Host: localhost.example.org:80\r\n", "Host:\r\n", "A: b\r\nhost: 192.168.0.1\r\n"})
        EXPECT_THAT(asked_as(head), StartsWith("HTTP/1.1 403 Forbidden\r\n")) << head;
    const uint64_t one = 1;
    ASSERT_EQ(::write(wake.get(), &one, sizeof one), static_cast<ssize_t>(sizeof one));
    server.join();
}

TEST_F(MonitorTest, ASlowClientHoldsNobodyUp) {
    const auto monitor = start(ages);
    Client slow(socket_);
    EXPECT_TRUE(slow.say("GET /hea"));
    EXPECT_THAT(Client(socket_).ask("/healthz"), HasSubstr("\r\n\r\nok\n"));
    EXPECT_TRUE(slow.say("lthz HTTP/1.1\r\n"));
    EXPECT_THAT(Client(socket_).ask("/healthz"), HasSubstr("\r\n\r\nok\n"));
    EXPECT_TRUE(slow.say("\r\n"));
    EXPECT_THAT(slow.hear(), HasSubstr("\r\n\r\nok\n")) << "slow, but in time";
}

TEST_F(MonitorTest, AByteNowAndThenBuysNoTime) {
    const auto monitor = start(std::chrono::milliseconds(50));
    Client slow(socket_);
    const auto end = std::chrono::steady_clock::now() + hangs;
    while (slow.say("x") && std::chrono::steady_clock::now() < end)
        std::this_thread::sleep_for(std::chrono::milliseconds(5)); // less than a request's bytes in all that time
    EXPECT_FALSE(slow.say("x")) << "it is served for ever";
}

TEST_F(MonitorTest, TheOldestGivesWay) {
    const auto monitor = start(ages);
    std::vector<Client> idle;
    for (size_t i = 0; i < frontends::max_http_clients; ++i)
        idle.emplace_back(socket_);
    EXPECT_THAT(Client(socket_).ask("/healthz"), HasSubstr("\r\n\r\nok\n"));
    EXPECT_EQ(idle.front().hear(), "");
    EXPECT_THAT(idle.back().ask("/healthz"), HasSubstr("\r\n\r\nok\n"));
}

TEST_F(MonitorTest, AStopWaitsForNoClient) {
    auto monitor = start(ages);
    Client silent(socket_), slow(socket_);
    EXPECT_TRUE(slow.say("GET /hea"));
    EXPECT_THAT(Client(socket_).ask("/healthz"), HasSubstr("\r\n\r\nok\n")) << "the others are accepted by now";
    monitor.reset();
    EXPECT_EQ(silent.hear(), "");
    EXPECT_EQ(slow.hear(), "");
}

TEST_F(MonitorTest, WhoDoesNotReadHoldsNobodyUp) {
    auto listener = sys::UnixListener::listen(socket_, 0600);
    ASSERT_TRUE(listener) << listener.error().text();
    const UniqueFd wake(::eventfd(0, EFD_CLOEXEC));
    std::atomic<int> asked = 0;
    const std::string much(size_t{16} << 20U, 'x'); // more than a socket holds
    std::thread server([&] {
        frontends::serve_http(
            listener->fd(), wake.get(),
            [&](std::string_view path) {
                ++asked;
                return frontends::HttpReply{200, {}, path == "/much" ? much : "little"};
            },
            ages);
    });
    Client never(socket_), late(socket_);
    EXPECT_TRUE(never.say("GET /much HTTP/1.1\r\n\r\n"));
    EXPECT_TRUE(late.say("GET /much HTTP/1.1\r\n\r\n"));
    EXPECT_THAT(Client(socket_).ask("/"), HasSubstr("\r\n\r\nlittle"));
    EXPECT_TRUE(late.hear().ends_with("\r\n\r\n" + much));
    EXPECT_EQ(eventfd_write(wake.get(), 1), 0);
    server.join();
    EXPECT_EQ(asked, 3);
    EXPECT_LT(never.hear().size(), much.size()) << "it was closed in the midst of the answer";
}

/// One whose store can be opened once `blocker` is no file any more.
class ServedTest : public MonitorTest {
protected:
    void SetUp() override {
        MonitorTest::SetUp();
        log_.set(LogFormat::text, LogLevel::error);
        blocker_ = dir_ + "/blocker";
        cli::Snapshotter snapshotter{"two", dir_ + "/two.sock", {}};
        snapshotter.settings.root = blocker_ + "/store";
        snapshotter.settings.driver = "vfs";
        snapshotter.settings.durability = store::Durability::none;
        const UniqueFd file(::open(blocker_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
        ASSERT_TRUE(file);
        auto served = Served::listen(snapshotter, log_);
        ASSERT_TRUE(served) << served.error().text();
        served_.push_back(std::move(*served));
    }

    Log log_;
    std::string blocker_;
    std::vector<std::unique_ptr<Served>> served_;
};

TEST_F(ServedTest, OneThatIsNotOpenIsNamedAndTriedAgain) {
    Served &two = *served_[0];
    EXPECT_FALSE(two.open());
    EXPECT_FALSE(two.is_open());
    EXPECT_THAT(two.failure().value_or(""), HasSubstr(blocker_));
    EXPECT_EQ(health(served_).status, 503);
    EXPECT_THAT(health(served_).body, StartsWith("snapshotter two: "));
    EXPECT_THAT(metrics_text(served_), HasSubstr("\nshale_serving{snapshotter=\"two\"} 0\n"));
    Client client(two.snapshotter().socket);
    EXPECT_TRUE(two.accept());
    EXPECT_EQ(client.hear(), "") << "nobody waits for what may never come";

    ASSERT_EQ(::unlink(blocker_.c_str()), 0);
    two.open_later();
    two.try_again();
    const auto end = std::chrono::steady_clock::now() + hangs;
    while (!two.is_open() && std::chrono::steady_clock::now() < end)
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
    ASSERT_TRUE(two.is_open()) << two.failure().value_or("");
    EXPECT_EQ(health(served_).status, 200) << health(served_).body;
    const std::string metrics = metrics_text(served_);
    EXPECT_THAT(metrics, HasSubstr("\nshale_serving{snapshotter=\"two\"} 1\n"));
    EXPECT_THAT(metrics, HasSubstr("\nshale_sync_failures_total{snapshotter=\"two\"} 0\n"));
    two.stop(std::chrono::milliseconds(0));
}

TEST_F(ServedTest, AStopWaitsForNoNextTry) {
    EXPECT_FALSE(served_[0]->open());
    served_[0]->open_later();
    served_[0]->stop(std::chrono::milliseconds(0)); // comes back at once, not with the next try
    EXPECT_FALSE(served_[0]->is_open());
}

} // namespace
} // namespace shale::daemon
