// SPDX-License-Identifier: Apache-2.0
// store-orphans: layers on disk that no record knows.
#include <algorithm>
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

std::string line_of(const probe::StoreLayer &layer, const std::set<const probe::StoreLayer *> &mounted) {
    const std::string since = since_text(layer.created_s);
    return fmt::format("{}: {}{}{}{}", place_of(layer), exclusive_text(layer.usage), since.empty() ? "" : ", ", since,
                       mounted.contains(&layer) ? ", mounted: leave it alone until leaked-mounts is settled" : "");
}

Finding finding_of(const probe::Store &store, std::vector<const probe::StoreLayer *> orphans,
                   const std::set<const probe::StoreLayer *> &mounted) {
    std::ranges::stable_sort(orphans, std::ranges::greater(), bytes_of);
    std::vector<std::string> lines;
    for (const auto *layer : orphans)
        lines.push_back(line_of(*layer, mounted));
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
    std::set<const probe::StoreLayer *> mounted;
    for (const auto &mount : mounted_layers(facts))
        if (mount.layer != nullptr) mounted.insert(mount.layer);
    for (const auto &store : facts.stores) {
        if (std::string why = unread_records(store); !why.empty()) {
            out.unable.push_back(std::move(why));
            continue;
        }
        const Layers all = layers_by_id(store);
        std::vector<const probe::StoreLayer *> orphans;
        for (const auto &layer : store.layers)
            if (is_orphan(layer, all)) orphans.push_back(&layer);
        if (!orphans.empty()) out.findings.push_back(finding_of(store, std::move(orphans), mounted));
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
              "layer. Nothing is said of a store whose records could not all be read, or changed while they were "
              "read; what is being removed or unpacked does not count.",
    .remedy = "See each one and the proof with `shale orphans`, move them aside with `shale orphans reclaim`, and "
              "free them with `shale orphans purge` when all has run well without them.",
    .risk = "A layer that only seems unowned is lost when it is removed by hand. `shale orphans reclaim` moves only "
            "what no mount and no process has; a mounted one stays.",
    .undo = "`shale orphans undo` puts back what was reclaimed, until it is purged. After that: pull or build the "
            "image again.",
    .run = run,
};

} // namespace shale::doctor::checks
