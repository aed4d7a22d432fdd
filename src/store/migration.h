// SPDX-License-Identifier: Apache-2.0
// The engine of `shale migrate` (docs/adr/0008-migrate.md). Internal to store/.
//
// State, all in the old store's records until the switch:
//   meta.migrate_phase     "copy": the old side counts; "retire": the new side counts, the old one's data goes
//   meta.migrate_driver, migrate_root, migrate_options   the new side; root "" = the same
//   meta.migrate_from, migrate_from_options   retire: the driver that is given up
//   meta.moved_to          the store is at another root for good
//   table migration        an item ("layer:12", "container:15", "blob:sha256:...") whose copy is whole, proven
//                          and synced; for a container with the digest of the changes that were copied
// In the new root's records, when it is another: meta.migrating_from, until the switch. A root that a store has left
// may be one: its meta.moved_to stays true, and stays there, until the switch. Invariants: the plan is recorded before
// anything is made; a copy without a row is half made, and goes before it is made again. Only the switch makes the new
// side count; it runs alone (Locks::be_alone). Layers never change; a container whose changes have another digest is
// copied again by the last step. Locks: migrate byte for the whole run, gc byte shared while copying.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "archive/compare.h"
#include "store/migrate.h"
#include "store/records.h"
#include "store/store.h"

namespace shale::store {

/// The plan as the old store's records keep it.
struct MigratePlan {
    MigratePhase phase = MigratePhase::none;
    std::string driver, root, from, moved_to;
    drivers::DriverOptions options, from_options;
    bool has_copies = false; ///< a row says so
};
Result<MigratePlan> read_plan(Records &records);

/// Where the copy is made: directories, driver, blobs.
class NewSide {
public:
    /// Opens, and makes what is missing. `from`: the old store's root. Refuses a root that holds anything else.
    static Result<std::unique_ptr<NewSide>> open(const MigratePlan &plan, const std::string &from, bool durable);
    /// Takes away what open() made and all that was copied since; entries removed. Safe to repeat, and for a plan that
    /// was never begun. What a driver keeps that does not open any more stays, and `notes` says where.
    static Result<uint64_t> discard(const MigratePlan &plan, const std::string &from, bool durable,
                                    const std::atomic<bool> *cancel, std::vector<std::string> &notes);

    [[nodiscard]] drivers::Driver &driver() noexcept { return *driver_; }
    std::unique_ptr<drivers::Driver> take_driver() noexcept { return std::move(driver_); }
    [[nodiscard]] bool other_root() const noexcept { return records_ != nullptr; }
    [[nodiscard]] Records &records() noexcept { return *records_; }
    [[nodiscard]] const std::string &root() const noexcept { return root_path_; }
    /// Another root only: a second name for the old store's file; false: it is on another file system.
    Result<bool> link_blob(int old_blobs, const std::string &hex);
    Result<UniqueFd> new_blob(std::string &tmp_name);
    Status publish_blob(const std::string &tmp_name, const Digest &digest);
    void drop_blob(const std::string &tmp_name) noexcept;
    Status remove_blob(const std::string &hex);
    Result<std::vector<std::string>> list_blobs(); ///< hex
    /// Layers and blobs are on stable storage.
    Status sync(std::span<const LayerId> layers);
    void pace() noexcept; ///< keeps the disk at work meanwhile

private:
    NewSide() = default;
    Status claim(const std::string &from, bool durable);
    Status check_empty(bool was_left);

    std::string root_path_, driver_name_;
    UniqueFd root_, blobs_, tmp_, pace_;
    std::unique_ptr<Records> records_;
    std::unique_ptr<drivers::Driver> driver_;
    std::atomic<uint64_t> counter_{0};
};

/// A driver's layers, trash and whatever else it keeps below ROOT/`name` go; its object is closed.
Result<uint64_t> remove_driver(int root, const std::string &name, std::unique_ptr<drivers::Driver> driver,
                               const Progress &progress, const std::atomic<bool> *cancel);

class Migration {
public:
    Migration(Store &store, const Progress &progress, const std::atomic<bool> *cancel, bool verify_data)
        : store_(store), progress_(progress), cancel_(cancel), verify_data_(verify_data) {}

    /// The plan is recorded (or is the recorded one), the new side is open.
    Status begin(const MigrateRequest &request);
    Status resume(const MigratePlan &plan);
    /// Everything that has no row yet. `alone`: nobody else changes the store, and containers are looked at again.
    Status copy(bool alone);
    Status switch_over();
    MigrateReport take_report() { return std::move(report_); }

private:
    friend class LayerCopy;
    struct Done {
        std::string item;
        Digest digest;
    };

    Status record_plan(const MigratePlan &plan);
    Status open_new_side(const MigratePlan &plan);
    Status check_depth();
    Status check_target(const MigrateRequest &request, const MigratePlan &plan);
    Status load_done();
    Status drop_leftovers();
    /// Copies are synced, then their rows written.
    Status record(std::span<const Done> done, std::span<const LayerId> layers);
    Status forget(const std::string &item);
    [[nodiscard]] bool is_done(const std::string &item) const { return done_.contains(item); }
    [[nodiscard]] bool canceled() const noexcept {
        return cancel_ != nullptr && cancel_->load(std::memory_order_relaxed);
    }
    void report(ProgressEvent::Kind kind, const std::string &item, uint64_t done, uint64_t total);

    // migrate_containers.cc
    Status copy_containers(bool alone);
    Result<Done> copy_container(const ContainerInfo &info);
    Status make_container(const ContainerInfo &info);
    Status fill_container(const ContainerInfo &info, Digest &digest);
    Status prove_container(const ContainerInfo &info);
    Result<drivers::Driver::View> open_old(const ContainerInfo &info);
    Status compare(drivers::Driver::View &old_view, LayerId id, drivers::Parents parents,
                   const archive::CompareOptions &options, const std::string &what);
    // migrate_blobs.cc
    Status copy_blobs();

    Store &store_;
    const Progress &progress_;
    const std::atomic<bool> *cancel_;
    bool verify_data_;
    std::unique_ptr<NewSide> side_;
    std::map<std::string, Digest, std::less<>> done_;
    std::mutex mutex_; ///< report_ and progress_, while layers are copied
    MigrateReport report_;
};

/// A driver's changes of a layer as blocks, read by a thread of its own while the caller unpacks them.
class DiffStream {
public:
    using Read = std::function<Result<drivers::Driver::DiffReport>(const archive::Sink &)>;
    explicit DiffStream(Read read);
    ~DiffStream();
    DiffStream(const DiffStream &) = delete;
    DiffStream &operator=(const DiffStream &) = delete;
    /// Unpacks into `tree` and waits for the reader; its error comes first.
    Result<archive::ExtractReport> extract_to(archive::Tree &tree, const archive::ExtractOptions &options,
                                              const std::atomic<bool> *cancel);
    [[nodiscard]] const Digest &diff_id() const noexcept { return diff_id_; } ///< of what was read
    [[nodiscard]] const archive::PackReport &pack() const noexcept { return pack_; }

private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
    Digest diff_id_;
    archive::PackReport pack_;
};

} // namespace shale::store
