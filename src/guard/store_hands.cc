// SPDX-License-Identifier: Apache-2.0
#include "guard/store_hands.h"

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/units.h"
#include "sys/dm.h"

namespace shale::guard {

StoreHands::StoreHands(probe::Host host, std::vector<store::Store *> stores, const Config &config)
    : host_(std::move(host)), stores_(std::move(stores)), config_(config) {
    for (auto *store : stores_)
        places_.push_back({store->root(), std::string(store->driver().name())});
}

std::vector<Sample> StoreHands::look(std::vector<std::string> &problems) {
    seen_ = guard::look(host_, places_);
    for (const auto &problem : seen_.facts.problems)
        problems.push_back(fmt::format("{}: {}", problem.about, problem.why));
    carriers_.clear();
    for (const size_t carrier : seen_.carriers)
        carriers_.push_back(carrier == no_carrier ? "" : seen_.facts.file_systems[carrier].target);
    auto out = samples_of(seen_);
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
    if (tier != Tier::throttle && tier != Tier::evict && tier != Tier::extend) return {};
    if (tier == Tier::extend) {
        const auto version = sys::dm_version();
        return version ? std::string() : version.error().text();
    }
    const auto cgroups = Cgroups::read(host_);
    if (!cgroups) return cgroups.error().text();
    if (tier == Tier::throttle && cgroups->io() == nullptr)
        return "this host has no controller that slows writers: neither blkio of cgroup v1 nor io of v2 is mounted "
               "(/proc/self/mountinfo; the kernel's CONFIG_BLK_DEV_THROTTLING)";
    if (cgroups->io() == nullptr && cgroups->memory() == nullptr && cgroups->unified() == nullptr)
        return "this host has no cgroups by which containers could be told apart";
    return {};
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

Outcome StoreHands::act_on(store::Store &store, Tier tier) const {
    const auto failed = [&](const Error &error) {
        return Outcome{false, {fmt::format("{}: {}", store.root(), error.text())}};
    };
    if (tier == Tier::trim_caches) {
        const auto removed = store.reap();
        if (!removed) return failed(removed.error());
        return {true, {fmt::format("{}: {} entries of removed layers unlinked", store.root(), format_count(*removed))}};
    }
    const auto report = store.gc(false);
    if (!report) return failed(report.error());
    return {true,
            {fmt::format("{}: removed {} layers ({}), {} blobs ({}), {} leftovers", store.root(), report->layers,
                         format_bytes(report->layer_bytes), report->blobs, format_bytes(report->blob_bytes),
                         report->leftovers)}};
}

drivers::SpacePool *StoreHands::pool_of(const Sample &about) const {
    for (auto *store : stores_)
        if (auto *pool = store->driver().space_pool(); pool != nullptr && pool->pool_name() == about.subject)
            return pool;
    return nullptr;
}

Outcome StoreHands::extend(const Sample &about) const {
    using Part = drivers::SpacePool::Part;
    auto *pool = pool_of(about);
    if (pool == nullptr)
        return {false,
                {fmt::format("{} is the pool of no store that this guard watches: its owner extends it (LVM: "
                             "activation/thin_pool_autoextend_threshold)",
                             about.subject)}};
    const auto grown = pool->extend(about.kind == Kind::thin_data ? Part::data : Part::metadata, config_.extend_percent,
                                    config_.extend_max);
    if (!grown) return {false, {grown.error().text()}};
    return {true,
            {fmt::format("{}: from {} to {}", grown->where, format_bytes(grown->before_bytes),
                         format_bytes(grown->after_bytes))}};
}

Outcome StoreHands::act(Tier tier, const Sample &about) {
    if (tier == Tier::evict) return evict(about);
    if (tier == Tier::extend) return extend(about);
    if (tier != Tier::trim_caches && tier != Tier::gc) return {false, {cannot(tier)}};
    Outcome out;
    for (auto *store : stores_on(about)) {
        Outcome one = act_on(*store, tier);
        out.ok = out.ok && one.ok;
        std::ranges::move(one.evidence, std::back_inserter(out.evidence));
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
