// SPDX-License-Identifier: Apache-2.0
// The records: one SQLite database in WAL mode (docs/adr/0001). This file knows SQL's plumbing and the schema;
// what a row means stands in layers.cc, images.cc, containers.cc, leases.cc.
//
// Ids: meta.next_id counts up and meta.id_mark is its durable bound, raised 1,024 at a time by a synced transaction.
// After an unclean boot (meta.boot differs) counting goes on from the mark, so that an id whose transaction was lost is
// never given again. A process takes ids from next_id in blocks that grow with its use (1, 2, 4 .. 64) and gives an
// unused rest back when it ends in order.
//
// Connections: transactions have one, which a mutex gives to one thread at a time. A read outside a transaction takes
// one of its own from a pool, so that it waits for no writer of this or another process, sees no change before it is
// committed, and leaves the writer's connection free to wait its turn (SQLite refuses BEGIN at once where a read is
// open on the same connection). Where there can be only one connection (`alone`, read-only), reads share it.
#pragma once

#include <sqlite3.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/digest.h"
#include "base/error.h"
#include "base/ids.h"

namespace shale::store {

/// How far a transaction's commit reaches. relaxed: atomic and in order, on disk with the next synced one or
/// checkpoint.
enum class Sync : uint8_t { relaxed, synced };

class Records;

/// A connection to the database, and the statements that were parsed for it and are idle, by their text.
class Connection {
public:
    /// `flags`: SQLITE_OPEN_*.
    static Result<std::unique_ptr<Connection>> open(const std::string &path, int flags);
    ~Connection();
    Connection(const Connection &) = delete;
    Connection &operator=(const Connection &) = delete;

    Result<sqlite3_stmt *> parse(std::string_view sql);
    void put_back(sqlite3_stmt *statement) noexcept;
    [[nodiscard]] sqlite3 *db() const noexcept { return db_; }
    /// The last call's error, as `doing` something.
    Error error(std::string_view doing) const;

private:
    Connection() = default;
    sqlite3 *db_ = nullptr;
    std::mutex mutex_;
    std::unordered_multimap<std::string_view, sqlite3_stmt *> idle_;
};

/// One prepared statement in use; bind in order, step, read columns by position. Goes back to its Records when it ends.
class Statement {
public:
    Statement(Statement &&other) noexcept
        : records_(other.records_), connection_(other.connection_),
          statement_(std::exchange(other.statement_, nullptr)), next_(other.next_) {}
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
    [[nodiscard]] std::string text(int column) const { return std::string(view(column)); }
    [[nodiscard]] std::string_view view(int column) const; ///< until the next step
    /// A digest column; a malformed one reads as "none" (check reports it).
    [[nodiscard]] Digest digest(int column) const;

private:
    friend class Records;
    Statement(Records &records, Connection &connection, sqlite3_stmt *statement)
        : records_(&records), connection_(&connection), statement_(statement) {}
    Records *records_;
    Connection *connection_;
    sqlite3_stmt *statement_;
    int next_ = 1;
};

class Records {
public:
    /// Opens or creates ROOT/shale.db. A database of a newer format is refused with FailedPrecondition.
    /// `alone`: where nobody else has it open just now, nobody may until this ends, and its index is in memory instead
    /// of a mapped file.
    static Result<std::unique_ptr<Records>> open(const std::string &path, bool durable, bool read_only,
                                                 bool alone = false);
    ~Records();
    Records(const Records &) = delete;
    Records &operator=(const Records &) = delete;

    /// A transaction (BEGIN IMMEDIATE); holds this object's mutex; rolled back unless commit() succeeded. Unavailable
    /// when others write for a minute.
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
        Transaction(Records &records, std::unique_lock<std::recursive_timed_mutex> lock)
            : records_(&records), lock_(std::move(lock)) {}
        Records *records_;
        std::unique_lock<std::recursive_timed_mutex> lock_;
    };
    Result<Transaction> begin(Sync sync);

    /// From now on a thread of its own writes the log back into the database: no transaction waits for the disk because
    /// the log has grown. For a process that serves others. Done again, it is done.
    void checkpoint_behind();

    /// A read. In the thread that has a transaction open it is part of that; elsewhere it sees what is committed, and
    /// can change nothing.
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
    Result<Statement> on_writer(std::string_view sql);
    Status exec(const char *sql);     ///< on the writer's connection
    Status run(std::string_view sql); ///< the same, one statement without values, from the kept ones
    Status set_sync(Sync sync);
    void end_transaction() noexcept;
    Status take_ids();
    void return_ids() noexcept;
    Result<Connection *> take_reader();
    void give_back(Connection &connection) noexcept;
    Status create_schema();
    Result<bool> try_to_be_alone();
    static int on_commit(void *records, sqlite3 *db, const char *name, int log_pages);
    void write_back(const std::stop_token &stop);

    std::string path_;
    bool durable_ = true;
    bool shared_ = false;                ///< reads go over the writer's connection, for there can be no other
    Sync sync_ = Sync::relaxed;          ///< what the connection's PRAGMA synchronous says; guarded by mutex_
    uint64_t spare_ = 0, spare_end_ = 0; ///< ids taken and not yet given; guarded by mutex_
    uint64_t block_ = 1;                 ///< how many the next take_ids() takes
    std::recursive_timed_mutex mutex_;
    std::atomic<std::thread::id> owner_; ///< of the open transaction
    std::unique_ptr<Connection> writer_; ///< guarded by mutex_, unless shared_
    std::mutex readers_mutex_;
    std::vector<std::unique_ptr<Connection>> readers_; ///< idle ones
    std::mutex log_mutex_;
    std::condition_variable_any log_wake_;
    bool log_is_long_ = false;  ///< guarded by log_mutex_
    std::jthread checkpointer_; ///< last: it uses the above
};

} // namespace shale::store
