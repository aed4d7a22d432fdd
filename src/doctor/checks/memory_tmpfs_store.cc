// SPDX-License-Identifier: Apache-2.0
// memory-tmpfs-store: a store that lies in memory.
#include <fmt/format.h>

#include "base/units.h"
#include "doctor/checks/common.h"

namespace shale::doctor::checks {
namespace {

bool in_memory(const probe::FileSystem &fs) {
    return fs.type == "tmpfs" || fs.type == "ramfs";
}

Outcome run(const probe::Facts &facts) {
    Outcome out;
    for (const auto &store : facts.stores) {
        const auto *const fs = file_system_of_layers(facts, store);
        if (fs == nullptr || !in_memory(*fs)) continue;
        const StoreSize size = size_of(store);
        const uint64_t memory = facts.kernel.memory_bytes;
        Finding finding;
        finding.subject = name_of(store);
        finding.summary = fmt::format("it lies in memory ({} at {}): {}{}", shown(fs->type), shown(fs->target),
                                      size.complete ? "" : "at least ", format_bytes(size.bytes));
        if (memory != 0) finding.summary += fmt::format(", {} of the host's memory", percent_text(size.bytes, memory));
        if (fs->total_bytes != 0)
            finding.evidence.push_back(
                fmt::format("{} may grow to {}", shown(fs->target), format_bytes(fs->total_bytes)));
        else
            finding.evidence.push_back(fmt::format("{} has no limit", shown(fs->target)));
        if (memory != 0) finding.evidence.push_back(fmt::format("the host has {}", format_bytes(memory)));
        finding.evidence.push_back(fmt::format("{} and {} are lost with a reboot",
                                               counted(store.images.size(), "image"),
                                               counted(store.containers.size(), "container")));
        finding.commands = {"# if that was not meant: stop the engine, move its root to a disk, start it there"};
        if (store.engine == "docker")
            finding.commands.emplace_back("# /etc/docker/daemon.json: \"data-root\": \"/var/lib/docker\"");
        out.findings.push_back(std::move(finding));
    }
    return out;
}

} // namespace

extern const Check memory_tmpfs_store;
const Check memory_tmpfs_store{
    .id = "memory-tmpfs-store",
    .title = "A store lies in memory",
    .why = "Images, layers and what containers write take the host's memory or swap, and no cgroup limit of a "
           "container counts layers that it only reads. Memory runs out and the kernel kills processes; a reboot "
           "loses it all.",
    .limits = "Any store on tmpfs or ramfs. tmpfs may grow to half of the memory unless it is mounted with size= "
              "(tmpfs(5)).",
    .remedy = "Leave it if it was meant (a diskless or throw-away CI host) and give the tmpfs a size; else move the "
              "store to a disk.",
    .risk = "Moving needs the engine stopped.",
    .undo = "Point the engine at the old root again, before the next reboot.",
    .run = run,
};

} // namespace shale::doctor::checks
