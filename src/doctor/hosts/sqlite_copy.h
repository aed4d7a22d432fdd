// SPDX-License-Identifier: Apache-2.0
// Reads an SQLite database that others may be writing, or that lies on a disk which must not change, without touching
// it.
//
// SQLite itself cannot do that: a reader of a database in WAL mode writes NAME-shm, and one with `immutable=1` leaves
// out the log. So the file and its log are copied into memory, the log's committed transactions are put into the copy
// by the rules of sqlite.org/fileformat2.html (section 4), and SQLite gets the result as a database of its own
// (sqlite3_deserialize). No lock is taken and no file is made: the disk that a doctor is called to may be full.
//
// Why the copy is one state of the database:
//  - A log only grows until it begins anew with another salt in its header. The database is read first, then the log.
//    What a checkpoint wrote into the database meanwhile is in the log too, and replaces whatever was half read. When
//    the header is the same before and after, no other log came between.
//  - Without a log (another journal mode, or all connections are closed) the database must not have changed: size,
//    mtime, first page's header. A rollback journal that would have to be played back means a writer (or that one
//    died).
// Else all is read again, up to five times.
#pragma once

#include <sqlite3.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/error.h"
#include "probe/host.h"

namespace shale::doctor {

/// A row of a result. Valid during the visit.
class SqliteRow {
public:
    explicit SqliteRow(sqlite3_stmt *statement) : statement_(statement) {}
    /// "" for NULL.
    [[nodiscard]] std::string_view text(int column) const;
    [[nodiscard]] int64_t integer(int column) const { return sqlite3_column_int64(statement_, column); }
    /// Negative ones are 0.
    [[nodiscard]] uint64_t count(int column) const;
    [[nodiscard]] bool is_null(int column) const { return sqlite3_column_type(statement_, column) == SQLITE_NULL; }

private:
    sqlite3_stmt *statement_;
};

class SqliteCopy {
public:
    static constexpr size_t default_limit = size_t{512} << 20U; ///< of the database, and of its log

    /// NotFound: there is none. Aborted: it is being written all the time. DataLoss: it is no database, or its log has
    /// another page size. ResourceExhausted: too large. Else what Host::read says.
    static Result<SqliteCopy> read(const probe::Host &host, const std::string &path, size_t limit = default_limit);
    /// The same of bytes that were read before; `log` may be empty. Errors name it `name`.
    static Result<SqliteCopy> from_bytes(std::string database, std::string_view log, const std::string &name,
                                         size_t limit = default_limit);

    /// DataLoss: the database is damaged, or has no such table or column. ResourceExhausted: a statement ran too long
    /// (a view can be made to have no end).
    Status for_each(std::string_view sql, const std::function<Status(const SqliteRow &)> &visit) const;
    Result<int64_t> user_version() const;
    Result<bool> has_table(std::string_view name) const;

private:
    struct Close {
        void operator()(sqlite3 *db) const noexcept { sqlite3_close_v2(db); }
    };
    SqliteCopy() = default;
    Status open();
    [[nodiscard]] std::unexpected<Error> failed(std::string_view doing) const;

    std::string name_;
    std::unique_ptr<std::string> bytes_; ///< SQLite reads them in place: they go after the connection
    std::unique_ptr<sqlite3, Close> db_;
};

/// The database with the log's committed transactions in it. What follows the last whole transaction is left out, as
/// after a crash. DataLoss, ResourceExhausted as SqliteCopy::read.
Result<std::string> apply_log(std::string database, std::string_view log, size_t limit);

} // namespace shale::doctor
