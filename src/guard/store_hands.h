// SPDX-License-Identifier: Apache-2.0
// The guard's hands on stores of this host.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "guard/config.h"
#include "guard/ground.h"
#include "guard/hands.h"
#include "guard/samples.h"
#include "guard/throttle.h"
#include "guard/workloads.h"
#include "probe/host.h"
#include "store/store.h"

namespace shale::guard {

/// Where the journals of limits are: one that does not fill, and is empty after a boot, as cgroups are. Each store has
/// one; where /run cannot be written to, it is in ROOT/guard.
inline constexpr const char *journals = "/run/shale/guard";

class StoreHands final : public Hands {
public:
    /// The stores outlive it. Of `config` what tiers need: rates, sizes, patience.
    StoreHands(probe::Host host, std::vector<store::Store *> stores, const Config &config = Config());

    std::vector<Sample> look(std::vector<std::string> &problems) override;
    [[nodiscard]] std::string cannot(Tier tier) const override;
    Outcome recover() override;
    std::vector<std::string> would(Tier tier, const Sample &about) override;
    /// trim_caches empties the trash of removed layers; gc removes what nothing refers to. Of the stores that lie on
    /// that file system; of a resource that is none (a pool), of all. evict ends one container that can write there;
    /// extend makes a store's own pool larger.
    Outcome act(Tier tier, const Sample &about) override;
    Status refuse(std::span<const std::string> reasons, std::chrono::seconds how_long) override;
    /// Containers that can write there, but for critical ones.
    Slowed slow(std::span<const Sample> about, Time now) override;

private:
    struct Look {
        Cgroups cgroups;
        std::vector<Workload> workloads; ///< the lowest class first, of equals who wrote most since the last look
        std::map<std::string, uint64_t> written_since; ///< by cgroup; not in it: it was not there at the last look
        std::vector<std::string> problems;
    };
    [[nodiscard]] std::vector<store::Store *> stores_on(const Sample &about) const;
    Outcome act_on(store::Store &store, Tier tier) const;
    /// nullptr: it is another's.
    [[nodiscard]] drivers::SpacePool *pool_of(const Sample &about) const;
    Outcome extend(const Sample &about) const;
    Status open_journal(bool make);
    Result<Look> look_at_workloads();
    void read_classes(std::vector<Workload> &workloads, std::vector<std::string> &problems) const;
    [[nodiscard]] std::vector<const Workload *> workloads_on(const Look &look, const Ground &ground) const;
    void add_limits(const Look &look, const Sample &about, std::vector<Limit> &limits, Slowed &out) const;
    /// nullptr: `why` says why nobody is ended.
    const Workload *victim(const Look &look, const Sample &about, std::string &why) const;
    Outcome evict(const Sample &about);

    probe::Host host_;
    std::vector<store::Store *> stores_;
    std::vector<Place> places_; ///< of the stores
    Config config_;
    Seen seen_;                             ///< the last look
    std::vector<std::string> carriers_;     ///< mount points that carry them, as of it
    std::optional<Throttle> throttle_;      ///< once there was a measure, or may be one
    std::vector<Limit> limits_;             ///< that are in force
    std::map<std::string, uint64_t> wrote_; ///< by cgroup, at the last look
};

} // namespace shale::guard
