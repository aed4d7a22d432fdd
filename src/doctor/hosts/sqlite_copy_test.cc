// SPDX-License-Identifier: Apache-2.0
#include "doctor/hosts/sqlite_copy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "probe/test_root.h"

namespace shale::doctor {
namespace {

using probe::TestRoot;
using testing::HasSubstr;

/// A real database of SQLite's, left open.
class Database {
public:
    explicit Database(const std::string &path, const char *mode = "WAL") {
        EXPECT_EQ(sqlite3_open(path.c_str(), &db_), SQLITE_OK);
        run(std::string("PRAGMA page_size=1024; PRAGMA journal_mode=") + mode);
        run("PRAGMA synchronous=OFF; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(n INTEGER, word TEXT)");
    }
    Database(const Database &) = delete;
    Database &operator=(const Database &) = delete;
    ~Database() { sqlite3_close(db_); }
    void run(const std::string &sql) const {
        EXPECT_EQ(sqlite3_exec(db_, sql.c_str(), nullptr, nullptr, nullptr), SQLITE_OK) << sqlite3_errmsg(db_);
    }

private:
    sqlite3 *db_ = nullptr;
};

std::string bytes_of(const std::string &path) {
    std::ostringstream out;
    out << std::ifstream(path, std::ios::binary).rdbuf();
    return out.str();
}

Result<int64_t> sum(const SqliteCopy &copy) {
    int64_t out = 0;
    TRY(copy.for_each("SELECT n FROM t", [&](const SqliteRow &row) {
        out += row.integer(0);
        return Status();
    }));
    return out;
}

int64_t sum_of(const std::string &database, const std::string &log) {
    const auto copy = SqliteCopy::from_bytes(database, log, "copy");
    if (!copy) return -1;
    return sum(*copy).value_or(-2);
}

class SqliteCopyTest : public testing::Test {
protected:
    [[nodiscard]] Result<SqliteCopy> read(size_t limit = SqliteCopy::default_limit) const {
        return SqliteCopy::read(root_.host(), "/a.db", limit);
    }
    [[nodiscard]] std::string path() const { return root_.here("/a.db"); }
    TestRoot root_;
};

TEST_F(SqliteCopyTest, ReadsWhatIsOnlyInTheLog) {
    const Database db(path());
    db.run("PRAGMA user_version=7; INSERT INTO t VALUES (1, 'one'), (2, NULL)");
    const auto before = bytes_of(path()), log = bytes_of(path() + "-wal");
    ASSERT_GT(log.size(), 1024);
    const auto copy = read();
    ASSERT_TRUE(copy) << copy.error().text();
    EXPECT_EQ(sum(*copy).value(), 3);
    EXPECT_EQ(copy->user_version().value(), 7);
    EXPECT_TRUE(copy->has_table("t").value());
    EXPECT_FALSE(copy->has_table("u").value());
    EXPECT_EQ(bytes_of(path()), before);
    EXPECT_EQ(bytes_of(path() + "-wal"), log);
    db.run("INSERT INTO t VALUES (10, '')");
    EXPECT_EQ(sum(*copy).value(), 3); // it is a copy
    EXPECT_EQ(sum(read().value()).value(), 13);
}

TEST_F(SqliteCopyTest, ALogThatBeganAnewHasOldFramesBehindNewOnes) {
    const Database db(path());
    for (int i = 0; i < 50; ++i)
        db.run("INSERT INTO t VALUES (1, hex(zeroblob(300)))");
    db.run("PRAGMA wal_checkpoint(RESTART)");
    db.run("DELETE FROM t WHERE rowid > 40");
    EXPECT_EQ(sum(read().value()).value(), 40);
}

TEST_F(SqliteCopyTest, TruncatedLogsEndWithTheirLastWholeTransaction) {
    const Database db(path());
    db.run("PRAGMA wal_checkpoint(TRUNCATE)");
    const std::string base = bytes_of(path());
    for (int i = 0; i < 5; ++i)
        db.run("INSERT INTO t VALUES (1, '')");
    const std::string log = bytes_of(path() + "-wal");
    constexpr size_t frame = 24 + 1024;
    ASSERT_EQ(log.size(), 32 + 5 * frame);
    for (size_t size = 0; size <= log.size(); size += size % frame == 31 ? 1 : 97) {
        const int64_t whole = size < 32 ? 0 : static_cast<int64_t>((size - 32) / frame);
        EXPECT_EQ(sum_of(base, log.substr(0, size)), whole) << size;
    }
    for (int i = 0; i < 5; ++i) { // a byte of each frame is wrong
        std::string damaged = log;
        damaged[32 + static_cast<size_t>(i) * frame + 500] ^= 1;
        EXPECT_EQ(sum_of(base, damaged), i);
    }
}

TEST_F(SqliteCopyTest, NoTransactionIsSeenInParts) {
    const Database db(path());
    db.run("PRAGMA cache_size=1; BEGIN");
    for (int i = 0; i < 200; ++i) // more than the cache holds: pages go to the log before the transaction ends
        db.run("INSERT INTO t VALUES (1, hex(zeroblob(400)))");
    ASSERT_GT(bytes_of(path() + "-wal").size(), 50'000);
    EXPECT_EQ(sum(read().value()).value(), 0);
    db.run("COMMIT");
    EXPECT_EQ(sum(read().value()).value(), 200);
}

TEST_F(SqliteCopyTest, ADatabaseThatLivesInItsLogAlone) {
    const Database db(path());
    db.run("INSERT INTO t VALUES (4, '')");
    EXPECT_EQ(sum_of("", bytes_of(path() + "-wal")), 4);
    EXPECT_EQ(sum_of("", ""), -1);
}

TEST_F(SqliteCopyTest, OtherJournalModes) {
    const Database db(path(), "DELETE");
    db.run("INSERT INTO t VALUES (5, '')");
    EXPECT_EQ(sum(read().value()).value(), 5);
    db.run("PRAGMA cache_size=1; BEGIN");
    for (int i = 0; i < 200; ++i) // pages of the open transaction go to the database
        db.run("INSERT INTO t VALUES (1, hex(zeroblob(400)))");
    const auto torn = read();
    ASSERT_FALSE(torn);
    EXPECT_EQ(torn.error().code(), Errc::Aborted);
    db.run("ROLLBACK");
    EXPECT_EQ(sum(read().value()).value(), 5);
}

TEST_F(SqliteCopyTest, WhatIsNoDatabaseIsRefused) {
    EXPECT_EQ(read().error().code(), Errc::NotFound);
    root_.file("/a.db", "");
    EXPECT_EQ(read().error().code(), Errc::DataLoss);
    EXPECT_THAT(read().error().text(), HasSubstr("0 bytes"));
    root_.file("/a.db", std::string(4096, 'x'));
    EXPECT_EQ(read().error().code(), Errc::DataLoss);
    std::filesystem::remove(path());
    root_.dir("/a.db");
    EXPECT_EQ(read().error().code(), Errc::InvalidArgument);
}

TEST_F(SqliteCopyTest, SizesAreBounded) {
    const Database db(path());
    db.run("INSERT INTO t VALUES (1, hex(zeroblob(100000)))");
    EXPECT_EQ(read(4096).error().code(), Errc::ResourceExhausted);
    const std::string base = bytes_of(path()), log = bytes_of(path() + "-wal");
    EXPECT_EQ(SqliteCopy::from_bytes(base, log, "copy", 100'000).error().code(), Errc::ResourceExhausted);
}

TEST_F(SqliteCopyTest, AViewWithoutEndIsEnded) {
    const Database db(path());
    db.run("DROP TABLE t; CREATE VIEW t AS WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) "
           "SELECT max(n) AS n FROM c");
    const auto endless = sum(read().value());
    ASSERT_FALSE(endless);
    EXPECT_EQ(endless.error().code(), Errc::ResourceExhausted);
}

TEST_F(SqliteCopyTest, DamagedBytesEndInErrors) {
    std::string base;
    {
        const Database db(path(), "DELETE");
        for (int i = 0; i < 40; ++i)
            db.run("INSERT INTO t VALUES (1, hex(zeroblob(100)))");
        base = bytes_of(path());
    }
    int errors = 0;
    for (size_t at = 0; at < base.size(); at += 97) {
        std::string damaged = base;
        damaged[at] = static_cast<char>(~damaged[at]);
        errors += sum_of(damaged, "") < 0 ? 1 : 0; // no crash, and it ends
    }
    EXPECT_GT(errors, 0);
}

} // namespace
} // namespace shale::doctor
