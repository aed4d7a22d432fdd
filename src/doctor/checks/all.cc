// SPDX-License-Identifier: Apache-2.0
// The list of checks: one line each, in the order of their ids.
#include <array>

#include "doctor/check.h"

namespace shale::doctor {

namespace checks {
extern const Check btrfs_qgroups;
extern const Check btrfs_unallocated;
extern const Check bytes_low;
extern const Check containerd_config_lint;
extern const Check d_type_missing;
extern const Check daemon_json_lint;
extern const Check damaged_layers;
extern const Check deleted_open_files;
extern const Check depth_limit;
extern const Check driver_switch;
extern const Check hard_link_breaks;
extern const Check inodes_low;
extern const Check inotify_dead_watches;
extern const Check leaked_mounts;
extern const Check logs_large;
extern const Check memory_reclaim;
extern const Check memory_tmpfs_store;
extern const Check overlay_options;
extern const Check overlay_work_leftovers;
extern const Check page_cache_duplication;
extern const Check pressure_io;
extern const Check quota_project_ids;
extern const Check several_stores;
extern const Check store_leaked_records;
extern const Check store_orphans;
extern const Check thin_pool_autoextend;
extern const Check thin_pool_loop;
extern const Check thin_pool_space;
extern const Check thin_pool_transaction;
extern const Check threshold_conflicts;
extern const Check zfs_leaked_datasets;
extern const Check zfs_pool_health;
extern const Check zfs_recordsize;
extern const Check zfs_snapshots_pin_space;
extern const Check zfs_volume_snapshots;
} // namespace checks

namespace {

constexpr std::array all = {
    &checks::btrfs_qgroups,           &checks::btrfs_unallocated,      &checks::bytes_low,
    &checks::containerd_config_lint,  &checks::d_type_missing,         &checks::daemon_json_lint,
    &checks::damaged_layers,          &checks::deleted_open_files,     &checks::depth_limit,
    &checks::driver_switch,           &checks::hard_link_breaks,       &checks::inodes_low,
    &checks::inotify_dead_watches,    &checks::leaked_mounts,          &checks::logs_large,
    &checks::memory_reclaim,          &checks::memory_tmpfs_store,     &checks::overlay_options,
    &checks::overlay_work_leftovers,  &checks::page_cache_duplication, &checks::pressure_io,
    &checks::quota_project_ids,       &checks::several_stores,         &checks::store_leaked_records,
    &checks::store_orphans,           &checks::thin_pool_autoextend,   &checks::thin_pool_loop,
    &checks::thin_pool_space,         &checks::thin_pool_transaction,  &checks::threshold_conflicts,
    &checks::zfs_leaked_datasets,     &checks::zfs_pool_health,        &checks::zfs_recordsize,
    &checks::zfs_snapshots_pin_space, &checks::zfs_volume_snapshots,
};

} // namespace

std::span<const Check *const> all_checks() {
    return all;
}

} // namespace shale::doctor
