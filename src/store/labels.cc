// SPDX-License-Identifier: Apache-2.0
#include "store/labels.h"

#include <fmt/format.h>

#include <charconv>
#include <iterator>

namespace shale::store {

std::string pack_labels(const Labels &labels) {
    std::string out;
    for (const auto &[key, value] : labels)
        fmt::format_to(std::back_inserter(out), "{}:{}{}:{}", key.size(), key, value.size(), value);
    return out;
}

bool PackedLabels::take(std::string_view &rest, std::string_view &into) {
    size_t size = 0;
    const auto [end, bad] = std::from_chars(rest.data(), rest.data() + rest.size(), size);
    const auto begin = static_cast<size_t>(end - rest.data()) + 1;
    if (bad != std::errc{} || begin > rest.size() || *end != ':' || size > rest.size() - begin) return false;
    into = rest.substr(begin, size);
    rest.remove_prefix(begin + size);
    return true;
}

std::optional<std::string_view> PackedLabels::find(std::string_view wanted) const {
    std::optional<std::string_view> out;
    each([&](std::string_view key, std::string_view value) {
        if (key == wanted) out = value;
    });
    return out;
}

Labels PackedLabels::unpack() const {
    Labels out;
    each([&](std::string_view key, std::string_view value) { out.insert_or_assign(std::string(key), value); });
    return out;
}

} // namespace shale::store
