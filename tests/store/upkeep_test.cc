// SPDX-License-Identifier: Apache-2.0
// What a served store does behind its clients' backs, when that fails.
#include "store/upkeep.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <functional>
#include <thread>

#include "store/snapshots.h"
#include "support/world.h"
#include "sys/seam.h"

namespace shale::test {
namespace {

using testing::HasSubstr;

/// Other threads' next call of a kind fails: the upkeep's.
class FailOthers : public sys::Hook {
public:
    FailOthers(sys::Op op, int error) : op_(op), error_(error) { sys::set_hook(this); }
    ~FailOthers() override { sys::set_hook(nullptr); }
    int before(const sys::Call &call) noexcept override {
        return call.op == op_ && std::this_thread::get_id() != thread_ && !failed.exchange(true) ? error_ : 0;
    }
    std::atomic<bool> failed{false};

private:
    sys::Op op_;
    int error_;
    std::thread::id thread_ = std::this_thread::get_id();
};

class UpkeepTest : public testing::Test {
protected:
    void SetUp() override {
        if (const auto why = cannot_mount(); !why.empty()) GTEST_SKIP() << why;
        reopen();
    }
    void reopen() {
        all_.reset();
        store_.reset();
        store_ = open_store(world_ / "root", "overlay2");
        all_ = std::make_unique<store::Snapshots>(*store_);
    }
    static bool wait_for(const std::function<bool()> &what) {
        for (int n = 0; n < 6'000 && !what(); ++n)
            std::this_thread::sleep_for(std::chrono::milliseconds(10));
        return what();
    }
    World world_;
    std::unique_ptr<store::Store> store_;
    std::unique_ptr<store::Snapshots> all_;
};

TEST_F(UpkeepTest, ASyncThatHadNotTheMeansIsDoneAgain) {
    ASSERT_TRUE(all_->prepare("key", "", {}));
    {
        FailOthers sync(sys::Op::syncfs, EMFILE);
        ASSERT_TRUE(all_->commit("name", "key", {}, {}));
        EXPECT_TRUE(wait_for([&] { return all_->upkeep().sync_failures == 1; }));
    }
    EXPECT_THAT(all_->upkeep().last_failure, HasSubstr("could not be synced"));
    EXPECT_TRUE(wait_for([&] { return all_->upkeep().synced == 1; }));
    EXPECT_EQ(all_->counts()->unsynced, 0U);
}

/// An unpack is under way, whose layers would wait for this one's sync: it may take half a minute until that comes.
TEST_F(UpkeepTest, WhatStopsIsSyncedFirst) {
    ASSERT_TRUE(all_->prepare("extract", "", {{std::string(store::ref_label), "sha256:next"}}));
    ASSERT_TRUE(all_->prepare("key", "", {}));
    ASSERT_TRUE(all_->commit("name", "key", {}, {}));
    all_.reset();
    all_ = std::make_unique<store::Snapshots>(*store_);
    EXPECT_EQ(all_->counts()->unsynced, 0U);
}

TEST_F(UpkeepTest, ACleanupSyncsWhatWaits) {
    ASSERT_TRUE(all_->prepare("extract", "", {{std::string(store::ref_label), "sha256:next"}}));
    ASSERT_TRUE(all_->prepare("key", "", {}));
    ASSERT_TRUE(all_->commit("name", "key", {}, {}));
    ASSERT_TRUE(all_->cleanup());
    EXPECT_TRUE(wait_for([&] { return all_->upkeep().synced == 1; }));
    EXPECT_EQ(all_->counts()->unsynced, 0U);
}

/// The kernel tells only once that it lost something, and the next sync succeeds.
TEST_F(UpkeepTest, WhatTheKernelCouldNotWriteIsNeverTrusted) {
    ASSERT_TRUE(all_->prepare("key", "", {}));
    {
        FailOthers sync(sys::Op::syncfs, EIO);
        ASSERT_TRUE(all_->commit("lost", "key", {}, {}));
        EXPECT_TRUE(wait_for([&] { return all_->upkeep().sync_failures == 1; }));
    }
    EXPECT_THAT(all_->upkeep().last_failure, HasSubstr("could not be written"));
    ASSERT_TRUE(all_->prepare("key", "", {}));
    ASSERT_TRUE(all_->commit("later", "key", {}, {}));
    EXPECT_TRUE(wait_for([&] { return all_->upkeep().synced == 1; })) << "the next is synced";
    reopen(); // and so would be what waits
    ASSERT_TRUE(all_->prepare("key", "", {}));
    ASSERT_TRUE(all_->commit("last", "key", {}, {}));
    EXPECT_TRUE(wait_for([&] { return all_->upkeep().synced == 1; }));
    EXPECT_EQ(all_->counts()->unsynced, 1U);
    const auto checked = store_->check(store::CheckLevel::quick, {});
    ASSERT_TRUE(checked);
    ASSERT_EQ(checked->problems.size(), 1U);
    EXPECT_EQ(checked->problems[0].object, "snapshot lost");
}

/// A disk without room for the record of that keeps nothing from being remembered.
TEST_F(UpkeepTest, WhatWasLostIsRecordedWhenTheRecordsHaveRoomAgain) {
    class FailBoth : public sys::Hook {
    public:
        int before(const sys::Call &call) noexcept override {
            if (std::this_thread::get_id() == thread_) return 0;
            if (call.op == sys::Op::syncfs && !sync_.exchange(true)) return EIO;
            return call.op == sys::Op::record && sync_ && !record_.exchange(true) ? ENOSPC : 0;
        }

    private:
        std::atomic<bool> sync_{false}, record_{false};
        std::thread::id thread_ = std::this_thread::get_id();
    } hook;
    const auto failed = [&] {
        const auto checked = store_->check(store::CheckLevel::quick, {});
        return checked && checked->problems.size() == 1 && checked->problems[0].object == "snapshot lost";
    };
    ASSERT_TRUE(all_->prepare("key", "", {}));
    sys::set_hook(&hook);
    const auto committed = all_->commit("lost", "key", {}, {});
    const bool heard = wait_for([&] { return all_->upkeep().sync_failures == 1; });
    sys::set_hook(nullptr);
    ASSERT_TRUE(committed && heard);
    EXPECT_FALSE(failed());
    EXPECT_TRUE(wait_for(failed));
    EXPECT_EQ(all_->upkeep().synced, 0U);
    EXPECT_EQ(all_->counts()->unsynced, 1U);
}

} // namespace
} // namespace shale::test
