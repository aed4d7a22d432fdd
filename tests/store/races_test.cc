// SPDX-License-Identifier: Apache-2.0
// What another process does between two steps of this one, made to happen exactly there: a hook on the seam acts for
// it.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <thread>

#include "store/records.h"
#include "support/world.h"
#include "sys/seam.h"

namespace shale::test {
namespace {

/// Runs `act` once, right before the first call of that kind.
class Before : public sys::Hook {
public:
    Before(sys::Op op, std::function<void()> act, unsigned nth = 1) : op_(op), left_(nth), act_(std::move(act)) {
        sys::set_hook(this);
    }
    ~Before() override { sys::set_hook(nullptr); }
    Before(const Before &) = delete;
    Before &operator=(const Before &) = delete;
    int before(const sys::Call &call) noexcept override {
        if (call.op != op_ || left_ == 0 || --left_ != 0) return 0;
        ran_ = true;
        act_();
        return 0;
    }
    [[nodiscard]] bool ran() const noexcept { return ran_; }

private:
    sys::Op op_;
    unsigned left_;
    std::function<void()> act_;
    bool ran_ = false;
};

class RacesTest : public testing::Test {
protected:
    std::unique_ptr<store::Store> open() { return open_store(world_ / "root", "vfs"); }
    store::ImageInfo import(store::Store &store, const std::string &name, const std::string &content = "a") {
        write_docker_archive(world_ / "image.tar", {{{file("a"), content}}}, name);
        store::ImportRequest request;
        request.source = world_ / "image.tar";
        const auto imported = store.import_images(request, {});
        EXPECT_TRUE(imported) << imported.error().text();
        return imported ? imported->at(0).image : store::ImageInfo{};
    }
    World world_;
};

TEST_F(RacesTest, AContainerReplacedWhileItsLockWasWaitedForIsNotTakenForTheOld) {
    auto mine = open(), other = open();
    ASSERT_TRUE(mine->create_container("", "web", {}));
    LayerId fresh;
    {
        const Before replace(sys::Op::lock, [&] {
            ASSERT_TRUE(other->remove_container("web", false));
            const auto made = other->create_container("", "web", {});
            ASSERT_TRUE(made);
            fresh = made->id;
        });
        const auto removed = mine->remove_container("web", false);
        ASSERT_TRUE(replace.ran());
        ASSERT_FALSE(removed);
        EXPECT_EQ(removed.error().code(), Errc::Aborted) << removed.error().text();
    }
    EXPECT_EQ(mine->find_container("web")->id, fresh) << "the new one is untouched";
}

TEST_F(RacesTest, AContainerRemovedWhileItsLockWasWaitedForIsNotFound) {
    auto mine = open(), other = open();
    ASSERT_TRUE(mine->create_container("", "web", {}));
    const Before remove(sys::Op::lock, [&] { ASSERT_TRUE(other->remove_container("web", false)); });
    EXPECT_EQ(mine->mount_container("web").error().code(), Errc::NotFound);
    EXPECT_TRUE(remove.ran());
}

TEST_F(RacesTest, CheckDoesNotTakeAContainerInTheMakingForALeftover) {
    auto mine = open(), other = open();
    store::CheckReport seen;
    {
        // Its directory is there, its row is not: the last commit of create_container is about to be made.
        const Before look(sys::Op::record, [&] { seen = *other->check(store::CheckLevel::quick, {}); }, 2);
        ASSERT_TRUE(mine->create_container("", "web", {}));
        ASSERT_TRUE(look.ran());
    }
    for (const auto &problem : seen.problems)
        ADD_FAILURE() << problem.object << " " << problem.what;
    // A directory that nobody is making is one.
    std::filesystem::create_directory(world_ / "root/vfs/999");
    const auto report = other->check(store::CheckLevel::quick, {});
    ASSERT_TRUE(report);
    ASSERT_EQ(report->problems.size(), 1U);
    EXPECT_EQ(report->problems[0].object, "directory of layer 999");
}

TEST_F(RacesTest, RecoveryLeavesALayerThatBecameReadyAfterItsFirstLook) {
    {
        import(*open(), "demo:1");
    }
    auto records = store::Records::open(world_ / "root/shale.db", true, false);
    ASSERT_TRUE(records);
    auto sql = [&](const char *text) {
        auto tx = (*records)->begin(store::Sync::relaxed);
        ASSERT_TRUE(tx);
        const auto done = tx->prepare(text)->run();
        ASSERT_TRUE(done) << done.error().text();
        ASSERT_TRUE(tx->commit());
    };
    // The intent of a process that is gone by the time its session is probed, and that had finished in between.
    sql("UPDATE layers SET state = 'staging', session = 12345");
    {
        // The third lock of an opening store: its session's, the turn to open, then the probe of the other session.
        const Before finish(sys::Op::lock, [&] { sql("UPDATE layers SET state = 'ready'"); }, 3);
        auto store = open();
        ASSERT_TRUE(store);
        EXPECT_TRUE(finish.ran());
        EXPECT_EQ(store->list_layers()->size(), 1U);
        EXPECT_EQ(store->driver().list()->size(), 1U) << "its tree stays";
    }
    EXPECT_TRUE(open()->check(store::CheckLevel::data, {})->problems.empty());
}

TEST_F(RacesTest, TwoReapersShareTheTrash) {
    auto mine = open(), other = open();
    constexpr int containers = 8, files = 300;
    for (int i = 0; i < containers; ++i) {
        const auto made = mine->create_container("", "c", {});
        ASSERT_TRUE(made);
        const auto at = mine->mount_container("c");
        ASSERT_TRUE(at);
        for (int f = 0; f < files; ++f)
            std::ofstream(*at + "/" + std::to_string(f)) << f;
        ASSERT_TRUE(mine->remove_container("c", false));
    }
    Result<uint64_t> first = uint64_t{0}, second = uint64_t{0};
    std::thread thread([&] { second = other->reap(); });
    first = mine->reap();
    thread.join();
    ASSERT_TRUE(first) << first.error().text();
    ASSERT_TRUE(second) << second.error().text();
    EXPECT_GE(*first + *second, uint64_t{containers} * files);
    EXPECT_EQ(mine->driver().trash()->layers, 0U);
}

TEST_F(RacesTest, AnImageWhoseNameMovedAwayIsCollectedUnlessALeaseHoldsIt) {
    auto store = open();
    const auto first = import(*store, "demo:1", "first");
    const auto second = import(*store, "demo:1", "second");
    ASSERT_NE(first.manifest, second.manifest);
    EXPECT_TRUE(store->find_image(first.manifest.text())) << "until gc it is there, without a name";
    const auto lease = store->create_lease("hold", std::nullopt);
    ASSERT_TRUE(lease);
    ASSERT_TRUE(store->add_lease_ref("hold", "image:" + first.manifest.text()));
    ASSERT_TRUE(store->gc(false));
    EXPECT_TRUE(store->find_image(first.manifest.text()));
    EXPECT_EQ(store->list_layers()->size(), 2U);
    EXPECT_TRUE(store->check(store::CheckLevel::data, {})->problems.empty()) << "and whole: its blobs stay too";
    ASSERT_TRUE(store->delete_lease("hold"));
    ASSERT_TRUE(store->gc(false));
    EXPECT_EQ(store->find_image(first.manifest.text()).error().code(), Errc::NotFound);
    ASSERT_EQ(store->list_layers()->size(), 1U);
    EXPECT_EQ(store->list_layers()->at(0).id, second.layers.at(0).id);
}

} // namespace
} // namespace shale::test
