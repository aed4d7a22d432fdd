// SPDX-License-Identifier: Apache-2.0
// The list of scenarios: one line each, in the order of their ids.
#include <array>

#include "lab/scenario.h"

namespace shale::lab {

extern const Scenario btrfs_qgroup_tiers;
extern const Scenario dtype_missing;
extern const Scenario driver_switch;
extern const Scenario hard_link_break;
extern const Scenario inode_exhaustion;
extern const Scenario inode_leak;
extern const Scenario loop_lvm;
extern const Scenario lost_inotify;
extern const Scenario page_cache_pollution;
extern const Scenario power_cut;
extern const Scenario redirect_metacopy;
extern const Scenario thin_data_starvation;
extern const Scenario thin_metadata_overflow;
extern const Scenario write_amplification;
extern const Scenario zfs_snapshot_race;

std::span<const Scenario *const> all_scenarios() {
    static constexpr std::array all{
        &btrfs_qgroup_tiers,     &dtype_missing,       &driver_switch,     &hard_link_break,
        &inode_exhaustion,       &inode_leak,          &loop_lvm,          &lost_inotify,
        &page_cache_pollution,   &power_cut,           &redirect_metacopy, &thin_data_starvation,
        &thin_metadata_overflow, &write_amplification, &zfs_snapshot_race,
    };
    return all;
}

} // namespace shale::lab
