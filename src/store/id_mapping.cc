// SPDX-License-Identifier: Apache-2.0
#include "store/id_mapping.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace shale::store {
namespace {

constexpr std::string_view uid_label = "containerd.io/snapshot/uidmapping",
                           gid_label = "containerd.io/snapshot/gidmapping";
constexpr size_t max_ranges = 340;                 // UID_GID_MAP_MAX_EXTENTS, linux/user_namespace.h
constexpr uint64_t id_end = uint64_t{0xffff'ffff}; // (uid_t)-1 is no id

/// The host's id for the container's 0.
Result<uint32_t> host_root(std::string_view label, std::string_view text) {
    const auto bad = [&](const std::string &why) {
        return fail(Errc::InvalidArgument, fmt::format("label {}=\"{}\": {}", label, text.substr(0, 256), why));
    };
    std::optional<uint32_t> root;
    std::vector<std::pair<uint64_t, uint64_t>> inside, outside;
    std::string_view rest = text;
    for (bool more = true; more;) {
        const size_t comma = rest.find(',');
        std::string_view range = rest.substr(0, comma);
        more = comma != std::string_view::npos;
        rest.remove_prefix(more ? comma + 1 : rest.size());
        std::array<uint64_t, 3> numbers{};
        for (size_t i = 0; i < numbers.size(); ++i) {
            const auto [end, error] = std::from_chars(range.data(), range.data() + range.size(), numbers[i]);
            const auto used = static_cast<size_t>(end - range.data());
            const bool last = i + 1 == numbers.size();
            if (error != std::errc{} || (last ? used != range.size() : used == range.size() || *end != ':'))
                return bad("not CONTAINER:HOST:LENGTH, separated by commas");
            range.remove_prefix(used + (last ? 0 : 1));
        }
        const auto [container, host, length] = numbers;
        if (length == 0 || length > id_end || container > id_end - length || host > id_end - length)
            return bad("a range is empty or goes beyond the last id");
        inside.emplace_back(container, container + length);
        outside.emplace_back(host, host + length);
        if (inside.size() > max_ranges)
            return bad(fmt::format("more than {} ranges, which the kernel takes", max_ranges));
        if (container == 0) root = static_cast<uint32_t>(host);
    }
    for (auto *ranges : {&inside, &outside}) {
        std::ranges::sort(*ranges);
        for (size_t i = 1; i < ranges->size(); ++i)
            if ((*ranges)[i].first < (*ranges)[i - 1].second) return bad("two ranges overlap");
    }
    if (!root) return bad("it has no id for root (0)");
    return *root;
}

} // namespace

Result<std::optional<IdMapping>> id_mapping(const std::map<std::string, std::string, std::less<>> &labels) {
    const auto uids = labels.find(uid_label), gids = labels.find(gid_label);
    if (uids == labels.end() && gids == labels.end()) return std::nullopt;
    if (uids == labels.end() || gids == labels.end())
        return fail(Errc::InvalidArgument,
                    fmt::format("of the labels {} and {} one alone means nothing", uid_label, gid_label));
    return IdMapping{uids->second, gids->second, TRY(host_root(uid_label, uids->second)),
                     TRY(host_root(gid_label, gids->second))};
}

} // namespace shale::store
