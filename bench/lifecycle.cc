// SPDX-License-Identifier: Apache-2.0
// Container create, mount, unmount and remove through the store, beside the bare system calls that no engine can do
// without: mkdir x3, mount(2), umount(2), rmdir. Both on the same file system, one after the other in turns.
//   lifecycle DIR IMAGE.tar COUNT     DIR: scratch on the file system to measure; the image gives the number of lower
//   layers
// Prints one JSON object: microseconds an operation, median and 99th percentile.
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
#include <string>
#include <vector>

#include <fmt/format.h>

#include "store/store.h"

namespace {

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

/// Lower directories named by number, so that 500 of them fit into mount(2)'s one page of options.
std::string make_lowers(const std::string &dir, size_t count) {
    std::filesystem::create_directories(dir);
    std::string lowers;
    for (size_t i = 0; i < count; ++i) {
        const std::string name = std::to_string(i);
        std::filesystem::create_directories(dir + "/" + name + "/etc");
        std::ofstream(dir + "/" + name + "/etc/" + name) << i;
        lowers += (lowers.empty() ? "" : ":") + name;
    }
    ok(chdir(dir.c_str()), "chdir");
    return lowers;
}

void floor_once(Series &series, const std::string &lowers, size_t number) {
    const std::string base = fmt::format("f{}", number), upper = base + "/upper", work = base + "/work",
                      merged = base + "/merged";
    timed(series, "create", [&] {
        ok(mkdir(base.c_str(), 0700), "mkdir");
        ok(mkdir(upper.c_str(), 0755), "mkdir");
        ok(mkdir(work.c_str(), 0700), "mkdir");
        ok(mkdir(merged.c_str(), 0700), "mkdir");
    });
    const std::string options = fmt::format("lowerdir={},upperdir={},workdir={}", lowers, upper, work);
    timed(series, "mount", [&] { ok(mount("overlay", merged.c_str(), "overlay", 0, options.c_str()), "mount"); });
    timed(series, "unmount", [&] { ok(umount2(merged.c_str(), 0), "umount"); });
    timed(series, "remove", [&] {
        (void)rmdir((work + "/work").c_str());
        for (const auto &path : {work, upper, merged, base})
            ok(rmdir(path.c_str()), "rmdir");
    });
}

void store_once(Series &series, shale::store::Store &store, const std::string &image, size_t number) {
    const std::string name = fmt::format("bench-{}", number);
    timed(series, "create", [&] { (void)value(store.create_container(image, name, {})); });
    timed(series, "mount", [&] { (void)value(store.mount_container(name)); });
    timed(series, "unmount", [&] { done(store.unmount_container(name)); });
    timed(series, "remove", [&] { done(store.remove_container(name, false)); });
}

std::string report(Series &series) {
    std::string out;
    double sum = 0;
    for (const char *name : {"create", "mount", "unmount", "remove"}) {
        auto &all = series[name];
        std::ranges::sort(all);
        const double median = all[all.size() / 2];
        sum += median;
        out +=
            fmt::format("\"{}\":{{\"median_us\":{:.0f},\"p99_us\":{:.0f}}},", name, median, all[all.size() * 99 / 100]);
    }
    return fmt::format("{{{}\"sum_of_medians_us\":{:.0f}}}", out, sum);
}

} // namespace

int main(int argc, char **argv) {
    if (argc != 4) die("usage: lifecycle DIR IMAGE.tar COUNT");
    const std::string dir = std::filesystem::absolute(argv[1]), image_file = std::filesystem::absolute(argv[2]);
    const size_t count = std::strtoul(argv[3], nullptr, 10);
    if (count == 0) die("COUNT must be 1 or more");

    shale::store::StoreOptions options;
    options.root = dir + "/store";
    auto store = value(shale::store::Store::open(options));
    auto images = value(store->import_images({image_file, "bench:lifecycle", {}}, {}));
    const size_t depth = images.at(0).image.layers.size();
    const std::string lowers = make_lowers(dir + "/floor", depth);
    sync();

    Series floor, engine;
    for (size_t i = 0; i < count; ++i) {
        floor_once(floor, lowers, i);
        store_once(engine, *store, "bench:lifecycle", i);
    }
    fmt::print("{{\"layers\":{},\"count\":{},\"driver\":\"{}\",\"floor\":{},\"shale\":{}}}\n", depth, count,
               store->driver().name(), report(floor), report(engine));
    return 0;
}
