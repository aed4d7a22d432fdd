// SPDX-License-Identifier: Apache-2.0
#include "guard/history.h"

#include <algorithm>
#include <set>

namespace shale::guard {

void History::add(std::span<const Row> rows, Time now) {
    std::set<std::pair<Kind, std::string>> there;
    for (const Row &row : rows) {
        const auto key = std::pair(row.sample.kind, row.sample.subject);
        auto &points = points_[key];
        points.push_back({now, percent_of(row.sample)});
        if (points.size() > most_points) points.pop_front();
        there.insert(key);
    }
    std::erase_if(points_, [&](const auto &one) { return !there.contains(one.first); });
}

std::vector<History::Point> History::of(Kind kind, const std::string &subject) const {
    const auto found = points_.find({kind, subject});
    if (found == points_.end()) return {};
    return {found->second.begin(), found->second.end()};
}

} // namespace shale::guard
