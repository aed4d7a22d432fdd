// SPDX-License-Identifier: Apache-2.0
// A root directory of containerd for tests: its databases byte by byte, directories and blobs.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <ctime>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "base/digest.h"
#include "doctor/hosts/containerd.h"
#include "doctor/hosts/test_store.h"
#include "probe/bolt_test_writer.h"
#include "probe/test_root.h"

namespace shale::doctor::containerd_test {

using probe::StoreLayer;
using probe::bolt_writer::Bucket;

inline constexpr const char *root = "/var/lib/containerd";
inline constexpr const char *overlay = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs";
inline constexpr uint64_t long_ago_s = 1'700'000'000;

inline std::string uvarint(uint64_t value) {
    std::string out;
    for (; value >= 0x80; value >>= 7U)
        out += static_cast<char>(value | 0x80U);
    return out + static_cast<char>(value);
}
inline std::string varint(int64_t value) {
    return uvarint(value < 0 ? ~(static_cast<uint64_t>(value) << 1U) : static_cast<uint64_t>(value) << 1U);
}
/// time.Time.MarshalBinary: version, seconds since the year 1, nanoseconds, offset; big-endian.
inline std::string go_time(uint64_t unix_s) {
    std::string out(1, '\1');
    const uint64_t seconds = unix_s + 62'135'596'800;
    for (int shift = 56; shift >= 0; shift -= 8)
        out += static_cast<char>(seconds >> static_cast<unsigned>(shift));
    return out + std::string(4, '\0') + "\xff\xff";
}
inline std::string field(int number, const std::string &value) {
    return static_cast<char>(static_cast<unsigned>(number) << 3U | 2U) + uvarint(value.size()) + value;
}
inline std::string any(const std::string &type, const std::string &value) {
    return field(1, type) + field(2, value);
}

/// A root of containerd under construction.
class Fake {
public:
    Fake() { snapshots(overlay)["v1"]; }

    Bucket &space(const std::string &name) { return meta_.buckets["v1"].buckets[name]; }
    std::map<std::string, Bucket> &snapshots(const std::string &snapshotter) {
        return databases_[snapshotter + "/metadata.db"].buckets;
    }
    void sequence(const std::string &snapshotter, uint64_t last) {
        snapshots(snapshotter)["v1"].buckets["snapshots"].sequence = last;
    }

    /// A record in the snapshotter's database.
    void record(const std::string &key, uint64_t id, char kind, const std::string &parent = {},
                uint64_t created_s = long_ago_s, const std::string &snapshotter = overlay) {
        Bucket &bucket = snapshots(snapshotter)["v1"].buckets["snapshots"];
        bucket.sequence = std::max(bucket.sequence, id);
        auto &values = bucket.buckets[key].values;
        values = {{"id", uvarint(id)},
                  {"kind", std::string(1, kind)},
                  {"createdat", go_time(created_s)},
                  {"size", varint(1000)},
                  {"inodes", varint(7)}};
        if (!parent.empty()) values["parent"] = parent;
    }
    /// A snapshot of a namespace.
    Bucket &snapshot(const std::string &space_name, const std::string &key, const std::string &name,
                     const std::string &parent = {}, const std::string &snapshotter = "overlayfs") {
        Bucket &out = space(space_name).buckets["snapshots"].buckets[snapshotter].buckets[key];
        out.values = {{"name", name}, {"createdat", go_time(long_ago_s)}};
        if (!parent.empty()) out.values["parent"] = parent;
        return out;
    }
    /// Directories as overlayfs makes them.
    void tree(uint64_t id, bool work = true) const {
        host.dir(fmt::format("{}/snapshots/{}/fs", overlay, id));
        if (work) host.dir(fmt::format("{}/snapshots/{}/work", overlay, id));
    }
    /// On disk and in the records; returns its digest.
    std::string blob(const std::string &space_name, const std::string &text,
                     std::map<std::string, std::string> labels = {}) {
        const std::string digest = Digest::of(text).text();
        host.file(fmt::format("{}/io.containerd.content.v1.content/blobs/sha256/{}", root, digest.substr(7)), text);
        Bucket &bucket = space(space_name).buckets["content"].buckets["blob"].buckets[digest];
        bucket.values["size"] = varint(static_cast<int64_t>(text.size()));
        if (!labels.empty()) bucket.buckets["labels"].values = std::move(labels);
        return digest;
    }
    void image(const std::string &space_name, const std::string &name, const std::string &digest) {
        Bucket &bucket = space(space_name).buckets["images"].buckets[name];
        bucket.values["createdat"] = go_time(long_ago_s);
        bucket.buckets["target"].values = {{"digest", digest}, {"mediatype", "application/x"}, {"size", varint(1)}};
    }
    Bucket &container(const std::string &space_name, const std::string &id, const std::string &key) {
        Bucket &out = space(space_name).buckets["containers"].buckets[id];
        out.values = {{"image", "docker.io/library/a:1"}, {"snapshotter", "overlayfs"}, {"snapshotKey", key}};
        return out;
    }

    /// Two layers that are unpacked as numbers 1 and 2, their manifest, and its name.
    void image_of_two() {
        const std::string diff1 = Digest::of("diff 1").text(), diff2 = Digest::of("diff 2").text();
        chain1 = diff1;
        chain2 = chain_id(Digest::of("diff 1"), Digest::of("diff 2")).text();
        layer1 = blob("default", "layer 1");
        layer2 = blob("default", "layer 2");
        const std::string config =
            blob("default", fmt::format(R"({{"rootfs":{{"type":"layers","diff_ids":["{}","{}"]}}}})", diff1, diff2),
                 {{"containerd.io/gc.ref.snapshot.overlayfs", chain2}});
        manifest = blob("default",
                        fmt::format(R"({{"config":{{"digest":"{}","size":1}},"layers":[{{"digest":"{}","size":7}},)"
                                    R"({{"digest":"{}","size":7}}]}})",
                                    config, layer1, layer2),
                        {{"containerd.io/gc.ref.content.config", config}});
        image("default", "docker.io/library/a:1", manifest);
        record("default/1/" + chain1, 1, 3);
        record("default/2/" + chain2, 2, 3, "default/1/" + chain1);
        snapshot("default", chain1, "default/1/" + chain1);
        snapshot("default", chain2, "default/2/" + chain2, chain1);
        tree(1);
        tree(2);
    }

    void write() const {
        host.file(std::string(root) + "/io.containerd.metadata.v1.bolt/meta.db", database(meta_));
        for (const auto &[path, bucket] : databases_)
            host.file(path, database(bucket));
    }
    static std::string database(const Bucket &bucket) { return probe::bolt_writer::database(bucket); }
    std::string metadata() const { return database(meta_); }

    /// As if the host was looked at so much later.
    probe::Facts read(uint64_t later_s = 7 * 86'400, const std::string &at = {}) const {
        probe::Facts out = before;
        out.taken_s = static_cast<uint64_t>(::time(nullptr)) + later_s;
        read_containerd(host.host(), {}, at, out);
        return out;
    }

    probe::TestRoot host;
    probe::Facts before;
    std::string chain1, chain2, manifest, layer1, layer2;

private:
    Bucket meta_;
    std::map<std::string, Bucket> databases_; ///< by path
};

inline const probe::Store &store_of(const probe::Facts &facts, std::string_view driver = "overlayfs") {
    static const probe::Store none;
    for (const probe::Store &store : facts.stores)
        if (store.driver == driver) return store;
    ADD_FAILURE() << "no store of " << driver;
    return none;
}
inline bool all_read(const probe::Store &store) {
    return std::ranges::all_of(store.sources, [](const auto &source) { return source.state == "read"; });
}

} // namespace shale::doctor::containerd_test
