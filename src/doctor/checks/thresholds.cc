// SPDX-License-Identifier: Apache-2.0
#include "doctor/checks/thresholds.h"

#include <algorithm>
#include <charconv>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <tuple>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/units.h"
#include "doctor/checks/common.h"
#include "doctor/checks/docker_config.h"
#include "doctor/checks/kubelet_config.h"
#include "doctor/checks/thin_pools.h"
#include "doctor/toml_json.h"

namespace shale::doctor::checks {
namespace {

using Json = nlohmann::json;
using Signals = std::map<std::string, std::string>;

// kubernetes, pkg/kubelet/apis/config/v1beta1/defaults.go and pkg/kubelet/eviction/defaults_linux.go
constexpr int default_high_percent = 85, default_low_percent = 80, high_percent_off = 100;
Signals default_hard() {
    return {{"imagefs.available", "15%"},
            {"imagefs.inodesFree", "5%"},
            {"nodefs.available", "10%"},
            {"nodefs.inodesFree", "5%"}};
}
constexpr unsigned docker_min_free_percent = 10; ///< moby, daemon/graphdriver/devmapper, defaultMinFreeSpacePercent
constexpr unsigned shale_max_percent = 95;       ///< src/drivers/devicemapper/config.h, data_max
constexpr int lvm_never = 100;                   ///< lvmthin(7), thin_pool_autoextend_threshold

uint64_t part_of(uint64_t whole, unsigned percent) {
    return whole / 100 * percent + whole % 100 * percent / 100;
}

std::optional<unsigned> percent_of(std::string_view text) {
    if (text.ends_with('%')) text.remove_suffix(1);
    unsigned out = 0;
    const auto [end, bad] = std::from_chars(text.data(), text.data() + text.size(), out);
    if (bad != std::errc() || end != text.data() + text.size() || out > 100) return std::nullopt;
    return out;
}

/// BuildKit's spelling of space, of a disk: a size, or "10%" of it.
std::optional<uint64_t> space_of(std::string_view text, uint64_t disk_bytes) {
    if (text.ends_with('%')) {
        const auto percent = percent_of(text);
        return percent ? std::optional(part_of(disk_bytes, *percent)) : std::nullopt;
    }
    const auto bytes = parse_bytes(text);
    return bytes ? std::optional(*bytes) : std::nullopt;
}

class Collector {
public:
    Collector(const probe::Facts &facts, std::vector<std::string> &unable) : facts_(facts), unable_(unable) {}

    std::vector<Disk> run() {
        read_kubelet();
        for (const auto &pool : facts_.thin_pools)
            read_pool(pool);
        for (const auto &store : facts_.stores)
            if (store.engine == "docker" && store.driver != "devicemapper")
                if (const auto builder = docker_config_of(facts_, store).builder) read_builder(store, *builder);
        read_buildkitd();
        std::vector<Disk> out;
        for (auto &[key, disk] : disks_) {
            std::ranges::stable_sort(disk.marks, [](const Mark &a, const Mark &b) {
                return std::tuple(b.free_bytes, a.act) < std::tuple(a.free_bytes, b.act);
            });
            out.push_back(std::move(disk));
        }
        return out;
    }

private:
    /// The one disk of that key, made at first use; stays where it is.
    Disk &disk_of(const void *key, std::string name, uint64_t total, uint64_t free) {
        for (auto &[known, disk] : disks_)
            if (known == key) return disk;
        Disk &made = disks_.emplace_back(key, Disk{}).second;
        made.name = std::move(name);
        made.total_bytes = total;
        made.free_bytes = free;
        return made;
    }
    Disk &disk_of(const probe::FileSystem &fs) {
        return disk_of(&fs, fmt::format("{} ({})", shown(fs.target), shown(fs.type)), fs.total_bytes,
                       fs.available_bytes);
    }
    Disk &disk_of(const probe::ThinPool &pool) {
        const uint64_t total = pool.total_data_blocks * pool.data_block_bytes;
        const uint64_t used = pool.used_data_blocks * pool.data_block_bytes;
        return disk_of(&pool, fmt::format("thin pool {}", shown(pool.name)), total, total - std::min(used, total));
    }
    const probe::ThinPool *pool_of(const probe::Store &store) const {
        for (const auto &pool : facts_.thin_pools)
            for (const auto *one : stores_on(facts_, pool))
                if (one == &store && has_figures(pool)) return &pool;
        return nullptr;
    }

    /// The store whose images kubelet collects: of the runtime that runs.
    const probe::Store *image_store() const {
        const bool crio = std::ranges::any_of(facts_.processes,
                                              [](const probe::Process &process) { return process.command == "crio"; });
        const auto of = [&](std::string_view engine, bool running) -> const probe::Store * {
            for (const auto &store : facts_.stores)
                if (store.engine == engine && (!running || store.running)) return &store;
            return nullptr;
        };
        if (crio) return of("podman", false);
        for (const bool running : {true, false})
            for (const std::string_view engine : {"containerd", "docker", "podman"})
                if (const auto *store = of(engine, running)) return store;
        return nullptr;
    }

    /// Where kubelet sees images: Docker's thin pool by cAdvisor; of all others the file system of the root, also where
    /// containerd's layers are in a thin pool (containerd, internal/cri/server/images, ImageFsInfo).
    Disk *image_disk() {
        const auto *store = image_store();
        if (store == nullptr) {
            unable_.emplace_back("kubelet: no store of a container runtime was found whose images it would collect");
            return nullptr;
        }
        const auto *pool = pool_of(*store);
        if (pool != nullptr && store->engine == "docker") return &disk_of(*pool);
        if (pool != nullptr)
            disk_of(*pool).contradictions.push_back(
                fmt::format("kubelet looks at the file system of {} and not at this pool, which holds the layers: it "
                            "neither collects images nor evicts pods when the pool fills",
                            shown(store->root)));
        const auto *fs = file_system_of(facts_, *store);
        if (fs == nullptr) unable_.push_back(fmt::format("{}: the file system below it is not known", name_of(*store)));
        return fs == nullptr ? nullptr : &disk_of(*fs);
    }

    void read_kubelet() {
        const auto config = kubelet_config(facts_);
        if (!config) return;
        if (!config->fault.empty()) unable_.push_back(fmt::format("{}: {}", shown(config->origin), config->fault));
        Disk *images = image_disk();
        const auto *fs = file_system_of(facts_, config->root);
        Disk *node = fs == nullptr ? nullptr : &disk_of(*fs);
        if (images != nullptr) add_collection(*config, *images);
        Signals hard = config->has_hard ? config->hard : default_hard();
        if (config->merges_defaults) hard.merge(default_hard());
        add_evictions(hard, "", images, node);
        add_evictions(config->soft, "after a grace period ", images, node);
    }

    /// Acts when 100 - available * 100 / capacity, in whole numbers, is the threshold or more (kubernetes,
    /// pkg/kubelet/images/image_gc_manager.go, GarbageCollect).
    void add_collection(const KubeletConfig &config, Disk &disk) {
        const int high = config.high_percent.value_or(default_high_percent);
        const int low = config.low_percent.value_or(default_low_percent);
        if (high < 0 || high > 100 || low < 0 || low >= high) {
            disk.contradictions.push_back(
                fmt::format("kubelet does not start: imageGCLowThresholdPercent {} must be less "
                            "than imageGCHighThresholdPercent {}",
                            low, high));
            return;
        }
        if (high == high_percent_off) {
            disk.remarks.emplace_back("kubelet collects no images: imageGCHighThresholdPercent is 100");
            return;
        }
        disk.marks.push_back({part_of(disk.total_bytes, static_cast<unsigned>(101 - high)), Act::collect, "kubelet",
                              fmt::format("kubelet, every 5 minutes, deletes unused images until {} % are in use "
                                          "(imageGCHighThresholdPercent: {})",
                                          low, high)});
    }

    void add_evictions(const Signals &signals, std::string_view when, Disk *images, Disk *node) {
        for (const auto &[signal, text] : signals) {
            Disk *disk = signal.starts_with("imagefs.") ? images : signal.starts_with("nodefs.") ? node : nullptr;
            if (disk == nullptr) continue;
            const bool of_inodes = signal.ends_with(".inodesFree");
            const auto quantity = kubelet_quantity(text, disk->total_bytes);
            if (!quantity) {
                unable_.push_back(fmt::format("kubelet: {}<{} is no quantity", shown(signal), shown(text)));
            } else if (of_inodes && *quantity != 0) {
                disk->remarks.push_back(
                    fmt::format("by inodes: kubelet {}evicts pods ({}<{}); its collection of images "
                                "looks at bytes only",
                                when, signal, text));
            } else if (signal.ends_with(".available") && *quantity != 0) {
                disk->marks.push_back(
                    {*quantity, Act::evict, "kubelet",
                     fmt::format("kubelet {}deletes all unused images, and if that is not enough evicts "
                                 "pods ({}<{})",
                                 when, signal, text)});
            }
        }
    }

    void read_pool(const probe::ThinPool &pool) {
        if (!has_figures(pool) || pool.total_data_blocks == 0) return;
        Disk &disk = disk_of(pool);
        const int threshold = pool.autoextend_percent.value_or(lvm_never);
        if (pool.lvm && threshold < lvm_never && threshold >= 0 && (pool.monitored || !facts_.live))
            disk.marks.push_back(
                {part_of(disk.total_bytes, static_cast<unsigned>(100 - threshold)), Act::grow, "LVM",
                 fmt::format("LVM makes the pool larger (thin_pool_autoextend_threshold = {})", threshold)});
        for (const auto *store : stores_on(facts_, pool)) {
            if (store->engine == "docker") read_docker_pool(*store, disk);
            if (store->engine == "shale") read_shale_pool(*store, disk);
        }
    }

    void read_docker_pool(const probe::Store &store, Disk &disk) {
        const std::string text = storage_option(docker_config_of(facts_, store), "dm.min_free_space");
        const auto percent = text.empty() ? std::optional(docker_min_free_percent) : percent_of(text);
        if (!percent || *percent == 0) return;
        disk.marks.push_back(
            {part_of(disk.total_bytes, *percent), Act::refuse, "dockerd",
             fmt::format("dockerd makes no image and no container (dm.min_free_space={}%)", *percent)});
    }

    void read_shale_pool(const probe::Store &store, Disk &disk) {
        const std::string *text = value_of(store.settings, "data_max");
        const auto percent = text == nullptr ? std::optional(shale_max_percent) : percent_of(*text);
        if (!percent) return;
        disk.marks.push_back({part_of(disk.total_bytes, 100 - *percent), Act::refuse, "shale",
                              fmt::format("shale makes no image and no container (data_max={})", *percent)});
    }

    void read_builder(const probe::Store &store, const BuilderCollection &builder) {
        const auto *fs = file_system_of(facts_, store);
        if (fs == nullptr) return;
        add_builder(builder, fmt::format("BuildKit in dockerd ({})", shown(builder.origin)), disk_of(*fs));
    }

    void add_builder(const BuilderCollection &builder, const std::string &who, Disk &disk) {
        if (!builder.enabled) {
            disk.remarks.push_back(fmt::format("{} collects no build cache: its collection is off", who));
            return;
        }
        if (const auto free = space_of(builder.least_free, disk.total_bytes); free && *free != 0)
            disk.marks.push_back(
                {*free, Act::collect, "BuildKit",
                 fmt::format("{} deletes build cache (minFreeSpace {})", who, shown(builder.least_free))});
        const std::string &limit = builder.most_used.empty() ? builder.reserved : builder.most_used;
        const auto kept = space_of(limit, disk.total_bytes);
        if (!kept || *kept == 0) return;
        disk.remarks.push_back(
            fmt::format("{} lets build cache grow to {} before it deletes any", who, format_bytes(*kept)));
        const uint64_t harm = first_harm(disk);
        if (*kept + harm >= disk.total_bytes)
            disk.contradictions.push_back(
                fmt::format("{} lets build cache grow to {}, and the disk has {}{}: its collection never begins", who,
                            format_bytes(*kept), format_bytes(disk.total_bytes),
                            harm == 0 ? "" : fmt::format(", of which {} are to stay free", format_bytes(harm))));
    }

    /// The free space below which somebody evicts or refuses; 0: nobody does.
    static uint64_t first_harm(const Disk &disk) {
        uint64_t out = 0;
        for (const Mark &mark : disk.marks)
            if (mark.act == Act::evict || mark.act == Act::refuse) out = std::max(out, mark.free_bytes);
        return out;
    }

    /// A BuildKit beside Docker (buildkit, cmd/buildkitd/config/config.go, GCConfig).
    void read_buildkitd() {
        std::set<std::string_view> seen; // one file may have been read for several reasons
        for (const auto &file : facts_.config_files) {
            if (!file.kind.starts_with("buildkit") || !seen.insert(file.path).second) continue;
            const auto document = parse_toml(file.text);
            if (!document) {
                unable_.push_back(fmt::format("{}: {}", shown(file.path), document.error().text()));
                continue;
            }
            const std::string given = toml_text(*document, {"root"});
            const auto *fs = file_system_of(facts_, given.empty() ? "/var/lib/buildkit" : given);
            const auto workers = document->find("worker");
            if (fs == nullptr || workers == document->end() || !workers->is_object()) continue;
            for (const auto &[name, worker] : workers->items()) {
                if (!worker.is_object()) continue;
                BuilderCollection builder;
                builder.origin = file.path;
                const auto gc = worker.find("gc");
                builder.enabled = gc == worker.end() || !gc->is_boolean() || gc->get<bool>();
                builder.reserved = toml_text(worker, {"reservedSpace"});
                if (builder.reserved.empty()) builder.reserved = toml_text(worker, {"gckeepstorage"});
                builder.most_used = toml_text(worker, {"maxUsedSpace"});
                builder.least_free = toml_text(worker, {"minFreeSpace"});
                add_builder(builder, fmt::format("buildkitd's worker {} ({})", shown(name), shown(file.path)),
                            disk_of(*fs));
            }
        }
    }

    std::deque<std::pair<const void *, Disk>> disks_;
    const probe::Facts &facts_;
    std::vector<std::string> &unable_;
};

} // namespace

std::vector<Disk> read_marks(const probe::Facts &facts, std::vector<std::string> &unable) {
    return Collector(facts, unable).run();
}

} // namespace shale::doctor::checks
