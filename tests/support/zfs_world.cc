// SPDX-License-Identifier: Apache-2.0
#include "support/zfs_world.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <vector>

#include "base/fd.h"
#include "sys/mount.h"
#include "sys/run.h"
#include "sys/seam.h"
#include "sys/zfs.h"

namespace shale::test {
namespace {

constexpr std::string_view pool_prefix = "shaletest";

/// While it lives, calls are no steps of any matrix.
class NoSeam {
public:
    NoSeam() : before_(sys::detail::hook.load()) { sys::set_hook(nullptr); }
    ~NoSeam() { sys::set_hook(before_); }
    NoSeam(const NoSeam &) = delete;
    NoSeam &operator=(const NoSeam &) = delete;

private:
    sys::Hook *before_;
};

Result<std::string> run(const char *tool, std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), TRY(sys::find_tool(tool, "zfsutils-linux")));
    return sys::run_tool_or_fail(arguments, std::chrono::minutes(5));
}

void sweep_pools() {
    const auto pools = run("zpool", {"list", "-H", "-o", "name"});
    if (!pools) return;
    for (size_t at = 0; at < pools->size();) {
        const size_t end = std::min(pools->size(), pools->find('\n', at));
        const std::string name = pools->substr(at, end - at);
        at = end + 1;
        if (!name.starts_with(pool_prefix)) continue;
        pid_t pid = 0;
        std::from_chars(name.data() + pool_prefix.size(), name.data() + name.size(), pid);
        if (pid > 0 && ::kill(pid, 0) != 0 && errno == ESRCH) (void)run("zpool", {"destroy", "-f", name});
    }
}

struct Pool {
    Result<std::string> name = make();
    pid_t owner = ::getpid();

    Pool() = default;
    Pool(const Pool &) = delete;
    Pool &operator=(const Pool &) = delete;
    ~Pool() {
        if (name && owner == ::getpid()) (void)run("zpool", {"destroy", "-f", *name});
    }

    static Result<std::string> make() {
        sweep_pools();
        const char *base = std::getenv("SHALE_TEST_DIR");
        std::string name = std::string(pool_prefix) + std::to_string(::getpid());
        const std::string file = std::string(base != nullptr ? base : "/dev/shm") + "/" + name;
        const UniqueFd made(::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
        if (!made || ::ftruncate(made.get(), off_t{3} << 30) != 0) return fail_errno(errno, file);
        const auto done = run(
            "zpool", {"create", "-o", "cachefile=none", "-O", "mountpoint=legacy", "-O", "sync=disabled", name, file});
        std::filesystem::remove(file); // the pool keeps it open
        if (!done) return std::unexpected(done.error());
        return name;
    }
};

const sys::Zfs &zfs() {
    static const sys::Zfs opened = *sys::Zfs::open();
    return opened;
}

std::string number() {
    static int last = 0;
    return std::to_string(++last);
}

struct Record {
    std::string name, properties;
};
Record record_of(const std::string &root) {
    Record out;
    std::ifstream in(root + "/dataset");
    std::getline(in, out.name);
    std::getline(in, out.properties);
    return out;
}

Status copy_volume(const std::string &from, const std::string &to, const std::string &mark) {
    const bool sealed = TRY(zfs().exists(from + "@sealed"));
    const std::string origin = from + (sealed ? "@sealed" : "@copy" + mark);
    if (!sealed) TRY(zfs().snapshot(origin));
    TRY(zfs().clone(origin, to));
    if (sealed) TRY(zfs().snapshot(to + "@sealed"));
    return {};
}

Status copy_layers(const std::string &to) {
    const Record record = record_of(to);
    if (record.name.empty()) return {};
    const std::string mark = number();
    const std::string copy = record.name + "-" + mark;
    TRY(zfs().create_with(copy, {{"shale:root", to}}));
    for (const auto &row : TRY(zfs().list(record.name)))
        if (row.name != record.name) TRY(copy_volume(row.name, copy + row.name.substr(record.name.size()), mark));
    std::ofstream(to + "/dataset") << copy << "\n" << record.properties << "\n";
    return {};
}

} // namespace

Result<std::string> zfs_pool() {
    const NoSeam quiet;
    static const Pool pool;
    return pool.name;
}

Result<bool> mount_zfs_home(const std::string &path) {
    const NoSeam quiet;
    static std::vector<std::string> homes;
    const std::string name = TRY(zfs_pool()) + "/home" + number();
    // Destroying many clones takes longer than making them: only when the room is needed.
    if (TRY(zfs().get(TRY(zfs_pool()))).available < (uint64_t{1} << 30U))
        std::erase_if(homes, [](const std::string &old) { return run("zfs", {"destroy", "-R", old}).has_value(); });
    TRY(zfs().create(name));
    TRY(sys::mount_at({"zfs", name, {}}, path));
    homes.push_back(name);
    return true;
}

void copy_zfs_layers(const std::string & /*from*/, const std::string &to) {
    if (!std::filesystem::exists(to + "/dataset")) return;
    const NoSeam quiet;
    const auto done = copy_layers(to);
    ASSERT_TRUE(done) << done.error().text();
}

void remove_zfs_layers(const std::string &root) {
    const std::string name = record_of(root).name;
    if (name.empty()) return;
    const NoSeam quiet;
    if (const auto there = zfs().exists(name); there && !*there) return;
    const auto done = run("zfs", {"destroy", "-R", name});
    ASSERT_TRUE(done) << done.error().text();
}

void seal_zfs_layer_again(const std::string &layer, const std::string &dataset) {
    const NoSeam quiet;
    const std::string other = "9" + number() + std::to_string(::getpid());
    const std::string copy = dataset.substr(0, dataset.rfind('/') + 1) + other;
    for (const auto &done : {zfs().snapshot(dataset + "@damaged" + other),
                             zfs().clone(dataset + "@damaged" + other, copy), zfs().snapshot(copy + "@sealed")})
        ASSERT_TRUE(done) << done.error().text();
    std::filesystem::remove(layer + "/volume");
    std::filesystem::create_symlink(other, layer + "/volume");
}

} // namespace shale::test
