// SPDX-License-Identifier: Apache-2.0
// Opening a store: its directories, its driver, and what dead processes or a lost boot left behind.
#include "store/store.h"

#include <fmt/format.h>
#include <unistd.h>

#include <ctime>
#include <unordered_set>

#include "store/locks.h"
#include "store/records.h"
#include "store/refusal.h"
#include "store/reserve.h"
#include "sys/btrfs.h"
#include "sys/fs.h"

namespace shale::store {

Store::Store(StoreOptions options) : options_(std::move(options)) {}
Store::~Store() {
    driver_.reset();
    records_.reset(); // its log goes
    if (gave_up_reserve_) refill_reserve(root_fd_.get());
}

int64_t Store::now_ns() const {
    timespec now{};
    clock_gettime(CLOCK_REALTIME, &now);
    return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

Result<std::unique_ptr<Store>> Store::open(const StoreOptions &options) {
    std::unique_ptr<Store> store(new Store(options));
    TRY(in_context(store->open_all(), [&] { return fmt::format("open store {}", options.root); }));
    return store;
}

Status Store::open_all() {
    TRY(open_root());
    return making_room([&]() -> Status {
        TRY(open_records());
        if (options_.read_only || (options_.migrating && !TRY(records_->meta("moved_to")).empty())) return {};
        return recover();
    });
}

Status Store::open_root() {
    if (options_.root.empty() || options_.root.find('\0') != std::string::npos)
        return fail(Errc::InvalidArgument, "the store's root is empty");
    if (options_.read_only) {
        root_fd_ = TRY(sys::open_dir(AT_FDCWD, options_.root.c_str()));
    } else {
        // 0711: names below stay unreadable to others (CVE-2021-41091), while a container in a user namespace can reach
        // its root.
        root_fd_ = TRY(sys::make_dirs(AT_FDCWD, options_.root, 0711));
    }
    // A stable absolute path, whatever the caller's working directory does later; overlay wants absolute ones.
    options_.root = TRY(sys::path_of_fd(root_fd_.get()));
    if (!options_.read_only) {
        blobs_fd_ = TRY(sys::make_dirs(root_fd_.get(), "blobs/sha256"));
        tmp_fd_ = TRY(sys::make_dirs(root_fd_.get(), "tmp"));
        TRY(sys::make_dirs(root_fd_.get(), "mnt", 0711));
        locks_ = TRY(Locks::open(root_fd_.get()));
    } else {
        blobs_fd_ = TRY(sys::open_at(root_fd_.get(), "blobs/sha256", O_RDONLY | O_DIRECTORY));
    }
    return {};
}

Status Store::open_records() {
    // Creating the database and choosing the driver happen once: first openers take turns.
    std::optional<LockHold> turn;
    if (locks_) {
        turn = TRY(locks_->hold());
        TRY(turn->add(Locks::open_offset, sys::LockMode::exclusive));
    }
    const bool full = !options_.read_only && is_full(root_fd_.get());
    if (full && give_up_reserve(root_fd_.get())) gave_up_reserve_ = true;
    // Made here for its mode: SQLite would leave names and digests readable to every user of the host.
    if (!options_.read_only) TRY(sys::open_at(root_fd_.get(), "shale.db", O_RDWR | O_CREAT, 0600));
    // On btrfs a page of a mapped file wants new blocks each time it is written, and SIGBUS tells that there are none.
    const bool alone = full && sys::is_btrfs(root_fd_.get());
    records_ = TRY(Records::open(options_.root + "/shale.db", durable(), options_.read_only, alone));
    return choose_driver();
}

/// Refuses another driver than the store's own, and a root whose store is at another now.
Status Store::check_place(const std::string &recorded) {
    const std::string to = TRY(records_->meta("moved_to"));
    const std::string phase = TRY(records_->meta("migrate_phase"));
    if (!to.empty() && (!options_.migrating || phase.empty()))
        return fail(Errc::FailedPrecondition,
                    fmt::format("this store has moved to {0} (driver {1}); use --root {0}{2}", to,
                                TRY(records_->meta("migrate_driver")),
                                phase.empty()
                                    ? ""
                                    : fmt::format(". What is left of it here goes with `shale --root {} migrate "
                                                  "--finish`",
                                                  options_.root)));
    if (const std::string from = TRY(records_->meta("migrating_from")); !from.empty())
        return fail(Errc::FailedPrecondition,
                    fmt::format("this is the unfinished copy of the store at {0}; `shale --root {0} migrate --finish` "
                                "makes it count, `--rollback` takes it away",
                                from));
    if (recorded.empty() || options_.driver.empty() || options_.driver == recorded) return {};
    auto count = TRY(records_->prepare("SELECT (SELECT count(*) FROM images), (SELECT count(*) FROM layers), "
                                       "(SELECT count(*) FROM containers), (SELECT count(*) FROM snapshots)"));
    TRY(count.step());
    if (count.count(0) + count.count(1) + count.count(2) + count.count(3) == 0) return {};
    return fail(Errc::FailedPrecondition,
                fmt::format("this store is kept by driver {0} ({1} images, {2} layers, {3} containers, {5} "
                            "snapshots); opening it with {4} would make them seem gone. Go on with --driver {0}, or "
                            "take everything over to {4} with `shale migrate --to {4}`, or name another --root for {4}",
                            recorded, count.count(0), count.count(1), count.count(2), options_.driver, count.count(3)));
}

Status Store::choose_driver() {
    const std::string recorded = TRY(records_->meta("driver"));
    if (options_.migrating && !recorded.empty() && options_.driver != recorded) {
        if (!options_.driver.empty()) options_.driver_options.clear(); // they are the other's
        options_.driver = recorded;
    }
    TRY(check_place(recorded));
    std::string name = options_.driver.empty() ? recorded : options_.driver;
    if (name.empty()) name = TRY(drivers::choose_driver(options_.root))->name;
    const auto *info = TRY(drivers::find_driver(name));
    if (!options_.read_only) TRY(sys::make_dirs(root_fd_.get(), name, 0711));
    driver_ = TRY(info->open(options_.root + "/" + name, options_.driver_options));
    if (recorded != name && !options_.read_only) {
        TRY(driver_->suits_here());
        TRY(sys::make_dirs(root_fd_.get(), guard_name)); // while there is an inode for it
        auto tx = TRY(records_->begin(Sync::synced));
        auto put = TRY(tx.prepare("INSERT OR REPLACE INTO meta VALUES ('driver', ?)"));
        TRY(put.bind(std::string_view(name)).run());
        TRY(tx.commit());
    }
    options_.driver = name;
    return {};
}

Status Store::refuse_creates(std::chrono::seconds how_long, std::string_view why) {
    return making_room([&] { return store::refuse_creates(root_fd_.get(), now_s(), how_long, why); });
}

Status Store::allow_creates() {
    return store::allow_creates(root_fd_.get());
}

Result<std::optional<std::string>> Store::why_refused() {
    return store::why_refused(root_fd_.get(), now_s());
}

Status Store::begin_new() {
    TRY(creates_allowed(root_fd_.get(), now_s()));
    TRY(enough_inodes());
    return hold_reserve(root_fd_.get());
}

Status Store::making_room(const std::function<Status()> &action) {
    auto done = action();
    if (done || !is_out_of_room(done.error()) || options_.read_only || !give_up_reserve(root_fd_.get())) return done;
    gave_up_reserve_ = true;
    return action();
}

/// Undo of dead processes' intents. Cheap when there are none: one index look-up.
Status Store::recover() {
    struct Unfinished {
        LayerId id;
        uint64_t session;
    };
    std::vector<Unfinished> unfinished;
    {
        auto find = TRY(records_->prepare("SELECT id, session FROM layers WHERE state <> 'ready' ORDER BY id DESC"));
        while (TRY(find.step()))
            unfinished.push_back({find.id(0), find.count(1)});
    }
    for (const auto &row : unfinished) {
        if (TRY(locks_->session_alive(row.session))) continue;
        // Its process may have committed and ended between the two reads; a dead one can no more, so this look is the
        // last word.
        auto still = TRY(records_->prepare("SELECT 1 FROM layers WHERE id = ? AND state <> 'ready'"));
        if (!TRY(still.bind(row.id).step())) continue;
        TRY(driver_->remove(row.id));
        auto tx = TRY(records_->begin(Sync::relaxed));
        auto drop = TRY(tx.prepare("DELETE FROM layers WHERE id = ? AND state = 'staging'"));
        TRY(drop.bind(row.id).run());
        TRY(tx.commit());
    }
    if (!TRY(records_->boot_is_new())) return {};
    // First openers take turns, and the boot is noted last: a crash in between means that the next opener does this
    // again.
    auto turn = TRY(locks_->hold());
    TRY(turn.add(Locks::open_offset, sys::LockMode::exclusive));
    if (!TRY(records_->boot_is_new())) return {};

    // A lost boot may have kept a container's row and lost its directory, or the reverse: relaxed transactions and the
    // file system's journal are two orders. Its data is gone or in the trash either way: the row goes too. Rows before
    // disk: a container made meanwhile is in neither list or on the disk.
    std::vector<LayerId> recorded;
    {
        auto containers = TRY(records_->prepare("SELECT id FROM containers"));
        while (TRY(containers.step()))
            recorded.push_back(containers.id(0));
    }
    std::unordered_set<LayerId> on_disk;
    for (const LayerId id : TRY(driver_->list()))
        on_disk.insert(id);
    for (const LayerId id : recorded)
        if (!on_disk.contains(id)) TRY(undo_container(id));
    TRY(recover_snapshots());
    return records_->note_boot();
}

} // namespace shale::store
