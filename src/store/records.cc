// SPDX-License-Identifier: Apache-2.0
#include "store/records.h"

#include <fmt/format.h>
#include <sys/vfs.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "base/fd.h"
#include "sys/fs.h"
#include "sys/seam.h"

namespace shale::store {
namespace {

constexpr int format_version = 2;
constexpr uint64_t id_mark_step = 1024, id_block_max = 64;
constexpr int busy_timeout_ms = 120'000;

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

Errc errc_of_sqlite(int code) {
    switch (code & 0xff) {
    case SQLITE_FULL:
        return Errc::ResourceExhausted;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return Errc::Unavailable;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_IOERR:
        return Errc::DataLoss;
    case SQLITE_CONSTRAINT:
        return Errc::AlreadyExists;
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_CANTOPEN:
        return Errc::PermissionDenied;
    default:
        return Errc::Internal;
    }
}

/// SQLite knows a full disk, but calls a quota that is used up an I/O error.
bool is_out_of_room(sqlite3 *db) {
    if (sqlite3_system_errno(db) == EDQUOT) return true;
    const char *file = sqlite3_db_filename(db, "main");
    struct statfs info{};
    return file != nullptr && ::statfs(file, &info) == 0 && info.f_blocks != 0 && info.f_bavail == 0;
}

Error failure(sqlite3 *db, int code, std::string text) {
    if ((code & 0xff) == SQLITE_IOERR && is_out_of_room(db))
        return {Errc::ResourceExhausted, EDQUOT,
                text + ": the file system of the store has no room, or its quota is used up; nothing was changed"};
    return {errc_of_sqlite(code), std::move(text)};
}

} // namespace

Statement::~Statement() {
    if (statement_ != nullptr) records_->put_back(statement_);
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
        failure(records_->db_, code,
                fmt::format("records: {} in \"{}\"", sqlite3_errmsg(records_->db_), sqlite3_sql(statement_))));
}
Status Statement::run() {
    while (TRY(step())) {
    }
    return {};
}
std::string Statement::text(int column) const {
    const auto *bytes = reinterpret_cast<const char *>(sqlite3_column_text(statement_, column));
    return bytes == nullptr ? std::string()
                            : std::string(bytes, static_cast<size_t>(sqlite3_column_bytes(statement_, column)));
}
Digest Statement::digest(int column) const {
    return Digest::parse(text(column)).value_or(Digest());
}

Error Records::error(std::string_view doing) const {
    return failure(db_, sqlite3_errcode(db_), fmt::format("records: {}: {}", doing, sqlite3_errmsg(db_)));
}

Status Records::exec(const char *sql) {
    if (sqlite3_exec(db_, sql, nullptr, nullptr, nullptr) != SQLITE_OK) return std::unexpected(error(sql));
    return {};
}

Result<std::unique_ptr<Records>> Records::open(const std::string &path, bool durable, bool read_only) {
    std::unique_ptr<Records> records(new Records);
    records->durable_ = durable;
    const int flags = read_only ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE;
    if (sqlite3_open_v2(path.c_str(), &records->db_, flags | SQLITE_OPEN_FULLMUTEX, nullptr) != SQLITE_OK)
        return std::unexpected(records->error("open " + path));
    sqlite3_busy_timeout(records->db_, busy_timeout_ms);
    TRY(records->exec(durable ? "PRAGMA foreign_keys=ON; PRAGMA synchronous=NORMAL"
                              : "PRAGMA foreign_keys=ON; PRAGMA synchronous=OFF"));
    if (!read_only) {
        // Two processes may create the store at once; the mode switch needs the file for a moment alone.
        TRY(records->exec("PRAGMA journal_mode=WAL"));
        TRY(records->create_schema());
    }
    int version = 0;
    {
        auto statement = TRY(records->prepare("PRAGMA user_version"));
        if (TRY(statement.step())) version = static_cast<int>(statement.integer(0));
    }
    if (version != format_version)
        return fail(Errc::FailedPrecondition,
                    fmt::format("{} has record format {}, this shale reads format {}; use the shale that wrote it",
                                path, version, format_version));
    return records;
}

Status Records::create_schema() {
    auto version = TRY(prepare("PRAGMA user_version"));
    if (TRY(version.step()) && version.integer(0) != 0) return {};
    auto tx = TRY(begin(Sync::synced));
    auto again = TRY(tx.prepare("PRAGMA user_version"));
    if (TRY(again.step()) && again.integer(0) != 0) return {};
    TRY(again.run());
    TRY(exec(schema));
    TRY(exec(fmt::format("PRAGMA user_version={}", format_version).c_str()));
    return tx.commit();
}

Records::~Records() {
    return_ids();
    for (const auto &[text, statement] : idle_)
        sqlite3_finalize(statement);
    sqlite3_close_v2(db_);
}

Result<Statement> Records::prepare(std::string_view sql) {
    {
        const std::lock_guard lock(idle_mutex_);
        if (auto kept = idle_.extract(sql); !kept.empty()) return Statement(*this, kept.mapped());
    }
    sqlite3_stmt *statement = nullptr;
    if (sqlite3_prepare_v3(db_, sql.data(), static_cast<int>(sql.size()), SQLITE_PREPARE_PERSISTENT, &statement,
                           nullptr) != SQLITE_OK)
        return std::unexpected(error(sql));
    return Statement(*this, statement);
}

void Records::put_back(sqlite3_stmt *statement) noexcept {
    sqlite3_reset(statement); // its result is that of the last step, which has been told
    sqlite3_clear_bindings(statement);
    const std::lock_guard lock(idle_mutex_);
    try {
        idle_.emplace(sqlite3_sql(statement), statement);
    } catch (const std::bad_alloc &) {
        sqlite3_finalize(statement);
    }
}

Status Records::run(std::string_view sql) {
    auto statement = TRY(prepare(sql));
    return statement.run();
}

Status Records::set_sync(Sync sync) {
    if (!durable_ || sync == sync_) return {};
    TRY(exec(sync == Sync::synced ? "PRAGMA synchronous=FULL" : "PRAGMA synchronous=NORMAL"));
    sync_ = sync;
    return {};
}

Result<Records::Transaction> Records::begin(Sync sync) {
    std::unique_lock lock(mutex_);
    TRY(set_sync(sync));
    TRY(run("BEGIN IMMEDIATE"));
    return Transaction(*this, std::move(lock));
}

Records::Transaction::Transaction(Transaction &&other) noexcept
    : records_(std::exchange(other.records_, nullptr)), lock_(std::move(other.lock_)) {}

Records::Transaction::~Transaction() {
    if (records_ != nullptr) (void)records_->run("ROLLBACK");
}

Result<Statement> Records::Transaction::prepare(std::string_view sql) {
    return records_->prepare(sql);
}

Status Records::Transaction::commit() {
    int injected = 0;
    do
        injected = sys::enter(sys::Op::record, -1, "commit");
    while (injected == EINTR);
    if (injected != 0) return fail_errno(injected, "records: commit");
    TRY(records_->run("COMMIT"));
    records_ = nullptr;
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
    {
        auto attach = TRY(prepare("ATTACH ? AS old"));
        TRY(attach.bind(std::string_view(path)).run());
    }
    const ScopeGuard detach([&] { (void)exec("DETACH old"); });
    std::vector<std::string> tables;
    {
        auto rows = TRY(prepare("SELECT name FROM old.sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' "
                                "AND name NOT IN ('meta', 'migration')"));
        while (TRY(rows.step()))
            tables.push_back(rows.text(0));
    }
    auto tx = TRY(begin(Sync::synced));
    TRY(exec("PRAGMA defer_foreign_keys=ON")); // whatever the order of the tables
    for (const auto &table : tables)
        TRY(exec(fmt::format("DELETE FROM main.\"{0}\"; INSERT INTO main.\"{0}\" SELECT * FROM old.\"{0}\"", table)
                     .c_str()));
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
