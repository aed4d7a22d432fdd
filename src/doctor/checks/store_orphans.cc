// SPDX-License-Identifier: Apache-2.0
// store-orphans: layers on disk that no record knows.
#include <algorithm>
#include <map>
#include <set>
#include <string_view>

#include <fmt/format.h>

#include "base/units.h"
#include "doctor/checks/common.h"
#include "doctor/checks/mounted_layers.h"

namespace shale::doctor::checks {
namespace {

uint64_t bytes_of(const probe::StoreLayer *layer) {
    return layer->usage ? layer->usage->exclusive_bytes : 0;
}

struct Mounts {
    std::set<const probe::StoreLayer *> shown; ///< layers that a mount shows
    /// One of the mounts upon a place in a layer; of our namespace, if there is such a one.
    std::map<const probe::StoreLayer *, MountedLayer> in_layer;
};

Mounts find_mounts(const probe::Facts &facts) {
    Mounts out;
    for (const auto &mounted : mounted_layers(facts))
        if (mounted.layer != nullptr) out.shown.insert(mounted.layer);
    for (const auto &mounted : mounts_in_layers(facts)) {
        const auto [known, is_new] = out.in_layer.try_emplace(mounted.layer, mounted);
        if (!is_new && mounted.where->ours && !known->second.where->ours) known->second = mounted;
    }
    return out;
}

/// Why it is to be left alone, behind a comma; empty: nothing is mounted there.
std::string mounts_text(const probe::Facts &facts, const probe::StoreLayer &layer, const Mounts &mounts) {
    const auto found = mounts.in_layer.find(&layer);
    if (found == mounts.in_layer.end())
        return mounts.shown.contains(&layer) ? ", mounted: leave it alone until leaked-mounts is settled" : "";
    const MountedLayer &mounted = found->second;
    std::string out = fmt::format(", mounted at {}", shown(mounted.mount->target));
    if (!mounted.where->ours)
        out += fmt::format(" in the mount namespace of {}", process_name(mounted.where->pid, mounted.where->command));
    const auto rooted = namespaces_rooted_in(facts, mounted);
    if (rooted.empty()) return out + ": leave it alone until that is unmounted";
    return fmt::format("{}, which is the root of {}: leave it alone until that has ended and the mount is gone", out,
                       process_name(rooted.front()->pid, rooted.front()->command));
}

std::string line_of(const probe::Facts &facts, const probe::StoreLayer &layer, const Mounts &mounts) {
    const std::string since = since_text(layer.created_s);
    return fmt::format("{}: {}{}{}{}{}", place_of(layer), exclusive_text(layer.usage), since.empty() ? "" : ", ", since,
                       layer.kind == "step" ? ", left by a step of a build whose daemon is gone" : "",
                       mounts_text(facts, layer, mounts));
}

Finding finding_of(const probe::Facts &facts, const probe::Store &store, std::vector<const probe::StoreLayer *> orphans,
                   const Mounts &mounts) {
    std::ranges::stable_sort(orphans, std::ranges::greater(), bytes_of);
    std::vector<std::string> lines;
    for (const auto *layer : orphans)
        lines.push_back(line_of(facts, *layer, mounts));
    Finding out;
    out.subject = name_of(store);
    out.summary = fmt::format("{} on disk {} in no record, used by nothing, and freed by no prune command: {}",
                              counted(orphans.size(), "layer"), orphans.size() == 1 ? "is" : "are",
                              exclusive_text(exclusive_of(orphans)));
    out.evidence = limited(std::move(lines));
    out.commands = {"shale orphans", "shale orphans reclaim --dry-run"};
    return out;
}

Outcome run(const probe::Facts &facts) {
    Outcome out;
    const Mounts mounts = find_mounts(facts);
    for (const auto &store : facts.stores) {
        if (std::string why = unread_records(store); !why.empty()) {
            out.unable.push_back(std::move(why));
            continue;
        }
        const Layers all = layers_by_id(store);
        std::vector<const probe::StoreLayer *> orphans;
        for (const auto &layer : store.layers)
            if (is_orphan(layer, all)) orphans.push_back(&layer);
        if (!orphans.empty()) out.findings.push_back(finding_of(facts, store, std::move(orphans), mounts));
    }
    return out;
}

} // namespace

extern const Check store_orphans;
const Check store_orphans{
    .id = "store-orphans",
    .title = "Layers on disk that no record knows",
    .why = "A crash, a full disk or a busy mount in the middle of a pull, a build or a removal leaves a layer's "
           "directory, dataset or device behind without a record. The engine cannot list what it does not know: "
           "`system df` does not count it and no prune removes it, while it takes bytes and inodes for ever (moby "
           "issues 21925, 38344, 45939; containerd issues 10548, 13416).",
    .limits = "Any layer that is on disk, in no record of its engine (build cache included) and needed by no other "
              "layer; and what a step of BuildKit's leaves (executor/ID) once its daemon has ended, while the step's "
              "process may still run. Nothing is said of a store whose records could not all be read, or changed "
              "while they were read; what is being removed or unpacked does not count.",
    .remedy = "See each one and the proof with `shale orphans`, move them aside with `shale orphans reclaim`, and "
              "free them with `shale orphans purge` when all has run well without them.",
    .risk = "A layer that only seems unowned is lost when it is removed by hand. `shale orphans reclaim` moves only "
            "what no mount and no process has; a mounted one stays.",
    .undo = "`shale orphans undo` puts back what was reclaimed, until it is purged. After that: pull or build the "
            "image again.",
    .run = run,
};

} // namespace shale::doctor::checks
