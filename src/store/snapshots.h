// SPDX-License-Identifier: Apache-2.0
// Snapshots by containerd's rules (its core/snapshots/snapshotter.go; the wire: services/snapshots/v1): trees under
// opaque keys, made active over a committed parent, committed under a name, or looked at as a view. They are layers of
// the store: what an image import unpacked is found under its chain id, and gc knows both.
//
// A key, a name or a label is never a path, and has no meaning here but for the labels in `labels` below.
// Every call is bounded: it waits a minute at most for another's lock or transaction, and for no data to reach the disk
// (see commit(); one call in some thousand waits for a few bytes of the records, store/records.h). None walks a tree
// but usage() of an active one where nothing counts, and what a driver is made of: vfs copies its parent at prepare(),
// the legacy overlay links its parent's tree at commit().
// Errors: NotFound, AlreadyExists, FailedPrecondition, InvalidArgument, ResourceExhausted as each call says.
// Thread safety: all calls, also from other processes on the same store.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "drivers/driver.h"
#include "store/labels.h"
#include "store/store.h"
#include "store/upkeep.h"

namespace shale::store {

/// Numbers as on the wire.
enum class SnapshotKind : uint8_t { view = 1, active = 2, committed = 3 };

inline constexpr std::string_view ref_label = "containerd.io/snapshot.ref";

struct SnapshotInfo {
    std::string name;   ///< key (active, view) or name (committed); one name space
    std::string parent; ///< empty: none
    SnapshotKind kind = SnapshotKind::active;
    int64_t created_ns = 0, updated_ns = 0; ///< since the epoch
    Labels labels;
};
/// The same, looked at where it lies.
struct SnapshotRow {
    std::string_view name, parent;
    SnapshotKind kind = SnapshotKind::active;
    int64_t created_ns = 0, updated_ns = 0;
    PackedLabels labels;
};

class Snapshots {
public:
    /// `store` outlives it.
    explicit Snapshots(Store &store);
    ~Snapshots();
    Snapshots(const Snapshots &) = delete;
    Snapshots &operator=(const Snapshots &) = delete;

    /// A new writable snapshot. AlreadyExists: the key is taken, or the label containerd.io/snapshot.ref names a layer
    /// that is there (over this parent): then that is a committed snapshot from now on, which walk() shows with the
    /// label. NotFound: no such parent; InvalidArgument: the parent is not committed, or a label that maps ids is
    /// malformed (store/id_mapping.h; with one the mounts begin with uidmap= and gidmap=, which the client carries
    /// out).
    Result<std::vector<sys::MountSpec>> prepare(const std::string &key, const std::string &parent,
                                                const Labels &labels);
    /// A read-only look at `parent` (empty: at nothing).
    Result<std::vector<sys::MountSpec>> view(const std::string &key, const std::string &parent, const Labels &labels);
    /// The same answer until commit or remove. FailedPrecondition for a committed one.
    Result<std::vector<sys::MountSpec>> mounts(const std::string &key);
    /// The active snapshot `key` becomes the committed `name`, with these labels. `parent` not empty: it is put on that
    /// one (InvalidArgument when it stands on one already, FailedPrecondition when that one is not committed).
    /// FailedPrecondition: not active. After an error it is active and writable as before. The record is there when
    /// this returns; the data is synced behind, and a snapshot that a power cut caught before that is gone.
    Status commit(const std::string &name, const std::string &key, const Labels &labels, const std::string &parent);
    /// FailedPrecondition when others stand on it. The key is free at once, the space comes back with cleanup().
    Status remove(const std::string &key);
    Result<SnapshotInfo> stat(const std::string &key);
    /// Labels change, and updated_ns; nothing else ever does. `fields`: "labels" (all replaced) or "labels.KEY" (empty
    /// or missing value: deleted); none = all labels. Another field is InvalidArgument.
    Result<SnapshotInfo> update(const SnapshotInfo &info, std::span<const std::string> fields);
    /// Which ones are looked at, and no others are touched.
    struct Selection {
        std::optional<std::vector<std::string>> names; ///< those that are there; nullopt: any
        std::string ref;                               ///< the label containerd.io/snapshot.ref; empty: any
    };
    /// Page by page, in the order in which they were made, or of the names. `write` appends what it has to say of each
    /// to its page's text; it is called within a read, from any thread, and must not call this object. `send` gets each
    /// page in which something was said: it may call this object and take its time, for nothing is held meanwhile but
    /// the next page, and an error of its ends the walk. A page ends with the row that takes it beyond page_bytes.
    static constexpr size_t page_bytes = size_t{256} << 10U;
    Status walk(const Selection &which, const std::function<void(const SnapshotRow &, std::string &page)> &write,
                const std::function<Status(std::string &page)> &send);
    struct Counts {
        uint64_t views = 0, active = 0, committed = 0;
        uint64_t unsynced = 0;          ///< committed, and not on stable storage yet
        uint64_t layers = 0;            ///< of the store, images' too
        uint64_t bytes = 0, inodes = 0; ///< theirs, as recorded
    };
    /// From the records, in one look.
    Result<Counts> counts();
    /// What the upkeep has done since this object is there.
    UpkeepCounts upkeep() const;
    /// Own bytes and inodes, without the parent's.
    Result<drivers::Usage> usage(const std::string &key);
    /// Active snapshots with that label, and how they are mounted; without an object of this class, which would look
    /// after the store. One that is being committed or removed just now is left out.
    struct Labelled {
        std::string key, value;
        std::vector<sys::MountSpec> mounts;
    };
    static Result<std::vector<Labelled>> labelled(Store &store, std::string_view label);
    /// Syncs what was committed, frees what remove() left, and settles layers that are not in use (upkeep.h). Waits ten
    /// seconds at most; what is not done by then goes on.
    Status cleanup();

private:
    class Impl;
    std::unique_ptr<Impl> impl_;
};

} // namespace shale::store
