// SPDX-License-Identifier: Apache-2.0
#include "guard/store_hands.h"

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/units.h"

namespace shale::guard {

StoreHands::StoreHands(probe::Host host, std::vector<store::Store *> stores)
    : host_(std::move(host)), stores_(std::move(stores)) {
    for (auto *store : stores_)
        places_.push_back({store->root(), std::string(store->driver().name())});
}

std::vector<Sample> StoreHands::look(std::vector<std::string> &problems) {
    const auto seen = guard::look(host_, places_);
    for (const auto &problem : seen.facts.problems)
        problems.push_back(fmt::format("{}: {}", problem.about, problem.why));
    carriers_.clear();
    for (const size_t carrier : seen.carriers)
        carriers_.push_back(carrier == no_carrier ? "" : seen.facts.file_systems[carrier].target);
    auto out = samples_of(seen);
    for (auto *store : stores_) {
        const auto deepest = store->deepest_stack();
        if (!deepest) {
            problems.push_back(fmt::format("{}: {}", store->root(), deepest.error().text()));
            continue;
        }
        // With a container's own layer.
        out.push_back({Kind::depth, store->root(), *deepest + 1, store->driver().max_depth(), "layers"});
    }
    return out;
}

std::string StoreHands::cannot(Tier tier) const {
    switch (tier) {
    case Tier::throttle:
    case Tier::evict:
    case Tier::extend:
        return "this shale observes, collects and refuses; it does not throttle, evict or extend yet";
    default:
        return {};
    }
}

std::vector<store::Store *> StoreHands::stores_on(const Sample &about) const {
    if (about.kind != Kind::bytes && about.kind != Kind::inodes && about.kind != Kind::btrfs_unallocated &&
        about.kind != Kind::btrfs_metadata)
        return stores_;
    std::vector<store::Store *> out;
    for (size_t i = 0; i < carriers_.size(); ++i)
        if (carriers_[i] == about.subject) out.push_back(stores_[i]);
    return out;
}

Outcome StoreHands::act(Tier tier, const Sample &about) {
    Outcome out;
    for (auto *store : stores_on(about)) {
        const auto failed = [&](const Error &error) {
            out.ok = false;
            out.evidence.push_back(fmt::format("{}: {}", store->root(), error.text()));
        };
        if (tier == Tier::trim_caches) {
            if (const auto removed = store->reap())
                out.evidence.push_back(
                    fmt::format("{}: {} entries of removed layers unlinked", store->root(), format_count(*removed)));
            else
                failed(removed.error());
        } else if (tier == Tier::gc) {
            const auto report = store->gc(false);
            if (!report) {
                failed(report.error());
                continue;
            }
            out.evidence.push_back(fmt::format("{}: removed {} layers ({}), {} blobs ({}), {} leftovers", store->root(),
                                               report->layers, format_bytes(report->layer_bytes), report->blobs,
                                               format_bytes(report->blob_bytes), report->leftovers));
        } else {
            out.ok = false;
            out.evidence.push_back(cannot(tier));
        }
    }
    return out;
}

Status StoreHands::refuse(std::span<const std::string> reasons, std::chrono::seconds how_long) {
    std::optional<Error> first;
    for (auto *store : stores_) {
        const auto done = reasons.empty()
                              ? store->allow_creates()
                              : store->refuse_creates(how_long, fmt::format("{}", fmt::join(reasons, "; ")));
        if (!done && !first) first = done.error();
    }
    if (first) return std::unexpected(std::move(*first));
    return {};
}

} // namespace shale::guard
