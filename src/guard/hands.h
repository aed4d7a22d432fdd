// SPDX-License-Identifier: Apache-2.0
// The guard's hands: what it sees and what it can do. Of the stores that it guards, or of a test.
#pragma once

#include <chrono>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "guard/resource.h"
#include "guard/tiers.h"

namespace shale::guard {

/// How an action has ended.
struct Outcome {
    bool ok = true;
    std::vector<std::string> evidence; ///< what was done, a line each; or what went wrong
};

class Hands {
public:
    virtual ~Hands() = default;

    /// All resources, each once. What could not be looked at is added to `problems`.
    virtual std::vector<Sample> look(std::vector<std::string> &problems) = 0;
    /// Whether this tier can be carried out at all; empty: yes, else why not.
    [[nodiscard]] virtual std::string cannot(Tier tier) const = 0;
    /// Carries out a tier that is not held (trim_caches, gc, evict, extend) about a resource.
    virtual Outcome act(Tier tier, const Sample &about) = 0;
    /// What is to be in force from now on, for all resources together: nothing else is. Called once a round, also when
    /// nothing has changed: what ends by itself is renewed. `reasons` of refusing: empty = nothing is refused.
    virtual Status refuse(std::span<const std::string> reasons, std::chrono::seconds how_long) = 0;
};

} // namespace shale::guard
