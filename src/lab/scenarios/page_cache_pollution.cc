// SPDX-License-Identifier: Apache-2.0
// A job reads every layer once, and the page cache is full of what nobody needs again.
#include <fcntl.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <map>

#include "base/units.h"
#include "lab/actor.h"
#include "lab/scenario.h"
#include "sys/fs.h"
#include "sys/page_cache.h"

namespace shale::lab {
namespace {

using Clock = std::chrono::steady_clock;
constexpr uint64_t mib = uint64_t{1} << 20U;
constexpr unsigned cold_layers = 12;
constexpr size_t layer_bytes = 8 * mib;

std::string file_of(unsigned layer) {
    return fmt::format("data-{}", layer); // 0: the hot one
}

/// Reads a file as a service does; microseconds.
Result<double> read_us(const std::string &path) {
    const UniqueFd file = TRY(sys::open_at(AT_FDCWD, path.c_str(), O_RDONLY));
    std::vector<std::byte> buffer(256U << 10U);
    const auto begin = Clock::now();
    while (TRY(sys::read_some(file.get(), buffer)) > 0) {
    }
    return std::chrono::duration<double, std::micro>(Clock::now() - begin).count();
}

/// The median of five.
Result<double> hot_us(const std::string &tree) {
    std::vector<double> all;
    for (int i = 0; i < 5; ++i)
        all.push_back(TRY(read_us(tree + "/" + file_of(0))));
    std::ranges::sort(all);
    return all[2];
}

/// By layer, of one store: id and resident bytes, the largest first.
struct Layer {
    std::string id;
    uint64_t resident = 0;
};
Result<std::vector<Layer>> layers_of(const StoreCommand &store) {
    const Ran ran = TRY(succeeded(
        World::shale({"cache", "top", "--json", "--by", "layer", "-n", "100", "--store", "shale=" + store.root()})));
    std::vector<Layer> out;
    try {
        for (const auto &row : nlohmann::json::parse(ran.out))
            out.push_back({row.at("id"), row.at("resident_bytes")});
    } catch (const nlohmann::json::exception &error) {
        return fail(Errc::Internal, fmt::format("{}: {}", ran.line, error.what()));
    }
    return out;
}

uint64_t sum_of(const std::vector<Layer> &layers) {
    uint64_t out = 0;
    for (const auto &layer : layers)
        out += layer.resident;
    return out;
}

/// The hot file in its layer: an overlay's own inode has no pages.
Result<std::string> hot_file(const std::string &root) {
    for (const auto &entry : std::filesystem::recursive_directory_iterator(root + "/overlay2"))
        if (entry.path().filename() == file_of(0)) return entry.path().string();
    return fail(Errc::NotFound, fmt::format("no layer in {} has {}", root, file_of(0)));
}

/// Pages of it.
Result<uint64_t> resident_of(const std::string &path) {
    const UniqueFd file = TRY(sys::open_at(AT_FDCWD, path.c_str(), O_RDONLY));
    return TRY(sys::cached_pages(file.get(), layer_bytes)).resident;
}

Status run(World &world, Story &story) {
    story.phase(Phase::build);
    const Disk disk = TRY(world.disk({"disk", "ext4", 512 * mib}));
    const StoreCommand store(disk.path + "/store", "overlay2");
    std::vector<std::vector<ImageFile>> layers;
    for (unsigned i = 0; i <= cold_layers; ++i)
        layers.push_back({{file_of(i), noise(i, layer_bytes)}});
    TRY(write_image(world / "image.tar", "app:1", layers));
    layers.clear();
    TRY(store.must({"image", "import", world / "image.tar"}));
    TRY(store.must({"container", "create", "--name", "app", "app:1"}));
    const std::string tree = TRY(store.mount("app"));
    const std::string hot = TRY(hot_file(store.root()));
    TRY(store.must({"cache", "evict", "--image", "app:1", "--store", "shale=" + store.root()}));
    std::vector<std::vector<std::string>> rows{
        {"", "of the image in the page cache", "of the hot layer", "hot read, us"}};
    const auto add_row = [&](const std::string &what, double latency) -> Status {
        rows.push_back({what, format_bytes(sum_of(TRY(layers_of(store)))), format_bytes(TRY(resident_of(hot))),
                        fmt::format("{:.0f}", latency)});
        return {};
    };
    const double cold = TRY(read_us(tree + "/" + file_of(0)));
    story.say(fmt::format("An image of {} layers of {}; a service reads one of them all the time", cold_layers + 1,
                          format_bytes(layer_bytes)));
    TRY(add_row("only the service runs (its first read: " + fmt::format("{:.0f}", cold) + " us)", TRY(hot_us(tree))));

    story.phase(Phase::reproduce);
    // The job runs in a control group of its own where the host has one: its pages are charged to it.
    const auto group = world.cgroup("memory", "job");
    const std::string procs = group ? group->path + "/cgroup.procs" : "";
    Actor job = TRY(Actor::start([&] {
        if (!procs.empty() && !write_file(procs, std::to_string(::getpid()))) return false;
        for (unsigned i = 1; i <= cold_layers; ++i)
            if (!read_us(tree + "/" + file_of(i))) return false;
        return true;
    }));
    TRY(job.end());
    const auto polluted = TRY(layers_of(store));
    const double hot_latency = TRY(hot_us(tree));
    TRY(add_row("a job has read every layer once", hot_latency));
    const uint64_t wanted = cold_layers * layer_bytes;
    story.answer(Question::reproduced, sum_of(polluted) >= wanted,
                 fmt::format("{} of the page cache hold what was read once{}", format_bytes(sum_of(polluted)),
                             group ? "" : "; no control group: " + group.error().message()));

    story.phase(Phase::detect);
    story.show(TRY(World::shale({"cache", "top", "--by", "layer", "-n", "5", "--store", "shale=" + store.root()})));
    // Which of the layers is the hot one: its pages are the only ones that come back when the service reads.
    const auto cold_ones = std::count_if(polluted.begin(), polluted.end(),
                                         [](const Layer &layer) { return layer.resident >= layer_bytes / 2; });
    story.answer(Question::detected, cold_ones == cold_layers + 1,
                 fmt::format("cachestat(2) by layer: {} layers with {} each", cold_ones, format_bytes(layer_bytes)));

    story.phase(Phase::heal);
    if (group) {
        const Ran evicted = TRY(World::shale({"cache", "evict", "--cgroup", group->name}));
        story.show(evicted);
        TRY(add_row(evicted.status == 0 ? "the job's control group is reclaimed"
                                        : "the control group could not be reclaimed",
                    TRY(hot_us(tree))));
        for (unsigned i = 1; i <= cold_layers; ++i) // the job comes again
            TRY(read_us(tree + "/" + file_of(i)));
    }
    // The smallest action: one layer after the other but the one in use, whose id the order of the chain tells.
    std::map<std::string, uint64_t> before;
    for (const auto &layer : TRY(layers_of(store)))
        before[layer.id] = layer.resident;
    std::string hot_id;
    for (const auto &[id, resident] : before) {
        TRY(store.must({"cache", "evict", "--layer", id, "--store", "shale=" + store.root()}));
        if (TRY(resident_of(hot)) < layer_bytes / 2) {
            hot_id = id;
            TRY(read_us(tree + "/" + file_of(0)));
        }
    }
    if (!hot_id.empty()) {
        for (unsigned i = 1; i <= cold_layers; ++i)
            TRY(read_us(tree + "/" + file_of(i)));
        for (const auto &[id, resident] : before)
            if (id != hot_id) TRY(store.must({"cache", "evict", "--layer", id, "--store", "shale=" + store.root()}));
    }
    const double after = TRY(hot_us(tree));
    TRY(add_row("each layer but the hot one: posix_fadvise(DONTNEED)", after));
    const uint64_t left = sum_of(TRY(layers_of(store))), kept = TRY(resident_of(hot));
    TRY(store.must({"cache", "evict", "--image", "app:1", "--store", "shale=" + store.root()}));
    const double blanket = TRY(read_us(tree + "/" + file_of(0)));
    rows.push_back(
        {"the whole image, as drop_caches would: the next hot read", "-", "-", fmt::format("{:.0f}", blanket)});

    story.phase(Phase::verify);
    story.table("The page cache and the service's latency after each action", rows);
    story.answer(
        Question::healed, left < wanted / 4 && kept == layer_bytes && after < blanket,
        fmt::format(
            "{} of {} given back, the hot layer stays ({}): its read takes {:.0f} us, {:.0f} after a blanket action",
            format_bytes(sum_of(polluted) - std::min(left, sum_of(polluted))), format_bytes(sum_of(polluted)),
            format_bytes(kept), after, blanket));
    return {};
}

std::string cannot_run() {
    const std::string overlay = lacks_file_system("overlay");
    return !overlay.empty() ? overlay : lacks_file_system("ext4");
}

} // namespace

extern const Scenario page_cache_pollution;
const Scenario page_cache_pollution{
    .id = "page-cache-pollution",
    .title = "A job reads every layer once, and the page cache is full of it",
    .about = "A scan, a backup or a virus checker reads all layers of an image once; their pages push out what "
             "services need. shale counts "
             "resident pages by layer with cachestat(2), and takes the smallest action that is enough: the clean pages "
             "of one layer, or of "
             "the control group that read them. A blanket drop of all caches makes the next read of everybody cold.",
    .cannot_run = cannot_run,
    .run = run,
};

} // namespace shale::lab
