// SPDX-License-Identifier: Apache-2.0
// leaked-mounts: a layer or a part of a container stays mounted though nothing needs it there.
#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "doctor/checks/common.h"
#include "doctor/checks/mounted_layers.h"

namespace shale::doctor::checks {
namespace {

constexpr std::string_view deleted_suffix = "//deleted"; ///< the kernel's mark of a mount point that has no name
constexpr uint64_t grace_s = 60;                         ///< between a layer and its record

/// What every mount is judged with.
struct Host {
    std::set<uint64_t> engines;                                   ///< namespaces
    std::map<uint64_t, std::set<std::string_view>> shown;         ///< devices of the overlays in them
    std::map<uint64_t, const probe::StoreContainer *> containers; ///< running ones, by their namespace
    std::set<const probe::Store *> unread;                        ///< stores whose records say nothing of what has none
    uint64_t taken_s = 0;
};

Host host_of(const probe::Facts &facts, const std::vector<MountedLayer> &mounts) {
    Host out;
    out.engines = engine_namespaces(facts);
    out.taken_s = facts.taken_s;
    for (const auto &mounted : mounts)
        if (out.engines.contains(mounted.where->id)) out.shown[mounted.where->id].insert(mounted.mount->device);
    std::map<int, const probe::StoreContainer *> by_pid;
    for (const auto &store : facts.stores) {
        if (!unread_records(store).empty()) out.unread.insert(&store);
        for (const auto &container : store.containers)
            if (container.pid > 0 && is_running(container)) by_pid.emplace(container.pid, &container);
    }
    for (const auto &process : facts.processes)
        if (const auto found = by_pid.find(process.pid); found != by_pid.end())
            out.containers.emplace(process.mount_namespace, found->second);
    return out;
}

/// Containers for which the engine makes a mount for a moment, or keeps one: pulls, builds, copies out of an image.
bool may_be_work(const MountedLayer &mounted) {
    return mounted.store->running || mounted.store->engine == "podman" || mounted.store->engine == "shale";
}

bool is_shown_by_engine(const Host &host, const MountedLayer &mounted) {
    return std::ranges::any_of(host.shown,
                               [&](const auto &shown) { return shown.second.contains(mounted.mount->device); });
}

/// Why nothing needs the mount, whatever namespace it is in; empty: something may.
std::string reason_of(const Host &host, const MountedLayer &mounted) {
    const bool judged = !host.unread.contains(mounted.store);
    if (mounted.container != nullptr)
        return is_stopped(*mounted.container)
                   ? fmt::format("container {} is {}", shown(mounted.container->id), shown(mounted.container->state))
                   : std::string();
    if (!judged) return {};
    if (!mounted.container_id.empty()) return fmt::format("no record of container {}", shown(mounted.container_id));
    if (mounted.layer == nullptr) return "its layer is in no record and not on disk";
    const bool young = mounted.layer->created_s != 0 && mounted.layer->created_s + grace_s > host.taken_s;
    if (mounted.layer->kind == "ingest" || young) return {};
    if (!mounted.layer->recorded && mounted.layer->used_by.empty()) return "its layer is in no record";
    if (mounted.layer->used_by.empty() && !may_be_work(mounted)) return "nothing uses its layer";
    return {};
}

/// An unmount in the namespace that it came from reaches it.
bool is_followed(const Host &host, const MountedLayer &mounted) {
    return !mounted.mount->propagation.empty() && is_shown_by_engine(host, mounted);
}

/// Why it should not be in this namespace; empty: it may be.
std::string leak_of(const Host &host, const MountedLayer &mounted) {
    std::string reason = reason_of(host, mounted);
    if (host.engines.contains(mounted.where->id)) return reason;
    // "/" is a container's own root, and a mount of the namespace's own container is its business.
    const auto own = host.containers.find(mounted.where->id);
    const bool its_own = own != host.containers.end() && mounted.container == own->second;
    if (mounted.mount->target == "/" || its_own || is_followed(host, mounted)) return {};
    if (!reason.empty()) return reason;
    if (mounted.mount->type == "overlay" && !host.shown.empty() && !is_shown_by_engine(host, mounted))
        return "its engine has unmounted it";
    return {};
}

std::string umount_of(const MountedLayer &mounted) {
    std::string_view target = mounted.mount->target;
    if (target.ends_with(deleted_suffix))
        return fmt::format("# {} was removed: the mount goes with the last process of its namespace",
                           shown(target.substr(0, target.size() - deleted_suffix.size())));
    if (mounted.where->ours) return fmt::format("umount {}", shell_quote(target));
    return fmt::format("nsenter -t {} -m umount {}", mounted.where->pid, shell_quote(target));
}

struct Leak {
    const MountedLayer *mounted = nullptr;
    std::string reason;
};

Finding finding_of(const probe::MountNamespace &where, const probe::Store &store, const std::vector<Leak> &leaks) {
    Finding out;
    out.subject =
        where.ours ? fmt::format("this mount namespace, {}", name_of(store))
                   : fmt::format("mount namespace of {}, {}", process_name(where.pid, where.command), name_of(store));
    out.summary = fmt::format("{} of the store {} there that nothing needs", counted(leaks.size(), "mount"),
                              leaks.size() == 1 ? "is" : "are");
    for (const auto &leak : leaks) {
        out.evidence.push_back(fmt::format("{}: {}", shown(leak.mounted->mount->target), leak.reason));
        out.commands.push_back(umount_of(*leak.mounted));
    }
    out.evidence = limited(std::move(out.evidence));
    if (out.commands.size() > max_evidence) {
        const size_t more = out.commands.size() - (max_evidence - 1);
        out.commands.resize(max_evidence - 1);
        out.commands.push_back(fmt::format("# ... and {} more of this kind", more));
    }
    return out;
}

void add_unable(const probe::Facts &facts, const Host &host, Outcome &out) {
    if (facts.live && facts.mount_namespaces.empty() && !facts.stores.empty())
        out.unable.emplace_back("no mount namespace could be read");
    for (const auto *store : host.unread)
        out.unable.push_back(unread_records(*store));
    std::ranges::sort(out.unable); // the set's order is that of addresses
    for (const auto &problem : facts.problems)
        if (problem.about.starts_with("mounts of ")) out.unable.push_back(shown(problem.about + ": " + problem.why));
}

Outcome run(const probe::Facts &facts) {
    Outcome out;
    const auto mounts = mounted_layers(facts);
    const Host host = host_of(facts, mounts);
    std::map<std::pair<size_t, size_t>, std::vector<Leak>> leaks; // by the places of namespace and store in the facts
    for (const auto &mounted : mounts) {
        std::string reason = leak_of(host, mounted);
        if (reason.empty()) continue;
        const auto where = static_cast<size_t>(mounted.where - facts.mount_namespaces.data());
        const auto store = static_cast<size_t>(mounted.store - facts.stores.data());
        leaks[{where, store}].push_back({&mounted, std::move(reason)});
    }
    for (const auto &[key, its] : leaks)
        out.findings.push_back(finding_of(facts.mount_namespaces[key.first], facts.stores[key.second], its));
    add_unable(facts, host, out);
    return out;
}

} // namespace

extern const Check leaked_mounts;
const Check leaked_mounts{
    .id = "leaked-mounts",
    .title = "Mounts of layers that nothing needs any more",
    .why = "A mount keeps its layer's files, blocks and inodes alive. One that is left in some mount namespace (a "
           "service with its own, a container that sees the host's /) makes removals fail with \"device or resource "
           "busy\", pins the space of what was removed, and slows every look at the mount table (moby issues 22260, "
           "34652; containerd issue 13416: 4,954 orphan overlay mounts on one node).",
    .limits = "Told apart by the overlay's upper directory, so also where the host's tree is mounted elsewhere. "
              "Reported: a mount whose container is not running, whose layer or container has no record, which no "
              "engine's namespace shows any more, or, while its engine does not run, whose layer nothing uses. A "
              "container's own root and what its own namespace holds are not. Overlays without an upper directory "
              "are known only where they are mounted in the store; a mount that follows the engine's own is not told "
              "twice; the namespaces of engines that run in a container are left out. Nothing is said of records "
              "that could not all be read.",
    .remedy = "Unmount it in the namespace that has it; if that is a service's, restart the service instead, with "
              "MountFlags=slave or without its own namespace. `podman mount` made by hand is undone by `podman "
              "umount`.",
    .risk = "A process that works in the mount loses its files; umount refuses while files are open (do not use -l "
            "then: it only hides the mount). In a container's namespace nsenter runs that container's own umount, if "
            "it has one. A container that starts while the host is examined can look like a leak: look twice.",
    .undo = "Start the container or the service again: it mounts what it needs.",
    .run = run,
};

} // namespace shale::doctor::checks
