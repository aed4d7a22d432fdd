// SPDX-License-Identifier: Apache-2.0
// How full each resource was lately, for whoever shows it. In memory only: it begins anew with the process.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "guard/guard.h"

namespace shale::guard {

class History {
public:
    struct Point {
        Time time;
        double percent = 0; ///< in use
    };
    /// An hour of rounds of ten seconds. Points beyond it push the oldest out.
    static constexpr size_t most_points = 360;

    /// After a round; what is not among the rows any more is forgotten.
    void add(std::span<const Row> rows, Time now);
    /// The oldest first; empty: there is no such resource.
    [[nodiscard]] std::vector<Point> of(Kind kind, const std::string &subject) const;

private:
    std::map<std::pair<Kind, std::string>, std::deque<Point>> points_;
};

} // namespace shale::guard
