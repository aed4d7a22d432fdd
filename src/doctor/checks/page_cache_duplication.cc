// SPDX-License-Identifier: Apache-2.0
// page-cache-duplication: containers of one image whose files the kernel caches once for each of them.
#include <algorithm>
#include <array>
#include <map>
#include <unordered_map>

#include <fmt/format.h>

#include "base/units.h"
#include "doctor/checks/common.h"

namespace shale::doctor::checks {
namespace {

constexpr double info_percent = 10, warning_percent = 50; ///< of memory
constexpr auto separate_caches =
    std::to_array<std::string_view>({"devicemapper", "devmapper", "btrfs", "zfs", "vfs", "native", "blockfile"});
/// Of these the tree of a layer holds all below it, so that the top one is the image.
constexpr auto whole_trees = std::to_array<std::string_view>({"btrfs", "vfs", "native"});

template <size_t N> bool is_one_of(const std::array<std::string_view, N> &all, std::string_view one) {
    return std::ranges::find(all, one) != all.end();
}

using LayersById = std::unordered_map<std::string_view, const probe::StoreLayer *>;

/// 0: not known.
uint64_t image_bytes(const probe::Store &store, const probe::StoreImage &image, const LayersById &layers) {
    uint64_t recorded = 0, measured = 0, top = 0;
    bool all_recorded = true;
    for (const std::string &id : image.layers) {
        const auto found = layers.find(id);
        if (found == layers.end()) return 0;
        const auto &layer = *found->second;
        all_recorded = all_recorded && layer.recorded_bytes.has_value();
        recorded += layer.recorded_bytes.value_or(0);
        top = layer.usage ? layer.usage->bytes : 0;
        measured += top;
    }
    if (all_recorded) return recorded;
    return is_one_of(whole_trees, store.driver) ? top : measured;
}

struct Duplicate {
    std::string image;
    uint64_t containers = 0, image_bytes = 0, extra_bytes = 0;
};

std::vector<Duplicate> duplicates_in(const probe::Store &store) {
    LayersById layers;
    for (const auto &layer : store.layers)
        layers.emplace(layer.id, &layer);
    std::map<std::string_view, const probe::StoreImage *> images;
    for (const auto &image : store.images) {
        images.emplace(image.id, &image);
        for (const std::string &name : image.names)
            images.emplace(name, &image);
    }
    std::map<const probe::StoreImage *, uint64_t> running;
    for (const auto &container : store.containers)
        if (container.state == "running")
            if (const auto found = images.find(container.image); found != images.end()) ++running[found->second];
    std::vector<Duplicate> out;
    for (const auto &[image, count] : running) {
        const uint64_t bytes = image_bytes(store, *image, layers);
        if (count < 2 || bytes == 0) continue;
        out.push_back({image->names.empty() ? image->id : image->names[0], count, bytes, bytes * (count - 1)});
    }
    std::ranges::sort(out, [](const Duplicate &a, const Duplicate &b) {
        return a.extra_bytes != b.extra_bytes ? a.extra_bytes > b.extra_bytes : a.image < b.image;
    });
    return out;
}

std::string_view why_separate(std::string_view driver) {
    if (driver == "zfs")
        return "zfs: blocks that are read are shared in the ARC, but programs and libraries, which are mapped, are "
               "cached for each "
               "container";
    if (driver == "vfs" || driver == "native") return "every container has a copy of its own of all files";
    if (driver == "btrfs") return "btrfs: a file of a snapshot is another inode to the kernel, with a cache of its own";
    return "every container has a block device of its own, and the kernel a cache for each";
}

Outcome run(const probe::Facts &facts) {
    Outcome out;
    if (!facts.live || facts.kernel.memory_bytes == 0) return out;
    for (const auto &store : facts.stores) {
        if (!is_one_of(separate_caches, store.driver)) continue;
        const auto duplicates = duplicates_in(store);
        uint64_t extra = 0;
        for (const auto &one : duplicates)
            extra += one.extra_bytes;
        const double part = percent(extra, facts.kernel.memory_bytes);
        if (part < info_percent) continue;
        Finding &finding = out.findings.emplace_back();
        finding.severity = part >= warning_percent && store.driver != "zfs" ? Severity::warning : Severity::info;
        finding.subject = name_of(store);
        finding.summary =
            fmt::format("up to {} of cache may hold the same files again, of {} of memory ({})", format_bytes(extra),
                        format_bytes(facts.kernel.memory_bytes), percent_text(extra, facts.kernel.memory_bytes));
        std::vector<std::string> lines;
        lines.reserve(duplicates.size() + 2);
        for (const auto &one : duplicates)
            lines.push_back(fmt::format("{}: {} of {}, up to {} more than once", shown(one.image),
                                        counted(one.containers, "running container"), format_bytes(one.image_bytes),
                                        format_bytes(one.extra_bytes)));
        lines.emplace_back(why_separate(store.driver));
        if (const uint64_t *cached = value_of(facts.memory, "Cached"))
            lines.push_back(fmt::format("in the page cache now: {}", format_bytes(*cached)));
        finding.evidence = limited(std::move(lines));
        finding.commands = {"# drivers on overlay cache a layer once for all containers"};
        if (store.engine == "shale")
            finding.commands.push_back(fmt::format("shale --root {} migrate --to overlay2", shell_quote(store.root)));
        else
            finding.commands.emplace_back("grep -E 'workingset_refault|pgscan' /proc/vmstat");
    }
    return out;
}

} // namespace

extern const Check page_cache_duplication;
const Check page_cache_duplication{
    .id = "page-cache-duplication",
    .title = "Memory holds the files of an image once for each container",
    .why = "With overlay all containers of an image share the page cache of its layers. With a block device, a "
           "subvolume, a clone "
           "or a copy for each container the kernel sees different files and reads and caches them once for each: "
           "density is "
           "lost, starts read from the disk again, and memory limits of containers are used up by the same libraries.",
    .limits =
        "For each image with at least two running containers: its size times all but one of them, which is the most "
        "that "
        "can be cached twice; real programs read a part of it. Information from 10 % of memory on, warning from 50 % "
        "(figures of this project); never more than information on ZFS, whose ARC shares what is read (Docker's "
        "documentation, ZFS storage driver). Drivers: devicemapper, btrfs (\"does not support page cache sharing\", "
        "same "
        "documentation), zfs, vfs; containerd's devmapper, native, blockfile.",
    .remedy = "Use a driver on overlay (overlay2, overlayfs, erofs) where many containers run the same image.",
    .risk = "A change of driver means to pull or migrate all images, and to make containers anew.",
    .undo = "Change back; the old store is there until it is deleted.",
    .run = run,
};

} // namespace shale::doctor::checks
