// SPDX-License-Identifier: Apache-2.0
#include "guard/evict.h"

#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <map>
#include <set>
#include <thread>
#include <tuple>

#include <fmt/format.h>

#include "base/fd.h"
#include "probe/text.h"
#include "sys/pidfd.h"

namespace shale::guard {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

constexpr milliseconds look_again{50};
constexpr milliseconds kill_patience{5000};
constexpr const char *docker_socket = "/run/docker.sock";

bool wait_until(Clock::time_point deadline, const std::function<bool()> &reached) {
    while (!reached()) {
        if (Clock::now() >= deadline) return false;
        std::this_thread::sleep_for(look_again);
    }
    return true;
}

/// Docker's own: its answer, or nullopt where it is not Docker's or Docker does not answer.
std::optional<std::string> stop_by_docker(const Workload &workload, milliseconds grace) {
    if (workload.id.empty()) return std::nullopt;
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(grace).count();
    const auto status = ask_engine(docker_socket,
                                   fmt::format("POST /containers/{}/stop?t={} HTTP/1.1\r\nHost: docker\r\n"
                                               "Content-Length: 0\r\nConnection: close\r\n\r\n",
                                               workload.id, seconds),
                                   grace + kill_patience);
    constexpr int stopped = 204, was_stopped = 304;
    if (!status || (*status != stopped && *status != was_stopped)) return std::nullopt;
    return "stopped by Docker";
}

/// The processes of a container, by descriptors that were opened while they were in its cgroup: a number may be
/// another's later. One counts until it has ended, which is after it has closed its files, so that what it held is free
/// by then; to /proc/PID it is gone before that.
class Members {
public:
    Members(const probe::Host &host, const Cgroups &cgroups, const Workload &workload)
        : host_(host), cgroups_(cgroups), workload_(workload) {}

    /// Those that are there now; false: none is any more.
    bool look() {
        for (const int pid : processes_of(host_, cgroups_, workload_)) {
            if (open_.contains(pid)) continue;
            auto process = sys::open_process(pid);
            if (process && is_in(host_, cgroups_, workload_, pid)) open_.emplace(pid, std::move(*process));
        }
        std::erase_if(open_, [](const auto &one) { return sys::has_ended(one.second.get()); });
        return !open_.empty();
    }
    /// -1: it is not there.
    [[nodiscard]] int process(int pid) const {
        const auto found = open_.find(pid);
        return found == open_.end() ? -1 : found->second.get();
    }
    void kill_all(std::set<int> &killed) const {
        for (const auto &[pid, process] : open_)
            if (sys::signal_process(process.get(), SIGKILL)) killed.insert(pid);
    }

private:
    const probe::Host &host_;
    const Cgroups &cgroups_;
    const Workload &workload_;
    std::map<int, UniqueFd> open_;
};

bool kill_by_cgroup(const probe::Host &host, const Cgroups &cgroups, const Workload &workload) {
    if (cgroups.unified() == nullptr || workload.unified_group.empty() || workload.of != Workload::Of::io ||
        cgroups.io() == nullptr || !cgroups.io()->unified)
        return false; // where another hierarchy tells containers apart, who shares this one is not known
    const std::string file = file_of(*cgroups.unified(), workload.cgroup, "cgroup.kill");
    return !file.empty() && write_setting(host, cgroups, file, "1").has_value();
}

} // namespace

Result<int> ask_engine(const std::string &socket, const std::string &request, milliseconds deadline) {
    const UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!fd) return fail_errno(errno, "socket");
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (socket.size() >= sizeof address.sun_path) return fail(Errc::InvalidArgument, socket + " is too long a path");
    std::memcpy(address.sun_path, socket.c_str(), socket.size() + 1);
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(deadline).count();
    const timeval wait{.tv_sec = seconds, .tv_usec = 0};
    (void)::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    (void)::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait);
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
    if (::connect(fd.get(), reinterpret_cast<const sockaddr *>(&address), sizeof address) != 0)
        return fail(Errc::Unavailable, fmt::format("connect {}: {}", socket, std::strerror(errno)));
    if (::send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(request.size()))
        return fail_errno(errno, "send to " + socket);
    std::string answer(256, '\0');
    const ssize_t got = ::recv(fd.get(), answer.data(), answer.size(), 0);
    if (got <= 0) return fail(Errc::Unavailable, fmt::format("{} does not answer", socket));
    answer.resize(static_cast<size_t>(got));
    const auto words = probe::words_of(answer.substr(0, answer.find('\r')));
    const auto status =
        words.size() < 2 || !words[0].starts_with("HTTP/1.") ? std::nullopt : probe::to_number(words[1]);
    if (!status || *status > 999) return fail(Errc::Unavailable, fmt::format("{} answers no HTTP", socket));
    return static_cast<int>(*status);
}

const Workload *choose_victim(std::span<const Candidate> candidates,
                              const std::function<uint64_t(const Workload &)> &taken) {
    std::vector<Candidate> able;
    for (const Candidate &one : candidates)
        if (one.workload->qos != Qos::critical) able.push_back(one);
    if (able.empty()) return nullptr;
    const auto first = [](const Candidate &a, const Candidate &b) {
        return std::tuple(a.workload->qos, b.written_bytes) < std::tuple(b.workload->qos, a.written_bytes);
    };
    const Candidate best = *std::ranges::min_element(able, first);
    std::erase_if(able, [&](const Candidate &one) { return first(best, one); });
    if (able.size() == 1) return best.workload;
    const auto most = std::ranges::max_element(able, {}, [&](const Candidate &one) { return taken(*one.workload); });
    return most->workload;
}

Outcome end(const probe::Host &host, const Cgroups &cgroups, const Workload &workload, milliseconds grace) {
    Outcome out;
    const auto note = [&](std::string text) { out.evidence.push_back(std::move(text)); };
    Members members(host, cgroups, workload);
    if (!members.look()) return out;
    if (auto stopped = stop_by_docker(workload, grace)) {
        note(std::move(*stopped));
    } else if (const int process = members.process(workload.init); process >= 0) {
        const auto asked = Clock::now();
        if (const auto sent = sys::signal_process(process, SIGTERM); !sent) note(sent.error().text());
        const bool ended = wait_until(asked + grace, [&] { return sys::has_ended(process); });
        note(fmt::format("SIGTERM to process {}: {} {} ms", workload.init, ended ? "ended after" : "still there after",
                         std::chrono::duration_cast<milliseconds>(Clock::now() - asked).count()));
    }
    if (!members.look()) return out;
    if (kill_by_cgroup(host, cgroups, workload)) note(fmt::format("cgroup.kill of {}", workload.cgroup));
    std::set<int> killed;
    const bool gone = wait_until(Clock::now() + kill_patience, [&] {
        if (!members.look()) return true;
        members.kill_all(killed);
        return false;
    });
    if (!killed.empty()) note(fmt::format("SIGKILL to {} processes of {}", killed.size(), workload.cgroup));
    if (gone) return out;
    out.ok = false;
    note(fmt::format("{} has processes after {} s of killing", workload.cgroup,
                     std::chrono::duration_cast<std::chrono::seconds>(kill_patience).count()));
    return out;
}

} // namespace shale::guard
