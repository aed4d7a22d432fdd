// SPDX-License-Identifier: Apache-2.0
#include "doctor/checks/holders.h"

#include <algorithm>
#include <unordered_map>

#include <fmt/format.h>

#include "base/units.h"
#include "doctor/checks/common.h"

namespace shale::doctor::checks {
namespace {

constexpr size_t most_images = 5, most_layers = 5, most_volumes = 3; ///< that are named

struct Held {
    uint64_t amount = 0;
    std::string text;
};

std::string amount_text(Measure measure, uint64_t amount) {
    return measure == Measure::bytes ? format_bytes(amount) : counted(amount, "inode");
}

uint64_t amount_of(Measure measure, const std::optional<probe::Usage> &usage) {
    if (!usage) return 0;
    return measure == Measure::bytes ? usage->bytes : usage->inodes;
}

void append_largest(std::vector<Held> held, size_t most, std::vector<std::string> &lines) {
    std::ranges::stable_sort(held, std::ranges::greater(), &Held::amount);
    for (size_t i = 0; i < std::min(held.size(), most); ++i)
        if (held[i].amount != 0) lines.push_back(std::move(held[i].text));
}

std::vector<Held> images_of(const probe::Store &store, Measure measure) {
    const Layers layers = layers_by_id(store);
    std::unordered_map<std::string_view, size_t> images_with;
    for (const auto &image : store.images)
        for (const auto &id : image.layers)
            ++images_with[id];
    std::vector<Held> out;
    for (const auto &image : store.images) {
        uint64_t all = 0;
        uint64_t alone = 0;
        for (const auto &id : image.layers) {
            const auto found = layers.find(id);
            const uint64_t amount = found == layers.end() ? 0 : amount_of(measure, found->second->usage);
            all += amount;
            if (images_with[id] == 1) alone += amount;
        }
        out.push_back({all, fmt::format("image {}: {} in {}, {} of it in no other image", name_of(image),
                                        amount_text(measure, all), counted(image.layers.size(), "layer"),
                                        amount_text(measure, alone))});
    }
    return out;
}

std::vector<Held> layers_of(const probe::Store &store, Measure measure) {
    std::vector<Held> out;
    for (const auto &layer : store.layers)
        if (const uint64_t amount = amount_of(measure, layer.usage); amount != 0)
            out.push_back({amount, fmt::format("layer {}: {}, {}", place_of(layer), amount_text(measure, amount),
                                               layer.recorded ? users_text(layer) : "in no record")});
    return out;
}

std::vector<Held> volumes_of(const probe::Store &store, Measure measure) {
    std::vector<Held> out;
    for (const auto &volume : store.volumes)
        if (const uint64_t amount = amount_of(measure, volume.usage); amount != 0)
            out.push_back(
                {amount, fmt::format("volume {}: {}, used by {}", shown(volume.name), amount_text(measure, amount),
                                     volume.used_by.empty() ? "nothing" : listed(volume.used_by, 2))});
    return out;
}

void append(std::vector<Held> &to, std::vector<Held> &&from) {
    to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
}

} // namespace

Holders holders_on(const probe::Facts &facts, const probe::FileSystem &fs, Measure measure, uint64_t used) {
    Holders out;
    uint64_t most = 0;
    std::vector<Held> stores;
    std::vector<Held> images;
    std::vector<Held> layers;
    std::vector<Held> volumes;
    for (const auto &store : facts.stores) {
        if (file_system_of_layers(facts, store) != &fs) continue;
        const StoreSize size = size_of(store);
        const uint64_t amount = measure == Measure::bytes ? size.bytes : size.inodes;
        if (!size.complete) out.not_measured.push_back(fmt::format("{}: not all of it was measured", name_of(store)));
        if (amount > most) {
            most = amount;
            out.largest = &store;
        }
        stores.push_back(
            {amount, fmt::format("{}: {}{}, {} of what is in use", name_of(store), size.complete ? "" : "at least ",
                                 amount_text(measure, amount), percent_text(amount, used))});
        append(images, images_of(store, measure));
        append(layers, layers_of(store, measure));
        append(volumes, volumes_of(store, measure));
    }
    append_largest(std::move(stores), max_evidence, out.lines);
    append_largest(std::move(images), most_images, out.lines);
    append_largest(std::move(layers), most_layers, out.lines);
    append_largest(std::move(volumes), most_volumes, out.lines);
    return out;
}

} // namespace shale::doctor::checks
