// SPDX-License-Identifier: Apache-2.0
// The new side of a migration on disk. In the store's own root it is one more driver's directory; in another root it is
// a store that has no records yet but the one that says whose copy it is.
#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <set>

#include "store/migration.h"
#include "store/records.h"
#include "store/refusal.h"
#include "store/reserve.h"
#include "sys/fs.h"
#include "sys/mount.h"

namespace shale::store {
namespace {

Status remove_file(int dir, const char *name) {
    auto gone = sys::unlink_at(dir, name);
    if (!gone && gone.error().sys_errno() != ENOENT) return gone;
    return {};
}

Status remove_records(int root) {
    // The log first: a database without its log is an older state, a log without its database nothing.
    for (const auto *name : {"shale.db-wal", "shale.db-shm", "shale.db"})
        TRY(remove_file(root, name));
    return {};
}

} // namespace

Result<std::unique_ptr<NewSide>> NewSide::open(const MigratePlan &plan, const std::string &from, bool durable) {
    // A disk that is not mounted just now must not look like a copy that has not begun: its rows say it is whole.
    if (plan.has_copies && !plan.root.empty() && !TRY(sys::stat_if_exists(AT_FDCWD, (plan.root + "/shale.db").c_str())))
        return fail(Errc::FailedPrecondition,
                    fmt::format("the copy at {} is not there; is its file system mounted? `shale migrate --rollback` "
                                "gives it up",
                                plan.root));
    std::unique_ptr<NewSide> side(new NewSide);
    side->driver_name_ = plan.driver;
    side->root_ =
        plan.root.empty() ? TRY(sys::open_dir(AT_FDCWD, from.c_str())) : TRY(sys::make_dirs(AT_FDCWD, plan.root, 0711));
    side->root_path_ = TRY(sys::path_of_fd(side->root_.get()));
    if (!plan.root.empty()) TRY(in_context(side->claim(from, durable), [&] { return "new root " + plan.root; }));
    side->pace_ = TRY(sys::open_dir(side->root_.get(), "."));
    const auto *info = TRY(drivers::find_driver(plan.driver));
    TRY(sys::make_dirs(side->root_.get(), plan.driver, 0711));
    side->driver_ = TRY(info->open(side->root_path_ + "/" + plan.driver, plan.options));
    return side;
}

Status NewSide::claim(const std::string &from, bool durable) {
    if (!TRY(sys::stat_if_exists(root_.get(), "shale.db"))) TRY(check_empty(false));
    // Made here for its mode: SQLite would leave names and digests readable to every user of the host.
    TRY(sys::open_at(root_.get(), "shale.db", O_RDWR | O_CREAT, 0600));
    records_ = TRY(Records::open(root_path_ + "/shale.db", durable, false));
    const std::string moved = TRY(records_->meta("moved_to"));
    if (!moved.empty() && !TRY(records_->meta("migrate_phase")).empty())
        return fail(Errc::FailedPrecondition,
                    fmt::format("the store that moved from here to {} has left data; `shale --root {} migrate "
                                "--finish` removes it",
                                moved, root_path_));
    const std::string owner = TRY(records_->meta("migrating_from"));
    const std::string driver = TRY(records_->meta("driver"));
    if (owner != from && (!owner.empty() || (!driver.empty() && moved.empty())))
        return fail(Errc::FailedPrecondition, owner.empty()
                                                  ? fmt::format("holds a store (driver {}) already", driver)
                                                  : fmt::format("is the new root of a migration from {}", owner));
    if (owner.empty()) {
        TRY(check_empty(!moved.empty()));
        auto tx = TRY(records_->begin(Sync::synced));
        auto put = TRY(tx.prepare("INSERT INTO meta VALUES ('migrating_from', ?)"));
        TRY(put.bind(std::string_view(from)).run());
        TRY(tx.commit());
    }
    blobs_ = TRY(sys::make_dirs(root_.get(), "blobs/sha256"));
    tmp_ = TRY(sys::make_dirs(root_.get(), "tmp"));
    TRY(sys::make_dirs(root_.get(), "mnt", 0711));
    // Copies of blobs that a killed run left: only one run works at a migration.
    for (const auto &entry : TRY(sys::list_dir(tmp_.get())))
        TRY(remove_file(tmp_.get(), entry.name.c_str()));
    return {};
}

/// A directory that holds other things is nobody's to fill, nor to empty again. `was_left`: a store was here, whose
/// records say where it is now; who opens it to read that makes its directories anew.
Status NewSide::check_empty(bool was_left) {
    static const std::set<std::string_view> shales{"blobs",      "lock",       "mnt",     "tmp",
                                                   reserve_name, refusal_name, guard_name};
    for (const auto &entry : TRY(sys::list_dir(root_.get())))
        if (entry.name != "lost+found" && entry.name != driver_name_ && !entry.name.starts_with("shale.db") &&
            !(was_left && shales.contains(entry.name)))
            return fail(Errc::FailedPrecondition,
                        fmt::format("is not empty (\"{}\"); name a new or an empty directory", entry.name));
    // The driver's own file system may be mounted there already: empty, too.
    const auto driver = sys::open_dir(root_.get(), driver_name_.c_str());
    if (!driver && driver.error().code() == Errc::NotFound) return {};
    for (const auto &entry : TRY(sys::list_dir(TRY(sys::open_dir(root_.get(), driver_name_.c_str())).get())))
        if (entry.name != "lost+found")
            return fail(
                Errc::FailedPrecondition,
                fmt::format("is not empty (\"{}/{}\"); name a new or an empty directory", driver_name_, entry.name));
    return {};
}

Result<bool> NewSide::link_blob(int old_blobs, const std::string &hex) {
    auto linked = sys::make_link(old_blobs, hex.c_str(), blobs_.get(), hex.c_str());
    if (!linked && linked.error().sys_errno() == EEXIST) {
        // Another name of the same file, or a copy that was renamed and not synced when the power went.
        const auto old_file = TRY(sys::stat_at(old_blobs, hex.c_str()));
        const auto new_file = TRY(sys::stat_at(blobs_.get(), hex.c_str()));
        if (old_file.st_dev == new_file.st_dev && old_file.st_ino == new_file.st_ino) return true;
        TRY(remove_blob(hex));
        linked = sys::make_link(old_blobs, hex.c_str(), blobs_.get(), hex.c_str());
    }
    if (linked) return true;
    const int error = linked.error().sys_errno();
    if (error == EXDEV || error == EPERM || error == EMLINK || error == EOPNOTSUPP) return false;
    return std::unexpected(std::move(linked).error());
}

Result<UniqueFd> NewSide::new_blob(std::string &tmp_name) {
    tmp_name = fmt::format("blob-{}", counter_.fetch_add(1));
    return sys::open_at(tmp_.get(), tmp_name.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600);
}

Status NewSide::publish_blob(const std::string &tmp_name, const Digest &digest) {
    return sys::rename_at(tmp_.get(), tmp_name.c_str(), blobs_.get(), digest.hex().c_str());
}

void NewSide::drop_blob(const std::string &tmp_name) noexcept {
    (void)sys::unlink_at(tmp_.get(), tmp_name.c_str());
}

Status NewSide::remove_blob(const std::string &hex) {
    return remove_file(blobs_.get(), hex.c_str());
}

Result<std::vector<std::string>> NewSide::list_blobs() {
    std::vector<std::string> out;
    for (auto &entry : TRY(sys::list_dir(blobs_.get())))
        out.push_back(std::move(entry.name));
    return out;
}

Status NewSide::sync(std::span<const LayerId> layers) {
    TRY(driver_->sync(layers));
    if (!other_root()) return {};
    const auto blobs = TRY(sys::stat_at(blobs_.get(), ""));
    const auto driver = TRY(sys::stat_at(root_.get(), driver_name_.c_str()));
    if (layers.empty() || blobs.st_dev != driver.st_dev) TRY(sys::syncfs_fd(blobs_.get()));
    return {};
}

void NewSide::pace() noexcept {
    // Its own descriptor: an error of write-back is reported once for each open file, and must not be taken from the
    // last sync.
    (void)sys::syncfs_fd(pace_.get());
}

Result<uint64_t> NewSide::discard(const MigratePlan &plan, const std::string &from, bool durable,
                                  const std::atomic<bool> *cancel, std::vector<std::string> &notes) {
    uint64_t entries = 0;
    auto opened = sys::open_dir(AT_FDCWD, (plan.root.empty() ? from : plan.root).c_str());
    if (!opened && opened.error().code() == Errc::NotFound) return entries;
    const UniqueFd home = TRY(std::move(opened));
    const int root = home.get();
    std::unique_ptr<Records> records;
    bool was_left = false;
    if (!plan.root.empty()) {
        if (!TRY(sys::stat_if_exists(root, "shale.db"))) {
            if (plan.has_copies)
                notes.push_back(fmt::format("no copy is at {}; if its file system is just not mounted, what is there "
                                            "stays there",
                                            plan.root));
            return entries;
        }
        records = TRY(Records::open(plan.root + "/shale.db", durable, false));
        const std::string owner = TRY(records->meta("migrating_from"));
        was_left = !TRY(records->meta("moved_to")).empty();
        const bool is_new = owner.empty() && !was_left && TRY(records->meta("driver")).empty();
        if (owner != from && !is_new) return entries; // another's: open() refused it
    }
    if (TRY(sys::stat_if_exists(root, plan.driver.c_str()))) {
        const std::string place = TRY(sys::path_of_fd(root)) + "/" + plan.driver;
        auto driver = TRY(drivers::find_driver(plan.driver))->open(place, plan.options);
        if (!driver && (driver.error().code() == Errc::ResourceExhausted || driver.error().code() == Errc::Unavailable))
            return std::unexpected(std::move(driver).error()); // another time it opens
        if (driver)
            entries += TRY(remove_driver(root, plan.driver, std::move(*driver), {}, cancel));
        else if (!sys::unlink_at(root, plan.driver.c_str(), AT_REMOVEDIR)) // it may never have held anything
            notes.push_back(fmt::format("what driver {} keeps at {} stays there, because the driver cannot open it: {}",
                                        plan.driver, place, driver.error().text()));
    }
    if (!records) return entries;
    for (const auto *name : {"blobs", "tmp", "mnt"})
        TRY(sys::remove_tree(root, name, [&] { ++entries; }));
    // Last: until then the root says whose it is.
    if (was_left) {
        auto tx = TRY(records->begin(Sync::synced));
        auto drop = TRY(tx.prepare("DELETE FROM meta WHERE key = 'migrating_from'"));
        TRY(drop.run());
        TRY(tx.commit());
        return entries;
    }
    records.reset();
    TRY(remove_file(root, "lock"));
    TRY(remove_records(root));
    return entries;
}

Result<uint64_t> remove_driver(int root, const std::string &name, std::unique_ptr<drivers::Driver> driver,
                               const Progress &progress, const std::atomic<bool> *cancel) {
    auto layers = TRY(driver->list());
    std::ranges::sort(layers, std::ranges::greater()); // a snapshot before what it was taken of
    uint64_t entries = 0;
    uint64_t done = 0;
    for (const LayerId id : layers) {
        if (cancel != nullptr && cancel->load(std::memory_order_relaxed))
            return fail(Errc::Canceled, "canceled; the same command goes on where this one stopped");
        if (progress)
            progress(
                {ProgressEvent::Kind::note, fmt::format("remove {} of {}", id.value, name), done++, layers.size()});
        TRY(driver->remove(id));
        entries += TRY(driver->reap(cancel));
    }
    entries += TRY(driver->reap(cancel));
    if (cancel != nullptr && cancel->load(std::memory_order_relaxed))
        return fail(Errc::Canceled, "canceled; the same command goes on where this one stopped");
    TRY(driver->dismantle());
    driver.reset();
    const UniqueFd dir = TRY(sys::open_dir(root, name.c_str()));
    TRY(sys::unmount_all(TRY(sys::path_of_fd(dir.get())) + "/probe-")); // by probes that were killed
    if (!TRY(sys::is_mount_point(TRY(sys::path_of_fd(dir.get()))))) {
        TRY(sys::remove_tree(root, name.c_str(), [&] { ++entries; }));
        return entries;
    }
    for (const auto &entry : TRY(sys::list_dir(dir.get()))) // a file system of its own stays mounted, empty
        if (entry.name != "lost+found") TRY(sys::remove_tree(dir.get(), entry.name.c_str(), [&] { ++entries; }));
    return entries;
}

} // namespace shale::store
