// SPDX-License-Identifier: Apache-2.0
// BuildKit's stores. Each has cache records (buildkit, cache/metadata/metadata.go), which name snapshots:
//
//   metadata_v2.db      bbolt: "_main" -> RECORD -> KEY -> {"value": ...}; metadata.db before BuildKit 0.8
//   containerdmeta.db   containerd's schema, namespace "buildkit": leases, of the same ids as the records
//   content/            blobs that were pulled, or exported as cache
//
// The one in dockerd (ROOT/buildkit) has its snapshots on dockerd's graph driver (moby,
// builder/builder-next/adapters/snapshot/snapshot.go):
//
//   snapshots.db        bbolt: SNAPSHOT -> {"parent", "committed", "iscommitted", "chainid", "size"}
//       SNAPSHOT = "sha256:..."  is a layer of layerdb, by its chain id
//       "chainid"                the same: it became a layer of an image
//       "committed"              names the snapshot whose tree it has; a snapshot that has neither has the tree of its
//                                own name
//
// buildkitd itself (ROOT/runc-overlayfs, and the like) has them in a snapshotter of containerd's.
//
// While a step of a build runs with runc, it has a directory (executor/runcexecutor/executor.go): executor/ID, with its
// root mounted on executor/ID/rootfs. Both go when the step ends. A step does not survive its daemon, not as far as the
// next one knows: what a killed one leaves, be it a process that still runs there, nobody looks at again.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "doctor/hosts/docker_draft.h"
#include "probe/facts.h"
#include "probe/host.h"

namespace shale::doctor::buildkit {

/// One record of the build cache.
struct CacheRecord {
    std::string id, parent;
    std::string snapshot;      ///< key; the record's id where it says no other
    std::string equal_mutable; ///< the record that has the tree until this one is finished
    bool committed = false, blob_only = false, deleted = false;
    bool composed = false; ///< merge or diff: its tree is made when it is needed
    std::optional<uint64_t> bytes;
    uint64_t created_s = 0;
};

/// metadata_v2.db, or metadata.db. NotFound: neither is there. Values that are malformed go to `sources`.
Result<std::vector<CacheRecord>> read_cache_records(const probe::Host &host, const std::string &dir,
                                                    docker::Sources &sources);

/// A snapshot of the BuildKit in dockerd.
struct Snapshot {
    std::string parent, tree; ///< key of the one below; name of its tree, "" if it is of a layer
    Digest chain;             ///< of the layer that it is, else empty
    bool committed = false;
    std::optional<uint64_t> bytes;
};

/// The BuildKit in a dockerd.
struct Embedded {
    std::vector<CacheRecord> records;
    std::map<std::string, Snapshot> snapshots;
    std::map<std::string, std::vector<std::string>> leases; ///< snapshot -> lease ids
    bool known = false;                                     ///< snapshots.db was read
    bool containerd = false; ///< there is none: dockerd has the image store of containerd
    docker::Sources sources;
    std::vector<probe::Problem> problems;

    /// A layer's chain id needs no record. nullopt: unknown.
    [[nodiscard]] std::optional<Snapshot> resolve(const std::string &key) const;
    /// The snapshot that has the record's tree; nullopt: there is none (yet).
    [[nodiscard]] std::optional<Snapshot> tree_of(const CacheRecord &record) const;
};

/// nullopt: this root has none.
std::optional<Embedded> read_embedded(const probe::Host &host, const std::string &docker_root);
/// Its trees are layers of dockerd's store: recorded, with "build cache ID" and "lease ID" as users. Before
/// read_graph().
void add_to_docker(docker::Draft &draft, const Embedded &cache);
/// Its own store, a layer a record. These have no path: their trees are the layers of `draft`, which has to be settled.
/// And a layer for each directory of a step; `steps_since_s` as read_steps() has it.
probe::Store store_of(const Embedded &cache, docker::Draft &draft, std::optional<uint64_t> steps_since_s);

/// A daemon with BuildKit in it, "dockerd" or "buildkitd".
struct Builder {
    std::string_view program;
    bool running = false;
    std::optional<uint64_t> started_s;
};
/// Since when a step that still runs has begun, at the earliest: with its daemon, less what a clock may have been set
/// by. Where none runs, what has not changed for ten minutes is no step's, unless one of that name runs somewhere else.
/// nullopt: it cannot be told.
std::optional<uint64_t> steps_since_s(const probe::Host &host, const std::vector<probe::Process> &processes,
                                      const Builder &builder, uint64_t now_s);
/// The directories of steps in `executor`, as layers "executor/ID": "step" is one that last changed before
/// `since_s`, which its daemon has left; "ingest", without a time, is one that may run.
std::vector<probe::StoreLayer> read_steps(const probe::Host &host, const std::string &executor,
                                          std::optional<uint64_t> since_s, std::vector<probe::Problem> &problems);

enum class Standalone : uint8_t { all, only_volumes };
/// The stores of buildkitd, one a snapshotter of a root, appended to `facts`: of those that run, of /var/lib/buildkit
/// and
/// ~/.local/share/buildkit of everybody; and, as `docker buildx create` makes it, in a volume of one of the docker
/// stores in facts.stores from `first` on. With Standalone::only_volumes just the latter.
void read_standalone(const probe::Host &host, const std::vector<probe::Process> &processes, Standalone which,
                     size_t first, probe::Facts &facts);

} // namespace shale::doctor::buildkit
