// SPDX-License-Identifier: Apache-2.0
// The records: one SQLite database in WAL mode (docs/adr/0001). This file knows SQL's plumbing and the schema;
// what a row means stands in layers.cc, images.cc, containers.cc, leases.cc.
//
// Ids: meta.next_id counts up and meta.id_mark is its durable bound, raised 1,024 at a time by a synced transaction.
// After an unclean boot (meta.boot differs) counting goes on from the mark, so that an id whose transaction was lost is
// never given again. A process takes ids from next_id in blocks that grow with its use (1, 2, 4 .. 64) and gives an
// unused rest back when it ends in order.
#pragma once

#include <sqlite3.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "base/digest.h"
#include "base/error.h"
#include "base/ids.h"

namespace shale::store {

/// How far a transaction's commit reaches. relaxed: atomic and in order, on disk with the next synced one or
/// checkpoint.
enum class Sync : uint8_t { relaxed, synced };

class Records;

/// One prepared statement in use; bind in order, step, read columns by position. Goes back to its Records when it ends.
class Statement {
public:
    Statement(Statement &&other) noexcept
        : records_(other.records_), statement_(std::exchange(other.statement_, nullptr)), next_(other.next_) {}
    Statement(const Statement &) = delete;
    Statement &operator=(const Statement &) = delete;
    Statement &operator=(Statement &&) = delete;
    ~Statement();

    Statement &bind(int64_t value);
    Statement &bind(uint64_t value) { return bind(static_cast<int64_t>(value)); }
    Statement &bind(LayerId id) { return bind(id.value); }
    Statement &bind(std::string_view text);
    Statement &bind(const Digest &digest) { return bind(digest.text()); }
    Statement &bind_null();
    Statement &bind(std::optional<LayerId> id) { return id ? bind(*id) : bind_null(); }

    /// true: a row is there.
    Result<bool> step();
    /// Runs to the end, rows dropped.
    Status run();

    [[nodiscard]] int64_t integer(int column) const { return sqlite3_column_int64(statement_, column); }
    [[nodiscard]] uint64_t count(int column) const { return static_cast<uint64_t>(integer(column)); }
    [[nodiscard]] LayerId id(int column) const { return {count(column)}; }
    [[nodiscard]] bool is_null(int column) const { return sqlite3_column_type(statement_, column) == SQLITE_NULL; }
    [[nodiscard]] std::string text(int column) const;
    /// A digest column; a malformed one reads as "none" (check reports it).
    [[nodiscard]] Digest digest(int column) const;

private:
    friend class Records;
    Statement(Records &records, sqlite3_stmt *statement) : records_(&records), statement_(statement) {}
    Records *records_;
    sqlite3_stmt *statement_;
    int next_ = 1;
};

class Records {
public:
    /// Opens or creates ROOT/shale.db. A database of a newer format is refused with FailedPrecondition.
    static Result<std::unique_ptr<Records>> open(const std::string &path, bool durable, bool read_only);
    ~Records();
    Records(const Records &) = delete;
    Records &operator=(const Records &) = delete;

    /// A transaction (BEGIN IMMEDIATE); holds this object's mutex; rolled back unless commit() succeeded.
    class Transaction {
    public:
        Transaction(Transaction &&other) noexcept;
        Transaction(const Transaction &) = delete;
        Transaction &operator=(const Transaction &) = delete;
        Transaction &operator=(Transaction &&) = delete;
        ~Transaction();
        Result<Statement> prepare(std::string_view sql);
        Status commit();

    private:
        friend class Records;
        Transaction(Records &records, std::unique_lock<std::recursive_mutex> lock)
            : records_(&records), lock_(std::move(lock)) {}
        Records *records_;
        std::unique_lock<std::recursive_mutex> lock_;
    };
    Result<Transaction> begin(Sync sync);

    /// A statement outside a transaction, for one read. Serialised by SQLite's own mutex. Parsed once: idle ones are
    /// kept by their text.
    Result<Statement> prepare(std::string_view sql);

    /// A number never given before. Not inside a transaction: it may need its own.
    Result<LayerId> new_id();

    Result<std::string> meta(std::string_view key); ///< "" when absent
    /// Every table takes the rows of the same one in the database at `path`, but "migration" and what meta says of
    /// migrations and the driver; `driver` becomes the driver. One synced transaction.
    Status copy_from(const std::string &path, std::string_view driver);
    /// True until note_boot() of this boot: the first opener reconciles what relaxed transactions of the last one may
    /// have lost.
    Result<bool> boot_is_new();
    /// Ids go on from the durable mark; from now on this boot is not new.
    Status note_boot();

private:
    friend class Statement;
    Records() = default;
    Status exec(const char *sql);
    Status run(std::string_view sql); ///< one statement without values, from the kept ones
    Status set_sync(Sync sync);
    Status take_ids();
    void return_ids() noexcept;
    void put_back(sqlite3_stmt *statement) noexcept;
    Error error(std::string_view doing) const;
    Status create_schema();

    sqlite3 *db_ = nullptr;
    bool durable_ = true;
    Sync sync_ = Sync::relaxed;          ///< what the connection's PRAGMA synchronous says; guarded by mutex_
    uint64_t spare_ = 0, spare_end_ = 0; ///< ids taken and not yet given; guarded by mutex_
    uint64_t block_ = 1;                 ///< how many the next take_ids() takes
    std::recursive_mutex mutex_;
    std::mutex idle_mutex_;
    std::unordered_multimap<std::string_view, sqlite3_stmt *> idle_; ///< by their own text
};

} // namespace shale::store
