// SPDX-License-Identifier: Apache-2.0
// shaled with ten thousand snapshots in a memory control group of 48 MiB, eight clients on it: nothing is refused, and
// the kernel kills nobody. The store lies on a disk, for the pages of a tmpfs would count as shaled's.
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "support/shaled.h"
#include "support/snapshot_client.h"
#include "support/world.h"
#include "sys/fs.h"

namespace shale::test {
namespace {

constexpr uint64_t limit_bytes = uint64_t{48} << 20U;
constexpr unsigned snapshots = 10'000, clients = 8, rounds = 5;

/// A control group, of whichever version has the memory controller here.
class MemoryGroup {
public:
    static std::optional<MemoryGroup> make() {
        for (const auto &[parent, limit, events] :
             {std::array<std::string, 3>{"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.oom_control"},
              std::array<std::string, 3>{"/sys/fs/cgroup", "memory.max", "memory.events"}}) {
            MemoryGroup group(fmt::format("{}/shale-test-{}", parent, getpid()), events);
            std::error_code error;
            if (!std::filesystem::create_directory(group.path_, error)) continue;
            const int fd = ::open((group.path_ + "/" + limit).c_str(), O_WRONLY | O_CLOEXEC);
            const std::string text = std::to_string(limit_bytes);
            const bool limited = fd >= 0 && ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
            if (fd >= 0) ::close(fd);
            if (!limited) continue;
            for (const auto *swap : {"memory.swap.max", "memory.swappiness"}) // the one that this version has
                if (std::filesystem::exists(group.path_ + "/" + swap)) std::ofstream(group.path_ + "/" + swap) << 0;
            return group;
        }
        return std::nullopt;
    }
    MemoryGroup(MemoryGroup &&other) noexcept
        : path_(std::exchange(other.path_, {})), events_(std::move(other.events_)) {}
    MemoryGroup(const MemoryGroup &) = delete;
    MemoryGroup &operator=(const MemoryGroup &) = delete;
    MemoryGroup &operator=(MemoryGroup &&) = delete;
    ~MemoryGroup() {
        if (!path_.empty()) ::rmdir(path_.c_str());
    }
    [[nodiscard]] const std::string &path() const { return path_; }
    [[nodiscard]] uint64_t kills() const {
        std::istringstream words(read_all(path_ + "/" + events_));
        for (std::string word; words >> word;)
            if (uint64_t count = 0; word == "oom_kill" && words >> count) return count;
        ADD_FAILURE() << "no oom_kill in " << path_ << "/" << events_;
        return 0;
    }

private:
    MemoryGroup(std::string path, std::string events) : path_(std::move(path)), events_(std::move(events)) {}
    std::string path_, events_;
};

/// On a disk, gone in the end.
struct Place {
    std::string path = "/var/tmp/shale-test-XXXXXX";
    Place() { EXPECT_NE(mkdtemp(path.data()), nullptr); }
    Place(const Place &) = delete;
    Place &operator=(const Place &) = delete;
    ~Place() {
        const auto parent = sys::open_dir(AT_FDCWD, "/var/tmp");
        EXPECT_TRUE(parent && sys::remove_tree(parent->get(), path.c_str() + sizeof "/var/tmp"));
    }
};

TEST(Memory, TenThousandSnapshotsInALittle) {
    if (const auto why = cannot_test("overlay2"); !why.empty()) GTEST_SKIP() << why;
    const auto group = MemoryGroup::make();
    if (!group) GTEST_SKIP() << "no memory control group can be made here";
    const Place place;
    const std::string socket = place.path + "/socket";
    std::vector<std::string> words{"/bin/sh", "-c", "echo $$ >\"$0\"/cgroup.procs && exec \"$@\"", group->path()};
    std::ranges::copy(shaled_arguments("overlay2", place.path + "/store", socket), std::back_inserter(words));
    Shaled daemon(std::move(words), place.path + "/log");
    SnapshotClient client(socket, &daemon);
    SnapshotClient::Mounts mounts;
    ASSERT_TRUE(client.prepare("extract", "", &mounts).ok());
    ASSERT_TRUE(client.commit("base", "extract").ok());
    std::atomic<unsigned> next = 0;
    const auto in_threads = [&](const auto &body) {
        std::vector<std::jthread> threads;
        for (unsigned n = 0; n < clients; ++n)
            threads.emplace_back([&, n] {
                SnapshotClient own(socket, &daemon);
                body(own, n);
            });
    };
    in_threads([&](SnapshotClient &own, unsigned) {
        SnapshotClient::Mounts views;
        for (unsigned i = next++; i < snapshots - 1; i = next++) {
            const auto made =
                own.view(fmt::format("a view with a name as long as containerd's are/{:064}", i), "base", &views);
            if (!made.ok()) ADD_FAILURE() << made.text();
        }
    });
    in_threads([&](SnapshotClient &own, unsigned n) {
        SnapshotClient::Mounts specs;
        for (unsigned round = 0; round < rounds; ++round) {
            std::map<std::string, wire::Info> all;
            EXPECT_TRUE(own.list({}, &all).ok());
            EXPECT_GE(all.size(), snapshots);
            const std::string key = fmt::format("{}/{}", n, round);
            EXPECT_TRUE(own.prepare(key, "base", &specs).ok());
            EXPECT_TRUE(own.remove(key).ok());
        }
    });
    EXPECT_EQ(group->kills(), 0U);
    EXPECT_EQ(daemon.end(SIGTERM), 0) << read_all(place.path + "/log");
}

} // namespace
} // namespace shale::test
