// SPDX-License-Identifier: Apache-2.0
#include "doctor/page_cache.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <span>
#include <tuple>
#include <utility>

#include "doctor/checks/common.h"
#include "probe/text.h"
#include "probe/usage.h"
#include "sys/fs.h"

namespace shale::doctor {

namespace {

using probe::CountOptions;
using probe::Facts;
using probe::Host;

probe::CountOptions how(const CacheOptions &options, CountOptions::PageCache page_cache) {
    CountOptions out;
    out.threads = options.threads;
    out.on_progress = options.on_progress;
    out.page_cache = page_cache;
    return out;
}

/// Where memory.stat of a cgroup is: v1's own hierarchy, else the unified one.
std::string cgroup_directory(const Host &host, const std::string &cgroup) {
    for (const std::string_view base : {"/sys/fs/cgroup/memory", "/sys/fs/cgroup", "/sys/fs/cgroup/unified"}) {
        std::string directory = std::string(base) + (cgroup == "/" ? "" : cgroup);
        if (const auto found = host.stat(directory + "/memory.stat"); found && *found) return directory;
    }
    return {};
}

/// "file" (v2) or "total_cache" (v1: with those below, which v2's figures always have).
std::optional<uint64_t> file_cache(const Host &host, const std::string &directory) {
    if (directory.empty()) return std::nullopt;
    const auto text = host.read(directory + "/memory.stat", size_t{64} << 10U);
    if (!text) return std::nullopt;
    for (std::string_view rest = *text; !rest.empty();) {
        const std::string_view line = rest.substr(0, rest.find('\n'));
        rest.remove_prefix(std::min(rest.size(), line.size() + 1));
        const size_t space = line.find(' ');
        const std::string_view key = line.substr(0, space);
        if (space != std::string_view::npos && (key == "file" || key == "total_cache"))
            return probe::to_number(line.substr(space + 1));
    }
    return std::nullopt;
}

struct LayerRef {
    const probe::Store *store = nullptr;
    const probe::StoreLayer *layer = nullptr;
};

std::vector<LayerRef> layers_on_disk(const Facts &facts) {
    std::vector<LayerRef> out;
    for (const auto &store : facts.stores)
        for (const auto &layer : store.layers)
            if (layer.on_disk && !layer.path.empty()) out.push_back({&store, &layer});
    return out;
}

std::vector<std::string> paths_of(std::span<const LayerRef> layers) {
    std::vector<std::string> out;
    for (const LayerRef &one : layers)
        out.push_back(one.layer->path);
    return out;
}

const probe::Process *process_of(const Facts &facts, int pid) {
    const auto found = std::ranges::find(facts.processes, pid, &probe::Process::pid);
    return found == facts.processes.end() ? nullptr : &*found;
}

class Cache {
public:
    Cache(const Host &host, const Facts &facts) : host_(host), facts_(facts) {}

    std::vector<CachedThing> run(const CacheOptions &options, std::vector<probe::Problem> &problems) {
        const auto layers = layers_on_disk(facts_);
        auto counted = probe::count_trees(host_, paths_of(layers), how(options, CountOptions::PageCache::counted));
        for (size_t i = 0; i < layers.size(); ++i) {
            std::ranges::move(counted[i].problems, std::back_inserter(problems));
            auto &thing = by_layer_[{layers[i].store, layers[i].layer->id}];
            thing = {.kind = CachedThing::Kind::layer,
                     .store = checks::name_of(*layers[i].store),
                     .name = layers[i].layer->used_by.empty() ? std::string() : layers[i].layer->used_by.front(),
                     .id = layers[i].layer->id,
                     .resident_bytes = counted[i].resident_bytes,
                     .bytes = counted[i].usage.bytes,
                     .cgroup_bytes = std::nullopt};
        }
        std::vector<CachedThing> out;
        out.reserve(by_layer_.size());
        for (const auto &[key, thing] : by_layer_)
            out.push_back(thing);
        for (const auto &store : facts_.stores)
            add_images_and_containers(store, out);
        std::ranges::stable_sort(out, [](const CachedThing &a, const CachedThing &b) {
            return std::tuple(a.kind, b.resident_bytes) < std::tuple(b.kind, a.resident_bytes);
        });
        return out;
    }

private:
    void add_layer(const probe::Store &store, const std::string &id, CachedThing &to) const {
        const auto found = by_layer_.find({&store, id});
        if (found == by_layer_.end()) return;
        to.resident_bytes += found->second.resident_bytes;
        to.bytes += found->second.bytes;
    }
    void add_images_and_containers(const probe::Store &store, std::vector<CachedThing> &out) const {
        for (const auto &image : store.images) {
            CachedThing thing;
            thing.kind = CachedThing::Kind::image;
            thing.store = checks::name_of(store);
            thing.name = checks::name_of(image);
            thing.id = image.id;
            for (const std::string &layer : image.layers)
                add_layer(store, layer, thing);
            out.push_back(std::move(thing));
        }
        for (const auto &container : store.containers) {
            CachedThing thing;
            thing.kind = CachedThing::Kind::container;
            thing.store = checks::name_of(store);
            thing.name = container.name.empty() ? container.id : container.name;
            thing.id = container.id;
            add_layer(store, container.layer, thing);
            if (const auto *process = container.pid > 0 ? process_of(facts_, container.pid) : nullptr)
                thing.cgroup_bytes = file_cache(host_, cgroup_directory(host_, process->cgroup));
            out.push_back(std::move(thing));
        }
    }

    const Host &host_;
    const Facts &facts_;
    std::map<std::pair<const probe::Store *, std::string>, CachedThing> by_layer_;
};

/// The layers that are meant; NotFound: none.
Result<std::vector<LayerRef>> layers_of(const Facts &facts, const EvictTarget &target) {
    std::vector<LayerRef> out;
    for (const LayerRef &one : layers_on_disk(facts)) {
        if (target.layer == one.layer->id) out.push_back(one);
        if (target.image.empty()) continue;
        for (const auto &image : one.store->images) {
            const bool meant =
                image.id == target.image || std::ranges::find(image.names, target.image) != image.names.end();
            if (meant && std::ranges::find(image.layers, one.layer->id) != image.layers.end()) out.push_back(one);
        }
    }
    if (out.empty())
        return fail(Errc::NotFound,
                    target.layer.empty()
                        ? fmt::format("no image is called \"{}\", or none of its layers is on disk", target.image)
                        : fmt::format("no layer \"{}\" is on disk", target.layer));
    return out;
}

uint64_t resident(const std::vector<probe::CountedTree> &trees) {
    uint64_t out = 0;
    for (const auto &tree : trees)
        out += tree.resident_bytes;
    return out;
}

Result<Evicted> evict_cgroup(const Host &host, const std::string &cgroup, bool dry_run) {
    const std::string directory = cgroup_directory(host, cgroup);
    const auto before = file_cache(host, directory);
    if (!before)
        return fail(Errc::NotFound,
                    fmt::format("no cgroup \"{}\" with a memory controller (see /proc/PID/cgroup)", cgroup));
    Evicted out{.before_bytes = *before, .after_bytes = *before, .how = "memory.reclaim"};
    const auto reclaim = host.open_path(directory + "/memory.reclaim", O_WRONLY);
    const auto empty =
        reclaim ? Result<UniqueFd>(UniqueFd()) : host.open_path(directory + "/memory.force_empty", O_WRONLY);
    if (!reclaim && !empty)
        return fail(Errc::Unimplemented,
                    fmt::format("{} has neither memory.reclaim (Linux 5.19, cgroup v2) nor memory.force_empty (v1)",
                                directory));
    if (!reclaim) out.how = "memory.force_empty";
    if (dry_run) return out;
    // EAGAIN: less was reclaimed than asked for, which is all that there is (Documentation/admin-guide/cgroup-v2.rst).
    const std::string text = reclaim ? std::to_string(*before) : "0";
    const Status written = sys::write_all(reclaim ? reclaim->get() : empty->get(), std::as_bytes(std::span(text)));
    if (!written && written.error().sys_errno() != EAGAIN && written.error().sys_errno() != EBUSY)
        return std::unexpected(written.error());
    out.after_bytes = file_cache(host, directory).value_or(0);
    return out;
}

} // namespace

std::vector<CachedThing> page_cache_of(const Host &host, const Facts &facts, const CacheOptions &options,
                                       std::vector<probe::Problem> &problems) {
    return Cache(host, facts).run(options, problems);
}

Result<Evicted> evict(const Host &host, const Facts &facts, const EvictTarget &target, bool dry_run,
                      const CacheOptions &options) {
    if (!target.cgroup.empty()) return evict_cgroup(host, target.cgroup, dry_run);
    const auto layers = TRY(layers_of(facts, target));
    const auto paths = paths_of(layers);
    using enum CountOptions::PageCache;
    Evicted out{.how = fmt::format("posix_fadvise on the files of {}", checks::counted(layers.size(), "layer"))};
    out.before_bytes = resident(probe::count_trees(host, paths, how(options, dry_run ? counted : dropped)));
    out.after_bytes = dry_run ? out.before_bytes : resident(probe::count_trees(host, paths, how(options, counted)));
    return out;
}

} // namespace shale::doctor
