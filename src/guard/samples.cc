// SPDX-License-Identifier: Apache-2.0
#include "guard/samples.h"

#include <algorithm>
#include <tuple>

#include <fmt/format.h>

#include "probe/devices.h"
#include "probe/file_systems.h"
#include "probe/thin_pools.h"
#include "probe/zfs.h"

namespace shale::guard {
namespace {

constexpr uint64_t metadata_block = 4096; // of a thin pool: Linux, drivers/md/dm-thin-metadata.h

uint64_t less(uint64_t from, uint64_t what) {
    return from - std::min(from, what);
}

/// Copies of a byte that a profile writes (btrfs-progs, mkfs.btrfs(8), "PROFILES"); of those with parity one is right
/// to within the parity.
uint64_t copies_of(std::string_view profile) {
    if (profile == "raid1c3") return 3;
    if (profile == "raid1c4") return 4;
    return profile == "dup" || profile == "raid1" || profile == "raid10" ? 2 : 1;
}

class Samples {
public:
    void add(Kind kind, std::string subject, uint64_t used, uint64_t total, std::string unit = "bytes") {
        if (total != 0) out_.push_back({kind, std::move(subject), used, total, std::move(unit)});
    }
    void add(const probe::FileSystem &fs);
    void add(const probe::BtrfsSpace &space, const std::string &target);
    void add(const probe::ThinPool &pool);

    std::vector<Sample> take() {
        std::ranges::stable_sort(out_, {}, [](const Sample &one) { return std::tie(one.kind, one.subject); });
        const auto twice =
            std::ranges::unique(out_, {}, [](const Sample &one) { return std::tie(one.kind, one.subject); });
        out_.erase(twice.begin(), twice.end());
        return std::move(out_);
    }

private:
    std::vector<Sample> out_;
};

void Samples::add(const probe::FileSystem &fs) {
    const uint64_t used = less(fs.total_bytes, fs.free_bytes);
    add(Kind::bytes, fs.target, used, used + fs.available_bytes);
    add(Kind::inodes, fs.target, less(fs.total_inodes, fs.free_inodes), fs.total_inodes, "inodes");
    for (const auto &project : fs.projects)
        add(Kind::project_quota, fmt::format("{}:{}", fs.target, project.id), project.used_bytes, project.limit_bytes);
    if (fs.btrfs) add(*fs.btrfs, fs.target);
}

void Samples::add(const probe::BtrfsSpace &space, const std::string &target) {
    add(Kind::btrfs_unallocated, target, less(space.device_bytes, space.unallocated_bytes), space.device_bytes);
    uint64_t used = space.global_reserve_bytes, total = 0, copies = 1;
    for (const auto &group : space.groups) {
        if (group.kind != "metadata" && group.kind != "mixed") continue;
        used += group.used_bytes;
        total += group.total_bytes;
        copies = std::max(copies, copies_of(group.profile));
    }
    if (total != 0) add(Kind::btrfs_metadata, target, used, total + space.unallocated_bytes / copies);
    for (const auto &group : space.qgroups) {
        const std::string subject = fmt::format("{}:{}/{}", target, group.level, group.id);
        // Of two limits the one that is nearer counts.
        const auto nearer = [](uint64_t a, uint64_t a_limit, uint64_t b, uint64_t b_limit) {
            return b_limit == 0 || (a_limit != 0 && static_cast<double>(a) / static_cast<double>(a_limit) >=
                                                        static_cast<double>(b) / static_cast<double>(b_limit));
        };
        if (nearer(group.referenced_bytes, group.limit_referenced_bytes, group.exclusive_bytes,
                   group.limit_exclusive_bytes))
            add(Kind::btrfs_qgroup, subject, group.referenced_bytes, group.limit_referenced_bytes);
        else
            add(Kind::btrfs_qgroup, subject, group.exclusive_bytes, group.limit_exclusive_bytes);
    }
}

void Samples::add(const probe::ThinPool &pool) {
    // A pool that has failed tells no figures; the totals are 0 then.
    const uint64_t block = std::max<uint64_t>(pool.data_block_bytes, 1);
    add(Kind::thin_data, pool.name, pool.used_data_blocks * block, pool.total_data_blocks * block);
    add(Kind::thin_metadata, pool.name, pool.used_metadata_blocks * metadata_block,
        pool.total_metadata_blocks * metadata_block);
}

} // namespace

Seen look(const probe::Host &host, std::span<const Place> places) {
    Seen out;
    probe::Facts &facts = out.facts;
    std::vector<std::string> roots;
    for (const auto &place : places)
        roots.push_back(place.root);
    facts.file_systems = probe::read_file_systems(host, roots, facts.problems);
    bool on_dm = false, on_zfs = false;
    for (const auto &place : places) {
        const size_t carrier = probe::file_system_of(host, facts.file_systems, place.root).value_or(no_carrier);
        out.carriers.push_back(carrier);
        on_dm = on_dm || place.driver == "devicemapper";
        on_zfs = on_zfs || place.driver == "zfs";
        if (carrier == no_carrier) continue;
        const auto &fs = facts.file_systems[carrier];
        on_dm = on_dm || host.is_dir(fmt::format("/sys/dev/block/{}/dm", fs.device));
        on_zfs = on_zfs || fs.type == "zfs";
    }
    if (on_dm) {
        const auto devices = probe::read_block_devices(host, facts.problems);
        facts.thin_pools = probe::read_thin_pools(host, devices, {}, facts.problems);
    }
    if (on_zfs) {
        auto zfs = probe::read_zfs(host, facts.problems);
        facts.zfs_pools = std::move(zfs.pools);
        facts.zfs_datasets = std::move(zfs.datasets);
    }
    return out;
}

std::vector<Sample> samples_of(const Seen &seen) {
    const probe::Facts &facts = seen.facts;
    Samples out; // which has a file system once, however many places it carries
    for (const size_t index : seen.carriers)
        if (index < facts.file_systems.size()) out.add(facts.file_systems[index]);
    for (const auto &pool : facts.thin_pools)
        out.add(pool);
    for (const auto &pool : facts.zfs_pools)
        out.add(Kind::zfs_capacity, pool.name, pool.allocated_bytes, pool.size_bytes);
    for (const auto &dataset : facts.zfs_datasets) {
        if (dataset.type == "snapshot") continue;
        // refquota counts without snapshots and children, quota with them (zfsprops(7)).
        if (dataset.quota_bytes != 0)
            out.add(Kind::zfs_quota, dataset.name, dataset.used_bytes, dataset.quota_bytes);
        else
            out.add(Kind::zfs_quota, dataset.name, dataset.referenced_bytes, dataset.refquota_bytes);
    }
    return out.take();
}

} // namespace shale::guard
