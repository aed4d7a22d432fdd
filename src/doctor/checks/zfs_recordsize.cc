// SPDX-License-Identifier: Apache-2.0
// zfs-recordsize: containers' layers with large records, in which a small write rewrites a lot.
#include <algorithm>
#include <array>
#include <map>

#include <fmt/format.h>

#include "base/units.h"
#include "doctor/checks/common.h"
#include "doctor/checks/zfs_layers.h"

namespace shale::doctor::checks {
namespace {

constexpr uint64_t large_record_bytes = uint64_t{128} << 10U; ///< OpenZFS' default

/// Programs that write small pieces of large files: databases, by comm.
constexpr auto small_writers = std::to_array<std::string_view>(
    {"postgres", "mysqld", "mariadbd", "mongod", "etcd", "influxd", "cockroach", "oracle", "sqlservr",
     "clickhouse-serv", "beam.smp", "redis-server", "rocksdb", "prometheus"});

/// The container of the store that a process runs in, by its control group; nullptr: none.
const probe::StoreContainer *container_of(const probe::Store &store, const probe::Process &process) {
    constexpr size_t least_id = 12; // a shorter one would be found by chance
    for (const auto &container : store.containers)
        if (container.id.size() >= least_id && process.cgroup.contains(container.id)) return &container;
    return nullptr;
}

std::vector<std::string> writers_in(const probe::Facts &facts, const probe::Store &store) {
    std::vector<std::string> out;
    for (const auto &process : facts.processes) {
        if (std::ranges::find(small_writers, process.command) == small_writers.end()) continue;
        if (const auto *container = container_of(store, process))
            out.push_back(fmt::format("{} in container {}: its data suffers, unless it lies in a volume",
                                      process_name(process.pid, process.command),
                                      shown(container->name.empty() ? container->id : container->name)));
    }
    return out;
}

/// How many layers have which record size, of the large ones.
std::map<uint64_t, uint64_t> large_records(const probe::Facts &facts, const LayerParent &parent) {
    std::map<uint64_t, uint64_t> out;
    for (const auto &dataset : facts.zfs_datasets)
        if (dataset.type == "filesystem" && parent_of(dataset.name) == parent.first &&
            dataset.record_bytes >= large_record_bytes)
            ++out[dataset.record_bytes];
    return out;
}

Outcome run(const probe::Facts &facts) {
    Outcome out;
    for (const auto &parent : layer_parents(facts)) {
        if (parent.second == nullptr) continue;
        const auto records = large_records(facts, parent);
        if (records.empty()) continue;
        auto writers = writers_in(facts, *parent.second);
        Finding &finding = out.findings.emplace_back();
        finding.severity = writers.empty() ? Severity::info : Severity::warning;
        finding.subject = name_of(*parent.second);
        uint64_t layers = 0;
        for (const auto &[bytes, count] : records)
            layers += count;
        finding.summary =
            fmt::format("{} below {} have records of {} and more: a write of 4 KiB into a file of the image takes "
                        "as much",
                        counted(layers, "layer"), shown(parent.first), format_bytes(large_record_bytes));
        for (const auto &[bytes, count] : records)
            writers.push_back(fmt::format("recordsize {}: {}", format_bytes(bytes), counted(count, "layer")));
        finding.evidence = limited(std::move(writers));
        const std::string name = shell_quote(parent.first);
        if (parent.second->engine == "shale")
            finding.commands = {"# shale.toml, [driver.zfs]: recordsize = \"32K\" (its default) or \"16K\""};
        else
            finding.commands = {fmt::format("zfs get -r recordsize {}", name),
                                fmt::format("zfs set recordsize=32K {}", name)};
        finding.commands.emplace_back(
            "# it counts for files written from then on: pull the images anew, or keep the data in a "
            "volume with records of its own");
    }
    return out;
}

} // namespace

extern const Check zfs_recordsize;
const Check zfs_recordsize{
    .id = "zfs-recordsize",
    .title = "Layers on ZFS have large records",
    .why = "A record is what ZFS rewrites when a byte of it changes. With 128 KiB, 1 MiB of small writes at random "
           "places of an "
           "image's file took 20.5 MiB of a clone; with 32 KiB it took 7.3 MiB, with 16 KiB 3.9 MiB, for an image that "
           "is 2 to "
           "5 % larger (OpenZFS 2.1.11, measured: src/drivers/zfs/FORMAT.md). Databases in containers write so.",
    .limits = "Layers with a recordsize of 128 KiB (the default of OpenZFS) or more: information; a warning when a "
              "process that "
              "is known to write small pieces runs in a container of the store.",
    .remedy =
        "Set recordsize to 32K on the dataset of the layers, and put databases into volumes with the record size that "
        "they ask for.",
    .risk = "Smaller records compress less and need more metadata: images grow by 2 % at 32K, 5 % at 16K.",
    .undo = "zfs inherit recordsize DATASET. Files keep the records that they were written with.",
    .run = run,
};

} // namespace shale::doctor::checks
