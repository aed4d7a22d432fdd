// SPDX-License-Identifier: Apache-2.0
#include "doctor/hosts/containerd_records.h"

#include <algorithm>
#include <limits>
#include <string_view>
#include <tuple>
#include <utility>

#include <fmt/format.h>

#include "probe/bolt.h"

namespace shale::doctor::containerd {
namespace {

using probe::BoltBucket;

/// A size that is not known is -1 (zfs: inodes).
Result<std::optional<uint64_t>> size_of(const BoltBucket &bucket, std::string_view key) {
    const auto value = TRY(bucket.get(key));
    if (!value) return std::nullopt;
    std::string_view rest = *value;
    const int64_t number = TRY(probe::take_varint(rest));
    return number < 0 ? std::nullopt : std::optional(static_cast<uint64_t>(number));
}

Result<Record> record_of(const BoltBucket &bucket) {
    Record out;
    auto id = TRY(bucket.get("id")).value_or("");
    out.id = TRY(probe::take_uvarint(id));
    const auto kind = TRY(bucket.get("kind"));
    if (kind && kind->size() == 1 && kind->front() >= 1 && kind->front() <= 3)
        out.kind = static_cast<Kind>(kind->front());
    out.parent = TRY(bucket.get("parent")).value_or("");
    out.bytes = TRY(size_of(bucket, "size"));
    out.inodes = TRY(size_of(bucket, "inodes"));
    if (const auto created = TRY(bucket.get("createdat"))) out.created_s = TRY(probe::go_time_s(*created));
    return out;
}

std::string_view word_of(Kind kind) {
    switch (kind) {
    case Kind::view:
        return "view";
    case Kind::active:
        return "active";
    case Kind::committed:
        return "committed";
    case Kind::unknown:
        break;
    }
    return "";
}

/// Lower layers of each record, by key. Unlike Depths it tells of loops, which are damage here.
class Ancestry {
public:
    explicit Ancestry(const Records &records) : records_(records) {}

    /// nullopt: the parents form a loop.
    std::optional<uint64_t> of(const std::string &key) {
        std::vector<const std::string *> chain; // from `key` down to one that is known
        uint64_t depth = 0;
        for (const std::string *at = &key;;) {
            const auto [slot, fresh] = known_.try_emplace(*at, under_way);
            if (!fresh) {
                depth = slot->second;
                break;
            }
            chain.push_back(at);
            const auto record = records_.by_key.find(*at);
            const bool has_parent = record != records_.by_key.end() && !record->second.parent.empty() &&
                                    records_.by_key.contains(record->second.parent);
            if (!has_parent) {
                known_[*at] = 0;
                chain.pop_back();
                break;
            }
            at = &record->second.parent;
        }
        if (depth == under_way) depth = loop;
        for (; !chain.empty(); chain.pop_back())
            known_[*chain.back()] = depth = depth == loop ? loop : depth + 1;
        const uint64_t out = known_[key];
        return out == loop ? std::nullopt : std::optional(out);
    }

private:
    static constexpr uint64_t under_way = std::numeric_limits<uint64_t>::max();
    static constexpr uint64_t loop = under_way - 1;
    const Records &records_;
    std::map<std::string, uint64_t> known_;
};

} // namespace

Result<Records> read_records(const probe::Host &host, const std::string &path) {
    Records out;
    const auto file = TRY(probe::BoltFile::open(host, path));
    const auto snapshots = TRY(file.root().bucket_at({"v1", "snapshots"}));
    if (!snapshots) return out;
    out.sequence = snapshots->sequence();
    TRY(snapshots->for_each_bucket([&](std::string_view key, const BoltBucket &bucket) -> Status {
        out.by_key[std::string(key)] =
            TRY(in_context(record_of(bucket), [&] { return fmt::format("snapshot {:?}", key); }));
        return {};
    }));
    return out;
}

std::vector<probe::StoreLayer> layers_of(const Records &records) {
    std::vector<const std::pair<const std::string, Record> *> ordered;
    ordered.reserve(records.by_key.size());
    for (const auto &one : records.by_key)
        ordered.push_back(&one);
    std::ranges::stable_sort(ordered, {}, [](const auto *one) { return one->second.id; });

    std::vector<probe::StoreLayer> out;
    Ancestry ancestry(records);
    for (const auto *one : ordered) {
        const auto &[key, record] = *one;
        probe::StoreLayer layer;
        layer.id = std::to_string(record.id);
        layer.name = key;
        layer.kind = word_of(record.kind);
        layer.recorded = true;
        layer.recorded_bytes = record.bytes;
        layer.recorded_inodes = record.inodes;
        layer.created_s = record.created_s;
        if (const auto parent = records.by_key.find(record.parent); parent != records.by_key.end())
            layer.parent = std::to_string(parent->second.id);
        else if (!record.parent.empty())
            layer.damage.push_back(fmt::format("its parent {:?} has no record", record.parent));
        if (const auto depth = ancestry.of(key))
            layer.depth = *depth;
        else
            layer.damage.emplace_back("its parents form a loop");
        if (record.kind == Kind::unknown) layer.damage.emplace_back("its record does not say what kind it is");
        if (!out.empty() && out.back().id == layer.id)
            layer.damage.push_back(fmt::format("{:?} has the same number", out.back().name));
        out.push_back(std::move(layer));
    }
    return out;
}

} // namespace shale::doctor::containerd
