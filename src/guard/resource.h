// SPDX-License-Identifier: Apache-2.0
// What the guard watches: an amount of something that runs out, how much there is of it, and arithmetic on both that is
// exact for any figures. Nothing here reads a clock or the host.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace shale::guard {

/// Of the wall clock, because it is kept over restarts; whoever reckons with it expects that it may be set back.
using Time = std::chrono::sys_time<std::chrono::milliseconds>;
using Duration = std::chrono::milliseconds;

enum class Kind : uint8_t {
    bytes,             ///< of a file system
    inodes,            ///< of a file system
    thin_data,         ///< data space of a thin pool, in bytes
    thin_metadata,     ///< its metadata space, in bytes
    btrfs_unallocated, ///< of the devices: used is what has been given to data, metadata and system groups
    btrfs_metadata,    ///< total: the groups of metadata, and those that unallocated space has room for
    btrfs_qgroup,      ///< a qgroup against its limit
    zfs_capacity,      ///< of a pool
    zfs_quota,         ///< a dataset against its quota
    project_quota,     ///< a project against its hard limit of bytes
    depth,             ///< layers of the deepest stack, against what its driver can stack
};

struct KindName {
    Kind kind;
    std::string_view name;
};
/// All of them, in the order of the enum; the names are those of the configuration, of events and of metrics.
inline constexpr std::array kind_names{
    KindName{Kind::bytes, "bytes"},
    KindName{Kind::inodes, "inodes"},
    KindName{Kind::thin_data, "thin_data"},
    KindName{Kind::thin_metadata, "thin_metadata"},
    KindName{Kind::btrfs_unallocated, "btrfs_unallocated"},
    KindName{Kind::btrfs_metadata, "btrfs_metadata"},
    KindName{Kind::btrfs_qgroup, "btrfs_qgroup"},
    KindName{Kind::zfs_capacity, "zfs_capacity"},
    KindName{Kind::zfs_quota, "zfs_quota"},
    KindName{Kind::project_quota, "project_quota"},
    KindName{Kind::depth, "depth"},
};
static_assert(std::ranges::is_sorted(kind_names, {}, &KindName::kind) && kind_names.back().kind == Kind::depth &&
              kind_names.size() == std::to_underlying(Kind::depth) + 1);

[[nodiscard]] constexpr std::string_view name_of(Kind kind) noexcept {
    return kind_names[std::to_underlying(kind)].name;
}
[[nodiscard]] constexpr std::optional<Kind> kind_named(std::string_view name) noexcept {
    const auto *const found = std::ranges::find(kind_names, name, &KindName::name);
    return found == kind_names.end() ? std::nullopt : std::optional(found->kind);
}
/// Its amounts are bytes.
[[nodiscard]] constexpr bool counts_bytes(Kind kind) noexcept {
    return kind != Kind::inodes && kind != Kind::depth;
}

/// One look at one resource.
struct Sample {
    Kind kind = Kind::bytes;
    std::string subject; ///< mount point, pool, "/mnt:0/257" (qgroup), dataset, layer
    /// Of a file system what an unprivileged writer can have is free: `total` is used + f_bavail (statvfs(3)), as df(1)
    /// reckons, without what is kept for root. A total of 0: there is no such limit, and nothing is ever near it.
    uint64_t used = 0, total = 0;
    std::string unit = "bytes"; ///< "bytes" is written as KiB, MiB, ...; else what is counted: "inodes", "layers"
};

/// What is left; 0 when more than all is used (a quota that was lowered).
[[nodiscard]] constexpr uint64_t free_of(const Sample &sample) noexcept {
    return sample.total - std::min(sample.used, sample.total);
}
/// `percent` of `total`, rounded up: the smallest use that is at that percentage. More than 100 percent is all.
[[nodiscard]] constexpr uint64_t amount_at(uint64_t total, unsigned percent) noexcept {
    const uint64_t part = std::min(percent, 100U);
    return total / 100 * part + (total % 100 * part + 99) / 100;
}
/// Exact, for any figures; of a total of 0 never.
[[nodiscard]] constexpr bool is_at(const Sample &sample, unsigned percent) noexcept {
    return sample.total != 0 && sample.used >= amount_at(sample.total, percent);
}
/// For metrics and people; decisions are made by is_at(). 0 for a total of 0; more than 100 where more than all is
/// used.
[[nodiscard]] constexpr double percent_of(const Sample &sample) noexcept {
    return sample.total == 0 ? 0 : static_cast<double>(sample.used) * 100 / static_cast<double>(sample.total);
}

/// In a table: "45 s", "12 min", "5 h", "3 d".
std::string span_text(Duration time);
/// "1.5 GiB", "1,234 inodes"
std::string amount_text(uint64_t amount, std::string_view unit);
/// "91.2 % in use (45.6 GiB of 50.0 GiB), 4.4 GiB free"; the percentage rounded down, so that "90.0 %" is a mark of 90.
std::string text_of(const Sample &sample);

} // namespace shale::guard
