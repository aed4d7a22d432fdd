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

/// What has changed about writers that are slowed, a line each.
struct Slowed {
    std::vector<std::string> set, undone;
    std::vector<std::string> failed; ///< what could not be, and why
};

class Hands {
public:
    virtual ~Hands() = default;

    /// All resources, each once. What could not be looked at is added to `problems`.
    virtual std::vector<Sample> look(std::vector<std::string> &problems) = 0;
    /// Whether this tier can be carried out at all; empty: yes, else why not.
    [[nodiscard]] virtual std::string cannot(Tier tier) const = 0;
    /// What a guard that was killed has left in force on others is undone, before anything else is done. Evidence: what
    /// was, a line each; empty: nothing was there.
    virtual Outcome recover() { return {}; }
    /// What act() or slow() would do about a resource now, a line each: for a dry run.
    virtual std::vector<std::string> would(Tier /*tier*/, const Sample & /*about*/) { return {}; }
    /// Carries out a tier that is not held (trim_caches, gc, evict, extend) about a resource.
    virtual Outcome act(Tier tier, const Sample &about) = 0;
    /// What is to be in force from now on, for all resources together: nothing else is. Called once a round, also when
    /// nothing has changed: what ends by itself is renewed. `reasons` of refusing: empty = nothing is refused.
    virtual Status refuse(std::span<const std::string> reasons, std::chrono::seconds how_long) = 0;
    /// The same of the resources whose writers are slowed from now on; none = nobody is.
    virtual Slowed slow(std::span<const Sample> /*about*/, Time /*now*/) { return {}; }
};

} // namespace shale::guard
