// SPDX-License-Identifier: Apache-2.0
#include "store/records.h"

#include <fmt/format.h>
#include <sys/vfs.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "sys/fs.h"
#include "sys/seam.h"

namespace shale::store {
namespace {

constexpr int format_version = 3;
constexpr uint64_t id_mark_step = 1024, id_block_max = 64;
constexpr int busy_timeout_ms = 60'000;
constexpr size_t idle_readers = 8;
/// Of the log: where the thread for that writes it back (SQLite alone: at 1,000; calls wait for the disk meanwhile, so
/// that more than one in a hundred would); where a transaction does it, should the thread not come to it.
constexpr int long_log_pages = 4'000, longest_log_pages = 20'000;

// docs/formats/records.md explains each table.
constexpr const char *schema = R"sql(
CREATE TABLE meta(key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
CREATE TABLE blobs(digest TEXT PRIMARY KEY, bytes INTEGER NOT NULL, created_ns INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE layers(
  id INTEGER PRIMARY KEY,
  parent INTEGER REFERENCES layers(id),
  state TEXT NOT NULL CHECK(state IN ('staging','ready')),
  session INTEGER NOT NULL,
  chain_id TEXT, diff_id TEXT, blob TEXT,
  bytes INTEGER NOT NULL DEFAULT 0, inodes INTEGER NOT NULL DEFAULT 0,
  created_ns INTEGER NOT NULL);
CREATE UNIQUE INDEX layers_by_chain ON layers(chain_id) WHERE state = 'ready';
CREATE INDEX layers_by_parent ON layers(parent);
CREATE INDEX layers_unfinished ON layers(state) WHERE state <> 'ready';
CREATE TABLE images(
  manifest TEXT PRIMARY KEY, config TEXT NOT NULL, os TEXT NOT NULL, architecture TEXT NOT NULL,
  created_ns INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX images_by_config ON images(config);
CREATE TABLE image_layers(
  image TEXT NOT NULL REFERENCES images(manifest), position INTEGER NOT NULL,
  layer INTEGER NOT NULL REFERENCES layers(id), blob TEXT NOT NULL, media_type TEXT NOT NULL, bytes INTEGER NOT NULL,
  PRIMARY KEY(image, position)) WITHOUT ROWID;
CREATE INDEX image_layers_by_layer ON image_layers(layer);
CREATE TABLE names(name TEXT PRIMARY KEY, image TEXT NOT NULL REFERENCES images(manifest)) WITHOUT ROWID;
CREATE INDEX names_by_image ON names(image);
CREATE TABLE containers(
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  parent INTEGER REFERENCES layers(id),
  image TEXT, image_name TEXT NOT NULL, target TEXT NOT NULL DEFAULT '',
  quota_bytes INTEGER NOT NULL DEFAULT 0, quota_inodes INTEGER NOT NULL DEFAULT 0,
  created_ns INTEGER NOT NULL);
CREATE TABLE leases(id TEXT PRIMARY KEY, created_ns INTEGER NOT NULL, expires_ns INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE lease_refs(
  lease TEXT NOT NULL REFERENCES leases(id) ON DELETE CASCADE, ref TEXT NOT NULL,
  PRIMARY KEY(lease, ref)) WITHOUT ROWID;
INSERT INTO meta VALUES ('next_id', 1), ('id_mark', 1), ('boot', '');
)sql";
/// Since format 3.
constexpr const char *snapshot_schema = R"sql(
CREATE TABLE snapshots(
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  kind INTEGER NOT NULL CHECK(kind IN (1, 2, 3)),
  layer INTEGER,
  parent INTEGER REFERENCES snapshots(id),
  created_ns INTEGER NOT NULL, updated_ns INTEGER NOT NULL,
  ref TEXT NOT NULL, labels BLOB NOT NULL,
  bytes INTEGER, inodes INTEGER,
  synced INTEGER NOT NULL);
CREATE INDEX snapshots_by_parent ON snapshots(parent);
CREATE INDEX snapshots_by_layer ON snapshots(layer);
CREATE INDEX snapshots_by_ref ON snapshots(ref) WHERE ref <> '';
CREATE INDEX snapshots_unsynced ON snapshots(synced) WHERE synced = 0;
)sql";

Errc errc_of_sqlite(int code) {
    if (code == SQLITE_CONSTRAINT_UNIQUE || code == SQLITE_CONSTRAINT_PRIMARYKEY) return Errc::AlreadyExists;
    switch (code & 0xff) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return Errc::Unavailable;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_IOERR:
        return Errc::DataLoss;
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_CANTOPEN:
        return Errc::PermissionDenied;
    default:
        return Errc::Internal;
    }
}

/// SQLite calls what a full disk (or quota) refuses an I/O error, or a file that it cannot open.
bool is_out_of_room(sqlite3 *db, int code) {
    if ((code & 0xff) == SQLITE_FULL) return true;
    if ((code & 0xff) != SQLITE_IOERR && (code & 0xff) != SQLITE_CANTOPEN) return false;
    if (const int number = sqlite3_system_errno(db); number == ENOSPC || number == EDQUOT) return true;
    const char *file = sqlite3_db_filename(db, "main");
    struct statfs info{};
    // Less than it takes to begin: an index of 32 KiB, a log, on XFS a chunk of inodes.
    constexpr uint64_t least = uint64_t{256} << 10;
    return file != nullptr && ::statfs(file, &info) == 0 && info.f_blocks != 0 &&
           static_cast<uint64_t>(info.f_bavail) * static_cast<uint64_t>(info.f_bsize) < least;
}

Error failure(sqlite3 *db, int code, std::string text) {
    if (is_out_of_room(db, code))
        return {Errc::ResourceExhausted, ENOSPC,
                text + ": the file system of the store has no room, or its quota is used up; nothing was changed"};
    return {errc_of_sqlite(code), std::move(text)};
}

} // namespace

Result<std::unique_ptr<Connection>> Connection::open(const std::string &path, int flags) {
    std::unique_ptr<Connection> connection(new Connection);
    if (sqlite3_open_v2(path.c_str(), &connection->db_, flags, nullptr) != SQLITE_OK)
        return std::unexpected(connection->error("open " + path));
    sqlite3_extended_result_codes(connection->db_, 1);
    return connection;
}

Connection::~Connection() {
    for (const auto &[text, statement] : idle_)
        sqlite3_finalize(statement);
    sqlite3_close_v2(db_);
}

Result<sqlite3_stmt *> Connection::parse(std::string_view sql) {
    {
        const std::lock_guard lock(mutex_);
        if (auto kept = idle_.extract(sql); !kept.empty()) return kept.mapped();
    }
    sqlite3_stmt *statement = nullptr;
    if (sqlite3_prepare_v3(db_, sql.data(), static_cast<int>(sql.size()), SQLITE_PREPARE_PERSISTENT, &statement,
                           nullptr) != SQLITE_OK)
        return std::unexpected(error(sql));
    return statement;
}

void Connection::put_back(sqlite3_stmt *statement) noexcept {
    sqlite3_reset(statement); // its result is that of the last step, which has been told
    sqlite3_clear_bindings(statement);
    const std::lock_guard lock(mutex_);
    try {
        idle_.emplace(sqlite3_sql(statement), statement);
    } catch (const std::bad_alloc &) {
        sqlite3_finalize(statement);
    }
}

Error Connection::error(std::string_view doing) const {
    return failure(db_, sqlite3_extended_errcode(db_), fmt::format("records: {}: {}", doing, sqlite3_errmsg(db_)));
}

Statement::~Statement() {
    if (statement_ == nullptr) return;
    connection_->put_back(statement_);
    records_->give_back(*connection_);
}
Statement &Statement::bind(int64_t value) {
    sqlite3_bind_int64(statement_, next_++, value);
    return *this;
}
Statement &Statement::bind(std::string_view text) {
    sqlite3_bind_text64(statement_, next_++, text.data(), text.size(), SQLITE_TRANSIENT, SQLITE_UTF8);
    return *this;
}
Statement &Statement::bind_null() {
    sqlite3_bind_null(statement_, next_++);
    return *this;
}
Result<bool> Statement::step() {
    const int code = sqlite3_step(statement_);
    if (code == SQLITE_ROW) return true;
    if (code == SQLITE_DONE) return false;
    return std::unexpected(
        failure(connection_->db(), code,
                fmt::format("records: {} in \"{}\"", sqlite3_errmsg(connection_->db()), sqlite3_sql(statement_))));
}
Status Statement::run() {
    while (TRY(step())) {
    }
    return {};
}
std::string_view Statement::view(int column) const {
    const auto *bytes = reinterpret_cast<const char *>(sqlite3_column_text(statement_, column));
    return bytes == nullptr ? std::string_view()
                            : std::string_view(bytes, static_cast<size_t>(sqlite3_column_bytes(statement_, column)));
}
Digest Statement::digest(int column) const {
    return Digest::parse(text(column)).value_or(Digest());
}

Status Records::exec(const char *sql) {
    if (sqlite3_exec(writer_->db(), sql, nullptr, nullptr, nullptr) != SQLITE_OK)
        return std::unexpected(writer_->error(sql));
    return {};
}

Result<std::unique_ptr<Records>> Records::open(const std::string &path, bool durable, bool read_only, bool alone) {
    std::unique_ptr<Records> records(new Records);
    records->path_ = path;
    records->readers_.reserve(idle_readers);
    records->durable_ = durable;
    const int flags = read_only ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE;
    records->writer_ = TRY(Connection::open(path, flags | SQLITE_OPEN_FULLMUTEX));
    sqlite3 *db = records->writer_->db();
    records->shared_ = read_only || (alone && TRY(records->try_to_be_alone()));
    sqlite3_busy_timeout(db, busy_timeout_ms);
    // The log stays when the last process closes: a new one would want an inode, which a full file system has not got.
    int keep_log = 1;
    sqlite3_file_control(db, "main", SQLITE_FCNTL_PERSIST_WAL, &keep_log);
    TRY(records->exec(durable ? "PRAGMA foreign_keys=ON; PRAGMA synchronous=NORMAL"
                              : "PRAGMA foreign_keys=ON; PRAGMA synchronous=OFF"));
    if (!read_only) {
        // Two processes may create the store at once; the mode switch needs the file for a moment alone.
        TRY(records->exec("PRAGMA journal_mode=WAL"));
        TRY(records->create_schema());
    }
    int version = 0;
    {
        auto statement = TRY(records->on_writer("PRAGMA user_version"));
        if (TRY(statement.step())) version = static_cast<int>(statement.integer(0));
    }
    if (version != format_version)
        return fail(Errc::FailedPrecondition,
                    fmt::format("{} has record format {}, this shale reads format {}; use the shale that wrote it",
                                path, version, format_version));
    return records;
}

Result<bool> Records::try_to_be_alone() {
    // Said before the first access, EXCLUSIVE means no index file (sqlite.org/wal.html, "Use of WAL Without
    // Shared-Memory").
    TRY(exec("PRAGMA locking_mode=EXCLUSIVE"));
    const auto read = exec("SELECT 1 FROM sqlite_master");
    if (read) return true;
    if (read.error().code() != Errc::Unavailable) return std::unexpected(read.error());
    TRY(exec("PRAGMA locking_mode=NORMAL"));
    return false;
}

/// Makes a new database, or brings one of format 2 up to date.
Status Records::create_schema() {
    {
        auto version = TRY(on_writer("PRAGMA user_version"));
        if (TRY(version.step()) && version.integer(0) != 0 && version.integer(0) != 2) return {};
    }
    auto tx = TRY(begin(Sync::synced));
    auto again = TRY(tx.prepare("PRAGMA user_version"));
    const int64_t found = TRY(again.step()) ? again.integer(0) : 0;
    TRY(again.run());
    if (found != 0 && found != 2) return {};
    if (found == 0) TRY(exec(schema));
    TRY(exec(snapshot_schema));
    TRY(exec(fmt::format("PRAGMA user_version={}", format_version).c_str()));
    return tx.commit();
}

Records::~Records() {
    return_ids();
}

void Records::checkpoint_behind() {
    const std::lock_guard lock(mutex_);
    if (shared_ || checkpointer_.joinable()) return;
    checkpointer_ = std::jthread([this](const std::stop_token &stop) { write_back(stop); });
    sqlite3_wal_hook(writer_->db(), on_commit, this); // in place of SQLite's own
}

int Records::on_commit(void *records, sqlite3 *db, const char *name, int log_pages) {
    auto &self = *static_cast<Records *>(records);
    if (log_pages < long_log_pages) return SQLITE_OK;
    if (log_pages >= longest_log_pages)
        (void)sqlite3_wal_checkpoint_v2(db, name, SQLITE_CHECKPOINT_PASSIVE, nullptr, nullptr);
    {
        const std::lock_guard lock(self.log_mutex_);
        self.log_is_long_ = true;
    }
    self.log_wake_.notify_one();
    return SQLITE_OK;
}

/// PASSIVE: writers go on meanwhile. What fails is done at the next commit, or by it.
void Records::write_back(const std::stop_token &stop) {
    std::unique_ptr<Connection> connection;
    std::unique_lock lock(log_mutex_);
    while (log_wake_.wait(lock, stop, [&] { return log_is_long_; }) && !stop.stop_requested()) {
        log_is_long_ = false;
        lock.unlock();
        if (!connection)
            connection = Connection::open(path_, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX).value_or(nullptr);
        if (connection) {
            if (!durable_) (void)sqlite3_exec(connection->db(), "PRAGMA synchronous=OFF", nullptr, nullptr, nullptr);
            (void)sqlite3_wal_checkpoint_v2(connection->db(), "main", SQLITE_CHECKPOINT_PASSIVE, nullptr, nullptr);
        }
        lock.lock();
    }
}

Result<Statement> Records::on_writer(std::string_view sql) {
    return Statement(*this, *writer_, TRY(writer_->parse(sql)));
}

Result<Statement> Records::prepare(std::string_view sql) {
    if (shared_ || owner_.load() == std::this_thread::get_id()) return on_writer(sql);
    Connection *reader = TRY(take_reader());
    auto statement = reader->parse(sql);
    if (statement) return Statement(*this, *reader, *statement);
    give_back(*reader);
    return std::unexpected(std::move(statement).error());
}

Result<Connection *> Records::take_reader() {
    {
        const std::lock_guard lock(readers_mutex_);
        if (!readers_.empty()) {
            Connection *reader = readers_.back().release();
            readers_.pop_back();
            return reader;
        }
    }
    auto reader = TRY(Connection::open(path_, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX));
    sqlite3_busy_timeout(reader->db(), busy_timeout_ms);
    if (sqlite3_exec(reader->db(), "PRAGMA query_only=ON; PRAGMA cache_size=-4096", nullptr, nullptr, nullptr) !=
        SQLITE_OK)
        return std::unexpected(reader->error("a connection to read by"));
    return reader.release();
}

void Records::give_back(Connection &connection) noexcept {
    if (&connection == writer_.get()) return;
    std::unique_ptr<Connection> reader(&connection);
    const std::lock_guard lock(readers_mutex_);
    if (readers_.size() < idle_readers) readers_.push_back(std::move(reader)); // else it is closed
}

Status Records::run(std::string_view sql) {
    auto statement = TRY(on_writer(sql));
    return statement.run();
}

Status Records::set_sync(Sync sync) {
    if (!durable_ || sync == sync_) return {};
    TRY(exec(sync == Sync::synced ? "PRAGMA synchronous=FULL" : "PRAGMA synchronous=NORMAL"));
    sync_ = sync;
    return {};
}

Result<Records::Transaction> Records::begin(Sync sync) {
    std::unique_lock lock(mutex_, std::chrono::milliseconds(busy_timeout_ms));
    if (!lock) return fail(Errc::Unavailable, "records: others have been writing for a minute; nothing was changed");
    TRY(set_sync(sync));
    TRY(run("BEGIN IMMEDIATE"));
    owner_ = std::this_thread::get_id();
    return Transaction(*this, std::move(lock));
}

Records::Transaction::Transaction(Transaction &&other) noexcept
    : records_(std::exchange(other.records_, nullptr)), lock_(std::move(other.lock_)) {}

Records::Transaction::~Transaction() {
    if (records_ == nullptr) return;
    (void)records_->run("ROLLBACK");
    records_->end_transaction();
}

/// A read that is still open would keep the connection from waiting for its next turn.
void Records::end_transaction() noexcept {
    for (sqlite3_stmt *each = sqlite3_next_stmt(writer_->db(), nullptr); each != nullptr;
         each = sqlite3_next_stmt(writer_->db(), each))
        if (sqlite3_stmt_busy(each) != 0) sqlite3_reset(each);
    owner_ = std::thread::id();
}

Result<Statement> Records::Transaction::prepare(std::string_view sql) {
    return records_->on_writer(sql);
}

Status Records::Transaction::commit() {
    int injected = 0;
    do
        injected = sys::enter(sys::Op::record, -1, "commit");
    while (injected == EINTR);
    if (injected != 0) return fail_errno(injected, "records: commit");
    TRY(records_->run("COMMIT"));
    std::exchange(records_, nullptr)->end_transaction();
    lock_.unlock();
    return {};
}

Result<LayerId> Records::new_id() {
    const std::lock_guard lock(mutex_);
    if (spare_ == spare_end_) TRY(take_ids());
    return LayerId{spare_++};
}

Status Records::take_ids() {
    uint64_t next = 0;
    {
        auto tx = TRY(begin(Sync::relaxed));
        auto read = TRY(tx.prepare(
            "SELECT (SELECT value FROM meta WHERE key='next_id'), (SELECT value FROM meta WHERE key='id_mark')"));
        if (!TRY(read.step())) return fail(Errc::DataLoss, "records: meta has no id counter");
        next = read.count(0);
        const uint64_t mark = read.count(1);
        TRY(read.run());
        if (next + block_ <= mark) {
            auto write = TRY(tx.prepare("UPDATE meta SET value = ? WHERE key='next_id'"));
            TRY(write.bind(next + block_).run());
            TRY(tx.commit());
            spare_ = next;
            spare_end_ = next + block_;
            block_ = std::min(block_ * 2, id_block_max);
            return {};
        }
    }
    // The mark must be on disk before an id above the old one is used.
    {
        auto tx = TRY(begin(Sync::synced));
        auto raise = TRY(tx.prepare("UPDATE meta SET value = max(value, ?) WHERE key='id_mark'"));
        TRY(raise.bind(next + id_mark_step).run());
        TRY(tx.commit());
    }
    return take_ids();
}

void Records::return_ids() noexcept {
    if (spare_ == spare_end_) return;
    auto tx = begin(Sync::relaxed);
    if (!tx) return; // a gap in the numbers is no harm
    auto back = tx->prepare("UPDATE meta SET value = ? WHERE key='next_id' AND value = ?");
    if (back && back->bind(spare_).bind(spare_end_).run()) (void)tx->commit();
}

Result<std::string> Records::meta(std::string_view key) {
    auto statement = TRY(prepare("SELECT value FROM meta WHERE key = ?"));
    statement.bind(key);
    return TRY(statement.step()) ? statement.text(0) : std::string();
}

Status Records::copy_from(const std::string &path, std::string_view driver) {
    const std::lock_guard lock(mutex_);
    {
        auto attach = TRY(on_writer("ATTACH ? AS old"));
        TRY(attach.bind(std::string_view(path)).run());
    }
    const ScopeGuard detach([&] { (void)exec("DETACH old"); });
    std::vector<std::string> tables;
    {
        auto rows =
            TRY(on_writer("SELECT name FROM old.sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' "
                          "AND name NOT IN ('meta', 'migration') ORDER BY rowid"));
        while (TRY(rows.step()))
            tables.push_back(rows.text(0));
    }
    auto tx = TRY(begin(Sync::synced));
    TRY(exec("PRAGMA defer_foreign_keys=ON")); // until both loops have run
    // What an earlier copy or another store left goes first, all of it: SQLite copies whole tables without a look at
    // who refers to their rows.
    for (const auto &table : tables)
        TRY(exec(fmt::format("DELETE FROM main.\"{}\"", table).c_str()));
    for (const auto &table : tables)
        TRY(exec(fmt::format("INSERT INTO main.\"{0}\" SELECT * FROM old.\"{0}\"", table).c_str()));
    TRY(exec("INSERT OR REPLACE INTO main.meta SELECT * FROM old.meta WHERE key NOT IN ('driver', 'moved_to') "
             "AND key NOT LIKE 'migrat%'"));
    auto put = TRY(tx.prepare("INSERT OR REPLACE INTO meta VALUES ('driver', ?)"));
    TRY(put.bind(driver).run());
    return tx.commit();
}

namespace {
/// Without a boot id (no /proc) every open counts as the first: slower, never wrong.
std::string boot_id() {
    return sys::read_file(AT_FDCWD, "/proc/sys/kernel/random/boot_id", 100).value_or("unknown");
}
} // namespace

Result<bool> Records::boot_is_new() {
    const std::string boot = boot_id();
    return boot == "unknown" || TRY(meta("boot")) != boot;
}

Status Records::note_boot() {
    const std::string boot = boot_id();
    auto tx = TRY(begin(Sync::synced));
    auto jump =
        TRY(tx.prepare("UPDATE meta SET value = (SELECT value FROM meta WHERE key='id_mark') WHERE key='next_id'"));
    TRY(jump.run());
    auto mark = TRY(tx.prepare("UPDATE meta SET value = value + ? WHERE key='id_mark'"));
    TRY(mark.bind(id_mark_step).run());
    auto note = TRY(tx.prepare("UPDATE meta SET value = ? WHERE key='boot'"));
    TRY(note.bind(std::string_view(boot)).run());
    return tx.commit();
}

} // namespace shale::store
