// SPDX-License-Identifier: Apache-2.0
#include "probe/zfs.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <set>

#include <fmt/format.h>

#include "base/fd.h"
#include "probe/test_root.h"

namespace shale::probe {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

std::string row(std::string_view name, std::string_view type, std::string_view mountpoint = "legacy") {
    const bool snapshot = type == "snapshot";
    return fmt::format("{}\t{}\t98304\t24576\t{}\t{}\t{}\t{}\t-\t1732778854\t{}\t{}\t-\t-\t{}\n", name, type,
                       snapshot ? "-" : "4096", snapshot ? "-" : "0", snapshot ? "-" : "0", snapshot ? "-" : "131072",
                       snapshot ? "0" : "-", snapshot ? "-" : "yes", snapshot ? "-" : mountpoint);
}

TEST(ZfsLines, Pools) {
    const auto pools = parse_zpool_list("tank\tONLINE\t10200547328\t1048576\t10199498752\t16\t4\ton\n"
                                        "old\tDEGRADED\t100\t50\t50\t7%\t50%\n"
                                        "lost\tUNAVAIL\t-\t-\t-\t-\t-\toff\n");
    EXPECT_EQ(pools.malformed, 0U) << pools.example;
    ASSERT_EQ(pools.rows.size(), 3U);
    EXPECT_EQ(pools.rows[0].name, "tank");
    EXPECT_EQ(pools.rows[0].health, "ONLINE");
    EXPECT_EQ(pools.rows[0].size_bytes, 10'200'547'328U);
    EXPECT_EQ(pools.rows[0].allocated_bytes, 1'048'576U);
    EXPECT_EQ(pools.rows[0].free_bytes, 10'199'498'752U);
    EXPECT_EQ(pools.rows[0].fragmentation_percent, 16U);
    EXPECT_EQ(pools.rows[0].capacity_percent, 4U);
    EXPECT_TRUE(pools.rows[0].autotrim);
    EXPECT_EQ(pools.rows[1].fragmentation_percent, 7U);
    EXPECT_FALSE(pools.rows[1].autotrim);
    EXPECT_EQ(pools.rows[2].size_bytes, 0U);
}

TEST(ZfsLines, Datasets) {
    const auto datasets = parse_zfs_datasets(
        "tank/a\tfilesystem\t98304\t24576\t4096\t1048576\tnone\t131072\t-\t1732778854\t-\tno\ttank/b@1\t/var/lib/"
        "shale/zfs\t/mnt/a\tb\n"
        "tank/v\tvolume\t1\t2\t3\t-\t-\t-\t16384\t5\t-\t-\t-\t-\t-\n"
        "tank/a@s\tsnapshot\t1\t2\t-\t-\t-\t-\t-\t6\t3\t-\t-\t-\t-\n");
    EXPECT_EQ(datasets.malformed, 0U) << datasets.example;
    ASSERT_EQ(datasets.rows.size(), 3U);
    const auto &a = datasets.rows[0];
    EXPECT_EQ(a.name, "tank/a");
    EXPECT_EQ(a.type, "filesystem");
    EXPECT_EQ(a.used_bytes, 98'304U);
    EXPECT_EQ(a.referenced_bytes, 24'576U);
    EXPECT_EQ(a.snapshots_bytes, 4096U);
    EXPECT_EQ(a.quota_bytes, 1'048'576U);
    EXPECT_EQ(a.refquota_bytes, 0U);
    EXPECT_EQ(a.record_bytes, 131'072U);
    EXPECT_EQ(a.created_s, 1'732'778'854U);
    EXPECT_FALSE(a.mounted);
    EXPECT_EQ(a.origin, "tank/b@1");
    EXPECT_EQ(a.volume_of, "shale:/var/lib/shale/zfs");
    EXPECT_EQ(a.mountpoint, "/mnt/a\tb");
    EXPECT_EQ(datasets.rows[1].record_bytes, 16'384U);
    EXPECT_EQ(datasets.rows[1].mountpoint, "");
    EXPECT_EQ(datasets.rows[2].holds, 3U);
    EXPECT_EQ(datasets.rows[2].volume_of, "");
}

TEST(ZfsLines, MalformedOnesAreCounted) {
    const auto datasets = parse_zfs_datasets("nonsense\n" + row("tank", "filesystem") + row("tank#b", "bookmark") +
                                             "\n" + row("", "filesystem") + "tank/x\tfilesystem\t-1\n");
    EXPECT_EQ(datasets.rows.size(), 1U);
    EXPECT_EQ(datasets.malformed, 5U);
    EXPECT_EQ(datasets.example, "nonsense");
    EXPECT_EQ(parse_zpool_list("tank\tONLINE\t1\t2\t3\t4\n").malformed, 1U);
    EXPECT_EQ(parse_zpool_list("tank\tONLINE\t1K\t2\t3\t4\t5\n").malformed, 1U);
    EXPECT_EQ(parse_zpool_list("").malformed, 0U);
}

/// `zfs list` over a made-up tree, with the bound of sys/run.h on what it prints.
class FakeZfs {
public:
    void add(const std::string &name, const std::string &type, const std::string &mountpoint = "legacy") {
        datasets_[name] = {type, mountpoint};
    }
    Result<sys::ToolResult> operator()(const std::vector<std::string> &arguments) {
        ++runs;
        EXPECT_EQ(arguments[0], "list");
        EXPECT_EQ(arguments[3], "-o");
        size_t at = 5;
        const bool one_level = arguments[at] == "-d";
        at += one_level ? 2 : 1;
        EXPECT_EQ(arguments[at], "-t");
        const std::string &types = arguments[at + 1];
        sys::ToolResult out;
        for (at += 2; at < arguments.size(); ++at) {
            if (!datasets_.contains(arguments[at])) {
                out.exit_status = 1;
                out.errors += fmt::format("cannot open '{}': dataset does not exist\n", arguments[at]);
            }
            list(arguments[at], one_level, types, out.output);
        }
        if (out.output.size() > limit) out.output.resize(limit);
        return out;
    }
    int runs = 0;

private:
    static constexpr size_t limit = size_t{1} << 20U;
    struct Kind {
        std::string type, mountpoint;
    };
    void list(const std::string &name, bool one_level, const std::string &types, std::string &out) const {
        for (auto at = datasets_.lower_bound(name); at != datasets_.end() && at->first.starts_with(name); ++at) {
            const auto &[key, kind] = *at;
            if (!types.contains(kind.type)) continue;
            const std::string_view rest = std::string_view(key).substr(name.size());
            if (!rest.empty() && rest.front() != '/' && rest.front() != '@') continue;
            if (one_level && std::ranges::count_if(rest, [](char c) { return c == '/' || c == '@'; }) > 1) continue;
            out += row(key, kind.type, kind.mountpoint);
        }
    }
    std::map<std::string, Kind> datasets_;
};

class ZfsLists : public testing::Test {
protected:
    Result<sys::ToolResult> zpool(const std::vector<std::string> &) const {
        return sys::ToolResult{0, "tank\tONLINE\t100\t50\t50\t0\t50\toff\n", ""};
    }
    ZfsFacts list(size_t limit = 1'000'000) {
        return list_zfs([this](const auto &arguments) { return zpool(arguments); }, std::ref(zfs), problems, limit);
    }
    FakeZfs zfs;
    std::vector<Problem> problems;
};

TEST_F(ZfsLists, SmallInOneRun) {
    zfs.add("tank", "filesystem", "/tank");
    zfs.add("tank/docker", "filesystem");
    zfs.add("tank/docker@1", "snapshot");
    zfs.add("tank/vol", "volume");
    const auto facts = list();
    ASSERT_EQ(facts.datasets.size(), 4U);
    EXPECT_EQ(facts.datasets[0].mountpoint, "/tank");
    EXPECT_EQ(facts.datasets[2].name, "tank/docker@1");
    EXPECT_EQ(zfs.runs, 1);
    EXPECT_THAT(problems, IsEmpty());
}

TEST_F(ZfsLists, LongOnesInParts) {
    // Some 2 MB below one dataset: children, each with a snapshot, and below one of them more.
    const std::string far = "/" + std::string(2000, 'm');
    std::set<std::string> expected;
    const auto add = [&](const std::string &name, const std::string &type) {
        zfs.add(name, type, far);
        expected.insert(name);
    };
    add("tank", "filesystem");
    add("tank@own", "snapshot");
    add("tank/docker", "filesystem");
    for (int i = 100; i < 400; ++i) {
        add(fmt::format("tank/docker/{}", i), "filesystem");
        add(fmt::format("tank/docker/{}@1", i), "snapshot");
    }
    for (int i = 1000; i < 1600; ++i)
        add(fmt::format("tank/docker/117/{}", i), "filesystem");
    const auto facts = list();
    std::set<std::string> found;
    for (const auto &dataset : facts.datasets)
        found.insert(dataset.name);
    // One list of children is longer than a mebibyte by itself: its end is missing, and that is said.
    ASSERT_EQ(problems.size(), 1U);
    EXPECT_EQ(problems[0].about, "zfs list tank/docker/117");
    EXPECT_THAT(problems[0].why, HasSubstr("cut at a mebibyte"));
    EXPECT_EQ(found.size(), facts.datasets.size()) << "nothing twice";
    EXPECT_TRUE(std::ranges::includes(expected, found));
    const auto is_lost = [](const std::string &name) { return name.starts_with("tank/docker/117/"); };
    std::erase_if(expected, [&](const std::string &name) { return is_lost(name) && !found.contains(name); });
    EXPECT_EQ(found, expected) << "all others";
    EXPECT_GT(std::ranges::count_if(found, is_lost), 400);
    EXPECT_LT(zfs.runs, 50);
}

TEST_F(ZfsLists, NoMoreThanAllowed) {
    zfs.add("tank", "filesystem");
    for (int i = 0; i < 10; ++i)
        zfs.add(fmt::format("tank/{}", i), "filesystem");
    EXPECT_EQ(list(5).datasets.size(), 5U);
    ASSERT_EQ(problems.size(), 1U);
    EXPECT_THAT(problems[0].why, HasSubstr("more than 5"));
}

TEST_F(ZfsLists, PoolThatIsGoneMeanwhile) {
    EXPECT_THAT(list().datasets, IsEmpty());
    ASSERT_EQ(problems.size(), 1U);
    EXPECT_THAT(problems[0].why, HasSubstr("does not exist"));
}

TEST(ZfsTools, FailuresAreNamedAndASlowOneIsNotAskedAgain) {
    std::vector<Problem> problems;
    int runs = 0;
    const ZfsTool slow = [&](const auto &) -> Result<sys::ToolResult> {
        ++runs;
        return fail(Errc::DeadlineExceeded, "hangs");
    };
    const ZfsTool pools = [](const auto &) -> Result<sys::ToolResult> {
        return sys::ToolResult{0, "a\tONLINE\t1\t1\t0\t0\t0\toff\nb\tONLINE\t1\t1\t0\t0\t0\toff\n", ""};
    };
    EXPECT_EQ(list_zfs(pools, slow, problems).pools.size(), 2U);
    EXPECT_EQ(runs, 1);
    ASSERT_EQ(problems.size(), 1U);
    EXPECT_EQ(problems[0].about, "zfs list a");
    EXPECT_EQ(problems[0].why, "hangs");
    problems.clear();
    EXPECT_THAT(list_zfs(slow, slow, problems).pools, IsEmpty());
    ASSERT_EQ(problems.size(), 1U);
    EXPECT_EQ(problems[0].about, "zpool list");
}

TEST(ZfsTools, OlderProgramsKnowNoAutotrim) {
    std::vector<Problem> problems;
    const ZfsTool old = [](const std::vector<std::string> &arguments) -> Result<sys::ToolResult> {
        if (arguments.back().contains("autotrim")) return sys::ToolResult{2, "", "invalid property 'autotrim'\n"};
        return sys::ToolResult{0, "tank\tONLINE\t100\t50\t50\t1%\t50%\n", ""};
    };
    const ZfsTool none = [](const auto &) -> Result<sys::ToolResult> { return sys::ToolResult{}; };
    const auto facts = list_zfs(old, none, problems);
    ASSERT_EQ(facts.pools.size(), 1U);
    EXPECT_EQ(facts.pools[0].capacity_percent, 50U);
    EXPECT_THAT(problems, IsEmpty());
}

TEST(ZfsOfHost, OtherHostsAreNotAsked) {
    const TestRoot made;
    made.dir("/sys/module/zfs");
    std::vector<Problem> problems;
    EXPECT_THAT(read_zfs(made.host(), problems).pools, IsEmpty());
    EXPECT_THAT(problems, IsEmpty());
}

/// A real pool in a file; gone with the object.
class LivePool {
public:
    explicit LivePool(const TestRoot &root) {
        const std::string file = root.here("/pool");
        const UniqueFd made(::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
        EXPECT_EQ(::ftruncate(made.get(), off_t{256} << 20), 0);
        run("zpool", {"create", "-o", "cachefile=none", "-O", "mountpoint=legacy", name, file});
    }
    LivePool(const LivePool &) = delete;
    LivePool &operator=(const LivePool &) = delete;
    ~LivePool() { run("zpool", {"destroy", "-f", name}); }
    static void run(const char *tool, std::vector<std::string> arguments) {
        const auto path = sys::find_tool(tool, "zfsutils-linux");
        ASSERT_TRUE(path) << path.error().text();
        arguments.insert(arguments.begin(), *path);
        const auto done = sys::run_tool_or_fail(arguments, std::chrono::minutes(2));
        EXPECT_TRUE(done) << done.error().text();
    }
    const std::string name = fmt::format("shaleprobe{}", ::getpid());
};

TEST(LiveZfs, PoolAndDatasets) {
    struct stat status{};
    if (::stat("/sys/module/zfs", &status) != 0 || ::stat("/dev/zfs", &status) != 0)
        GTEST_SKIP() << "this kernel has no ZFS";
    if (::geteuid() != 0) GTEST_SKIP() << "needs root";
    const TestRoot root;
    const LivePool pool(root);
    const std::string a = pool.name + "/a", b = pool.name + "/b", volume = pool.name + "/v";
    LivePool::run("zfs", {"create", "-u", "-o", "shale:root=/x y", "-o", "quota=32M", "-o", "recordsize=64K", a});
    LivePool::run("zfs", {"snapshot", a + "@s"});
    LivePool::run("zfs", {"hold", "mine", a + "@s"});
    LivePool::run("zfs", {"clone", a + "@s", b});
    LivePool::run("zfs", {"create", "-s", "-V", "16M", "-o", "volblocksize=16K", volume});
    std::vector<Problem> problems;
    const auto host = Host::open("/");
    ASSERT_TRUE(host);
    const auto facts = read_zfs(*host, problems);
    LivePool::run("zfs", {"release", "mine", a + "@s"});
    for (const auto &problem : problems)
        ADD_FAILURE() << problem.about << ": " << problem.why;
    const auto found = std::ranges::find(facts.pools, pool.name, &ZfsPool::name);
    ASSERT_NE(found, facts.pools.end());
    EXPECT_EQ(found->health, "ONLINE");
    EXPECT_GT(found->free_bytes, found->allocated_bytes);
    EXPECT_EQ(found->size_bytes, found->free_bytes + found->allocated_bytes);
    EXPECT_FALSE(found->autotrim);
    std::map<std::string, ZfsDataset> datasets;
    for (const auto &dataset : facts.datasets)
        datasets[dataset.name] = dataset;
    EXPECT_EQ(datasets[pool.name].type, "filesystem");
    EXPECT_EQ(datasets[pool.name].mountpoint, "legacy");
    EXPECT_FALSE(datasets[pool.name].mounted);
    EXPECT_EQ(datasets[a].quota_bytes, uint64_t{32} << 20U);
    EXPECT_EQ(datasets[a].record_bytes, 65'536U);
    EXPECT_EQ(datasets[a].volume_of, "shale:/x y");
    EXPECT_GT(datasets[a].referenced_bytes, 0U);
    EXPECT_GT(datasets[a].created_s, 1'600'000'000U);
    EXPECT_EQ(datasets[a + "@s"].type, "snapshot");
    EXPECT_EQ(datasets[a + "@s"].holds, 1U);
    EXPECT_EQ(datasets[b].origin, a + "@s");
    EXPECT_EQ(datasets[b].volume_of, "");
    EXPECT_EQ(datasets[volume].type, "volume");
    EXPECT_EQ(datasets[volume].record_bytes, 16'384U);
}

} // namespace
} // namespace shale::probe
