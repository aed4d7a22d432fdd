// SPDX-License-Identifier: Apache-2.0
#include "lab/keeper.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <ranges>
#include <thread>
#include <vector>

#include "sys/dm.h"
#include "sys/fs.h"
#include "sys/run.h"

namespace shale::lab {
namespace {

using namespace std::chrono_literals;

constexpr char cgroup_kind = 'c', devices_kind = 'd', pool_kind = 'z';

/// Tries until it is done, for ten seconds: what was killed may be on its way out still.
template <class F> void insist(F &&done) {
    for (int tries = 0; tries < 200; ++tries) {
        if (done()) return;
        std::this_thread::sleep_for(50ms);
    }
}

bool remove_devices(const std::string &prefix) {
    const auto names = sys::dm_names();
    if (!names) return true; // no device-mapper
    bool all = true;
    for (const auto &name : *names)
        if (name.starts_with(prefix) && !sys::dm_remove(name, sys::DmRemove::now)) all = false;
    return all;
}

void remove(char kind, const std::string &what) {
    switch (kind) {
    case cgroup_kind:
        insist([&] { return ::rmdir(what.c_str()) == 0 || errno == ENOENT; });
        break;
    case devices_kind:
        insist([&] { return remove_devices(what); });
        break;
    case pool_kind:
        if (const auto zpool = sys::find_tool("zpool", "zfsutils-linux")) {
            insist([&] {
                const auto known = sys::run_tool({*zpool, "list", "-H", "-o", "name", what}, 30s);
                if (!known || known->exit_status != 0) return true;
                const auto gone = sys::run_tool({*zpool, "destroy", "-f", what}, 60s);
                return gone && gone->exit_status == 0;
            });
        }
        break;
    default:
        break;
    }
}

[[noreturn]] void keep(int pipe) {
    ::setsid();
    for (const int number : {SIGHUP, SIGINT, SIGTERM, SIGPIPE})
        ::signal(number, SIG_IGN);
    std::string told;
    std::array<std::byte, 4096> piece{};
    for (;;) {
        const auto got = sys::read_some(pipe, piece);
        if (!got || *got == 0) break;
        told.append(reinterpret_cast<const char *>(piece.data()), *got);
    }
    std::vector<std::string> lines;
    for (const auto line : std::views::split(told, '\n'))
        if (!line.empty()) lines.emplace_back(line.begin(), line.end());
    for (const auto &line : lines | std::views::reverse)
        remove(line.front(), line.substr(1));
    ::_exit(0);
}

} // namespace

Result<Keeper> Keeper::start() {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) return fail_errno(errno, "pipe");
    UniqueFd read(ends[0]), write(ends[1]);
    const pid_t process = ::fork();
    if (process < 0) return fail_errno(errno, "fork");
    if (process == 0) {
        write.reset();
        ::close_range(3, static_cast<unsigned>(read.get()) - 1, 0);
        ::close_range(static_cast<unsigned>(read.get()) + 1, ~0U, 0);
        keep(read.get());
    }
    return Keeper(std::move(write), process);
}

Keeper::~Keeper() {
    pipe_.reset();
    if (process_ > 0)
        while (::waitpid(process_, nullptr, 0) < 0 && errno == EINTR) {
        }
}

Status Keeper::tell(char kind, const std::string &what) const {
    if (what.find('\n') != std::string::npos || what.size() > 1000)
        return fail(Errc::InvalidArgument, fmt::format("{:?} cannot be kept", what));
    const std::string line = kind + what + "\n"; // at most PIPE_BUF: in one piece
    return sys::write_all(pipe_.get(), std::as_bytes(std::span(line)));
}

Status Keeper::cgroup(const std::string &path) const {
    return tell(cgroup_kind, path);
}

Status Keeper::devices(const std::string &prefix) const {
    return tell(devices_kind, prefix);
}

Status Keeper::zfs_pool(const std::string &name) const {
    return tell(pool_kind, name);
}

} // namespace shale::lab
