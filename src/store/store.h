// SPDX-License-Identifier: Apache-2.0
// The store: images, layers, containers over one driver, with records in one SQLite database.
//
// On disk (ROOT, mode 0711; everything below 0700 unless said):
//   shale.db            records (WAL); the only truth about what exists
//   lock                byte ranges of this file are the locks between processes (see locks.h)
//   blobs/sha256/<hex>  layer blobs, manifests, configs, byte for byte
//   <driver>/           the driver's layers and its trash
//   reserve             room for the records of a full disk (see reserve.h)
//   refusal             while a guard refuses what is new (see refusal.h)
//   guard/              what the store's guard knows and has told (src/guard)
//   tmp/                partial blobs; nothing in it outlives its process
//   mnt/<id>            mount points that `container mount` makes
//
// Every mutation: record intent -> act -> sync -> record -> retire. A layer row in state "staging" is the intent; a
// crash leaves it behind, and the next open removes it with its data (recover.cc). Two durability classes
// (docs/adr/0004): images, layers, tags: data synced (driver.sync, blobs and directories fsynced), then a transaction
// with synchronous=FULL. Containers: transactions are atomic and ordered, durable at the latest with the next full one
// or the file system's own commit.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "archive/decompress.h"
#include "base/digest.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/ids.h"
#include "drivers/driver.h"
#include "oci/image.h"

namespace shale::store {

class Records;
class Statement;
class Locks;
class LockHold;
struct TreeComparison;
struct MigrateRequest;
struct MigrateEstimate;
struct MigrateReport;
struct MigrateState;
struct MigratePlan;

enum class Durability : uint8_t { full, none };

struct StoreOptions {
    std::string root;
    std::string driver; ///< empty: the store's own; a new store: the best the host can run
    drivers::DriverOptions driver_options;
    Durability durability = Durability::full;
    unsigned jobs = 0; ///< layers unpacked at once; 0 = number of processors
    archive::TarLimits tar_limits;
    bool read_only = false; ///< opens without recovery or lock of writers (info, df of a broken store)
    /// For `shale migrate` alone: by the store's own driver, even where `driver` (and its options) name another, and
    /// also where a migration has moved the store away from.
    bool migrating = false;
};

/// Progress of long work; called from several threads, one at a time.
struct ProgressEvent {
    enum class Kind : uint8_t { layer_begin, layer_bytes, layer_done, layer_shared, note } kind = Kind::note;
    std::string item; ///< short digest or text
    uint64_t done = 0, total = 0;
};
using Progress = std::function<void(const ProgressEvent &)>;

struct LayerInfo {
    LayerId id;
    std::optional<LayerId> parent;
    Digest chain_id, diff_id, blob;                 ///< blob: digest of the blob kept
    uint64_t blob_bytes = 0, bytes = 0, inodes = 0; ///< bytes, inodes: the unpacked layer's own
    int64_t created_ns = 0;
    uint64_t images = 0, children = 0, containers = 0; ///< who uses it
};
struct ImageInfo {
    Digest manifest, config;
    std::vector<std::string> names;
    std::vector<LayerInfo> layers; ///< bottom first
    uint64_t bytes = 0, exclusive_bytes = 0;
    int64_t created_ns = 0; ///< when it came into the store
    std::string os, architecture;
};
struct ContainerInfo {
    LayerId id;
    std::string name;
    std::optional<Digest> image;
    std::string image_name;
    std::vector<LayerId> parents; ///< nearest first
    int64_t created_ns = 0;
    std::string mounted_at; ///< empty when not mounted (asked from the mount table)
    drivers::Quota quota;
};

struct ImportRequest {
    std::string source; ///< path or "-"
    std::string name;   ///< overrides the source's names; empty: the source's
    oci::SourceOptions select;
};
struct ImportedImage {
    ImageInfo image;
    uint64_t layers_unpacked = 0, layers_shared = 0;
    uint64_t skipped_devices = 0, squashed_owners = 0, skipped_xattrs = 0;
    std::vector<std::string> warnings;
};

struct CommitRequest {
    std::string container, name;
    std::string comment, author;
    std::vector<std::string> cmd;
    archive::Compression compression = archive::Compression::gzip;
};
struct CommitResult {
    ImageInfo image;
    Digest diff_id;
    bool native_diff = false;
    std::string walk_reason;
    archive::PackReport pack;
};

struct GcReport {
    uint64_t layers = 0, blobs = 0, leftovers = 0; ///< removed (or that would be, in a dry run)
    uint64_t blob_bytes = 0, layer_bytes = 0;
    uint64_t reaped_entries = 0;
    uint64_t settled = 0;          ///< layers that a commit had left to be brought into the driver's form
    std::vector<std::string> what; ///< a line each
};

/// Where the file system's space is; the rows sum up to statfs, "unaccounted" is the explained rest.
struct SpaceReport {
    struct Row {
        std::string name;
        uint64_t bytes = 0, inodes = 0;
    };
    std::string root, file_system;
    uint64_t fs_bytes = 0, fs_used = 0, fs_available = 0, fs_inodes = 0, fs_inodes_used = 0;
    std::vector<Row>
        rows; ///< layers, containers, blobs, records, trash, orphans, deleted but open, reserve, other, ...
    struct ImageRow {
        std::string name;
        uint64_t bytes = 0, exclusive = 0, shared = 0;
    };
    std::vector<ImageRow> images;
    uint64_t store_bytes = 0;
};

enum class CheckLevel : uint8_t { quick, full, data };
struct Problem {
    std::string object; ///< "layer 12", "blob sha256:...", "container web"
    std::string what, remedy;
    bool repaired = false;
};
struct CheckReport {
    uint64_t layers = 0, blobs = 0, containers = 0, entries = 0;
    std::vector<Problem> problems;
};

class Store {
public:
    /// Opens or creates. Recovers what dead processes left (removes half-made layers; never anything recorded).
    /// A store that has layers of another driver refuses with FailedPrecondition, naming both and what is there.
    static Result<std::unique_ptr<Store>> open(const StoreOptions &options);
    ~Store();
    Store(const Store &) = delete;
    Store &operator=(const Store &) = delete;

    [[nodiscard]] const std::string &root() const noexcept { return options_.root; }
    [[nodiscard]] drivers::Driver &driver() noexcept { return *driver_; }

    // images.cc, import.cc, export.cc
    Result<std::vector<ImportedImage>> import_images(const ImportRequest &request, const Progress &progress,
                                                     const std::atomic<bool> *cancel = nullptr);
    Result<std::vector<ImageInfo>> list_images();
    /// By name, manifest digest, config digest, or a unique hex prefix (>= 4) of either.
    Result<ImageInfo> find_image(std::string_view reference);
    Result<std::string> image_manifest(const Digest &manifest); ///< raw document
    Result<std::string> image_config(const Digest &config);
    Status tag_image(std::string_view reference, std::string_view name);
    /// Removes a name; the image goes with its last name (unless containers use it: FailedPrecondition, or `force`
    /// names).
    struct Removed {
        std::vector<std::string> untagged;
        std::optional<Digest> deleted;
    };
    Result<Removed> remove_image(std::string_view reference, bool force, bool dry_run);
    Status export_image(std::string_view reference, oci::ExportFormat format, const std::string &path);

    // layers.cc
    Result<std::vector<LayerInfo>> list_layers();
    Result<LayerInfo> find_layer(std::string_view reference); ///< id, chain id, diff id or unique prefix
    Result<archive::PackReport> export_layer(LayerId id, const archive::Sink &sink); ///< canonical tar

    // containers.cc
    Result<ContainerInfo> create_container(std::string_view image, std::string_view name, const drivers::Quota &quota);
    Result<ContainerInfo> find_container(std::string_view reference); ///< name or id
    Result<std::vector<ContainerInfo>> list_containers();
    Result<std::vector<sys::MountSpec>> container_mounts(const ContainerInfo &container);
    /// Mounts at ROOT/mnt/<id> (or `target`), once; returns the path. Vfs: its directory, nothing is mounted.
    Result<std::string> mount_container(std::string_view reference, const std::string &target = {});
    Status unmount_container(std::string_view reference);
    Status container_changes(std::string_view reference, const archive::ChangeSink &sink);
    Result<drivers::Driver::DiffReport> container_diff(std::string_view reference, const archive::Sink &sink);
    Result<archive::PackReport> export_container(std::string_view reference, const archive::Sink &sink); ///< whole tree
    Result<CommitResult> commit_container(const CommitRequest &request);
    Status remove_container(std::string_view reference, bool force); ///< force: unmounts first
    Result<drivers::Usage> container_usage(const ContainerInfo &container);

    // leases.cc: what a lease names is not collected. Refs: "layer:<id>", "blob:<digest>", "image:<digest>".
    Result<std::string> create_lease(std::string_view id, std::optional<int64_t> ttl_ns);
    Status add_lease_ref(std::string_view id, std::string_view ref);
    Status delete_lease(std::string_view id);
    struct LeaseInfo {
        std::string id;
        int64_t created_ns = 0, expires_ns = 0; ///< 0 = never
        std::vector<std::string> refs;
    };
    Result<std::vector<LeaseInfo>> list_leases();

    // refusal.h: for a guard
    Status refuse_creates(std::chrono::seconds how_long, std::string_view why);
    Status allow_creates();
    /// Nullopt: nothing is refused.
    Result<std::optional<std::string>> why_refused();

    // gc.cc, accounting.cc, check.cc
    Result<GcReport> gc(bool dry_run);
    /// Unlinks what lies in the trash (any number of processes at once); entries removed.
    Result<uint64_t> reap(const std::atomic<bool> *cancel = nullptr);
    Result<SpaceReport> space();
    /// Layers of the deepest image; 0: there is none.
    Result<uint64_t> deepest_stack();
    Result<CheckReport> check(CheckLevel level, const Progress &progress, bool repair = false);

    // migrate.cc (structs in store/migrate.h): to another driver, or root, or both
    Result<MigrateState> migration();
    Result<MigrateEstimate> estimate_migration(const MigrateRequest &request);
    /// Copies what is not there yet. The store stays as it is and may be used meanwhile.
    Result<MigrateReport> migrate(const MigrateRequest &request, const Progress &progress,
                                  const std::atomic<bool> *cancel = nullptr);
    /// Alone: copies the rest, makes the new side count, removes the old one's data. After that this object is of no
    /// use when the root was another.
    Result<MigrateReport> finish_migration(bool verify_data, const Progress &progress,
                                           const std::atomic<bool> *cancel = nullptr);
    Result<MigrateReport> rollback_migration(const Progress &progress, const std::atomic<bool> *cancel = nullptr);

private:
    friend class Import;
    friend class Migration;
    friend class LayerCopy;
    friend class Snapshots;
    friend class Upkeep;
    explicit Store(StoreOptions options);
    Status open_all();
    Status open_root();
    Status open_records();
    Status choose_driver();
    Status check_place(const std::string &recorded);
    Status recover();
    /// Runs `action`, which is safe to repeat; on a full disk once more, with the reserve given up (store/reserve.h).
    /// For what lists or removes.
    Status making_room(const std::function<Status()> &action);

    // import.cc
    /// `top_blob`: the last layer's blob as the caller has written it, a name in tmp/; emptied when it was taken over.
    Result<ImportedImage> import_one(const oci::SourceImage &source, const ImportRequest &request,
                                     std::string *top_blob, const Progress &progress, const std::atomic<bool> *cancel);
    // images.cc
    Result<ImageInfo> load_image(const Digest &manifest);
    Result<Digest> resolve_image(std::string_view reference);
    // blobs.cc
    Result<oci::BlobView> open_blob(const Digest &digest);
    Result<std::string> read_document(const Digest &digest);
    Result<UniqueFd> new_blob(std::string &tmp_name);
    Status publish_blob(const std::string &tmp_name, const Digest &digest);
    Status write_document(const Digest &digest, std::string_view bytes);
    // layers.cc
    Result<std::unordered_map<LayerId, LayerInfo>> layers_of(const Digest &image); ///< one query: it counts containers
    Result<std::vector<LayerId>> chain_of(std::optional<LayerId> top);             ///< top first
    Result<std::optional<LayerId>> layer_by_chain(const Digest &chain);
    Status begin_layer(LayerId &id, std::optional<LayerId> parent); ///< the intent: a "staging" row
    void abandon_layer(LayerId id) noexcept;                        ///< undo of begin_layer, whatever was done since
    Status sync_all(std::span<const LayerId> layers);               ///< layers and blobs are on stable storage
    // containers.cc
    /// Finds it and holds its byte; what is returned is true while `locks` lives.
    Result<ContainerInfo> hold_container(LockHold &locks, std::string_view reference);
    struct Row;
    static Row read_container(const Statement &row);
    Result<ContainerInfo> complete(Row &&row);
    Result<std::vector<LayerId>> container_chain(std::optional<LayerId> parent);
    Result<LayerId> container_id(std::string_view reference);
    Result<std::string> mounted_at(const ContainerInfo &info, const std::string &target); ///< "" = not mounted
    Result<drivers::Driver::DiffReport> stable_diff(const ContainerInfo &info, const archive::Sink &sink);
    void forget_chain(LayerId id);
    Status undo_container(LayerId id);
    [[nodiscard]] std::string mount_point(LayerId id) const;
    // snapshots.cc
    Status recover_snapshots();
    /// A migration takes no writable layers but containers' along. FailedPrecondition names one.
    Status check_no_active_snapshots();
    // check.cc
    Result<TreeComparison> compare_layer(const LayerInfo &layer, drivers::Parents parents, CheckLevel level);
    Status reapply_layer(const LayerInfo &layer, drivers::Parents parents);
    // gc.cc
    Status sweep(bool dry_run, GcReport &report);
    Result<std::vector<LayerId>> leftover_layers(std::span<const LayerId> just_removed);
    /// Layers that no record names go to the trash, unless somebody makes something just now.
    Status sweep_leftovers();
    // settle.cc
    Result<bool> is_at_rest(LayerId id);
    /// False: not now, something stands on the layer, or another process does it.
    Result<bool> settle(LayerId id);
    struct SettleReport {
        uint64_t settled = 0, left = 0;
        std::vector<std::string> what; ///< of those left, why, where that was an error
    };
    Result<SettleReport> settle_all(const std::atomic<bool> *cancel);
    /// What the driver counts for these layers now.
    Status record_usage(std::span<const LayerId> layers);
    // migrate.cc
    Result<LockHold> hold_migration();
    Status be_alone();
    Result<uint64_t> drop_plan(const MigratePlan &plan, const std::atomic<bool> *cancel,
                               std::vector<std::string> &notes);
    Result<uint64_t> retire(const Progress &progress, const std::atomic<bool> *cancel);

    /// What makes something new begins with it: no guard refuses that, and the reserve is there.
    Status begin_new();
    /// ResourceExhausted when the file system has not the inodes that a container's directories take: with the figures,
    /// and the containers that hold most.
    Status enough_inodes();
    [[nodiscard]] int64_t now_ns() const;
    [[nodiscard]] int64_t now_s() const { return now_ns() / 1'000'000'000; }
    [[nodiscard]] bool durable() const noexcept { return options_.durability == Durability::full; }

    StoreOptions options_;
    UniqueFd root_fd_, blobs_fd_, tmp_fd_;
    std::unique_ptr<Records> records_;
    std::unique_ptr<Locks> locks_;
    std::atomic<uint64_t> tmp_counter_{0};
    std::atomic<bool> gave_up_reserve_{false};
    std::mutex chains_mutex_;
    std::unordered_map<LayerId, std::vector<LayerId>> chains_; ///< of layers that containers stand on
    std::unique_ptr<drivers::Driver> driver_;
};

} // namespace shale::store
