// SPDX-License-Identifier: Apache-2.0
// zfs-volume-snapshots: what snapshots of containers' volumes really hold.
#include <algorithm>
#include <map>

#include <fmt/format.h>

#include "base/units.h"
#include "doctor/checks/common.h"
#include "doctor/checks/zfs_layers.h"

namespace shale::doctor::checks {
namespace {

/// A volume of containers that is, or is to be, a dataset.
struct Volume {
    const probe::ZfsDataset *dataset = nullptr;
    std::string name;  ///< of the engine's volume, else the dataset's label
    std::string place; ///< where its dataset is to be mounted
    bool in_use = false;
};

bool is_path(std::string_view mountpoint) {
    return mountpoint.starts_with('/');
}

/// Datasets that are labelled as one ("docker:pg"), and those whose mountpoint is an engine's volume or the directory
/// right above it (".../volumes/NAME" of ".../volumes/NAME/_data").
std::vector<Volume> volumes_of(const probe::Facts &facts) {
    constexpr std::string_view inner = "/_data";
    struct Known {
        const probe::Store *store;
        const probe::StoreVolume *volume;
    };
    std::map<std::string_view, Known> by_path;
    for (const auto &store : facts.stores)
        for (const auto &volume : store.volumes) {
            std::string_view path = volume.path;
            if (path.empty()) continue;
            by_path.emplace(path, Known{&store, &volume});
            if (path.ends_with(inner)) path.remove_suffix(inner.size());
            by_path.emplace(path, Known{&store, &volume});
        }
    std::vector<Volume> out;
    for (const auto &dataset : facts.zfs_datasets) {
        if (dataset.type != "filesystem") continue;
        Volume volume{&dataset, {}, dataset.mountpoint, false};
        if (dataset.volume_of.starts_with("docker:")) volume.name = dataset.volume_of;
        if (const auto known = by_path.find(dataset.mountpoint); known != by_path.end()) {
            volume.name = fmt::format("{}:{}", known->second.store->engine, known->second.volume->name);
            volume.in_use = !known->second.volume->used_by.empty();
        }
        if (!volume.name.empty()) out.push_back(std::move(volume));
    }
    return out;
}

/// What is mounted right there, in the reader's mount table; the last one covers the others.
const probe::Mount *mount_at(const probe::MountNamespace &ours, std::string_view target) {
    const probe::Mount *out = nullptr;
    for (const auto &mount : ours.mounts)
        if (mount.target == target) out = &mount;
    return out;
}

struct Fault {
    Severity severity = Severity::info;
    std::string text; ///< empty: the dataset is where it should be
};

Fault fault_of(const Volume &volume, const probe::MountNamespace &ours) {
    if (!is_path(volume.place)) return {}; // "legacy": whoever uses it mounts it
    const auto *mount = mount_at(ours, volume.place);
    if (mount == nullptr)
        return {volume.in_use ? Severity::critical : Severity::warning,
                fmt::format(
                    "nothing is mounted at {}: what is written there goes to the directory below, and into no snapshot",
                    shown(volume.place))};
    if (mount->type != "zfs" || mount->source != volume.dataset->name)
        return {Severity::critical,
                fmt::format("{} ({}) is mounted at {} in its place: its snapshots do not hold the volume's data",
                            shown(mount->source), shown(mount->type), shown(volume.place))};
    return {};
}

using Snapshots = std::vector<const probe::ZfsDataset *>;

void judge(const Volume &volume, const Snapshots &snapshots, const probe::MountNamespace &ours, Outcome &out) {
    Fault fault = fault_of(volume, ours);
    std::vector<std::string> older, good;
    for (const auto *snapshot : snapshots) {
        if (snapshot->created_s < volume.dataset->created_s)
            older.push_back(fmt::format("{}: {}, older than the volume: of another one, or taken over by a promotion",
                                        shown(snapshot->name), time_text(snapshot->created_s)));
        else
            good.push_back(fmt::format("{}: {}{}", shown(snapshot->name), time_text(snapshot->created_s),
                                       fault.text.empty() ? "" : "; of what lay in the dataset then"));
    }
    if (fault.text.empty() && older.empty()) return;
    Finding &finding = out.findings.emplace_back();
    finding.subject = fmt::format("volume {} ({})", shown(volume.name), shown(volume.dataset->name));
    finding.severity = fault.text.empty() ? Severity::warning : fault.severity;
    finding.summary = !fault.text.empty()
                          ? std::move(fault.text)
                          : fmt::format("{} of its {} {} older than the volume, which was made {}",
                                        format_count(older.size()), counted(snapshots.size(), "snapshot"),
                                        older.size() == 1 ? "is" : "are", time_text(volume.dataset->created_s));
    finding.evidence = std::move(older);
    std::ranges::move(good, std::back_inserter(finding.evidence));
    finding.evidence = limited(std::move(finding.evidence));
    const std::string name = shell_quote(volume.dataset->name);
    finding.commands = {fmt::format("zfs get mountpoint,mounted,creation,origin {}", name),
                        fmt::format("findmnt --target {}", shell_quote(volume.place))};
    if (finding.severity == Severity::warning && fault.text.empty()) return;
    finding.commands.emplace_back(
        "# stop the containers that use the volume and move what lies in the directory below aside, then:");
    finding.commands.push_back(fmt::format("zfs mount {}", name));
}

Outcome run(const probe::Facts &facts) {
    Outcome out;
    if (!facts.live) return out;
    std::map<std::string_view, Snapshots> snapshots;
    for (const auto &dataset : facts.zfs_datasets)
        if (dataset.type == "snapshot") snapshots[without_snapshot(dataset.name)].push_back(&dataset);
    const auto volumes = volumes_of(facts);
    const auto ours = std::ranges::find(facts.mount_namespaces, true, &probe::MountNamespace::ours);
    if (ours == facts.mount_namespaces.end()) {
        if (!volumes.empty()) out.unable.emplace_back("volumes on ZFS: the mount table was not read");
        return out;
    }
    for (const Volume &volume : volumes)
        if (const auto its = snapshots.find(volume.dataset->name); its != snapshots.end())
            judge(volume, its->second, *ours, out);
    return out;
}

} // namespace

extern const Check zfs_volume_snapshots;
const Check zfs_volume_snapshots{
    .id = "zfs-volume-snapshots",
    .title = "Snapshots of a volume do not hold the volume's data",
    .why = "A snapshot is of a dataset, and a container writes to a path. When the dataset is not mounted there (a "
           "race at "
           "boot, a failed import, something mounted over it), the data goes elsewhere and every snapshot since is of "
           "an old "
           "or empty tree: the backup is worth nothing, and nobody notices before it is needed.",
    .limits =
        "Looked at are volumes with snapshots. Critical: another file system is mounted at the volume's mountpoint, or "
        "none while a container uses the volume. Warning: none is mounted and no container uses it; a snapshot is "
        "older than the dataset (creation property). Datasets with the mountpoint \"legacy\" are left to whoever "
        "mounts "
        "them. How far a snapshot is from an event of the engine is not in the facts.",
    .remedy = "Mount the right dataset, with the data that went astray moved into it, and take a new snapshot.",
    .risk = "Mounting over a directory hides what is in it: copy that first. Containers have to be stopped for it.",
    .undo = "zfs unmount DATASET shows the directory below again.",
    .run = run,
};

} // namespace shale::doctor::checks
