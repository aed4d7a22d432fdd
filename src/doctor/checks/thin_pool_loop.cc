// SPDX-License-Identifier: Apache-2.0
// thin-pool-loop: pools in sparse files on loop devices.
#include <algorithm>
#include <map>
#include <set>

#include <fmt/format.h>

#include "base/units.h"
#include "doctor/checks/common.h"
#include "doctor/checks/thin_pools.h"

namespace shale::doctor::checks {
namespace {

/// The loop devices that the device of that number is, or stands on.
std::vector<const probe::BlockDevice *> loops_below(const probe::Facts &facts, const std::string &number) {
    std::map<std::string_view, const probe::BlockDevice *> by_name;
    std::vector<const probe::BlockDevice *> out, todo;
    for (const auto &device : facts.devices) {
        by_name.emplace(device.name, &device);
        if (device.number == number) todo.push_back(&device);
    }
    std::set<const probe::BlockDevice *> seen; // what a text says may go round in circles
    while (!todo.empty()) {
        const auto *device = todo.back();
        todo.pop_back();
        if (!seen.insert(device).second) continue;
        if (device->kind == "loop") out.push_back(device);
        for (const std::string &below : device->below)
            if (const auto found = by_name.find(below); found != by_name.end()) todo.push_back(found->second);
    }
    return out;
}

struct Backing {
    std::vector<std::string> lines;
    bool deleted = false, overcommitted = false;
};

void describe(const probe::Facts &facts, const probe::ThinPool &pool, std::string_view what, const std::string &number,
              Backing &out) {
    for (const auto *loop : loops_below(facts, number)) {
        out.deleted = out.deleted || loop->file_deleted;
        out.lines.push_back(
            fmt::format("{} on {}: {}{}", what, shown(loop->name), shown(loop->file),
                        loop->file_deleted ? " (deleted: gone for good when the device is detached)" : ""));
        const auto *fs = file_system_of(facts, loop->file);
        if (what != "data" || fs == nullptr || !has_figures(pool)) continue;
        const uint64_t promised =
            (pool.total_data_blocks - std::min(pool.used_data_blocks, pool.total_data_blocks)) * pool.data_block_bytes;
        if (promised <= fs->available_bytes) continue;
        out.overcommitted = true;
        out.lines.push_back(fmt::format("the pool may still ask for {}, {} has {} available", format_bytes(promised),
                                        shown(fs->target), format_bytes(fs->available_bytes)));
    }
}

std::vector<std::string> ways_out(const std::vector<const probe::Store *> &stores, bool deleted) {
    std::vector<std::string> out{"losetup --list"};
    if (deleted) {
        out.emplace_back(
            "# stop the daemon, but leave the loop device attached, and copy what it shows into a new file:");
        out.emplace_back("cp --sparse=always /dev/LOOP FILE");
    }
    for (const probe::Store *store : stores) {
        if (store->engine == "shale") {
            out.push_back(fmt::format("shale --root {} migrate --to overlay2", shell_quote(store->root)));
            out.emplace_back("# or to a thin pool on a disk of its own: --to devicemapper --to-root DIR --to-opt "
                             "pool=device --to-opt device=/dev/DISK");
        } else if (store->engine == "docker") {
            out.emplace_back("docker images");
            out.emplace_back("docker save -o images.tar IMAGE...");
            out.emplace_back(
                "# then set \"storage-driver\": \"overlay2\" in daemon.json, without the dm.* options, and:");
            out.emplace_back("systemctl restart docker && docker load -i images.tar");
        }
    }
    return out;
}

Outcome run(const probe::Facts &facts) {
    Outcome out;
    for (const auto &pool : facts.thin_pools) {
        if (!pool.on_loop) continue;
        Backing backing;
        describe(facts, pool, "data", pool.data_device, backing);
        describe(facts, pool, "metadata", pool.metadata_device, backing);
        const auto stores = stores_on(facts, pool);
        const bool in_use = std::ranges::any_of(
            stores, [](const probe::Store *store) { return !store->images.empty() || !store->containers.empty(); });
        for (const probe::Store *store : stores)
            backing.lines.push_back(fmt::format("used by the {} with {} and {}", name_of(*store),
                                                counted(store->images.size(), "image"),
                                                counted(store->containers.size(), "container")));
        Finding &finding = out.findings.emplace_back();
        finding.subject = fmt::format("thin pool {}", shown(pool.name));
        finding.severity = Severity::info;
        if (in_use || backing.overcommitted) finding.severity = Severity::warning;
        if (backing.deleted) finding.severity = Severity::critical;
        finding.summary =
            backing.deleted
                ? "the pool lies in a file that has been deleted: all of it is lost when its loop device goes"
            : backing.overcommitted
                ? "the pool lies in sparse files, on a file system that has less space than the pool promises"
                : "the pool lies in files on loop devices (loop-lvm), which is for trying things out";
        finding.evidence = limited(std::move(backing.lines));
        finding.commands = ways_out(stores, backing.deleted);
    }
    return out;
}

} // namespace

extern const Check thin_pool_loop;
const Check thin_pool_loop{
    .id = "thin-pool-loop",
    .title = "A thin pool lies in files on loop devices",
    .why =
        "Each write goes through two file systems and a loop device, which costs most of the speed, and the files are "
        "sparse: when the file system below is full, the pool gets I/O errors although it believes that it has room, "
        "and its volumes are damaged. A backing file that somebody deletes lives only as long as its loop device.",
    .limits =
        "Information for a pool that nothing uses; warning where a store with images or containers is on it, or "
        "where the pool's free data is more than what the file system below has; critical when a backing file has "
        "no name any more. Docker called this mode unfit for production (docs, devicemapper storage driver: "
        "\"Configure loop-lvm mode for testing\").",
    .remedy = "Move the store to overlay2, or to a pool on a block device or a volume group.",
    .risk = "Docker shows nothing of the old store after a change of driver: save images first, and copy out what "
            "containers hold. `shale migrate` keeps the old side until the new one is proven.",
    .undo = "Set the old driver again: its store is still there until it is deleted.",
    .run = run,
};

} // namespace shale::doctor::checks
