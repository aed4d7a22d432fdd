// SPDX-License-Identifier: Apache-2.0
// Files, those that somebody writes at the same time first of all: the writer comes between two reads, through the
// seam. What is in them: bolt_test.cc.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "probe/bolt.h"
#include "probe/bolt_test_writer.h"
#include "probe/host.h"
#include "sys/fs.h"
#include "sys/seam.h"

namespace shale::probe {
namespace {

using namespace bolt_writer;
using testing::HasSubstr;

Bucket small() {
    Bucket out;
    out.values["a"] = "1";
    out.buckets["b"].values["c"] = std::string(10'000, 'c');
    return out;
}

/// Of transaction 1; its only page is page 3, a leaf.
std::string one_leaf(const std::vector<Item> &items) {
    File file;
    return file.done(file.add(leaf(3, items)));
}

/// Runs `action` before the nth read of this process, counted from 1.
class OnRead final : public sys::Hook {
public:
    explicit OnRead(std::function<void(int)> action) : action_(std::move(action)) { sys::set_hook(this); }
    OnRead(const OnRead &) = delete;
    OnRead &operator=(const OnRead &) = delete;
    ~OnRead() override { sys::set_hook(nullptr); }
    int before(const sys::Call &call) noexcept override {
        if (call.op == sys::Op::read) action_(++reads_);
        return 0;
    }

private:
    std::function<void(int)> action_;
    int reads_ = 0;
};

class BoltOpen : public testing::Test {
protected:
    void SetUp() override {
        root_ = testing::TempDir() + "shale-bolt-XXXXXX";
        ASSERT_NE(::mkdtemp(root_.data()), nullptr);
        auto host = Host::open(root_);
        ASSERT_TRUE(host) << host.error().text();
        host_ = std::move(*host);
    }
    void TearDown() override { (void)sys::remove_tree(AT_FDCWD, root_.c_str()); }
    void write(const std::string &bytes) {
        file_ = UniqueFd(::open((root_ + "/meta.db").c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
        put(0, bytes);
    }
    void put(uint64_t offset, const std::string &bytes) const {
        ASSERT_EQ(::pwrite(file_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset)),
                  static_cast<ssize_t>(bytes.size()));
    }
    /// A transaction that changes nothing else.
    void commit(uint64_t transaction) const { put(transaction % 2 * 4096, meta(transaction % 2, {3, 4, transaction})); }
    Result<BoltFile> open(size_t limit = BoltFile::default_limit) { return BoltFile::open(*host_, "/meta.db", limit); }

    std::string root_;
    std::optional<Host> host_;
    UniqueFd file_;
};

// A copy makes five reads here: both meta pages, the pages, both meta pages again.

TEST_F(BoltOpen, OneThatNobodyWrites) {
    write(database(small()));
    int reads = 0;
    const OnRead hook([&](int count) { reads = count; });
    const auto file = open();
    ASSERT_TRUE(file) << file.error().text();
    EXPECT_EQ(file->root().get("a").value(), "1");
    EXPECT_EQ(file->root().bucket("b").value()->get("c").value(), std::string(10'000, 'c'));
    EXPECT_EQ(reads, 5);
}

TEST_F(BoltOpen, ACommitDuringTheCopy) {
    for (const int at : {2, 3, 4}) {
        write(one_leaf({{"a", "old"}}));
        int reads = 0;
        const OnRead hook([&](int count) {
            reads = count;
            if (count != at) return;
            put(size_t{3} * 4096, leaf(3, {{"a", "new"}}));
            commit(2);
            commit(3);
        });
        const auto file = open();
        ASSERT_TRUE(file) << file.error().text();
        EXPECT_EQ(file->transaction(), 3U);
        EXPECT_EQ(file->root().get("a").value(), "new");
        EXPECT_EQ(reads, 10) << "the first copy counts for nothing";
    }
}

TEST_F(BoltOpen, OneThatGrowsDuringTheCopy) {
    write(one_leaf({{"a", "old"}}));
    const OnRead hook([&](int count) {
        if (count != 1) return; // before the meta pages are read, but after the size was first asked
        File file;
        file.add(leaf(3, {{"a", "old"}}));
        for (int i = 0; i < 100; ++i)
            file.add(leaf(file.next(), {}));
        put(0, file.done(file.add(leaf(file.next(), {{"a", "new"}})), 2));
    });
    const auto file = open();
    ASSERT_TRUE(file) << file.error().text();
    EXPECT_EQ(file->transaction(), 2U);
    const auto value = file->root().get("a");
    ASSERT_TRUE(value) << value.error().text();
    EXPECT_EQ(*value, "new");
}

TEST_F(BoltOpen, OneThatIsHalfCommitted) {
    write(one_leaf({{"a", "old"}}));
    std::string half = meta(0, {4, 5, 2});
    half[16 + 56] ^= 1;
    put(0, half);
    const auto file = open();
    ASSERT_TRUE(file) << file.error().text();
    EXPECT_EQ(file->transaction(), 1U);
    EXPECT_EQ(file->root().get("a").value(), "old");
}

TEST_F(BoltOpen, AMetaPageThatIsBeingWrittenIsAChange) {
    // Transaction 1 is the newest of a valid meta page before and after; still the copy does not count.
    write(one_leaf({{"a", "old"}}));
    std::string half = meta(0, {3, 4, 2});
    half[16 + 56] ^= 1;
    int reads = 0;
    const OnRead hook([&](int count) {
        reads = count;
        if (count == 4) put(0, half);
    });
    const auto file = open();
    ASSERT_TRUE(file) << file.error().text();
    // As the first meta page is bad, the second is looked for, and found at the third size.
    EXPECT_EQ(reads, (2 + 1 + 4) + (4 + 1 + 4));
}

TEST_F(BoltOpen, OneThatIsWrittenAllTheTime) {
    write(one_leaf({{"a", "1"}}));
    const OnRead hook([&](int count) { commit(static_cast<uint64_t>(count) + 1); });
    const auto file = open();
    ASSERT_FALSE(file);
    EXPECT_EQ(file.error().code(), Errc::Aborted);
    EXPECT_THAT(file.error().text(), HasSubstr("\"/meta.db\": is being written all the time"));
}

TEST_F(BoltOpen, OneThatIsBeingMade) {
    write("");
    const OnRead hook([&](int) {});
    auto file = open();
    ASSERT_FALSE(file);
    EXPECT_EQ(file.error().code(), Errc::DataLoss);
    EXPECT_THAT(file.error().text(), HasSubstr("\"/meta.db\": an empty file"));
    write(std::string(16384, '\0'));
    const OnRead second([&](int count) {
        if (count == 16) put(0, database(small())); // the last of the search for a meta page
    });
    file = open();
    EXPECT_TRUE(file) << file.error().text();
}

TEST_F(BoltOpen, OnlyWhatIsInUseIsRead) {
    const std::string bytes = database(small());
    write(bytes);
    ASSERT_EQ(::ftruncate(file_.get(), off_t{1} << 30U), 0);
    const auto file = open(bytes.size());
    ASSERT_TRUE(file) << file.error().text();
    const auto refused = open(bytes.size() - 1);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Errc::ResourceExhausted);
    EXPECT_THAT(refused.error().text(), HasSubstr(std::to_string(bytes.size())));
}

TEST_F(BoltOpen, OtherThings) {
    EXPECT_EQ(open().error().code(), Errc::NotFound);
    EXPECT_EQ(BoltFile::open(*host_, "/").error().code(), Errc::InvalidArgument);
    ASSERT_EQ(::mkfifo((root_ + "/meta.db").c_str(), 0600), 0);
    EXPECT_EQ(open().error().code(), Errc::InvalidArgument);
}

TEST_F(BoltOpen, AnUnreadableFile) {
    write(database(small()));
    struct Failing final : sys::Hook {
        Failing() { sys::set_hook(this); }
        ~Failing() override { sys::set_hook(nullptr); }
        int before(const sys::Call &call) noexcept override { return call.op == sys::Op::read ? EIO : 0; }
    };
    const Failing hook;
    const auto file = open();
    ASSERT_FALSE(file);
    EXPECT_EQ(file.error().sys_errno(), EIO);
}

} // namespace
} // namespace shale::probe
