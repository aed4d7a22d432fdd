// SPDX-License-Identifier: Apache-2.0
#include "doctor/hosts/sqlite_copy.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <map>
#include <optional>
#include <span>
#include <thread>
#include <utility>

#include "sys/fs.h"

namespace shale::doctor {
namespace {

// sqlite.org/fileformat2.html: 1.3 the database header, 4.1 and 4.2 the log's header, frames and checksums.
constexpr std::string_view magic{"SQLite format 3\0", 16};
constexpr size_t header_bytes = 100, log_header_bytes = 32, frame_header_bytes = 24;
constexpr size_t write_version_at = 18, read_version_at = 19; ///< 1: rollback journal, 2: log
constexpr uint32_t log_magic = 0x377f0682;                    ///< + 1: its checksums are of big-endian words
constexpr uint32_t log_version = 3007000;
/// First bytes of a rollback journal that counts; a finished one is empty, gone, or begins with zeros.
constexpr std::string_view journal_magic{"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7", 8};

constexpr int attempts = 5;
constexpr int ops_between_looks = 10'000, looks = 2'000; ///< of a statement: 20 million steps of SQLite's machine
constexpr int longest_value = 16 << 20;

uint32_t big32(std::string_view bytes, size_t at) {
    std::array<unsigned char, 4> b{};
    std::memcpy(b.data(), bytes.data() + at, b.size());
    return uint32_t{b[0]} << 24U | uint32_t{b[1]} << 16U | uint32_t{b[2]} << 8U | uint32_t{b[3]};
}

bool is_page_size(uint32_t bytes) {
    return bytes >= 512 && bytes <= 65'536 && (bytes & (bytes - 1)) == 0;
}

/// 0: `database` is too short to have a header.
uint32_t page_size_of(std::string_view database) {
    if (database.size() < header_bytes) return 0;
    const uint32_t stored = big32(database, 16) >> 16U;
    return stored == 1 ? 65'536 : stored;
}

/// The log's running checksum.
struct Checksum {
    bool big_endian = false;
    uint32_t a = 0, b = 0;

    void add(std::string_view bytes) {
        for (size_t at = 0; at + 8 <= bytes.size(); at += 8) {
            a += word(bytes, at) + b;
            b += word(bytes, at + 4) + a;
        }
    }
    [[nodiscard]] bool is_at(std::string_view bytes, size_t at) const {
        return big32(bytes, at) == a && big32(bytes, at + 4) == b;
    }

private:
    [[nodiscard]] uint32_t word(std::string_view bytes, size_t at) const {
        const uint32_t value = big32(bytes, at);
        return big_endian ? value : __builtin_bswap32(value);
    }
};

/// What a log's whole transactions say.
struct Log {
    uint32_t page_bytes = 0;
    uint32_t pages = 0;                ///< of the database, after the last transaction; 0: there is none
    std::map<uint32_t, size_t> frames; ///< page -> where its last content begins in the log
};

/// nullopt: it begins with no good header, which to SQLite is an empty log.
Result<std::optional<Log>> read_log(std::string_view bytes) {
    if (bytes.size() < log_header_bytes) return std::nullopt;
    const uint32_t kind = big32(bytes, 0);
    if ((kind & ~1U) != log_magic) return std::nullopt;
    Log log;
    log.page_bytes = big32(bytes, 8);
    if (!is_page_size(log.page_bytes)) return std::nullopt;
    Checksum sum{.big_endian = (kind & 1U) != 0};
    sum.add(bytes.substr(0, 24));
    if (!sum.is_at(bytes, 24)) return std::nullopt;
    if (const uint32_t version = big32(bytes, 4); version != log_version)
        return fail(Errc::Unimplemented, fmt::format("its log has version {}, not {}", version, log_version));
    const std::string_view salt = bytes.substr(16, 8);
    std::map<uint32_t, size_t> open; ///< of the transaction whose end has not come yet
    const size_t frame_bytes = frame_header_bytes + log.page_bytes;
    for (size_t at = log_header_bytes; bytes.size() - at >= frame_bytes; at += frame_bytes) {
        const uint32_t page = big32(bytes, at);
        if (page == 0 || bytes.substr(at + 8, 8) != salt) break;
        sum.add(bytes.substr(at, 8));
        sum.add(bytes.substr(at + frame_header_bytes, log.page_bytes));
        if (!sum.is_at(bytes, at + 16)) break;
        open.insert_or_assign(page, at + frame_header_bytes);
        const uint32_t pages = big32(bytes, at + 4);
        if (pages == 0) continue;
        log.pages = pages;
        for (const auto &[number, where] : std::exchange(open, {}))
            log.frames.insert_or_assign(number, where);
    }
    return log;
}

/// A file as far as it is there.
Result<std::string> read_or_empty(const probe::Host &host, const std::string &path, size_t limit) {
    return TRY(host.read_if_there(path, limit)).value_or(std::string());
}

/// The first bytes of a file, as many as there are; a missing one has none.
Result<std::string> first_bytes(const probe::Host &host, const std::string &path, size_t count) {
    const auto status = TRY(host.stat(path));
    if (!status) return std::string();
    if (!S_ISREG(status->st_mode)) return fail(Errc::InvalidArgument, fmt::format("{}: not a regular file", path));
    const auto fd = host.open_path(path, O_RDONLY);
    if (!fd && fd.error().sys_errno() == ENOENT) return std::string();
    if (!fd) return std::unexpected(fd.error());
    std::string out(count, '\0');
    size_t filled = 0;
    while (filled < count) {
        const size_t got =
            TRY(sys::pread_some(fd->get(), std::as_writable_bytes(std::span(out)).subspan(filled), filled));
        if (got == 0) break;
        filled += got;
    }
    out.resize(filled);
    return out;
}

/// By what a change is told.
struct Mark {
    bool there = false;
    ino_t inode = 0;
    off_t size = 0;
    timespec changed{};
    std::string header, log, journal;

    [[nodiscard]] bool same_file(const Mark &other) const { return there == other.there && inode == other.inode; }
    [[nodiscard]] bool same_data(const Mark &other) const {
        return same_file(other) && size == other.size && header == other.header &&
               changed.tv_sec == other.changed.tv_sec && changed.tv_nsec == other.changed.tv_nsec;
    }
    [[nodiscard]] bool has_hot_journal() const { return journal == journal_magic; }
};

Result<Mark> mark(const probe::Host &host, const std::string &path) {
    Mark out;
    if (const auto status = TRY(host.stat(path))) {
        out.there = true;
        out.inode = status->st_ino;
        out.size = status->st_size;
        out.changed = status->st_mtim;
    }
    out.header = TRY(first_bytes(host, path, header_bytes));
    out.log = TRY(first_bytes(host, path + "-wal", log_header_bytes));
    out.journal = TRY(first_bytes(host, path + "-journal", journal_magic.size()));
    return out;
}

bool is_one_state(const Mark &before, const Mark &after) {
    if (before.has_hot_journal() || after.has_hot_journal() || before.log != after.log) return false;
    return before.log.size() == log_header_bytes ? before.same_file(after) : before.same_data(after);
}

struct Bytes {
    std::string database, log;
};

/// nullopt: a writer was at work.
Result<std::optional<Bytes>> read_once(const probe::Host &host, const std::string &path, size_t limit) {
    const Mark before = TRY(mark(host, path));
    if (!before.there) return fail_errno(ENOENT, fmt::format("open {:?}", path));
    Bytes out;
    out.database = TRY(host.read(path, limit));
    out.log = TRY(read_or_empty(host, path + "-wal", limit));
    const Mark after = TRY(mark(host, path));
    if (!is_one_state(before, after) || out.log.substr(0, log_header_bytes) != after.log) return std::nullopt;
    return out;
}

/// What `data` points to counts the looks at a statement.
int look(void *data) {
    return ++*static_cast<int *>(data) > looks ? 1 : 0;
}

struct Finalize {
    void operator()(sqlite3_stmt *statement) const noexcept { sqlite3_finalize(statement); }
};

} // namespace

std::string_view SqliteRow::text(int column) const {
    const auto *bytes = reinterpret_cast<const char *>(sqlite3_column_text(statement_, column));
    return bytes == nullptr ? std::string_view()
                            : std::string_view(bytes, static_cast<size_t>(sqlite3_column_bytes(statement_, column)));
}

uint64_t SqliteRow::count(int column) const {
    return static_cast<uint64_t>(std::max<int64_t>(integer(column), 0));
}

Result<std::string> apply_log(std::string database, std::string_view log_bytes, size_t limit) {
    if (!database.empty() && !database.starts_with(magic)) return fail(Errc::DataLoss, "not an SQLite database");
    const auto log = TRY(read_log(log_bytes));
    if (log && log->pages != 0) {
        const uint32_t page_bytes = page_size_of(database);
        if (page_bytes != 0 && page_bytes != log->page_bytes)
            return fail(Errc::DataLoss,
                        fmt::format("its pages have {} bytes, those of its log {}", page_bytes, log->page_bytes));
        const uint64_t bytes = uint64_t{log->pages} * log->page_bytes;
        if (bytes > limit) return fail(Errc::ResourceExhausted, fmt::format("{} bytes, more than {}", bytes, limit));
        database.resize(bytes);
        for (const auto &[page, at] : log->frames)
            if (page <= log->pages)
                log_bytes.copy(database.data() + uint64_t{page - 1} * log->page_bytes, log->page_bytes, at);
    }
    if (database.size() < header_bytes || !database.starts_with(magic))
        return fail(Errc::DataLoss, fmt::format("not an SQLite database ({} bytes{})", database.size(),
                                                database.empty() ? ": an unclean shutdown leaves such files" : ""));
    return database;
}

Result<SqliteCopy> SqliteCopy::from_bytes(std::string database, std::string_view log, const std::string &name,
                                          size_t limit) {
    SqliteCopy copy;
    copy.name_ = name;
    auto whole = in_context(apply_log(std::move(database), log, limit), [&] { return name; });
    copy.bytes_ = std::make_unique<std::string>(TRY(std::move(whole)));
    // sqlite3_deserialize refuses a database in WAL mode; its documentation names these two bytes.
    copy.bytes_->at(write_version_at) = copy.bytes_->at(read_version_at) = 1;
    TRY(copy.open());
    return copy;
}

Result<SqliteCopy> SqliteCopy::read(const probe::Host &host, const std::string &path, size_t limit) {
    for (int i = 0; i < attempts; ++i) {
        if (i != 0) std::this_thread::sleep_for(std::chrono::milliseconds(10 << i));
        if (auto bytes = TRY(read_once(host, path, limit)))
            return from_bytes(std::move(bytes->database), bytes->log, path, limit);
    }
    return fail(Errc::Aborted, fmt::format("{}: read {} times, and each time it was being written, or a writer has "
                                           "died in the middle of a transaction",
                                           path, attempts));
}

Status SqliteCopy::open() {
    sqlite3 *db = nullptr;
    const int opened =
        sqlite3_open_v2(":memory:", &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_MEMORY | SQLITE_OPEN_NOMUTEX, nullptr);
    db_.reset(db);
    if (opened != SQLITE_OK) return fail(Errc::Internal, fmt::format("{}: SQLite has no memory", name_));
    // What may lie in a database that others made: sqlite.org/security.html.
    sqlite3_db_config(db, SQLITE_DBCONFIG_DEFENSIVE, 1, nullptr);
    sqlite3_db_config(db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, nullptr);
    sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, nullptr);
    sqlite3_limit(db, SQLITE_LIMIT_LENGTH, longest_value);
    sqlite3_limit(db, SQLITE_LIMIT_ATTACHED, 0);
    const auto size = static_cast<sqlite3_int64>(bytes_->size());
    auto *bytes = reinterpret_cast<unsigned char *>(bytes_->data());
    if (sqlite3_deserialize(db, "main", bytes, size, size, SQLITE_DESERIALIZE_READONLY) != SQLITE_OK)
        return failed("open");
    return for_each("PRAGMA cell_size_check=ON", [](const SqliteRow &) { return Status(); });
}

std::unexpected<Error> SqliteCopy::failed(std::string_view doing) const {
    const int code = sqlite3_errcode(db_.get()) & 0xff;
    const Errc kind = code == SQLITE_INTERRUPT || code == SQLITE_NOMEM || code == SQLITE_TOOBIG
                          ? Errc::ResourceExhausted
                          : Errc::DataLoss;
    return fail(kind, fmt::format("{}: {}: {}", name_, doing, sqlite3_errmsg(db_.get())));
}

Status SqliteCopy::for_each(std::string_view sql, const std::function<Status(const SqliteRow &)> &visit) const {
    int looked = 0;
    sqlite3_progress_handler(db_.get(), ops_between_looks, look, &looked);
    const ScopeGuard forget([&] { sqlite3_progress_handler(db_.get(), 0, nullptr, nullptr); });
    sqlite3_stmt *parsed = nullptr;
    if (sqlite3_prepare_v2(db_.get(), sql.data(), static_cast<int>(sql.size()), &parsed, nullptr) != SQLITE_OK)
        return failed(sql);
    const std::unique_ptr<sqlite3_stmt, Finalize> statement(parsed);
    while (true) {
        const int code = sqlite3_step(parsed);
        if (code == SQLITE_DONE) return {};
        if (code != SQLITE_ROW) return failed(sql);
        TRY(visit(SqliteRow(parsed)));
    }
}

Result<int64_t> SqliteCopy::user_version() const {
    int64_t out = 0;
    TRY(for_each("PRAGMA user_version", [&](const SqliteRow &row) {
        out = row.integer(0);
        return Status();
    }));
    return out;
}

Result<bool> SqliteCopy::has_table(std::string_view name) const {
    bool found = false;
    TRY(for_each("SELECT name FROM sqlite_master WHERE type = 'table'", [&](const SqliteRow &row) {
        found = found || row.text(0) == name;
        return Status();
    }));
    return found;
}

} // namespace shale::doctor
