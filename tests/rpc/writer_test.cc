// SPDX-License-Identifier: Apache-2.0
// Others write to the records while shaled serves eight clients: a command imports and removes images, and one holds
// the database's write lock for moments. Calls wait for their turn; none is told that the store is not available. The
// clients do not repeat what a living server answers (support/snapshot_client.h). Records are every driver's alike, so
// this is on the one that works everywhere.
#include <fmt/format.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <atomic>
#include <chrono>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "store/records.h"
#include "store/snapshots.h"
#include "support/shaled.h"
#include "support/snapshot_client.h"
#include "support/world.h"

namespace shale::test {
namespace {

using grpc::StatusCode;
using std::chrono::milliseconds;

constexpr unsigned clients = 8, cycles = 8;

class Writer : public testing::Test {
protected:
    void SetUp() override {
        shaled_.emplace(shaled_arguments("vfs", world_ / "root", world_ / "sock"), world_ / "log");
        client_.emplace(world_ / "sock");
        ASSERT_TRUE(client_->prepare("first", "", nullptr).ok()); // the store is made
        ASSERT_TRUE(client_->commit("base", "first").ok());
        write_docker_archive(world_ / "image.tar", {{{file("a"), "a"}}, {{file("b"), "b"}}}, "image:1");
    }
    /// Transactions that take their time, with as long a pause after them at most.
    void hold_the_lock(const std::stop_token &stop) {
        const auto records = store::Records::open(world_ / "root/shale.db", true, false);
        ASSERT_TRUE(records) << records.error().text();
        std::mt19937 random(3);
        const auto hold = [&]() -> Status {
            auto tx = TRY((*records)->begin(store::Sync::synced));
            auto put = TRY(tx.prepare("INSERT OR REPLACE INTO meta VALUES ('test', ?)"));
            TRY(put.bind(uint64_t{held_}).run());
            std::this_thread::sleep_for(milliseconds(5 + random() % 20));
            return tx.commit();
        };
        for (; !stop.stop_requested(); ++held_) {
            const Status done = hold();
            ASSERT_TRUE(done) << done.error().text();
            std::this_thread::sleep_for(milliseconds(1 + random() % 10));
        }
    }
    /// As commands do: the store is opened for each.
    void import_and_remove(const std::stop_token &stop) {
        for (; !stop.stop_requested(); ++imported_) {
            const auto store = open_store(world_ / "root", "vfs");
            store::ImportRequest request;
            request.source = world_ / "image.tar";
            const auto made = store->import_images(request, {});
            ASSERT_TRUE(made) << made.error().text();
            const auto removed = store->remove_image("image:1", false, false);
            ASSERT_TRUE(removed) << removed.error().text();
        }
    }

    void expect_ok(const Answer &answer, const std::string &what) {
        EXPECT_FALSE(answer.repeated) << what;
        EXPECT_TRUE(answer.ok()) << what << ": " << answer.text();
        if (answer.is(StatusCode::UNAVAILABLE)) ++unavailable_;
    }
    void live(unsigned number) {
        SnapshotClient client(world_ / "sock");
        for (unsigned n = 0; n < cycles && !HasFailure(); ++n) {
            const std::string key = fmt::format("ns{}/{}/active", number, n), name = fmt::format("ns{}/{}", number, n);
            SnapshotClient::Mounts mounts;
            wire::Info info;
            std::map<std::string, wire::Info> listed;
            expect_ok(client.prepare(key, n % 2 == 0 ? "base" : "", &mounts, {{"n", name}}), "Prepare " + key);
            expect_ok(client.mounts(key, &mounts), "Mounts " + key);
            expect_ok(client.stat(key, &info), "Stat " + key);
            expect_ok(client.list({}, &listed), "List");
            EXPECT_TRUE(listed.contains(key) && listed.contains("base"));
            expect_ok(client.update(key, {{"n", ""}}, {"labels.n"}, &info), "Update " + key);
            expect_ok(client.commit(name, key), "Commit " + name);
            expect_ok(client.stat(name, &info), "Stat " + name);
            EXPECT_EQ(info.kind(), wire::COMMITTED);
            expect_ok(client.list({fmt::format("name==\"{}\"", name)}, &listed), "List of " + name);
            EXPECT_EQ(listed.size(), 1U);
            expect_ok(client.remove(name), "Remove " + name);
        }
    }

    World world_{"vfs"};
    std::optional<Shaled> shaled_;
    std::optional<SnapshotClient> client_;
    std::atomic<unsigned> held_{0}, imported_{0}, unavailable_{0};
};

TEST_F(Writer, NoCallIsRefusedWhileOthersWrite) {
    {
        const std::jthread holder([this](const std::stop_token &stop) { hold_the_lock(stop); });
        const std::jthread importer([this](const std::stop_token &stop) { import_and_remove(stop); });
        std::vector<std::jthread> threads;
        for (unsigned n = 0; n < clients; ++n)
            threads.emplace_back([this, n] { live(n); });
    }
    EXPECT_EQ(unavailable_, 0U);
    ASSERT_FALSE(HasFailure()) << read_all(world_ / "log");
    EXPECT_GT(held_, 20U) << "hardly anybody has written meanwhile";
    EXPECT_GT(imported_, 0U);

    expect_ok(client_->remove("base"), "Remove base");
    std::map<std::string, wire::Info> listed;
    expect_ok(client_->list({}, &listed), "List");
    EXPECT_TRUE(listed.empty());
    client_.reset(); // a client that does not read the farewell holds up the end
    EXPECT_EQ(shaled_->end(SIGTERM), 0) << "it ends in order";
    const auto store = open_store(world_ / "root", "vfs");
    const auto checked = store->check(store::CheckLevel::full, {});
    ASSERT_TRUE(checked) << checked.error().text();
    for (const auto &problem : checked->problems)
        ADD_FAILURE() << problem.object << ": " << problem.what;
}

} // namespace
} // namespace shale::test
