// SPDX-License-Identifier: Apache-2.0
// zfs-snapshots-pin-space: snapshots that keep what containers have deleted, and rotations that take layers along.
#include <algorithm>
#include <array>
#include <map>
#include <set>

#include <fmt/format.h>

#include "base/units.h"
#include "doctor/checks/common.h"
#include "doctor/checks/zfs_layers.h"

namespace shale::doctor::checks {
namespace {

constexpr uint64_t gib = uint64_t{1} << 30U;
constexpr double pinned_percent = 20;
constexpr uint64_t least_pinned_bytes = gib;

struct Rotation {
    std::string_view prefix, program;
};
constexpr auto rotations = std::to_array<Rotation>(
    {{"zfs-auto-snap", "zfs-auto-snapshot"}, {"autosnap_", "sanoid"}, {"syncoid_", "syncoid"}, {"zrepl_", "zrepl"}});

/// The program that takes snapshots by that name; empty: somebody by hand.
std::string_view rotation_of(std::string_view snapshot) {
    const size_t at = snapshot.find('@');
    if (at == std::string_view::npos) return {};
    for (const Rotation &one : rotations)
        if (snapshot.substr(at + 1).starts_with(one.prefix)) return one.program;
    return {};
}

/// Snapshots by their dataset.
using Snapshots = std::map<std::string_view, std::vector<const probe::ZfsDataset *>>;
Snapshots snapshots_of(const probe::Facts &facts) {
    Snapshots out;
    for (const auto &dataset : facts.zfs_datasets)
        if (dataset.type == "snapshot") out[without_snapshot(dataset.name)].push_back(&dataset);
    return out;
}

/// What a rotation took of layers, by parent.
struct Taken {
    uint64_t snapshots = 0, bytes = 0;
    std::map<std::string_view, uint64_t> datasets; ///< snapshots of each
    std::string_view program;
};

void judge_rotations(const probe::Facts &facts, const LayerParents &parents, Outcome &out) {
    std::map<const LayerParent *, Taken> taken;
    for (const auto &snapshot : facts.zfs_datasets) {
        if (snapshot.type != "snapshot") continue;
        const std::string_view program = rotation_of(snapshot.name);
        const auto *parent = program.empty() ? nullptr : layer_parent_of(parents, snapshot.name);
        if (parent == nullptr) continue;
        Taken &all = taken[parent];
        all.program = program;
        ++all.snapshots;
        all.bytes += snapshot.used_bytes;
        ++all.datasets[without_snapshot(snapshot.name)];
    }
    for (const LayerParent &parent : parents) {
        const auto found = taken.find(&parent);
        if (found == taken.end()) continue;
        const Taken &all = found->second;
        Finding &finding = out.findings.emplace_back();
        finding.severity = Severity::warning;
        finding.subject = fmt::format("dataset {}", shown(parent.first));
        finding.summary = fmt::format("{} takes snapshots of containers' layers: {} of {}, which alone hold {}",
                                      all.program, counted(all.snapshots, "snapshot"),
                                      counted(all.datasets.size(), "layer"), format_bytes(all.bytes));
        for (const auto &[dataset, count] : all.datasets)
            finding.evidence.push_back(fmt::format("{}: {}", shown(dataset), counted(count, "snapshot")));
        finding.evidence = limited(std::move(finding.evidence));
        const std::string name = shell_quote(parent.first);
        if (all.program == "zfs-auto-snapshot")
            finding.commands = {fmt::format("zfs set com.sun:auto-snapshot=false {}", name)};
        else
            finding.commands = {
                fmt::format("# leave {} and all below it out of {}'s configuration", shown(parent.first), all.program)};
        finding.commands.push_back(fmt::format("zfs list -H -o name -t snapshot -r {}", name));
        finding.commands.emplace_back(
            "# then `zfs destroy SNAPSHOT` for those that the rotation made; `zfs destroy -n -v` says "
            "first what goes");
    }
}

/// Where containers write: volumes, and what stores' roots lie on.
struct Places {
    std::set<std::string_view> paths, sources;
};
Places places_of(const probe::Facts &facts) {
    Places out;
    for (const auto &store : facts.stores) {
        const auto *fs = file_system_of(facts, store);
        if (fs != nullptr && fs->type == "zfs") out.sources.insert(fs->source);
        for (const auto &volume : store.volumes)
            if (!volume.path.empty()) out.paths.insert(volume.path);
    }
    return out;
}

bool is_of_containers(const Places &places, const LayerParents &parents, const probe::ZfsDataset &dataset) {
    return !dataset.volume_of.empty() || layer_parent_of(parents, dataset.name) != nullptr ||
           places.sources.contains(dataset.name) || places.paths.contains(dataset.mountpoint);
}

std::string snapshot_line(const probe::ZfsDataset &snapshot) {
    return fmt::format("{}: {} alone, made {}{}", shown(snapshot.name), format_bytes(snapshot.used_bytes),
                       time_text(snapshot.created_s),
                       snapshot.holds == 0 ? "" : fmt::format(", held ({})", counted(snapshot.holds, "hold")));
}

void judge_pinned(const probe::Facts &facts, const LayerParents &parents, Outcome &out) {
    const Snapshots snapshots = snapshots_of(facts);
    const Places places = places_of(facts);
    for (const auto &dataset : facts.zfs_datasets) {
        if (dataset.type == "snapshot" || dataset.snapshots_bytes < least_pinned_bytes ||
            percent(dataset.snapshots_bytes, dataset.used_bytes) <= pinned_percent ||
            !is_of_containers(places, parents, dataset))
            continue;
        Finding &finding = out.findings.emplace_back();
        finding.severity = Severity::warning;
        finding.subject = fmt::format("dataset {}", shown(dataset.name));
        finding.summary =
            fmt::format("{} of its {} ({}) are kept by snapshots alone: deleting files frees nothing of that",
                        format_bytes(dataset.snapshots_bytes), format_bytes(dataset.used_bytes),
                        percent_text(dataset.snapshots_bytes, dataset.used_bytes));
        std::vector<const probe::ZfsDataset *> its;
        if (const auto found = snapshots.find(dataset.name); found != snapshots.end()) its = found->second;
        std::ranges::stable_sort(its, std::greater(), &probe::ZfsDataset::used_bytes);
        for (const auto *snapshot : its)
            finding.evidence.push_back(snapshot_line(*snapshot));
        finding.evidence = limited(std::move(finding.evidence));
        finding.commands = {fmt::format("zfs list -t snapshot -o name,used,creation,userrefs -s creation {}",
                                        shell_quote(dataset.name))};
        if (its.empty()) continue;
        finding.commands.emplace_back(
            "# what several snapshots share is freed with the last of them; a range says what it frees:");
        const auto [oldest, newest] = std::ranges::minmax_element(its, {}, &probe::ZfsDataset::created_s);
        const std::string &last = (*newest)->name;
        finding.commands.push_back(fmt::format(
            "zfs destroy -n -v {}",
            shell_quote(its.size() == 1 ? last
                                        : fmt::format("{}%{}", (*oldest)->name, last.substr(last.find('@') + 1)))));
    }
}

Outcome run(const probe::Facts &facts) {
    Outcome out;
    const auto parents = layer_parents(facts);
    judge_rotations(facts, parents, out);
    judge_pinned(facts, parents, out);
    return out;
}

} // namespace

extern const Check zfs_snapshots_pin_space;
const Check zfs_snapshots_pin_space{
    .id = "zfs-snapshots-pin-space",
    .title = "Snapshots keep space that containers have given up",
    .why = "A snapshot keeps every block that was there when it was taken. A rotation that takes the whole pool along "
           "makes "
           "snapshots of each container's layer, too: space of deleted logs and caches does not come back, listing "
           "datasets "
           "gets slow, and nobody ever restores a layer from one.",
    .limits =
        "Snapshots of layers whose names are zfs-auto-snapshot's, sanoid's, syncoid's or zrepl's: warning. A dataset "
        "of "
        "containers (a layer, a volume, the one below a store) of which more than 20 % and 1 GiB are kept by snapshots "
        "alone (usedbysnapshots): warning; both figures are this project's.",
    .remedy = "Leave layers out of the rotation, and destroy what it took. Keep fewer snapshots of volumes.",
    .risk = "A destroyed snapshot cannot be restored from, and an incremental send that was based on it starts anew.",
    .undo = "None for a destroyed snapshot. zfs inherit com.sun:auto-snapshot DATASET puts a dataset back into the "
            "rotation.",
    .run = run,
};

} // namespace shale::doctor::checks
