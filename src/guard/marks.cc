// SPDX-License-Identifier: Apache-2.0
#include "guard/marks.h"

#include <utility>

#include <fmt/format.h>

namespace shale::guard {
namespace {

constexpr uint64_t gib = uint64_t{1} << 30U;
constexpr uint64_t mib = uint64_t{1} << 20U;
constexpr bool on = true, off = false;

// 90 %, hysteresis 5, 10 GiB: row O1 of the mission, which is what folklore gives as overlay2's own options. kubelet's
// image collection begins before (85 %), its eviction when 10 % of nodefs or 15 % of imagefs are left ("Node-pressure
// Eviction", hard eviction thresholds): doctor's threshold-conflicts says who comes first on a host.
constexpr std::array bytes_rungs{
    Rung{Tier::log, on, {90}},       Rung{Tier::trim_caches, off, {90}},
    Rung{Tier::gc, on, {90}},        Rung{Tier::refuse_creates, off, {95}},
    Rung{Tier::throttle, off, {97}}, Rung{Tier::evict, off, {98}},
};
// kubelet evicts at nodefs.inodesFree<5 % (ibid.), and collects no images for want of inodes.
constexpr std::array inodes_rungs{
    Rung{Tier::log, on, {90}},
    Rung{Tier::gc, on, {90}},
    Rung{Tier::refuse_creates, off, {95}},
    Rung{Tier::evict, off, {98}},
};
// dmeventd(8): warns above 80 % of data or metadata and again above 85, 90 and 95 %, and has the pool extended at such
// steps of 5 points, once a step. With 95 % in use shale's driver makes nothing new (src/drivers/devicemapper/config.h,
// data_max and metadata_max). A pool whose metadata is full fails I/O until it was taken offline and repaired (Linux,
// Documentation/admin-guide/device-mapper/thin-provisioning.rst, "Updating on-disk metadata"); the kernel's own event
// comes with 4 MiB or a quarter of it left, whichever is less (drivers/md/dm-thin.c, calc_metadata_threshold).
constexpr std::array thin_rungs{
    Rung{Tier::log, on, {80, 85, 90, 95}},
    Rung{Tier::gc, on, {80}},
    Rung{Tier::refuse_creates, off, {95}},
    Rung{Tier::extend, off, {80, 85, 90, 95}},
};
// That all is given out harms nothing yet; that no group of metadata can be added does once the present ones are full.
// What gc frees comes back when whole groups are empty (the kernel's cleaner removes those).
constexpr std::array unallocated_rungs{
    Rung{Tier::log, on, {95}},
    Rung{Tier::gc, on, {95}},
};
// doctor's btrfs-unallocated has the same 90 %; the global reserve, up to 512 MiB of metadata, is not to be had.
constexpr std::array btrfs_metadata_rungs{
    Rung{Tier::log, on, {90}},
    Rung{Tier::gc, on, {90}},
    Rung{Tier::refuse_creates, off, {95}},
};
// Row B1 of the mission: 85 % is logged, at 92 % writers are throttled, at 98 % the lowest class is evicted, before the
// page cache and the OOM killer get it. Collecting images gives nothing back to a container's own limit.
constexpr std::array quota_rungs{
    Rung{Tier::log, on, {85}},
    Rung{Tier::throttle, off, {92}},
    Rung{Tier::evict, off, {98}},
};
// "Keep pool capacity below 90 % for best performance", and watch it from 80 % on where small blocks are rewritten
// (Oracle Solaris 11.4, Managing ZFS File Systems, "Storage Pool Practices for Performance").
constexpr std::array zfs_rungs{
    Rung{Tier::log, on, {80, 90}},   Rung{Tier::gc, on, {90}},     Rung{Tier::refuse_creates, off, {95}},
    Rung{Tier::throttle, off, {97}}, Rung{Tier::evict, off, {98}},
};
// The kernel's overlay stacks 500 layers (fs/overlayfs/params.h, OVL_MAX_STACK). No stack becomes less deep.
constexpr std::array depth_rungs{
    Rung{Tier::log, on, {90}},
    Rung{Tier::refuse_creates, off, {100}},
};

// min_reclaim of bytes: kubelet's example for nodefs ("Node-pressure Eviction", minimum eviction reclaim: 500Mi); its
// default is 0. Of inodes, and 64 MiB of pools: our own, about what one layer has. 2 GiB unallocated are one more group
// of metadata, twice (1 GiB on devices above 50 GiB, and DUP; Linux, fs/btrfs/volumes.c).
constexpr std::array<KindDefaults, kind_names.size()> defaults{
    KindDefaults{90, 10 * gib, 500 * mib, bytes_rungs},
    KindDefaults{90, 0, 10'000, inodes_rungs},
    KindDefaults{80, 0, 64 * mib, thin_rungs},
    KindDefaults{80, 0, 1, thin_rungs},
    KindDefaults{95, 2 * gib, 1, unallocated_rungs},
    KindDefaults{90, 0, 1, btrfs_metadata_rungs},
    KindDefaults{85, 0, 1, quota_rungs},
    KindDefaults{90, 0, 64 * mib, zfs_rungs},
    KindDefaults{85, 0, 1, quota_rungs},
    KindDefaults{85, 0, 1, quota_rungs},
    KindDefaults{90, 0, 1, depth_rungs},
};

constexpr uint64_t minus(uint64_t from, uint64_t what) {
    return from - std::min(from, what);
}

/// That of the lowest mark, of each tier that harms no container.
bool has_reserve(const Marks &marks, const Step &step) {
    if (step.tier == Tier::throttle || step.tier == Tier::evict) return false;
    const auto lowest = std::ranges::find(marks.steps, step.tier, &Step::tier);
    return lowest != marks.steps.end() && lowest->percent == step.percent;
}

} // namespace

std::string text_of(const Step &step) {
    return fmt::format("{} at {} %", name_of(step.tier), step.percent);
}

uint64_t reserve_of(const Marks &marks, uint64_t total) noexcept {
    return std::min(marks.min_free, amount_at(total, reserve_cap_percent));
}

uint64_t least_reclaim_of(const Marks &marks, uint64_t total) noexcept {
    return std::min(marks.min_reclaim, amount_at(total, reclaim_cap_percent));
}

Band band_of(const Marks &marks, const Step &step, uint64_t total) noexcept {
    Band out{amount_at(total, step.percent), amount_at(total, step.percent - std::min(step.percent, marks.hysteresis))};
    if (const uint64_t reserve = reserve_of(marks, total); reserve != 0 && has_reserve(marks, step)) {
        out.enter = std::min(out.enter, total - reserve + 1);
        out.leave = std::min(out.leave, minus(total - reserve, amount_at(total, marks.hysteresis)) + 1);
    }
    return out;
}

Duration back_off_after(const Marks &marks, unsigned failures) noexcept {
    if (failures == 0) return Duration::zero();
    Duration out = marks.back_off;
    while (--failures != 0 && out < marks.back_off_limit / 2)
        out *= 2;
    return failures == 0 ? std::min(out, marks.back_off_limit) : marks.back_off_limit;
}

Status check(const Marks &marks) {
    const auto wrong = [](std::string text) { return fail(Errc::InvalidArgument, std::move(text)); };
    if (marks.steps.size() > max_steps)
        return wrong(fmt::format("{} steps, more than {}", marks.steps.size(), max_steps));
    for (size_t i = 0; i < marks.steps.size(); ++i) {
        const Step &step = marks.steps[i];
        if (step.percent < 1 || step.percent > 100)
            return wrong(fmt::format("{}: a mark is 1 to 100 percent", text_of(step)));
        if (step.percent <= marks.hysteresis)
            return wrong(
                fmt::format("{} would never be left: the hysteresis is {} points", text_of(step), marks.hysteresis));
        if (i != 0 && step <= marks.steps[i - 1])
            return wrong(fmt::format("{} stands behind {}", text_of(step), text_of(marks.steps[i - 1])));
    }
    for (const Duration time : {marks.cool_down, marks.back_off, marks.back_off_limit, marks.patience})
        if (time < Duration::zero() || time > std::chrono::days(365))
            return wrong(fmt::format("a time of {} ms: 0 to a year are possible", time.count()));
    if (marks.back_off_limit < marks.back_off)
        return wrong(fmt::format("the limit of the back-off, {} ms, is less than the first one, {} ms",
                                 marks.back_off_limit.count(), marks.back_off.count()));
    return {};
}

std::vector<unsigned> Rung::marks() const {
    std::vector<unsigned> out;
    for (const uint8_t percent : percents)
        if (percent != 0) out.push_back(percent);
    return out;
}

const KindDefaults &kind_defaults(Kind kind) noexcept {
    return defaults[std::to_underlying(kind)];
}

} // namespace shale::guard
