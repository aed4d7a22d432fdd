// SPDX-License-Identifier: Apache-2.0
// zfs-leaked-datasets: layers' datasets that no record names.
#include <algorithm>
#include <map>
#include <set>

#include <fmt/format.h>

#include "base/units.h"
#include "doctor/checks/common.h"
#include "doctor/checks/zfs_layers.h"

namespace shale::doctor::checks {
namespace {

constexpr uint64_t grace_s = 3600; ///< one that is being made has its record later

/// Ids of layers that have a record, or are in the making, in any store: one may have been found by another root.
std::set<std::string_view> wanted_ids(const probe::Facts &facts) {
    std::set<std::string_view> out;
    for (const auto &store : facts.stores)
        for (const auto &layer : store.layers)
            if (layer.recorded || layer.kind == "ingest") out.insert(layer.id);
    return out;
}

bool is_young(const probe::Facts &facts, const probe::ZfsDataset &dataset) {
    return dataset.created_s != 0 && dataset.created_s + grace_s > facts.taken_s;
}

bool is_number(std::string_view text) {
    return !text.empty() && std::ranges::all_of(text, [](char c) { return c >= '0' && c <= '9'; });
}

/// What a store gives its layers: containerd numbers them (plugins/snapshots/zfs). Of shale's the records name other
/// numbers than those of the datasets; only whole stores that are gone can be told.
bool may_be_judged(const LayerParent &parent, std::string_view name) {
    if (parent.second == nullptr) return true;
    if (parent.second->engine == "shale") return false;
    return parent.second->engine == "containerd" ? is_number(name) : is_layer_name(name);
}

/// A dataset whose snapshot something else is a clone of cannot go before that.
void drop_needed(const probe::Facts &facts, std::set<std::string_view> &candidates) {
    std::multimap<std::string_view, std::string_view> clones; // by the dataset that they come from
    for (const auto &dataset : facts.zfs_datasets)
        if (!dataset.origin.empty()) clones.emplace(without_snapshot(dataset.origin), dataset.name);
    std::vector<std::string_view> todo;
    for (const auto &[origin, clone] : clones)
        if (!candidates.contains(clone)) todo.push_back(origin);
    std::map<std::string_view, std::string_view> origin_of;
    for (const auto &[origin, clone] : clones)
        origin_of[clone] = origin;
    while (!todo.empty()) {
        const std::string_view name = todo.back();
        todo.pop_back();
        if (candidates.erase(name) == 0) continue;
        if (const auto below = origin_of.find(name); below != origin_of.end()) todo.push_back(below->second);
    }
}

struct Group {
    std::vector<const probe::ZfsDataset *> datasets;
    uint64_t bytes = 0;
};

/// One of the group that can go at once.
const probe::ZfsDataset &without_clones(const probe::Facts &facts, const Group &group) {
    std::set<std::string_view> origins;
    for (const auto &dataset : facts.zfs_datasets)
        origins.insert(without_snapshot(dataset.origin));
    for (const auto *dataset : group.datasets)
        if (!origins.contains(dataset->name)) return *dataset;
    return *group.datasets[0];
}

Finding finding_of(const probe::Facts &facts, const LayerParent &parent, Group group) {
    std::ranges::stable_sort(group.datasets, std::greater(), &probe::ZfsDataset::used_bytes);
    Finding out;
    out.severity = parent.second == nullptr ? Severity::info : Severity::warning;
    out.subject = parent.second == nullptr ? fmt::format("dataset {}", shown(parent.first)) : name_of(*parent.second);
    const std::string count = counted(group.datasets.size(), "dataset");
    out.summary =
        parent.second == nullptr
            ? fmt::format("{} named like layers, with {}, of no store that was found", count, format_bytes(group.bytes))
            : fmt::format("{} of layers below {}, with {}, that no record of the store names", count,
                          shown(parent.first), format_bytes(group.bytes));
    std::vector<std::string> lines;
    lines.reserve(group.datasets.size());
    for (const auto *dataset : group.datasets)
        lines.push_back(fmt::format("{}: {}, made {}{}", shown(dataset->name), format_bytes(dataset->used_bytes),
                                    time_text(dataset->created_s), dataset->mounted ? ", mounted" : ""));
    out.evidence = limited(std::move(lines));
    const std::string first = shell_quote(without_clones(facts, group).name);
    if (parent.second == nullptr)
        out.commands.emplace_back("# a store at a place that was not looked at may own them: see first whose they are");
    out.commands.push_back(
        fmt::format("zfs list -r -t all -o name,used,origin,clones,mounted {}", shell_quote(parent.first)));
    out.commands.emplace_back(
        "# one after the other, clones before what they come from; \"-n\" only says what would go:");
    out.commands.push_back(fmt::format("zfs destroy -r -n -v {}", first));
    if (parent.second != nullptr) out.commands.push_back(fmt::format("zfs destroy -r {}", first));
    return out;
}

Outcome run(const probe::Facts &facts) {
    Outcome out;
    const auto parents = layer_parents(facts);
    std::set<const probe::Store *> unreadable;
    for (const auto &store : facts.stores) {
        if (store.driver != "zfs") continue;
        if (std::string why = unread_records(store); !why.empty()) {
            out.unable.push_back(std::move(why));
            unreadable.insert(&store);
        }
    }
    // Datasets of no store may be of one whose records could not be read.
    if (!unreadable.empty()) unreadable.insert(nullptr);
    const auto wanted = wanted_ids(facts);
    std::set<std::string_view> candidates;
    for (const auto &dataset : facts.zfs_datasets) {
        if (dataset.type != "filesystem" || is_young(facts, dataset)) continue;
        const auto *parent = layer_parent_of(parents, dataset.name);
        const std::string_view name = last_part(dataset.name);
        if (parent == nullptr || unreadable.contains(parent->second) || !may_be_judged(*parent, name) ||
            wanted.contains(name))
            continue;
        candidates.insert(dataset.name);
    }
    drop_needed(facts, candidates);
    std::map<const LayerParent *, Group> groups;
    for (const auto &dataset : facts.zfs_datasets) {
        if (!candidates.contains(dataset.name)) continue;
        Group &group = groups[layer_parent_of(parents, dataset.name)];
        group.datasets.push_back(&dataset);
        group.bytes += dataset.used_bytes;
    }
    for (const LayerParent &parent : parents)
        if (const auto found = groups.find(&parent); found != groups.end())
            out.findings.push_back(finding_of(facts, parent, std::move(found->second)));
    return out;
}

} // namespace

extern const Check zfs_leaked_datasets;
const Check zfs_leaked_datasets{
    .id = "zfs-leaked-datasets",
    .title = "Datasets of layers that no store knows",
    .why = "Docker and containerd make a dataset for each layer and keep their records elsewhere. A removal that ZFS "
           "refused "
           "(busy, held, a clone of it lives) or a crash between the two leaves a dataset that no command of the "
           "engine shows, "
           "with its space (moby #41055, containerd/zfs #60). So does a data root that was deleted or moved.",
    .limits =
        "A child of a store's dataset that is named like a layer, is older than an hour, is no layer of the records "
        "and "
        "has no clone that is one: warning. Datasets named like layers (64 hexadecimal digits; shale's hidden ones) "
        "that "
        "belong to no store that was found: information. A store whose records could not all be read is not judged.",
    .remedy = "Look whose they are, then destroy them, clones before what they were cloned from.",
    .risk = "A destroyed dataset is gone. A store at a place that the doctor did not look at may own it: `zfs destroy "
            "-n` and "
            "the data root of every daemon first.",
    .undo = "None. `zfs snapshot` and `zfs send` of the dataset to a file before keep a copy.",
    .run = run,
};

} // namespace shale::doctor::checks
