// SPDX-License-Identifier: Apache-2.0
// containerd's own database, ROOT/io.containerd.metadata.v1.bolt/meta.db, as plain data (containerd,
// core/metadata/buckets.go; metadata/buckets.go before 2.0), and what in it keeps a snapshot from garbage collection
// (core/metadata/gc.go).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "base/error.h"
#include "probe/bolt.h"
#include "probe/facts.h"
#include "probe/host.h"

namespace shale::doctor::containerd {

using Labels = std::map<std::string, std::string, std::less<>>; ///< those that matter here

struct Snapshot {
    std::string name;   ///< key in the snapshotter's database
    std::string parent; ///< key in this namespace
    Labels labels;
    uint64_t created_s = 0;
};
struct Image {
    std::string digest, media_type;
    Labels labels;
    uint64_t created_s = 0;
};
struct Container {
    std::string image, snapshotter, snapshot;
    std::string name, log_path;     ///< of Kubernetes or nerdctl; else empty
    std::vector<std::string> binds; ///< "HOST:CONTAINER", at most max_binds
    Labels labels;
    uint64_t created_s = 0;
};
inline constexpr size_t max_binds = 256;
struct Blob {
    uint64_t bytes = 0;
    Labels labels;
};
struct Lease {
    std::map<std::string, std::vector<std::string>> snapshots; ///< snapshotter -> keys
    std::vector<std::string> content, images;
    Labels labels;
};
struct Namespace {
    std::map<std::string, Image> images;
    std::map<std::string, Container> containers;
    std::map<std::string, std::map<std::string, Snapshot>> snapshots; ///< snapshotter -> key ->
    std::map<std::string, Blob> blobs;                                ///< by digest
    std::vector<std::string> expected;                                ///< digests that downloads under way will have
    std::map<std::string, Lease> leases;
    std::map<std::string, Labels> sandboxes;
};
struct Metadata {
    uint64_t schema = 0; ///< v1/version
    std::map<std::string, Namespace> namespaces;
    std::optional<Error> damage; ///< the first thing that could not be read; the rest is what could
};

/// Errors: of BoltFile::open(). Values that are damaged become Metadata::damage.
Result<Metadata> read_metadata(const probe::Host &host, const std::string &path);
/// The same from a file in memory.
Metadata metadata_of(const probe::BoltFile &file);

/// Namespace, snapshotter, key.
using SnapshotKey = std::tuple<std::string, std::string, std::string>;
struct SnapshotUsers {
    std::map<SnapshotKey, std::set<std::string>> users;
    bool complete = true; ///< false: there were more than max_references to follow
};
inline constexpr size_t max_references = 5'000'000; ///< a thousand images of twenty layers have 50,000
/// What keeps each snapshot, in the words of StoreLayer::used_by, children left out; those kept by nothing are missing.
/// More is followed than containerd does, not less: leases and images that have expired count, flat leases keep all
/// that they lead to. (Conditions of "containerd.io/gc.cond." keep images and content alive, not snapshots.)
SnapshotUsers snapshot_users(const Metadata &metadata);

/// The name to call an image by that has several: not the bare digest that CRI adds to each.
std::string_view best_name(const std::vector<std::string> &names);

} // namespace shale::doctor::containerd
