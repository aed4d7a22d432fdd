// SPDX-License-Identifier: Apache-2.0
#include "frontends/http.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <limits>
#include <utility>
#include <vector>

#include "sys/unix_socket.h"

namespace shale::frontends {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t max_request_bytes = 16'384;
constexpr std::chrono::milliseconds accept_pause{100}; ///< when descriptors or memory are short: some will end

std::string_view reason(int status) {
    switch (status) {
    case 200:
        return "OK";
    case 403:
        return "Forbidden";
    case 404:
        return "Not Found";
    case 405:
        return "Method Not Allowed";
    case 503:
        return "Service Unavailable";
    default:
        return "Bad Request";
    }
}

bool equals_without_case(std::string_view one, std::string_view other) {
    return std::ranges::equal(one, other, [](char a, char b) {
        const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; };
        return lower(a) == lower(b);
    });
}

/// Of the Host of a request over loopback: that is asked for by a name of this machine. A page from elsewhere whose
/// name was made to mean 127.0.0.1 (DNS rebinding) has its own there. No Host: a program.
bool is_local(std::string_view head) {
    for (size_t at = head.find("\r\n"); at != std::string_view::npos && at + 2 < head.size();) {
        const size_t end = head.find("\r\n", at + 2);
        const std::string_view line = head.substr(at + 2, end == std::string_view::npos ? end : end - at - 2);
        at = end;
        const size_t colon = line.find(':');
        if (colon == std::string_view::npos || !equals_without_case(line.substr(0, colon), "host")) continue;
        std::string_view host = line.substr(colon + 1);
        while (host.starts_with(' ') || host.starts_with('\t'))
            host.remove_prefix(1);
        while (host.ends_with(' ') || host.ends_with('\t'))
            host.remove_suffix(1);
        const size_t port = host.rfind(':');
        if (port != std::string_view::npos && host.find(']', port) == std::string_view::npos)
            host = host.substr(0, port);
        return equals_without_case(host, "localhost") || host == "127.0.0.1" || host == "[::1]";
    }
    return true;
}

enum class From : uint8_t { loopback, unix_socket }; ///< the latter's file has permissions

From family_of(int listener) {
    sockaddr_storage address{};
    socklen_t size = sizeof address;
    const bool is_unix =
        ::getsockname(listener, reinterpret_cast<sockaddr *>(&address), &size) == 0 && address.ss_family == AF_UNIX;
    return is_unix ? From::unix_socket : From::loopback;
}

HttpReply answer(std::string_view head, From from, const HttpHandler &handler) {
    const std::string_view line = head.substr(0, head.find("\r\n"));
    const size_t method = line.find(' '), target = line.rfind(' ');
    if (method == std::string_view::npos || target == method || !line.substr(target).starts_with(" HTTP/1."))
        return {400, {}, "not a request of HTTP/1\n"};
    const std::string_view verb = line.substr(0, method);
    if (verb != "GET" && verb != "HEAD") return {405, {}, "only GET and HEAD\n"};
    if (from == From::loopback && !is_local(head))
        return {403, {}, "ask by localhost, 127.0.0.1 or [::1]: the Host is another\n"};
    const std::string_view path = line.substr(method + 1, target - method - 1);
    return handler(path.substr(0, path.find('?')));
}

/// The answer as it goes over the wire.
std::string reply_text(std::string_view head, From from, const HttpHandler &handler) {
    HttpReply reply = answer(head, from, handler);
    if (reply.type.empty()) reply.type = HttpReply().type;
    std::string text =
        fmt::format("HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    reply.status, reason(reply.status), reply.type, reply.body.size());
    if (!head.starts_with("HEAD ")) text += reply.body;
    return text;
}

/// One connection: its request arrives, then its answer leaves. No step waits.
class Exchange {
public:
    Exchange(UniqueFd connection, Clock::time_point deadline)
        : connection_(std::move(connection)), deadline_(deadline) {}

    [[nodiscard]] Clock::time_point deadline() const noexcept { return deadline_; }
    [[nodiscard]] bool over() const noexcept { return over_; }
    [[nodiscard]] pollfd waits_for() const noexcept {
        return {connection_.get(), static_cast<short>(reply_.empty() ? POLLIN : POLLOUT), 0};
    }
    /// When waits_for() has come.
    void step(const HttpHandler &handler, From from, std::chrono::milliseconds patience) {
        if (reply_.empty()) {
            if (!receive()) return;
            reply_ = reply_text(head_, from, handler);
            deadline_ = Clock::now() + patience; // the time that the handler took is not the client's
        }
        send();
    }

private:
    /// Whether the request is there, up to its empty line.
    bool receive() {
        char buffer[2048];
        const ssize_t got = ::recv(connection_.get(), buffer, sizeof buffer, MSG_DONTWAIT);
        if (got <= 0) {
            over_ = got == 0 || (errno != EAGAIN && errno != EINTR);
            return false;
        }
        head_.append(buffer, static_cast<size_t>(got));
        if (head_.contains("\r\n\r\n")) return true;
        over_ = head_.size() >= max_request_bytes;
        return false;
    }
    void send() {
        const ssize_t sent =
            ::send(connection_.get(), reply_.data() + sent_, reply_.size() - sent_, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0) {
            over_ = errno != EAGAIN && errno != EINTR;
            return;
        }
        sent_ += static_cast<size_t>(sent);
        if (sent_ < reply_.size()) return;
        ::shutdown(connection_.get(), SHUT_WR);
        over_ = true;
    }

    UniqueFd connection_;
    Clock::time_point deadline_;
    std::string head_, reply_;
    size_t sent_ = 0; ///< of reply_
    bool over_ = false;
};

/// For poll(2): not before `until`; -1 for the end of time.
int timeout_ms(Clock::time_point now, Clock::time_point until) {
    if (until == Clock::time_point::max()) return -1;
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - now).count();
    return static_cast<int>(std::clamp<int64_t>(left, 0, std::numeric_limits<int>::max()));
}

} // namespace

void serve_http(int listener, int wake, const HttpHandler &handler, std::chrono::milliseconds patience) {
    const From from = family_of(listener);
    std::vector<Exchange> open; // from the oldest to the newest
    std::vector<pollfd> waiting;
    Clock::time_point accept_from; // poll passes over a negative descriptor: there is no turning in the meantime
    while (true) {
        const auto now = Clock::now();
        const bool accepts = now >= accept_from;
        waiting.assign({{wake, POLLIN, 0}, {accepts ? listener : -1, POLLIN, 0}});
        auto until = accepts ? Clock::time_point::max() : accept_from;
        for (const Exchange &one : open) {
            waiting.push_back(one.waits_for());
            until = std::min(until, one.deadline());
        }
        if (::poll(waiting.data(), waiting.size(), timeout_ms(now, until)) < 0 && errno != EINTR) return;
        if (waiting[0].revents != 0) return;
        // What has come is looked at before deadlines are: it may have waited for another's answer.
        for (size_t i = 0; i < open.size(); ++i)
            if (waiting[i + 2].revents != 0) open[i].step(handler, from, patience);
        const auto then = Clock::now();
        std::erase_if(open, [&](const Exchange &one) { return one.over() || one.deadline() <= then; });
        if (waiting[1].revents == 0) continue;
        auto connection = sys::accept_one(listener);
        if (!connection) {
            accept_from = Clock::now() + accept_pause;
        } else if (*connection) {
            if (open.size() == max_http_clients) open.erase(open.begin());
            open.emplace_back(std::move(*connection), Clock::now() + patience);
        }
    }
}

Result<UniqueFd> listen_loopback(std::string_view address) {
    const size_t colon = address.rfind(':');
    const std::string_view host = address.substr(0, colon);
    const std::string_view digits = colon == std::string_view::npos ? std::string_view() : address.substr(colon + 1);
    uint16_t port = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), port);
    const bool six = host == "[::1]";
    if ((!six && host != "127.0.0.1" && host != "localhost") || digits.empty() || error != std::errc() ||
        end != digits.data() + digits.size())
        return fail(
            Errc::InvalidArgument,
            fmt::format("metrics address \"{}\" must be 127.0.0.1:PORT, [::1]:PORT or the path of a socket", address));
    UniqueFd fd(::socket(six ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd) return fail_errno(errno, "socket");
    const int yes = 1;
    ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    sockaddr_in four{};
    four.sin_family = AF_INET;
    four.sin_port = htons(port);
    four.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    sockaddr_in6 long_one{};
    long_one.sin6_family = AF_INET6;
    long_one.sin6_port = htons(port);
    long_one.sin6_addr = in6addr_loopback;
    const auto *where = six ? reinterpret_cast<const sockaddr *>(&long_one) : reinterpret_cast<const sockaddr *>(&four);
    if (::bind(fd.get(), where, six ? sizeof long_one : sizeof four) != 0 || ::listen(fd.get(), 16) != 0)
        return fail_errno(errno, fmt::format("listen at {}", address));
    return fd;
}

} // namespace shale::frontends
