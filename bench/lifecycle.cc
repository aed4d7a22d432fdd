// SPDX-License-Identifier: Apache-2.0
// Container create, mount, unmount and remove through the store, beside the bare calls that no engine can do without.
// Both on the same file system, one after the other in turns.
//   lifecycle DIR IMAGE.tar COUNT [DRIVER [KEY=VALUE...]]     DIR: scratch on the file system to measure; DRIVER:
//   overlay2 (default), devicemapper or zfs (needs dataset=DATASET), with its options
// The bare calls: for overlay2 mkdir x3, mount(2) with as many lower layers as the image has, umount(2), rmdir; for
// devicemapper the ioctls (create_snap, activate, deactivate, discard of what was mounted, delete) and the mount on a
// pool of its own; for zfs the commands (clone, destroy) and the mount. Prints one JSON object: microseconds an
// operation, median and 99th percentile. Removed layers of devicemapper and zfs are reaped at the end of a pass, all at
// once: "reap" is a container's share. "unmounted" is the same without mounts: create, remove, reap. The sum of the
// means is what a container took, all in all: what was slow now and then counts in it.
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "drivers/devicemapper/devicemapper.h"
#include "store/store.h"
#include "sys/block.h"
#include "sys/dm.h"
#include "sys/loop.h"
#include "sys/run.h"

namespace {

constexpr const char *image_name = "bench:lifecycle";

using Clock = std::chrono::steady_clock;
using Series = std::map<std::string, std::vector<double>>;

[[noreturn]] void die(const std::string &text) {
    fmt::print(stderr, "lifecycle: {}\n", text);
    std::exit(1);
}
template <class T> T value(shale::Result<T> result) {
    if (!result) die(result.error().text());
    return std::move(*result);
}
void done(const shale::Status &status) {
    if (!status) die(status.error().text());
}
void ok(int result, const char *what) {
    if (result != 0) die(fmt::format("{}: {}", what, std::strerror(errno)));
}

template <class F> void timed(Series &series, const std::string &name, F &&body) {
    const auto begin = Clock::now();
    body();
    series[name].push_back(std::chrono::duration<double, std::micro>(Clock::now() - begin).count());
}

/// What no engine can do without.
class Floor {
public:
    Floor() = default;
    Floor(const Floor &) = delete;
    Floor &operator=(const Floor &) = delete;
    virtual ~Floor() = default;
    virtual void create(size_t number) = 0;
    virtual void mount(size_t number) = 0;
    virtual void unmount(size_t number) = 0;
    virtual void remove(size_t number) = 0;
};

class OverlayFloor final : public Floor {
public:
    /// Lower directories named by number, so that 500 of them fit into mount(2)'s one page of options.
    OverlayFloor(const std::string &dir, size_t lowers) {
        std::filesystem::create_directories(dir);
        for (size_t i = 0; i < lowers; ++i) {
            const std::string name = std::to_string(i);
            std::filesystem::create_directories(dir + "/" + name + "/etc");
            std::ofstream(dir + "/" + name + "/etc/" + name) << i;
            lowers_ += (lowers_.empty() ? "" : ":") + name;
        }
        ok(chdir(dir.c_str()), "chdir");
    }
    void create(size_t number) override {
        base_ = fmt::format("f{}", number);
        ok(mkdir(base_.c_str(), 0700), "mkdir");
        ok(mkdir((base_ + "/upper").c_str(), 0755), "mkdir");
        ok(mkdir((base_ + "/work").c_str(), 0700), "mkdir");
        ok(mkdir((base_ + "/merged").c_str(), 0700), "mkdir");
    }
    void mount(size_t /*number*/) override {
        const std::string options = fmt::format("lowerdir={0},upperdir={1}/upper,workdir={1}/work", lowers_, base_);
        ok(::mount("overlay", (base_ + "/merged").c_str(), "overlay", 0, options.c_str()), "mount");
    }
    void unmount(size_t /*number*/) override { ok(umount2((base_ + "/merged").c_str(), 0), "umount"); }
    void remove(size_t /*number*/) override {
        (void)rmdir((base_ + "/work/work").c_str());
        for (const auto *part : {"/work", "/upper", "/merged", ""})
            ok(rmdir((base_ + part).c_str()), "rmdir");
    }

private:
    std::string lowers_, base_;
};

void run(std::vector<std::string> arguments, const char *package) {
    arguments[0] = value(shale::sys::find_tool(arguments[0], package));
    (void)value(shale::sys::run_tool_or_fail(arguments, std::chrono::minutes(1)));
}

class ThinFloor final : public Floor {
public:
    explicit ThinFloor(const std::string &dir) : target_(dir + "/merged"), name_(fmt::format("bench-{}", getpid())) {
        std::filesystem::create_directories(target_);
        const std::string metadata = attach(dir + "/metadata", uint64_t{16} << 20U),
                          data = attach(dir + "/data", pool_bytes);
        done(shale::sys::dm_create(
            name_, "",
            {{0, pool_bytes / sector, "thin-pool", fmt::format("{} {} 128 0 1 error_if_no_space", metadata, data)}}));
        done(shale::sys::dm_message(name_, "create_thin 0"));
        activate(0);
        run({"mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1", node(0)}, "e2fsprogs");
        done(shale::sys::dm_remove(device(0), shale::sys::DmRemove::now));
    }
    ~ThinFloor() override { (void)shale::sys::dm_remove(name_, shale::sys::DmRemove::now); }
    void create(size_t number) override {
        done(shale::sys::dm_message(name_, fmt::format("create_snap {} 0", number + 1)));
    }
    void mount(size_t number) override {
        activate(mounted_ = number + 1);
        ok(::mount(node(number + 1).c_str(), target_.c_str(), "ext4", 0, ""), "mount");
    }
    void unmount(size_t number) override {
        ok(umount2(target_.c_str(), 0), "umount");
        done(shale::sys::dm_remove(device(number + 1), shale::sys::DmRemove::now));
    }
    /// What was mounted has blocks of its own, which go back below the pool.
    void remove(size_t number) override {
        if (number + 1 == mounted_) {
            activate(mounted_);
            {
                const auto volume = value(shale::sys::open_block_device(node(mounted_), O_RDWR));
                done(shale::sys::discard_blocks(volume.get(), volume_bytes));
            }
            done(shale::sys::dm_remove(device(mounted_), shale::sys::DmRemove::now));
        }
        done(shale::sys::dm_message(name_, fmt::format("delete {}", number + 1)));
    }

private:
    static constexpr uint64_t pool_bytes = uint64_t{4} << 30U, volume_bytes = uint64_t{1} << 30U, sector = 512;

    [[nodiscard]] std::string device(size_t volume) const { return fmt::format("{}-{}", name_, volume); }
    [[nodiscard]] std::string node(size_t volume) const { return value(shale::sys::dm_node(device(volume))); }
    void activate(size_t volume) const {
        done(shale::sys::dm_create(
            device(volume), "", {{0, volume_bytes / sector, "thin", fmt::format("/dev/mapper/{} {}", name_, volume)}}));
    }
    std::string attach(const std::string &path, uint64_t bytes) {
        std::ofstream(path).close();
        std::filesystem::resize_file(path, bytes);
        const shale::UniqueFd file(open(path.c_str(), O_RDWR | O_CLOEXEC));
        loops_.push_back(value(shale::sys::attach_loop(file.get(), false)));
        return loops_.back().path;
    }

    std::string target_, name_;
    std::vector<shale::sys::LoopDevice> loops_;
    size_t mounted_ = 0; ///< the last volume that was
};

class ZfsFloor final : public Floor {
public:
    ZfsFloor(const std::string &dir, const std::string &base)
        : target_(dir + "/merged"), base_(fmt::format("{}/bench-{}", base, getpid())) {
        std::filesystem::create_directories(target_);
        zfs({"create", "-o", "mountpoint=legacy", base_});
        zfs({"create", base_ + "/base"});
        zfs({"snapshot", base_ + "/base@s"});
    }
    ~ZfsFloor() override { zfs({"destroy", "-r", base_}); }
    void create(size_t number) override { zfs({"clone", base_ + "/base@s", name(number)}); }
    void mount(size_t number) override {
        ok(::mount(name(number).c_str(), target_.c_str(), "zfs", 0, "zfsutil"), "mount");
    }
    void unmount(size_t /*number*/) override { ok(umount2(target_.c_str(), 0), "umount"); }
    void remove(size_t number) override { zfs({"destroy", name(number)}); }

private:
    [[nodiscard]] std::string name(size_t number) const { return fmt::format("{}/{}", base_, number); }
    static void zfs(std::vector<std::string> arguments) {
        arguments.insert(arguments.begin(), "zfs");
        run(std::move(arguments), "zfsutils-linux");
    }

    std::string target_, base_;
};

void floor_once(Series &series, Floor &floor, size_t number, bool mounted) {
    timed(series, "create", [&] { floor.create(number); });
    if (mounted) timed(series, "mount", [&] { floor.mount(number); });
    if (mounted) timed(series, "unmount", [&] { floor.unmount(number); });
    timed(series, "remove", [&] { floor.remove(number); });
}

void store_once(Series &series, shale::store::Store &store, size_t number, bool mounted) {
    const std::string name = fmt::format("bench-{}", number);
    timed(series, "create", [&] { (void)value(store.create_container(image_name, name, {})); });
    if (mounted) timed(series, "mount", [&] { (void)value(store.mount_container(name)); });
    if (mounted) timed(series, "unmount", [&] { done(store.unmount_container(name)); });
    timed(series, "remove", [&] { done(store.remove_container(name, false)); });
}

std::string report(Series &series) {
    std::string out;
    double sum = 0, means = 0;
    for (const char *name : {"create", "mount", "unmount", "remove", "reap"}) {
        auto &all = series[name];
        if (all.empty()) continue;
        std::ranges::sort(all);
        const double median = all[all.size() / 2];
        sum += median;
        means += std::accumulate(all.begin(), all.end(), 0.0) / static_cast<double>(all.size());
        out +=
            fmt::format("\"{}\":{{\"median_us\":{:.0f},\"p99_us\":{:.0f}}},", name, median, all[all.size() * 99 / 100]);
    }
    return fmt::format("{{{}\"sum_of_medians_us\":{:.0f},\"sum_of_means_us\":{:.0f}}}", out, sum, means);
}

/// Both in turns, `count` times: "floor":{...},"shale":{...}
std::string pass(Floor &floor, shale::store::Store &store, size_t count, bool mounted) {
    Series bare, engine;
    for (size_t i = 0; i < count; ++i) {
        floor_once(bare, floor, i, mounted);
        store_once(engine, store, i, mounted);
    }
    if (store.driver().name() != "overlay2") {
        timed(engine, "reap", [&] { (void)value(store.gc(false)); });
        engine["reap"].front() /= static_cast<double>(count);
    }
    return fmt::format("\"floor\":{},\"shale\":{}", report(bare), report(engine));
}

} // namespace

int main(int argc, char **argv) {
    if (argc < 4) die("usage: lifecycle DIR IMAGE.tar COUNT [DRIVER [KEY=VALUE...]]");
    const std::string dir = std::filesystem::absolute(argv[1]), image_file = std::filesystem::absolute(argv[2]);
    const size_t count = std::strtoul(argv[3], nullptr, 10);
    if (count == 0) die("COUNT must be 1 or more");

    shale::store::StoreOptions options;
    options.root = dir + "/store";
    options.driver = argc > 4 ? argv[4] : "overlay2";
    for (int i = 5; i < argc; ++i) {
        const std::string option = argv[i];
        const size_t equals = std::min(option.find('='), option.size() - 1);
        options.driver_options[option.substr(0, equals)] = option.substr(equals + 1);
    }
    auto store = value(shale::store::Store::open(options));
    auto images = value(store->import_images({image_file, image_name, {}}, {}));
    const size_t depth = images.at(0).image.layers.size();
    std::unique_ptr<Floor> floor;
    if (options.driver == "overlay2")
        floor = std::make_unique<OverlayFloor>(dir + "/floor", depth);
    else if (options.driver == "devicemapper")
        floor = std::make_unique<ThinFloor>(dir + "/floor");
    else if (options.driver == "zfs")
        floor = std::make_unique<ZfsFloor>(dir + "/floor", options.driver_options["dataset"]);
    else
        die(fmt::format("there is no floor for {}", options.driver));
    sync();

    std::string unmounted;
    if (options.driver != "overlay2")
        unmounted = fmt::format(",\"unmounted\":{{{}}}", pass(*floor, *store, count, false));
    fmt::print("{{\"layers\":{},\"count\":{},\"driver\":\"{}\",{}{}}}\n", depth, count, store->driver().name(),
               pass(*floor, *store, count, true), unmounted);
    floor.reset();
    store.reset();
    // The scratch directory is going to be deleted: no pool may stay active over files in it.
    if (options.driver == "devicemapper")
        if (const auto left = value(shale::drivers::devicemapper::deactivate(options.root + "/devicemapper")); left > 0)
            fmt::print(stderr, "lifecycle: {} devices of the store's pool stay in use\n", left);
    return 0;
}
