// SPDX-License-Identifier: Apache-2.0
// ROOT/refusal: new images, containers and snapshots are refused for a while, because a resource is about to run out
// and what runs needs the rest. A symlink whose text is "UNTIL WHY": the second (of the epoch) up to which it counts,
// and the reason. Who refuses renews it; when that dies, the refusal ends by itself. Removing and committing go on.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/error.h"

namespace shale::store {

inline constexpr const char *refusal_name = "refusal",
                            *guard_name = "guard"; ///< in ROOT; the second is the guard's own

/// The most that a refusal can last without being renewed: one that is further in the future is of a clock that was set
/// back, and does not count.
inline constexpr std::chrono::seconds longest_refusal = std::chrono::minutes(10);

/// From now (`now_s`) on, for `how_long`, at most longest_refusal. Replaces a refusal that is there. `root`: the
/// store's directory. Not synced: after a power cut whoever refuses does so again.
Status refuse_creates(int root, int64_t now_s, std::chrono::seconds how_long, std::string_view why);
/// Ends it; none = done.
Status allow_creates(int root);
/// Why creating is refused now; nullopt: it is not.
Result<std::optional<std::string>> why_refused(int root, int64_t now_s);
/// ResourceExhausted with the reason while creating is refused.
Status creates_allowed(int root, int64_t now_s);

} // namespace shale::store
