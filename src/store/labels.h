// SPDX-License-Identifier: Apache-2.0
// Labels, and the form that they have in a row of `snapshots` (docs/formats/records.md).
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace shale::store {

using Labels = std::map<std::string, std::string, std::less<>>;

/// Each key and each value as its length, a colon, and itself: whatever is in it. In the order of the keys.
std::string pack_labels(const Labels &labels);

/// A look at packed labels, for as long as the text is there. What is malformed ends them.
class PackedLabels {
public:
    explicit PackedLabels(std::string_view text = {}) : text_(text) {}

    /// visit(key, value) of each.
    template <class Visit> void each(Visit &&visit) const {
        std::string_view rest = text_, key, value;
        while (take(rest, key) && take(rest, value))
            visit(key, value);
    }
    [[nodiscard]] std::optional<std::string_view> find(std::string_view wanted) const;
    [[nodiscard]] Labels unpack() const;

private:
    /// Takes the first text off; false: there is none.
    static bool take(std::string_view &rest, std::string_view &into);
    std::string_view text_;
};

} // namespace shale::store
