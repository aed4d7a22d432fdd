// SPDX-License-Identifier: Apache-2.0
// When something is to be done about a resource: marks in percent of what there is, a reserve, and how patient to be.
// All of it is data; guard/watermark.h is what goes by it.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "guard/resource.h"
#include "guard/tiers.h"

namespace shale::guard {

/// A mark and what is done there. Ordered by mark; of one mark, the milder tier first.
struct Step {
    unsigned percent = 0; ///< 1 to 100, of what is in use
    Tier tier = Tier::log;
    auto operator<=>(const Step &) const = default;
};
/// "gc at 90 %"
std::string text_of(const Step &step);

/// The figures are of the kinds for which kind_defaults() says nothing else.
struct Marks {
    std::vector<Step> steps; ///< ordered, none twice
    /// Points below a mark at which its step is left: one of 90 is left below 85. kubelet's image collection has as
    /// many between its marks (85 and 80; kubernetes, pkg/kubelet/apis/config/v1beta1/defaults.go).
    unsigned hysteresis = 5;
    /// What is to stay free, in the unit of the samples (overlay2.min_space): with less than that, whatever the marks,
    /// the lowest step of each tier is entered that harms no container (all but throttle and evict, which go by marks
    /// alone). 0: nothing. See reserve_of() for small disks.
    uint64_t min_free = 0;
    /// An action that was to reclaim something and freed less has failed. See least_reclaim_of() for small disks.
    uint64_t min_reclaim = 1;
    /// Between the end of an action and the next one of the same step. kubelet collects images every 5 minutes, and
    /// leaves a pressure condition after as long (eviction-pressure-transition-period; "Node-pressure Eviction").
    Duration cool_down = std::chrono::minutes(5);
    /// After a failure, doubled with every further one, up to the limit: dmeventd(8) tries again "with increasing time
    /// delay between retries up to 42 minutes".
    Duration back_off = std::chrono::minutes(1), back_off_limit = std::chrono::minutes(42);
    /// So long evict waits for milder actions that run; kubelet, too, reclaims of the node before it ends pods. As long
    /// as a full thin pool holds writers before it fails them (dm_thin_pool.no_space_timeout, 60 seconds; Linux,
    /// Documentation/admin-guide/device-mapper/thin-provisioning.rst).
    Duration patience = std::chrono::minutes(1);

    bool operator==(const Marks &) const = default;
};
inline constexpr size_t max_steps = 64;

/// The part of `total` that min_free may be at most: of a disk of 20 GiB the default 10 GiB are cut to 4 GiB.
inline constexpr unsigned reserve_cap_percent = 20;
[[nodiscard]] uint64_t reserve_of(const Marks &marks, uint64_t total) noexcept;
/// The part of `total` that min_reclaim may be at most.
inline constexpr unsigned reclaim_cap_percent = 1;
[[nodiscard]] uint64_t least_reclaim_of(const Marks &marks, uint64_t total) noexcept;

/// A step of `marks` as amounts in use: entered at `enter` or more, left below `leave`; 0 < leave <= enter for a total
/// that is not 0.
struct Band {
    uint64_t enter = 0, leave = 0;
};
[[nodiscard]] Band band_of(const Marks &marks, const Step &step, uint64_t total) noexcept;

/// The wait after that many failures in a row; 0 for none.
[[nodiscard]] Duration back_off_after(const Marks &marks, unsigned failures) noexcept;

/// InvalidArgument: steps out of order, twice, or more than max_steps; a mark that is not 1 to 100 or not above the
/// hysteresis; a negative time; a limit of the back-off below its first.
Status check(const Marks &marks);

/// What one tier does by default.
struct Rung {
    Tier tier = Tier::log;
    bool on = false;
    std::array<uint8_t, 4> percents{}; ///< the lowest first; 0: no further one

    [[nodiscard]] std::vector<unsigned> marks() const;
};
/// Of a kind, before any configuration.
struct KindDefaults {
    unsigned high = 0; ///< the mark that `high` of the configuration moves; the rungs that stand at it go along
    uint64_t min_free = 0, min_reclaim = 1;
    std::span<const Rung> rungs; ///< in the order of tiers
};
/// The sources of the figures are in marks.cc.
[[nodiscard]] const KindDefaults &kind_defaults(Kind kind) noexcept;

} // namespace shale::guard
