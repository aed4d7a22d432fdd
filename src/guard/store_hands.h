// SPDX-License-Identifier: Apache-2.0
// The guard's hands on stores of this host.
#pragma once

#include <string>
#include <vector>

#include "guard/hands.h"
#include "guard/samples.h"
#include "probe/host.h"
#include "store/store.h"

namespace shale::guard {

class StoreHands final : public Hands {
public:
    /// The stores outlive it.
    StoreHands(probe::Host host, std::vector<store::Store *> stores);

    std::vector<Sample> look(std::vector<std::string> &problems) override;
    [[nodiscard]] std::string cannot(Tier tier) const override;
    /// trim_caches empties the trash of removed layers; gc removes what nothing refers to. Of the stores that lie on
    /// that file system; of a resource that is none (a pool), of all.
    Outcome act(Tier tier, const Sample &about) override;
    Status refuse(std::span<const std::string> reasons, std::chrono::seconds how_long) override;

private:
    [[nodiscard]] std::vector<store::Store *> stores_on(const Sample &about) const;

    probe::Host host_;
    std::vector<store::Store *> stores_;
    std::vector<Place> places_;         ///< of the stores
    std::vector<std::string> carriers_; ///< mount points that carry them, as of the last look
};

} // namespace shale::guard
