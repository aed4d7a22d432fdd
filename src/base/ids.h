// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <string>

namespace shale {

/// Number of a layer (sealed, active or staged). Comes from the store's counter and is never
/// used again, after a crash neither. The only thing from which drivers make paths.
struct LayerId {
    uint64_t value = 0;
    auto operator<=>(const LayerId &) const = default;
};

inline std::string to_string(LayerId id) {
    return std::to_string(id.value);
}

} // namespace shale

template <> struct std::hash<shale::LayerId> {
    size_t operator()(shale::LayerId id) const noexcept { return std::hash<uint64_t>{}(id.value); }
};
