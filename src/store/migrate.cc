// SPDX-License-Identifier: Apache-2.0
// The steps of a migration: plan, copy (any number of runs), switch, removal of the old side; or rollback. State and
// invariants: migration.h.
#include "store/migrate.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <set>
#include <thread>

#include "store/locks.h"
#include "store/migration.h"
#include "store/records.h"
#include "store/refusal.h"
#include "store/reserve.h"
#include "sys/fs.h"

namespace shale::store {
namespace {

constexpr std::string_view copy_phase = "copy", retire_phase = "retire";
/// How long the last step waits for commands that are just running.
constexpr auto alone_patience = std::chrono::seconds(10);
constexpr auto alone_interval = std::chrono::milliseconds(50);

std::string join_options(const drivers::DriverOptions &options) {
    std::string out;
    for (const auto &[key, value] : options)
        fmt::format_to(std::back_inserter(out), "{}={}\n", key, value);
    return out;
}

drivers::DriverOptions split_options(std::string_view text) {
    drivers::DriverOptions out;
    while (!text.empty()) {
        const size_t end = std::min(text.find('\n'), text.size());
        const std::string_view line = text.substr(0, end);
        if (const size_t equals = line.find('='); equals != std::string_view::npos)
            out.emplace(line.substr(0, equals), line.substr(equals + 1));
        text.remove_prefix(std::min(end + 1, text.size()));
    }
    return out;
}

Status put_meta(Records::Transaction &tx, std::string_view key, std::string_view value) {
    auto put = TRY(tx.prepare("INSERT OR REPLACE INTO meta VALUES (?, ?)"));
    return put.bind(key).bind(value).run();
}

/// "" when it is the store's own root; else absolute.
Result<std::string> other_root(const std::string &asked, const std::string &own) {
    if (asked.empty() || asked == own) return std::string();
    if (!asked.starts_with('/')) return fail(Errc::InvalidArgument, fmt::format("root {} is not absolute", asked));
    // As the kernel names it, when it is there.
    std::string path = asked;
    if (const auto opened = sys::open_dir(AT_FDCWD, asked.c_str())) path = TRY(sys::path_of_fd(opened->get()));
    if (path == own) return std::string();
    if (path.starts_with(own + "/") || own.starts_with(path + "/"))
        return fail(
            Errc::InvalidArgument,
            fmt::format("{} and the store's root {} lie one in the other; name a directory beside it", path, own));
    return path;
}

} // namespace

Result<MigratePlan> read_plan(Records &records) {
    MigratePlan plan;
    const std::string phase = TRY(records.meta("migrate_phase"));
    plan.phase = phase == copy_phase     ? MigratePhase::copying
                 : phase == retire_phase ? MigratePhase::retiring
                                         : MigratePhase::none;
    plan.driver = TRY(records.meta("migrate_driver"));
    plan.root = TRY(records.meta("migrate_root"));
    plan.from = TRY(records.meta("migrate_from"));
    plan.moved_to = TRY(records.meta("moved_to"));
    plan.options = split_options(TRY(records.meta("migrate_options")));
    plan.from_options = split_options(TRY(records.meta("migrate_from_options")));
    if (plan.phase == MigratePhase::copying)
        plan.has_copies = TRY(TRY(records.prepare("SELECT 1 FROM migration LIMIT 1")).step());
    return plan;
}

Status Migration::check_target(const MigrateRequest &request, const MigratePlan &plan) {
    if (plan.phase == MigratePhase::retiring || !plan.moved_to.empty())
        return fail(Errc::FailedPrecondition, plan.moved_to.empty()
                                                  ? "the last migration's old side is still being removed; "
                                                    "`shale migrate --finish` ends that"
                                                  : "this store has moved to " + plan.moved_to);
    if (plan.phase == MigratePhase::copying) {
        if (plan.driver == request.driver && plan.root == request.root &&
            (request.options.empty() || plan.options == request.options))
            return {};
        return fail(Errc::FailedPrecondition,
                    fmt::format("a migration to {}{} is under way; `--finish` it or `--rollback` first", plan.driver,
                                plan.root.empty() ? "" : " at " + plan.root));
    }
    if (request.root.empty() && request.driver == store_.driver_->name())
        return fail(Errc::InvalidArgument, fmt::format("the store is kept by {} already; with --to-root it can move "
                                                       "to another directory",
                                                       request.driver));
    return {};
}

Status Migration::begin(const MigrateRequest &request) {
    const auto plan = TRY(read_plan(*store_.records_));
    TRY(check_target(request, plan));
    if (plan.phase == MigratePhase::copying) return resume(plan);
    MigratePlan fresh;
    fresh.driver = request.driver;
    fresh.root = request.root;
    fresh.options = request.options;
    // First: what is made from now on belongs to a plan that a rollback can read.
    TRY(record_plan(fresh));
    if (auto opened = open_new_side(fresh); !opened) {
        // It never began, so it must not need a rollback; when this fails, one does the rest.
        side_.reset();
        std::vector<std::string> notes;
        (void)store_.drop_plan(fresh, nullptr, notes);
        for (auto &note : notes)
            opened = std::unexpected(std::move(opened).error().add(std::move(note)));
        return opened;
    }
    return {};
}

Status Migration::open_new_side(const MigratePlan &plan) {
    side_ = TRY(NewSide::open(plan, store_.root(), store_.durable()));
    const auto probed = TRY(side_->driver().probe());
    if (probed.usable) return {};
    return fail(Errc::FailedPrecondition,
                fmt::format("driver {} does not work at {}: {}", plan.driver, side_->root(), probed.reason));
}

Status Migration::record_plan(const MigratePlan &plan) {
    auto tx = TRY(store_.records_->begin(Sync::synced));
    auto table = TRY(tx.prepare("CREATE TABLE IF NOT EXISTS migration(item TEXT PRIMARY KEY, digest TEXT NOT NULL) "
                                "WITHOUT ROWID"));
    TRY(table.run());
    TRY(put_meta(tx, "migrate_driver", plan.driver));
    TRY(put_meta(tx, "migrate_root", plan.root));
    TRY(put_meta(tx, "migrate_options", join_options(plan.options)));
    TRY(put_meta(tx, "migrate_phase", copy_phase));
    return tx.commit();
}

Status Migration::resume(const MigratePlan &plan) {
    side_ = TRY(NewSide::open(plan, store_.root(), store_.durable()));
    return {};
}

void Migration::report(ProgressEvent::Kind kind, const std::string &item, uint64_t done, uint64_t total) {
    if (!progress_) return;
    const std::lock_guard lock(mutex_);
    progress_({kind, item, done, total});
}

Status Migration::load_done() {
    done_.clear();
    auto rows = TRY(store_.records_->prepare("SELECT item, digest FROM migration"));
    while (TRY(rows.step()))
        done_.emplace(rows.text(0), rows.digest(1));
    return {};
}

Status Migration::record(std::span<const Done> done, std::span<const LayerId> layers) {
    if (store_.durable()) TRY(side_->sync(layers));
    auto tx = TRY(store_.records_->begin(Sync::synced));
    for (const auto &[item, digest] : done) {
        auto put = TRY(tx.prepare("INSERT OR REPLACE INTO migration VALUES (?, ?)"));
        TRY(put.bind(std::string_view(item)).bind(digest).run());
    }
    TRY(tx.commit());
    for (const auto &[item, digest] : done)
        done_.insert_or_assign(item, digest);
    return {};
}

/// Before a copy goes: a row must never name what is half gone.
Status Migration::forget(const std::string &item) {
    auto tx = TRY(store_.records_->begin(Sync::synced));
    auto drop = TRY(tx.prepare("DELETE FROM migration WHERE item = ?"));
    TRY(drop.bind(std::string_view(item)).run());
    TRY(tx.commit());
    done_.erase(item);
    return {};
}

/// Copies without a row are half made; those whose original has gone are of no use; rows whose copy has gone are not
/// believed. The caller holds the gc byte.
Status Migration::drop_leftovers() {
    std::map<std::string, LayerId> wanted;
    auto rows = TRY(store_.records_->prepare("SELECT 'layer:' || id, id FROM layers WHERE state = 'ready' UNION ALL "
                                             "SELECT 'container:' || id, id FROM containers"));
    while (TRY(rows.step()))
        wanted.emplace(rows.text(0), rows.id(1));
    std::vector<std::string> gone;
    for (const auto &[item, digest] : done_)
        if (!item.starts_with("blob:") && !wanted.contains(item)) gone.push_back(item);
    auto there = TRY(side_->driver().list());
    for (const auto &[item, id] : wanted)
        if (is_done(item) && std::ranges::find(there, id) == there.end()) gone.push_back(item);
    if (side_->other_root()) {
        const auto blobs = TRY(side_->list_blobs());
        const std::set<std::string> names(blobs.begin(), blobs.end());
        for (const auto &[item, digest] : done_)
            if (item.starts_with("blob:") && !names.contains(item.substr(item.rfind(':') + 1))) gone.push_back(item);
    }
    for (const auto &item : gone)
        TRY(forget(item));
    std::set<LayerId> whole;
    for (const auto &[item, id] : wanted)
        if (is_done(item)) whole.insert(id);
    std::ranges::sort(there, std::ranges::greater()); // a snapshot before what it was taken of
    for (const LayerId id : there) {
        if (whole.contains(id)) continue;
        TRY(side_->driver().remove(id));
        ++report_.dropped;
    }
    return {};
}

Status Migration::switch_over() {
    // With durability none nothing was synced yet, and what is on disk since long goes next.
    if (!store_.durable()) TRY(side_->sync(TRY(side_->driver().list())));
    if (side_->other_root()) {
        TRY(side_->records().copy_from(store_.root() + "/shale.db", side_->driver().name()));
    }
    // This transaction is the switch.
    auto tx = TRY(store_.records_->begin(Sync::synced));
    TRY(put_meta(tx, "migrate_phase", retire_phase));
    TRY(put_meta(tx, "migrate_from", store_.driver_->name()));
    TRY(put_meta(tx, "migrate_from_options", join_options(store_.options_.driver_options)));
    TRY(put_meta(tx, side_->other_root() ? "moved_to" : "driver",
                 side_->other_root() ? std::string_view(side_->root()) : side_->driver().name()));
    TRY(tx.commit());
    if (side_->other_root()) return {};
    store_.options_.driver = side_->driver().name();
    store_.options_.driver_options = {};
    store_.driver_ = side_->take_driver();
    return {};
}

Result<LockHold> Store::hold_migration() {
    auto turn = TRY(locks_->hold());
    if (!TRY(turn.try_add(Locks::migrate_offset, sys::LockMode::exclusive)))
        return fail(Errc::Unavailable, "another shale migrate works at this store just now");
    return turn;
}

Status Store::be_alone() {
    const auto until = std::chrono::steady_clock::now() + alone_patience;
    while (!TRY(locks_->be_alone())) {
        if (std::chrono::steady_clock::now() > until)
            return fail(Errc::Unavailable,
                        fmt::format("other shale processes use the store at {}; the switch needs it alone for a "
                                    "moment. End them and try again; nothing has changed",
                                    options_.root));
        std::this_thread::sleep_for(alone_interval);
    }
    return {};
}

Result<MigrateState> Store::migration() {
    MigrateState out;
    const auto plan = TRY(read_plan(*records_));
    out.phase = plan.phase;
    out.from = plan.phase == MigratePhase::retiring ? plan.from : options_.driver;
    if (plan.phase == MigratePhase::none) return out;
    out.to = plan.driver;
    out.root = plan.root;
    out.options = plan.options;
    auto count = TRY(records_->prepare(
        "SELECT (SELECT count(*) FROM layers WHERE state = 'ready'), (SELECT count(*) FROM containers), (SELECT "
        "count(*) FROM migration WHERE item LIKE 'layer:%'), (SELECT count(*) FROM migration WHERE item LIKE "
        "'container:%')"));
    TRY(count.step());
    out.layers = count.count(0);
    out.containers = count.count(1);
    out.layers_done = std::min(count.count(2), out.layers);
    out.containers_done = std::min(count.count(3), out.containers);
    return out;
}

Result<MigrateReport> Store::migrate(const MigrateRequest &asked, const Progress &progress,
                                     const std::atomic<bool> *cancel) {
    MigrateRequest request = asked;
    request.root = TRY(other_root(asked.root, options_.root));
    TRY(drivers::find_driver(request.driver));
    TRY(check_no_active_snapshots());
    TRY(hold_reserve(root_fd_.get()));
    auto turn = TRY(hold_migration());
    if (!request.force) TRY(TRY(estimate_migration(request)).refuse());
    Migration migration(*this, progress, cancel, request.verify_data);
    TRY(migration.begin(request));
    TRY(migration.copy(false));
    return migration.take_report();
}

Result<MigrateReport> Store::finish_migration(bool verify_data, const Progress &progress,
                                              const std::atomic<bool> *cancel) {
    auto turn = TRY(hold_migration());
    const auto plan = TRY(read_plan(*records_));
    if (plan.phase == MigratePhase::none)
        return fail(Errc::FailedPrecondition, "no migration is under way; `shale migrate --to DRIVER` begins one");
    MigrateReport report;
    if (plan.phase == MigratePhase::copying) {
        Migration migration(*this, progress, cancel, verify_data);
        TRY(migration.resume(plan));
        TRY(migration.copy(false)); // so that little is left to do alone
        TRY(be_alone());
        const ScopeGuard share([&] { (void)locks_->share(); });
        TRY(check_no_active_snapshots());
        TRY(recover()); // whoever died since this process opened the store
        TRY(migration.copy(true));
        report = migration.take_report();
        if (!report.pending.empty())
            return fail(Errc::FailedPrecondition, fmt::format("not switched to {}: {}; the old side still counts",
                                                              plan.driver, fmt::join(report.pending, "; ")));
        TRY(migration.switch_over());
    }
    report.removed_entries = TRY(retire(progress, cancel));
    return report;
}

/// After the switch. Every step may be repeated; the last transaction ends the migration.
Result<uint64_t> Store::retire(const Progress &progress, const std::atomic<bool> *cancel) {
    const auto plan = TRY(read_plan(*records_));
    if (plan.phase != MigratePhase::retiring) return uint64_t{0};
    const bool moved = !plan.moved_to.empty();
    if (moved) {
        // Before anything of the old side goes: the new one is there.
        if (!TRY(sys::stat_if_exists(AT_FDCWD, (plan.moved_to + "/shale.db").c_str())))
            return fail(Errc::FailedPrecondition,
                        fmt::format("the store moved to {}, which is not there; is its file system mounted? Nothing "
                                    "of the old side was removed",
                                    plan.moved_to));
        const auto records = TRY(Records::open(plan.moved_to + "/shale.db", durable(), false));
        if (!TRY(records->meta("migrating_from")).empty()) { // else it counts already, and may itself migrate by now
            auto tx = TRY(records->begin(Sync::synced));
            // With it goes what a store that had left this root said.
            auto counts =
                TRY(tx.prepare("DELETE FROM meta WHERE key IN ('migrating_from', 'moved_to', 'migrate_driver')"));
            TRY(counts.run());
            TRY(tx.commit());
        }
    }
    std::unique_ptr<drivers::Driver> old;
    uint64_t entries = 0;
    if (TRY(sys::stat_if_exists(root_fd_.get(), plan.from.c_str()))) {
        if (moved) driver_.reset();
        old = TRY(TRY(drivers::find_driver(plan.from))->open(options_.root + "/" + plan.from, plan.from_options));
        entries = TRY(remove_driver(root_fd_.get(), plan.from, std::move(old), progress, cancel));
    }
    if (moved)
        for (const auto *name : {"blobs", "tmp", "mnt", reserve_name, refusal_name, guard_name})
            TRY(sys::remove_tree(root_fd_.get(), name, [&] { ++entries; }));
    auto tx = TRY(records_->begin(Sync::synced));
    auto table = TRY(tx.prepare("DROP TABLE IF EXISTS migration"));
    TRY(table.run());
    // Where it moved to stays known, and by which driver.
    auto keys = TRY(tx.prepare(moved ? "DELETE FROM meta WHERE key LIKE 'migrate\\_%' ESCAPE '\\' AND "
                                       "key <> 'migrate_driver'"
                                     : "DELETE FROM meta WHERE key LIKE 'migrate\\_%' ESCAPE '\\'"));
    TRY(keys.run());
    TRY(tx.commit());
    return entries;
}

Result<MigrateReport> Store::rollback_migration(const Progress & /*progress*/, const std::atomic<bool> *cancel) {
    auto turn = TRY(hold_migration());
    const auto plan = TRY(read_plan(*records_));
    if (plan.phase == MigratePhase::none) return fail(Errc::FailedPrecondition, "no migration is under way");
    if (plan.phase == MigratePhase::retiring)
        return fail(Errc::FailedPrecondition,
                    fmt::format("too late: the store is kept by {} since --finish; migrate to {} to go back",
                                plan.driver, plan.from));
    MigrateReport report;
    report.removed_entries = TRY(drop_plan(plan, cancel, report.notes));
    return report;
}

/// Every step may be repeated; the last transaction ends the migration.
Result<uint64_t> Store::drop_plan(const MigratePlan &plan, const std::atomic<bool> *cancel,
                                  std::vector<std::string> &notes) {
    {
        auto tx = TRY(records_->begin(Sync::synced));
        auto drop = TRY(tx.prepare("DELETE FROM migration")); // no copy is whole any more
        TRY(drop.run());
        TRY(tx.commit());
    }
    const uint64_t entries = TRY(NewSide::discard(plan, options_.root, durable(), cancel, notes));
    auto tx = TRY(records_->begin(Sync::synced));
    auto table = TRY(tx.prepare("DROP TABLE migration"));
    TRY(table.run());
    auto keys = TRY(tx.prepare("DELETE FROM meta WHERE key LIKE 'migrate\\_%' ESCAPE '\\'"));
    TRY(keys.run());
    TRY(tx.commit());
    return entries;
}

} // namespace shale::store
