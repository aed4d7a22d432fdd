// SPDX-License-Identifier: Apache-2.0
// Rows of `snapshots` (docs/formats/records.md). An active snapshot owns the driver's layer of its number, as a
// container does; committing turns that into a row of `layers`; a view has no layer of its own. prepare: driver.create
// -> row. commit: rows, then seal, within one transaction;
// sealed without its rows (killed in between, or the log was full), the next mounts() reopens it. remove: row deleted
// -> driver.remove (rename to trash). A crash between two steps leaves a directory that no row names, which gc takes; a
// layer's byte in ROOT/lock is held while it is made.
//
// commit() does not wait for the disk. A committed row is `synced = 0` until the upkeep has synced its layer; the
// first open after a boot removes those that are not (Store::recover_snapshots), for nobody knows what of them is left.
#include "store/snapshots.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <future>
#include <optional>
#include <unordered_set>
#include <vector>

#include "store/id_mapping.h"
#include "store/locks.h"
#include "store/records.h"
#include "store/reserve.h"
#include "store/upkeep.h"

namespace shale::store {
namespace {

/// The first is bbolt's largest key, which bounds containerd's own; the last is how many are looked at within one read.
constexpr size_t max_key_bytes = 32'768, page_rows = 2'000;
constexpr std::chrono::seconds cleanup_patience{10};
/// Others hold a lock as long as they make or remove one layer; gc holds its own for its sweep.
constexpr std::chrono::seconds lock_patience{60};

/// In the order that look_at() knows; a list asks for no more than it shows, for every column takes time.
std::string select_info(std::string_view where, std::string_view more_columns = {}) {
    return fmt::format("SELECT s.id, s.name, s.kind, p.name, s.created_ns, s.updated_ns, s.labels{} FROM snapshots s "
                       "LEFT JOIN snapshots p ON p.id = s.parent {}",
                       more_columns, where);
}
/// In the order that read_row() knows.
std::string select_row(std::string_view where) {
    return select_info(where, ", s.layer, s.parent, p.layer, s.bytes, s.inodes");
}

Status check_key(std::string_view what, std::string_view key) {
    if (key.empty()) return fail(Errc::InvalidArgument, fmt::format("the snapshot's {} is empty", what));
    if (key.size() <= max_key_bytes) return {};
    return fail(Errc::InvalidArgument,
                fmt::format("the snapshot's {} has {} bytes, more than {}", what, key.size(), max_key_bytes));
}

/// What is sent in one message (16 MiB at most) must hold all that one snapshot says.
Status check_labels(const Labels &labels) {
    constexpr size_t most = size_t{4} << 20U;
    size_t bytes = 0;
    for (const auto &[key, value] : labels)
        bytes += key.size() + value.size();
    if (bytes <= most) return {};
    return fail(Errc::InvalidArgument, fmt::format("the snapshot's labels have {} bytes, more than {}", bytes, most));
}

struct Row {
    uint64_t id = 0;
    std::optional<LayerId> layer;
    std::optional<uint64_t> parent;
    std::optional<LayerId> parent_layer;
    std::optional<drivers::Usage> usage;
    SnapshotInfo info;
};

/// Until the next step.
SnapshotRow look_at(const Statement &row) {
    return {row.view(1),    row.view(3),    static_cast<SnapshotKind>(row.integer(2)),
            row.integer(4), row.integer(5), PackedLabels(row.view(6))};
}

Row read_row(const Statement &row) {
    Row out;
    out.id = row.count(0);
    const SnapshotRow info = look_at(row);
    out.info = {std::string(info.name), std::string(info.parent), info.kind,
                info.created_ns,        info.updated_ns,          info.labels.unpack()};
    if (!row.is_null(7)) out.layer = row.id(7);
    if (!row.is_null(8)) out.parent = row.count(8);
    if (!row.is_null(9)) out.parent_layer = row.id(9);
    if (!row.is_null(10)) out.usage = drivers::Usage{row.count(10), row.count(11), true};
    return out;
}

const char *name_of(SnapshotKind kind) {
    switch (kind) {
    case SnapshotKind::view:
        return "a view";
    case SnapshotKind::active:
        return "active";
    case SnapshotKind::committed:
        break;
    }
    return "committed";
}

std::string_view ref_of(const Labels &labels) {
    const auto ref = labels.find(ref_label);
    return ref == labels.end() ? std::string_view("") : std::string_view(ref->second); // never null: a column
}

} // namespace

class Snapshots::Impl {
public:
    explicit Impl(Store &store) : store_(store), upkeep_(store) {}

    Result<std::vector<sys::MountSpec>> make(const std::string &key, const std::string &parent, const Labels &labels,
                                             SnapshotKind kind);
    Result<std::vector<sys::MountSpec>> mounts(const std::string &key);
    Status commit(const std::string &name, const std::string &key, const Labels &labels, const std::string &parent);
    Status remove(const std::string &key);
    Result<SnapshotInfo> update(const SnapshotInfo &info, std::span<const std::string> fields);
    using Write = std::function<void(const SnapshotRow &, std::string &)>;
    using Send = std::function<Status(std::string &)>;
    Status walk(std::string_view ref, const Write &write, const Send &send);
    Status walk_names(const std::vector<std::string> &names, const Write &write, const Send &send);
    Result<drivers::Usage> usage(const std::string &key);
    Result<Counts> counts();
    UpkeepCounts upkeep() { return upkeep_.counts(); }
    Status cleanup() { return upkeep_.clean(cleanup_patience); }
    Result<Row> load(const std::string &key);

private:
    Result<std::vector<sys::MountSpec>> mounts_of(const Row &row);
    /// The parents of the row's own layer, nearest first.
    Result<std::vector<LayerId>> chain_below(const Row &row) { return store_.container_chain(row.parent_layer); }
    Result<Row> load_parent(const std::string &name, Errc if_uncommitted);
    /// What was sealed for a commit that did not come about can be written to again.
    Status reopen(const std::string &key);
    Result<bool> taken(const std::string &name);
    /// What the label asks for is there: as a snapshot already, or as a layer, which becomes one.
    Result<bool> adopt(std::string_view ref, const std::optional<Row> &parent, const Labels &labels);
    Result<LayerId> make_layer(LockHold &locks, const std::vector<LayerId> &chain);
    Status insert(Records::Transaction &tx, const Row &row, bool synced);
    Result<bool> drop_layer(Records::Transaction &tx, LayerId layer);

    Store &store_;
    Upkeep upkeep_; ///< last: it uses the above
};

Result<Row> Snapshots::Impl::load(const std::string &key) {
    auto row = TRY(store_.records_->prepare(select_row("WHERE s.name = ?")));
    if (!TRY(row.bind(std::string_view(key)).step()))
        return fail(Errc::NotFound, fmt::format("snapshot \"{}\" does not exist", key));
    return read_row(row);
}

Result<Row> Snapshots::Impl::load_parent(const std::string &name, Errc if_uncommitted) {
    auto parent = load(name);
    if (!parent) return std::unexpected(std::move(parent).error().add("parent"));
    if (parent->info.kind != SnapshotKind::committed)
        return fail(if_uncommitted,
                    fmt::format("parent \"{}\" is {}, not committed", name, name_of(parent->info.kind)));
    return parent;
}

Result<bool> Snapshots::Impl::taken(const std::string &name) {
    auto row = TRY(store_.records_->prepare("SELECT 1 FROM snapshots WHERE name = ?"));
    return TRY(row.bind(std::string_view(name)).step());
}

Status Snapshots::Impl::insert(Records::Transaction &tx, const Row &row, bool synced) {
    auto put =
        TRY(tx.prepare("INSERT INTO snapshots(id, name, kind, layer, parent, created_ns, updated_ns, ref, labels, "
                       "bytes, inodes, synced) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"));
    put.bind(row.id).bind(std::string_view(row.info.name)).bind(static_cast<int64_t>(row.info.kind)).bind(row.layer);
    if (row.parent) {
        auto there = TRY(tx.prepare("SELECT 1 FROM snapshots WHERE id = ?"));
        if (!TRY(there.bind(*row.parent).step()))
            return fail(Errc::NotFound, fmt::format("the parent of \"{}\" was removed just now", row.info.name));
        put.bind(*row.parent);
    } else {
        put.bind_null();
    }
    put.bind(row.info.created_ns).bind(row.info.updated_ns).bind(ref_of(row.info.labels));
    put.bind(std::string_view(pack_labels(row.info.labels)));
    if (row.usage)
        put.bind(row.usage->bytes).bind(row.usage->inodes);
    else
        put.bind_null().bind_null();
    auto done = put.bind(int64_t{synced}).run();
    if (!done && done.error().code() == Errc::AlreadyExists)
        return fail(Errc::AlreadyExists, fmt::format("snapshot \"{}\" exists already", row.info.name));
    return done;
}

Result<LayerId> Snapshots::Impl::make_layer(LockHold &locks, const std::vector<LayerId> &chain) {
    auto &driver = *store_.driver_;
    if (chain.size() + 1 > driver.max_depth())
        return fail(Errc::ResourceExhausted, fmt::format("{} layers below; driver {} can stack {}", chain.size(),
                                                         driver.name(), driver.max_depth()));
    const LayerId id = TRY(store_.records_->new_id());
    TRY(locks.add(Locks::container_offset(id), sys::LockMode::exclusive));
    ScopeGuard undo([&] { (void)driver.remove(id); });
    TRY(driver.create(id, chain, {}));
    undo.release();
    return id;
}

Result<std::vector<sys::MountSpec>> Snapshots::Impl::make(const std::string &key, const std::string &parent,
                                                          const Labels &labels, SnapshotKind kind) {
    TRY(check_key("key", key));
    TRY(check_labels(labels));
    auto locks = TRY(store_.locks_->hold());
    TRY(locks.add_within(lock_patience, Locks::gc_offset, sys::LockMode::shared));
    if (TRY(taken(key))) return fail(Errc::AlreadyExists, fmt::format("snapshot \"{}\" exists already", key));
    std::optional<Row> below;
    if (!parent.empty()) below = TRY(load_parent(parent, Errc::InvalidArgument));
    if (const auto ref = ref_of(labels); kind == SnapshotKind::active && !ref.empty() && TRY(adopt(ref, below, labels)))
        return fail(Errc::AlreadyExists, fmt::format("the layer \"{}\" is there already", ref));
    TRY(kind == SnapshotKind::active || !below ? store_.begin_new() : hold_reserve(store_.root_fd_.get()));

    Row row;
    row.info = {key, parent, kind, store_.now_ns(), 0, labels};
    row.info.updated_ns = row.info.created_ns;
    if (below) {
        row.parent = below->id;
        row.parent_layer = below->layer;
    }
    if (kind == SnapshotKind::active || !below) { // a view of nothing is an empty layer
        row.layer = TRY(in_context(make_layer(locks, TRY(chain_below(row))), [&] { return "prepare " + key; }));
        row.id = row.layer->value;
    } else {
        row.id = TRY(store_.records_->new_id()).value;
    }
    ScopeGuard undo([&] {
        if (row.layer) (void)store_.driver_->remove(*row.layer);
    });
    auto specs = TRY(mounts_of(row));
    // containerd maps an overlay's lowers, and any other mount as a whole.
    if (const auto mapping = TRY(id_mapping(labels)); mapping && specs.front().type == "overlay" && row.layer)
        TRY(store_.driver_->set_owner(*row.layer, mapping->root_uid, mapping->root_gid));
    auto tx = TRY(store_.records_->begin(Sync::relaxed));
    TRY(insert(tx, row, true));
    TRY(tx.commit());
    undo.release();
    upkeep_.touch();
    return specs;
}

Result<bool> Snapshots::Impl::adopt(std::string_view ref, const std::optional<Row> &parent, const Labels &labels) {
    auto known = TRY(
        store_.records_->prepare("SELECT 1 FROM snapshots WHERE ref = ? AND ref <> '' AND kind = 3 AND parent IS ?"));
    known.bind(ref);
    if (parent)
        known.bind(parent->id);
    else
        known.bind_null();
    if (TRY(known.step())) return true;
    const auto chain = Digest::parse(ref);
    if (!chain) return false;
    auto layer = TRY(store_.records_->prepare("SELECT id, bytes, inodes FROM layers WHERE chain_id = ? AND state = "
                                              "'ready' AND parent IS ?"));
    layer.bind(*chain).bind(parent ? parent->layer : std::nullopt);
    if (!TRY(layer.step())) return false;
    Row row;
    row.id = TRY(store_.records_->new_id()).value;
    row.layer = layer.id(0);
    row.usage = drivers::Usage{layer.count(1), layer.count(2), true};
    if (parent) row.parent = parent->id;
    row.info = {std::string(ref), {}, SnapshotKind::committed, store_.now_ns(), 0, labels};
    row.info.updated_ns = row.info.created_ns;
    if (TRY(taken(row.info.name))) row.info.name = fmt::format("{} {}", ref, row.id);
    TRY(layer.run()); // no statement is open in the transaction
    auto tx = TRY(store_.records_->begin(Sync::relaxed));
    TRY(insert(tx, row, true));
    TRY(tx.commit());
    return true;
}

Result<std::vector<sys::MountSpec>> Snapshots::Impl::mounts_of(const Row &row) {
    using Access = drivers::Driver::Access;
    const auto chain = TRY(chain_below(row));
    if (!row.layer && chain.empty())
        return fail(Errc::NotFound, fmt::format("the parent of \"{}\" was removed just now", row.info.name));
    const auto access = row.info.kind == SnapshotKind::active ? Access::read_write : Access::read_only;
    auto specs = row.layer ? TRY(store_.driver_->mounts(*row.layer, chain, access))
                           : TRY(store_.driver_->mounts(chain.front(), std::span(chain).subspan(1), access));
    if (const auto mapping = TRY(id_mapping(row.info.labels)))
        for (sys::MountSpec &spec : specs)
            spec.options.insert(spec.options.begin(), {"uidmap=" + mapping->uids, "gidmap=" + mapping->gids});
    return specs;
}

Result<std::vector<sys::MountSpec>> Snapshots::Impl::mounts(const std::string &key) {
    const Row row = TRY(load(key));
    if (row.info.kind == SnapshotKind::committed)
        return fail(Errc::FailedPrecondition, fmt::format("snapshot \"{}\" is committed: it has no mounts", key));
    if (row.info.kind == SnapshotKind::active && TRY(store_.driver_->is_sealed(*row.layer, TRY(chain_below(row)))))
        TRY(in_context(reopen(key), [&] { return fmt::format("an unfinished commit of \"{}\"", key); }));
    return mounts_of(row);
}

Status Snapshots::Impl::reopen(const std::string &key) {
    const Row before = TRY(load(key));
    auto locks = TRY(store_.locks_->hold()); // nobody commits it meanwhile
    TRY(locks.add_within(lock_patience, Locks::container_offset({before.id}), sys::LockMode::exclusive));
    const Row row = TRY(load(key));
    if (row.info.kind != SnapshotKind::active || row.id != before.id) return {};
    return store_.driver_->reopen(*row.layer, TRY(chain_below(row)));
}

Status Snapshots::Impl::commit(const std::string &name, const std::string &key, const Labels &labels,
                               const std::string &parent) {
    TRY(check_key("name", name));
    TRY(check_labels(labels));
    Row row = TRY(load(key));
    auto locks = TRY(store_.locks_->hold());
    TRY(locks.add_within(lock_patience, Locks::gc_offset, sys::LockMode::shared));
    TRY(locks.add_within(lock_patience, Locks::container_offset({row.id}), sys::LockMode::exclusive));
    row = TRY(load(key)); // another may have been faster
    if (row.info.kind != SnapshotKind::active)
        return fail(Errc::FailedPrecondition,
                    fmt::format("snapshot \"{}\" is {}, not active", key, name_of(row.info.kind)));
    if (TRY(taken(name))) return fail(Errc::AlreadyExists, fmt::format("snapshot \"{}\" exists already", name));
    if (!parent.empty() && parent != row.info.parent) {
        if (row.parent)
            return fail(Errc::InvalidArgument,
                        fmt::format("snapshot \"{}\" stands on \"{}\" and cannot be put on \"{}\"", key,
                                    row.info.parent, parent));
        const Row below = TRY(load_parent(parent, Errc::FailedPrecondition));
        row.parent = below.id;
        row.parent_layer = below.layer;
        if (!TRY(drivers::find_driver(store_.driver_->name()))->rebases)
            return fail(Errc::Unimplemented,
                        fmt::format("driver {} cannot put a finished layer on another parent", store_.driver_->name()));
    }
    const auto chain = TRY(chain_below(row));
    const LayerId layer = *row.layer;
    const int64_t now = store_.now_ns();
    auto tx = TRY(store_.records_->begin(Sync::relaxed));
    auto put =
        TRY(tx.prepare("INSERT INTO layers(id, parent, state, session, created_ns) VALUES (?, ?, 'ready', 0, ?)"));
    TRY(put.bind(layer).bind(row.parent_layer).bind(now).run());
    auto drop = TRY(tx.prepare("DELETE FROM snapshots WHERE id = ?"));
    TRY(drop.bind(row.id).run());
    row.info = {name, {}, SnapshotKind::committed, now, now, labels};
    TRY(insert(tx, row, false));
    // Last, when nothing but the log's own write can fail any more: the snapshot stays active and writable then.
    ScopeGuard undo([&] { (void)store_.driver_->reopen(layer, chain); });
    TRY(in_context(store_.driver_->seal(layer, chain), [&] { return fmt::format("commit \"{}\"", key); }));
    TRY(tx.commit());
    undo.release();
    upkeep_.sync_later(layer);
    upkeep_.touch();
    return {};
}

/// True: nothing stands on the layer any more; its row is gone.
Result<bool> Snapshots::Impl::drop_layer(Records::Transaction &tx, LayerId layer) {
    // A layer with a chain id is an image's, or may become one's again: gc decides.
    auto drop = TRY(tx.prepare(
        "DELETE FROM layers WHERE id = ?1 AND chain_id IS NULL "
        "AND NOT EXISTS (SELECT 1 FROM snapshots WHERE layer = ?1) AND NOT EXISTS (SELECT 1 FROM layers WHERE parent = "
        "?1) AND NOT EXISTS (SELECT 1 FROM image_layers WHERE layer = ?1) AND NOT EXISTS (SELECT 1 FROM containers "
        "WHERE parent = ?1) AND NOT EXISTS (SELECT 1 FROM lease_refs WHERE ref = 'layer:' || ?1) RETURNING id"));
    const bool dropped = TRY(drop.bind(layer).step());
    TRY(drop.run());
    return dropped;
}

Status Snapshots::Impl::remove(const std::string &key) {
    std::optional<LayerId> gone;
    std::optional<LockHold> locks; // until the directory has gone too
    TRY(store_.making_room([&]() -> Status {
        gone.reset();
        const Row row = TRY(load(key));
        locks = TRY(store_.locks_->hold());
        TRY(locks->add_within(lock_patience, Locks::container_offset({row.id}), sys::LockMode::exclusive));
        auto tx = TRY(store_.records_->begin(Sync::relaxed));
        auto child = TRY(tx.prepare("SELECT name FROM snapshots WHERE parent = ? LIMIT 1"));
        if (TRY(child.bind(row.id).step()))
            return fail(Errc::FailedPrecondition,
                        fmt::format("cannot remove snapshot \"{}\": \"{}\" stands on it", key, child.text(0)));
        TRY(child.run());
        // By name and number: since it was read it may have been committed, which is another name.
        auto drop = TRY(tx.prepare("DELETE FROM snapshots WHERE id = ? AND name = ? RETURNING kind"));
        if (!TRY(drop.bind(row.id).bind(std::string_view(key)).step()))
            return fail(Errc::NotFound, fmt::format("snapshot \"{}\" does not exist", key));
        const auto kind = static_cast<SnapshotKind>(drop.integer(0));
        TRY(drop.run());
        if (row.layer && (kind != SnapshotKind::committed || TRY(drop_layer(tx, *row.layer)))) gone = row.layer;
        return tx.commit();
    }));
    upkeep_.touch();
    if (!gone) return {};
    store_.forget_chain(*gone);
    return store_.making_room([&] { return store_.driver_->remove(*gone); });
}

Result<SnapshotInfo> Snapshots::Impl::update(const SnapshotInfo &info, std::span<const std::string> fields) {
    auto tx = TRY(store_.records_->begin(Sync::relaxed)); // before it is read: two updates at once both count
    Row row = TRY(load(info.name));
    Labels labels = row.info.labels;
    for (const std::string &field : fields) {
        if (field == "labels") {
            labels = info.labels;
        } else if (field.starts_with("labels.")) {
            const std::string key = field.substr(7);
            const auto value = info.labels.find(key);
            if (value == info.labels.end() || value->second.empty())
                labels.erase(key);
            else
                labels.insert_or_assign(key, value->second);
        } else {
            return fail(
                Errc::InvalidArgument,
                fmt::format("snapshot \"{}\": field \"{}\" cannot be updated, only labels can", info.name, field));
        }
    }
    if (fields.empty()) labels = info.labels;
    TRY(id_mapping(labels));
    TRY(check_labels(labels));
    std::erase_if(labels, [](const auto &label) { return label.second.empty(); });
    auto put = TRY(tx.prepare("UPDATE snapshots SET labels = ?, ref = ?, updated_ns = ? WHERE id = ?"));
    row.info.updated_ns = store_.now_ns();
    put.bind(std::string_view(pack_labels(labels))).bind(ref_of(labels)).bind(row.info.updated_ns);
    TRY(put.bind(row.id).run());
    TRY(tx.commit());
    row.info.labels = std::move(labels);
    return row.info;
}

Status Snapshots::Impl::walk(std::string_view ref, const Write &write, const Send &send) {
    // By number: as the rows lie in the file, and a commit in the meantime, which changes the name, makes no snapshot
    // appear twice or not at all. "ref <> ''" is the condition of the index.
    const std::string rows_after =
        select_info(ref.empty() ? "WHERE s.id > ?1 ORDER BY s.id LIMIT ?2"
                                : "WHERE s.id > ?1 AND s.ref = ?3 AND s.ref <> '' ORDER BY s.id LIMIT ?2");
    struct Page {
        std::string text;
        uint64_t last = 0; ///< number
        bool more = false; ///< perhaps
    };
    const auto read_page = [&](uint64_t after) -> Result<Page> {
        auto rows = TRY(store_.records_->prepare(rows_after));
        rows.bind(after).bind(static_cast<int64_t>(page_rows));
        if (!ref.empty()) rows.bind(ref);
        Page page{{}, after};
        if (ref.empty()) page.text.reserve(page_bytes + page_bytes / 8); // and its last row
        for (size_t seen = 1; !page.more && TRY(rows.step()); ++seen) {
            page.last = rows.count(0);
            write(look_at(rows), page.text);
            page.more = seen == page_rows || page.text.size() > page_bytes;
        }
        return page;
    };
    Page page = TRY(read_page(0));
    for (;;) {
        // The next is read while this one is sent, or after that when there is no thread to be had.
        std::future<Result<Page>> next;
        if (page.more) next = std::async(std::launch::async | std::launch::deferred, read_page, page.last);
        if (!page.text.empty()) TRY(send(page.text));
        if (!next.valid()) return {};
        page = TRY(next.get());
    }
}

Status Snapshots::Impl::walk_names(const std::vector<std::string> &names, const Write &write, const Send &send) {
    std::string page;
    for (const std::string &name : names) {
        {
            auto row = TRY(store_.records_->prepare(select_info("WHERE s.name = ?")));
            if (TRY(row.bind(std::string_view(name)).step())) write(look_at(row), page);
        }
        if (page.size() > page_bytes) {
            TRY(send(page));
            page.clear();
        }
    }
    return page.empty() ? Status() : send(page);
}

Result<drivers::Usage> Snapshots::Impl::usage(const std::string &key) {
    const Row row = TRY(load(key));
    if (row.usage) return *row.usage;
    if (!row.layer) return drivers::Usage{};
    return store_.driver_->usage(*row.layer, TRY(chain_below(row)));
}

Result<Snapshots::Counts> Snapshots::Impl::counts() {
    auto row = TRY(store_.records_->prepare(
        "SELECT coalesce(sum(kind = 1), 0), coalesce(sum(kind = 2), 0), coalesce(sum(kind = 3), 0), "
        "coalesce(sum(synced <> "
        "1), 0), l.n, l.bytes, l.inodes FROM snapshots, (SELECT count(*) AS n, coalesce(sum(bytes), 0) AS bytes, "
        "coalesce(sum(inodes), 0) AS inodes FROM layers WHERE state = 'ready') l"));
    TRY(row.step());
    return Counts{row.count(0), row.count(1), row.count(2), row.count(3), row.count(4), row.count(5), row.count(6)};
}

/// After a boot: a committed snapshot that was never synced may have lost any of its data, and goes with all that stand
/// on it, as does an active one whose directory is not there. gc takes what only they named.
Status Store::recover_snapshots() {
    std::unordered_set<LayerId> on_disk;
    for (const LayerId id : TRY(driver_->list()))
        on_disk.insert(id);
    std::vector<uint64_t> lost;
    auto rows = TRY(records_->prepare("SELECT id, layer, kind, synced FROM snapshots WHERE layer IS NOT NULL"));
    while (TRY(rows.step())) {
        const bool committed = static_cast<SnapshotKind>(rows.integer(2)) == SnapshotKind::committed;
        if ((committed && rows.integer(3) != static_cast<int64_t>(SyncState::done)) || !on_disk.contains(rows.id(1)))
            lost.push_back(rows.count(0));
    }
    if (lost.empty()) return {};
    auto tx = TRY(records_->begin(Sync::synced));
    auto defer = TRY(tx.prepare("PRAGMA defer_foreign_keys=ON")); // whatever the order of the rows
    TRY(defer.run());
    for (const uint64_t id : lost) {
        auto drop = TRY(tx.prepare("WITH RECURSIVE up(id) AS (SELECT ? UNION SELECT s.id FROM snapshots s JOIN up ON "
                                   "s.parent = up.id) DELETE FROM snapshots WHERE id IN (SELECT id FROM up)"));
        TRY(drop.bind(id).run());
    }
    return tx.commit();
}

Status Store::check_no_active_snapshots() {
    auto row = TRY(records_->prepare("SELECT name, (SELECT count(*) FROM snapshots WHERE kind = 2) FROM snapshots "
                                     "WHERE kind = 2 LIMIT 1"));
    if (!TRY(row.step())) return {};
    return fail(
        Errc::FailedPrecondition,
        fmt::format("{} snapshots are active (\"{}\", ...): they are not copied. Stop shaled's clients and remove "
                    "or commit them first",
                    row.count(1), row.text(0)));
}

Result<std::vector<Snapshots::Labelled>> Snapshots::labelled(Store &store, std::string_view label) {
    std::vector<Row> found;
    {
        auto rows = TRY(store.records_->prepare(select_row("WHERE s.kind = 2")));
        while (TRY(rows.step()))
            if (Row row = read_row(rows); row.layer && row.info.labels.contains(label)) found.push_back(std::move(row));
    }
    std::vector<Labelled> out;
    for (Row &row : found) {
        const auto chain = store.container_chain(row.parent_layer);
        auto mounts = chain ? store.driver_->mounts(*row.layer, *chain, drivers::Driver::Access::read_write)
                            : Result<std::vector<sys::MountSpec>>(std::unexpected(chain.error()));
        if (mounts) out.push_back({row.info.name, row.info.labels.find(label)->second, std::move(*mounts)});
    }
    return out;
}

Snapshots::Snapshots(Store &store) : impl_(std::make_unique<Impl>(store)) {}
Snapshots::~Snapshots() = default;

Result<std::vector<sys::MountSpec>> Snapshots::prepare(const std::string &key, const std::string &parent,
                                                       const Labels &labels) {
    return impl_->make(key, parent, labels, SnapshotKind::active);
}
Result<std::vector<sys::MountSpec>> Snapshots::view(const std::string &key, const std::string &parent,
                                                    const Labels &labels) {
    return impl_->make(key, parent, labels, SnapshotKind::view);
}
Result<std::vector<sys::MountSpec>> Snapshots::mounts(const std::string &key) {
    return impl_->mounts(key);
}
Status Snapshots::commit(const std::string &name, const std::string &key, const Labels &labels,
                         const std::string &parent) {
    return impl_->commit(name, key, labels, parent);
}
Status Snapshots::remove(const std::string &key) {
    return impl_->remove(key);
}
Result<SnapshotInfo> Snapshots::stat(const std::string &key) {
    return TRY(impl_->load(key)).info;
}
Result<SnapshotInfo> Snapshots::update(const SnapshotInfo &info, std::span<const std::string> fields) {
    return impl_->update(info, fields);
}
Status Snapshots::walk(const Selection &which, const std::function<void(const SnapshotRow &, std::string &page)> &write,
                       const std::function<Status(std::string &page)> &send) {
    return which.names ? impl_->walk_names(*which.names, write, send) : impl_->walk(which.ref, write, send);
}
Result<drivers::Usage> Snapshots::usage(const std::string &key) {
    return impl_->usage(key);
}
Result<Snapshots::Counts> Snapshots::counts() {
    return impl_->counts();
}
UpkeepCounts Snapshots::upkeep() const {
    return impl_->upkeep();
}
Status Snapshots::cleanup() {
    return impl_->cleanup();
}

} // namespace shale::store
