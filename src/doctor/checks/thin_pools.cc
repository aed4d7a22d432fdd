// SPDX-License-Identifier: Apache-2.0
#include "doctor/checks/thin_pools.h"

#include <algorithm>

#include <fmt/format.h>

#include "doctor/checks/common.h"
#include "probe/thin_pools.h"

namespace shale::doctor::checks {
namespace {

constexpr uint64_t mib = uint64_t{1} << 20U;

/// All that the kernel can use: one block of index with 255 entries of 2^14 - 64 blocks
/// (Linux, drivers/md/persistent-data/dm-space-map-metadata.h).
constexpr uint64_t most_metadata_blocks = uint64_t{255} * ((1U << 14U) - 64);

/// By what the store's reader says, else by what dockerd and shale call a pool of theirs (moby, daemon/graphdriver/
/// devmapper/deviceset.go, getPoolName; src/drivers/devicemapper/FORMAT.md).
bool uses(const probe::Store &store, const probe::ThinPool &pool) {
    if (const std::string *name = value_of(store.settings, "thin pool")) return probe::is_named(pool, *name);
    if (store.driver != "devicemapper") return false;
    if (store.engine == "shale") return pool.name.starts_with("shale-");
    if (store.engine != "docker") return false;
    constexpr std::string_view given = "dm.thinpooldev=";
    if (const std::string *options = value_of(store.settings, "storage-opts")) {
        if (const size_t at = options->find(given); at != std::string::npos) {
            std::string_view name = std::string_view(*options).substr(at + given.size());
            name = name.substr(0, name.find_first_of(", "));
            if (name.starts_with("/dev/mapper/")) name.remove_prefix(std::string_view("/dev/mapper/").size());
            return probe::is_named(pool, name);
        }
    }
    return pool.name.starts_with("docker-") && pool.name.ends_with("-pool");
}

} // namespace

std::string logical_volume_of(std::string_view dm_name) {
    std::vector<std::string> parts(1);
    for (size_t i = 0; i < dm_name.size(); ++i) {
        if (dm_name[i] != '-') {
            parts.back() += dm_name[i];
        } else if (i + 1 < dm_name.size() && dm_name[i + 1] == '-') {
            parts.back() += '-';
            ++i;
        } else {
            parts.emplace_back();
        }
    }
    const bool pool_layer = parts.size() == 3 && parts[2] == "tpool";
    if ((parts.size() != 2 && !pool_layer) || parts[0].empty() || parts[1].empty()) return {};
    return fmt::format("{}/{}", parts[0], parts[1]);
}

std::string device_path(const probe::Facts &facts, std::string_view number) {
    const auto found = std::ranges::find(facts.devices, number, &probe::BlockDevice::number);
    if (found == facts.devices.end()) return fmt::format("/dev/block/{}", number);
    return found->dm_name.empty() ? fmt::format("/dev/{}", found->name) : fmt::format("/dev/mapper/{}", found->dm_name);
}

std::vector<const probe::Store *> stores_on(const probe::Facts &facts, const probe::ThinPool &pool) {
    std::vector<const probe::Store *> out;
    for (const auto &store : facts.stores)
        if (uses(store, pool)) out.push_back(&store);
    return out;
}

uint64_t metadata_wanted(const probe::ThinPool &pool) {
    if (pool.total_data_blocks == 0) return 0;
    const uint64_t by_documentation = pool.total_data_blocks * 48;
    // thin_metadata_size(8): a node of 4 KiB has room for 252 mappings of 16 bytes, and is half full; one node a
    // volume.
    const uint64_t nodes = 1 + 2 * (pool.total_data_blocks / 252 + 1) + pool.devices.size();
    const uint64_t wanted = std::max({by_documentation, nodes * thin_metadata_block_bytes, 2 * mib});
    return std::min((wanted + mib - 1) / mib * mib, most_metadata_blocks * thin_metadata_block_bytes);
}

bool has_figures(const probe::ThinPool &pool) {
    return pool.mode != "Fail" && pool.mode != "Error";
}

} // namespace shale::doctor::checks
