// SPDX-License-Identifier: Apache-2.0
// Connections of the records: what reads and writers of one process and of several see of each other.
#include "store/records.h"

#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <future>
#include <thread>

#include "support/world.h"

namespace shale::test {
namespace {

using store::Records;
using store::Sync;

class RecordsTest : public testing::Test {
protected:
    std::unique_ptr<Records> open() {
        auto opened = Records::open(world_ / "shale.db", true, false);
        EXPECT_TRUE(opened) << opened.error().text();
        return opened ? std::move(*opened) : nullptr;
    }
    static Status put(Records &records, std::string_view key, int64_t value) {
        auto tx = TRY(records.begin(Sync::relaxed));
        auto row = TRY(tx.prepare("INSERT OR REPLACE INTO meta VALUES (?, ?)"));
        TRY(row.bind(key).bind(value).run());
        return tx.commit();
    }
    World world_;
};

TEST_F(RecordsTest, AWriterWaitsItsTurnWhateverIsRead) {
    const auto ours = open(), theirs = open(); // as two processes have them
    auto reading = ours->prepare("SELECT key FROM meta");
    ASSERT_TRUE(reading && *reading->step()) << "a read that has begun";
    auto other = theirs->begin(Sync::synced);
    ASSERT_TRUE(other);
    ASSERT_TRUE(other->prepare("INSERT INTO meta VALUES ('theirs', 1)")->run());
    auto written = std::async(std::launch::async, [&] { return put(*ours, "ours", 2); });
    EXPECT_EQ(written.wait_for(std::chrono::milliseconds(200)), std::future_status::timeout) << "it waits";
    EXPECT_EQ(*ours->meta("ours"), "") << "reads wait for nobody";
    ASSERT_TRUE(other->commit());
    const Status done = written.get();
    EXPECT_TRUE(done) << done.error().text();
    EXPECT_EQ(*theirs->meta("ours"), "2");
    EXPECT_EQ(*ours->meta("theirs"), "1");
}

TEST_F(RecordsTest, NobodySeesAChangeBeforeItIsCommitted) {
    const auto records = open();
    ASSERT_TRUE(put(*records, "it", 1));
    {
        auto tx = records->begin(Sync::relaxed);
        ASSERT_TRUE(tx->prepare("UPDATE meta SET value = 2 WHERE key = 'it'")->run());
        EXPECT_EQ(*records->meta("it"), "2") << "the transaction's own thread does";
        std::thread([&] { EXPECT_EQ(*records->meta("it"), "1"); }).join();
    }
    EXPECT_EQ(*records->meta("it"), "1") << "rolled back";
}

TEST_F(RecordsTest, OutsideATransactionNothingIsChanged) {
    const auto records = open();
    auto write = records->prepare("INSERT INTO meta VALUES ('it', 1)");
    EXPECT_FALSE(write && write->run());
    EXPECT_EQ(*records->meta("it"), "");
}

TEST_F(RecordsTest, AReadThatATransactionLeftOpenDoesNotKeepTheNextFromWaiting) {
    const auto ours = open(), theirs = open();
    auto tx = ours->begin(Sync::relaxed);
    auto reading = tx->prepare("SELECT key FROM meta");
    ASSERT_TRUE(*reading->step());
    ASSERT_TRUE(tx->commit());
    auto other = theirs->begin(Sync::relaxed);
    ASSERT_TRUE(other);
    auto written = std::async(std::launch::async, [&] { return put(*ours, "ours", 2); });
    EXPECT_EQ(written.wait_for(std::chrono::milliseconds(200)), std::future_status::timeout);
    ASSERT_TRUE(other->commit());
    const Status done = written.get();
    EXPECT_TRUE(done) << done.error().text();
}

/// How often the log began anew (sqlite.org/fileformat2.html, "WAL Header": the checkpoint sequence number).
uint32_t turns_of(const std::string &log) {
    const std::string header = read_all(log).substr(12, 4);
    uint32_t out = 0;
    for (const char byte : header)
        out = out << 8U | static_cast<unsigned char>(byte);
    return out;
}

TEST_F(RecordsTest, TheLogIsWrittenBackBehindAndIsBounded) {
    const auto records = open();
    records->checkpoint_behind();
    ASSERT_TRUE(put(*records, "k", -1));
    const std::string log = world_ / "shale.db-wal";
    const uint32_t before = turns_of(log);
    bool anew = false;
    for (int n = 0; n < 100'000 && !anew; ++n) {
        ASSERT_TRUE(put(*records, "k", n));
        anew = n % 1'000 == 999 && turns_of(log) != before;
    }
    EXPECT_TRUE(anew);
    EXPECT_LT(std::filesystem::file_size(log), uintmax_t{25'000} * 4'120) << "also under writers that never rest";
}

TEST_F(RecordsTest, ReadersManyAtOnce) {
    const auto records = open();
    std::vector<std::jthread> threads;
    for (int t = 0; t < 12; ++t)
        threads.emplace_back([&, t] {
            for (int n = 0; n < 50; ++n) {
                EXPECT_TRUE(put(*records, "k" + std::to_string(t), n));
                EXPECT_EQ(*records->meta("k" + std::to_string(t)), std::to_string(n));
            }
        });
}

} // namespace
} // namespace shale::test
