// SPDX-License-Identifier: Apache-2.0
// How deep layers stand, by what records say of their parents; which may be anything.
#pragma once

#include <cstdint>
#include <map>
#include <ranges>
#include <string>
#include <string_view>
#include <vector>

namespace shale::doctor {

/// Lower layers of each. A parent that is nowhere ends the count, and so does a loop.
class Depths {
public:
    /// `parent` "": it stands on nothing. Of an id that is added twice the first counts.
    void add(const std::string &id, const std::string &parent) { parents_.emplace(id, parent); }
    [[nodiscard]] bool knows(std::string_view id) const { return parents_.contains(id); }

    uint64_t of(std::string_view id) {
        std::vector<std::string_view> chain; ///< from `id` down to the first whose depth is known
        uint64_t depth = 0;
        for (auto next = parents_.find(id); next != parents_.end(); next = parents_.find(next->second)) {
            if (const auto [found, fresh] = known_.try_emplace(next->first, 0); !fresh) {
                depth = found->second + 1;
                break;
            }
            chain.push_back(next->first);
        }
        for (const std::string_view one : std::views::reverse(chain))
            known_[one] = depth++;
        const auto found = known_.find(id);
        return found == known_.end() ? 0 : found->second;
    }

private:
    std::map<std::string, std::string, std::less<>> parents_;
    std::map<std::string_view, uint64_t> known_; ///< keys of parents_
};

} // namespace shale::doctor
