// SPDX-License-Identifier: Apache-2.0
#include "guard/ground.h"

#include <sys/sysmacros.h>

#include <algorithm>
#include <string_view>

#include <fmt/format.h>

#include "probe/devices.h"
#include "probe/text.h"
#include "sys/quota.h"

namespace shale::guard {
namespace {

constexpr size_t most_text = 4096;

/// "8:1" -> "8:0" for a partition.
std::string whole_disk(const probe::Host &host, const std::string &device) {
    const std::string at = "/sys/dev/block/" + device;
    const auto partition = host.read_if_there(at + "/partition", most_text);
    if (!partition || !*partition) return device;
    const auto disk = host.read(at + "/../dev", most_text); // the link is followed first
    return disk ? std::string(probe::trimmed(*disk)) : device;
}

/// All devices of a btrfs, by the one that it was mounted from.
std::set<std::string> btrfs_disks(const probe::Host &host, const std::string &source) {
    const auto node = host.stat(source);
    if (!node || !*node || !S_ISBLK((*node)->st_mode)) return {};
    const std::string first = fmt::format("{}:{}", major((*node)->st_rdev), minor((*node)->st_rdev));
    const auto all = host.list_if_there("/sys/fs/btrfs");
    if (all)
        for (const auto &fs : *all) {
            const std::string at = fmt::format("/sys/fs/btrfs/{}/devices", fs.name);
            const auto devices = host.list_if_there(at);
            if (!devices) continue;
            std::set<std::string> numbers, disks;
            for (const auto &device : *devices)
                if (const auto dev = host.read(fmt::format("{}/{}/dev", at, device.name), most_text))
                    numbers.emplace(probe::trimmed(*dev));
            for (const auto &number : numbers)
                disks.insert(whole_disk(host, number));
            if (numbers.contains(first)) return disks;
        }
    return {whole_disk(host, first)};
}

/// "/mnt:0/257" -> "/mnt", "0/257"; the last colon, as mount points may have some.
std::pair<std::string, std::string> parted(const std::string &subject) {
    const size_t colon = subject.rfind(':');
    if (colon == std::string::npos) return {subject, {}};
    return {subject.substr(0, colon), subject.substr(colon + 1)};
}

void add_file_system(const probe::Host &host, const probe::Facts &facts, const std::string &target, Ground &out) {
    const auto fs = std::ranges::find(facts.file_systems, target, &probe::FileSystem::target);
    if (fs == facts.file_systems.end()) {
        out.why_not = fmt::format("nothing is mounted at {} any more", target);
        return;
    }
    out.devices.insert(fs->device);
    if (fs->type == "zfs")
        out.why_not = "ZFS writes for all at once, so that no cgroup is told apart";
    else if (fs->type == "btrfs")
        out.blocks = btrfs_disks(host, fs->source);
    if (out.why_not.empty() && out.blocks.empty() && fs->device.starts_with("0:"))
        out.why_not = fmt::format("the {} at {} lies on no block device", fs->type, target);
}

void add_pool(const probe::Host &host, const probe::Facts &facts, const std::string &name, Ground &out) {
    const auto pool = std::ranges::find(facts.thin_pools, name, &probe::ThinPool::name);
    std::vector<probe::Problem> ignored;
    if (pool != facts.thin_pools.end())
        for (const auto &device : probe::read_block_devices(host, ignored))
            if (std::ranges::find(pool->devices, device.dm_name, &probe::ThinPool::Thin::name) != pool->devices.end())
                out.devices.insert(device.number);
    if (out.devices.empty()) out.why_not = fmt::format("no volume of the pool {} is active", name);
}

} // namespace

Ground ground_of(const probe::Host &host, const probe::Facts &facts, const Sample &about) {
    Ground out;
    const auto [target, what] = parted(about.subject);
    switch (about.kind) {
    case Kind::bytes:
    case Kind::inodes:
    case Kind::btrfs_unallocated:
    case Kind::btrfs_metadata:
        add_file_system(host, facts, about.subject, out);
        break;
    case Kind::btrfs_qgroup:
        add_file_system(host, facts, target, out);
        if (what.starts_with("0/"))
            out.subvolume = what.substr(2);
        else {
            out.devices.clear();
            out.why_not = fmt::format("qgroup {} holds others: limits are acted on where they are a subvolume's", what);
        }
        break;
    case Kind::project_quota:
        add_file_system(host, facts, target, out);
        if (const auto number = probe::to_number(what)) out.project = static_cast<uint32_t>(*number);
        break;
    case Kind::thin_data:
    case Kind::thin_metadata:
        add_pool(host, facts, about.subject, out);
        break;
    case Kind::zfs_capacity:
    case Kind::zfs_quota:
        out.zfs = about.subject;
        out.why_not = "ZFS writes for all at once, so that no cgroup is told apart";
        break;
    case Kind::depth:
        out.why_not = "layers are nobody's writes";
        break;
    }
    return out;
}

bool lies_on(const probe::Host &host, const Ground &ground, const Seat &seat) {
    if (!ground.zfs.empty())
        return seat.type == "zfs" && (seat.source == ground.zfs || seat.source.starts_with(ground.zfs + "/"));
    if (!ground.devices.contains(seat.device)) return false;
    if (!ground.subvolume.empty() && !probe::has_part(seat.super_options, "subvolid=" + ground.subvolume)) return false;
    if (!ground.project) return true;
    if (seat.path.empty()) return false;
    const auto upper = host.open_path(seat.path, O_RDONLY | O_DIRECTORY);
    const auto project = upper ? sys::project_of(upper->get()) : Result<uint32_t>(0U);
    return project && *project == *ground.project;
}

std::set<std::string> blocks_of(const probe::Host &host, const Ground &ground, const Seat &seat) {
    if (!ground.blocks.empty()) return ground.blocks;
    if (seat.device.starts_with("0:")) return {};
    return {whole_disk(host, seat.device)};
}

} // namespace shale::guard
