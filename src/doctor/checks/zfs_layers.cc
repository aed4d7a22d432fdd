// SPDX-License-Identifier: Apache-2.0
#include "doctor/checks/zfs_layers.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/units.h"
#include "doctor/checks/common.h"

namespace shale::doctor::checks {
namespace {

constexpr std::string_view shale_label = "shale:"; ///< ZfsDataset::volume_of

bool is_hex(std::string_view text) {
    return std::ranges::all_of(text, [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

/// "shale-0123456789ab"
bool is_hidden_name(std::string_view name) {
    constexpr std::string_view prefix = "shale-";
    return name.size() == prefix.size() + 12 && name.starts_with(prefix) && is_hex(name.substr(prefix.size()));
}

/// The shale store of the driver's directory that a label names.
const probe::Store *store_of_label(const probe::Facts &facts, std::string_view label) {
    for (const auto &store : facts.stores)
        if (store.engine == "shale" && label == fmt::format("{}/zfs", store.root)) return &store;
    return nullptr;
}

} // namespace

std::string_view without_snapshot(std::string_view dataset) {
    return dataset.substr(0, dataset.find('@'));
}

std::string_view parent_of(std::string_view dataset) {
    const std::string_view name = without_snapshot(dataset);
    const size_t slash = name.rfind('/');
    return slash == std::string_view::npos ? std::string_view() : name.substr(0, slash);
}

std::string_view last_part(std::string_view dataset) {
    const std::string_view name = without_snapshot(dataset);
    return name.substr(name.rfind('/') + 1);
}

bool is_layer_name(std::string_view name) {
    constexpr std::string_view init = "-init";
    if (name.ends_with(init)) name.remove_suffix(init.size());
    return name.size() == 64 && is_hex(name);
}

LayerParents layer_parents(const probe::Facts &facts) {
    LayerParents out;
    for (const auto &store : facts.stores) {
        if (store.driver != "zfs") continue;
        for (const char *key : {"zfs.fsname", "zfs dataset"})
            if (const std::string *name = value_of(store.settings, key)) out.emplace(*name, &store);
    }
    for (const auto &dataset : facts.zfs_datasets) {
        if (dataset.type != "filesystem") continue;
        const std::string_view name = last_part(dataset.name);
        if (is_hidden_name(name) && dataset.volume_of.starts_with(shale_label))
            out.emplace(dataset.name,
                        store_of_label(facts, std::string_view(dataset.volume_of).substr(shale_label.size())));
        else if (const auto parent = parent_of(dataset.name); !parent.empty() && is_layer_name(name))
            out.emplace(parent, nullptr);
    }
    return out;
}

const LayerParent *layer_parent_of(const LayerParents &parents, std::string_view dataset) {
    const auto found = parents.find(parent_of(dataset));
    return found == parents.end() ? nullptr : &*found;
}

std::string time_text(uint64_t seconds) {
    constexpr uint64_t latest = 9'000'000'000; // nanoseconds of more do not fit
    return format_time_ns(static_cast<int64_t>(std::min(seconds, latest)) * 1'000'000'000);
}

} // namespace shale::doctor::checks
