// SPDX-License-Identifier: Apache-2.0
// Fifty clients at once, each with a connection of its own and a model of what it made: every answer is compared with
// the model, also those about parents that all of them share. At the end nothing is left.
#include <fmt/format.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <thread>

#include "store/snapshots.h"
#include "support/shaled.h"
#include "support/snapshot_client.h"
#include "support/world.h"

namespace shale::test {
namespace {

using grpc::StatusCode;

constexpr unsigned shared_count = 3, deepest = 6;
/// In a guest a call of one of them takes seconds, and they wait for each other.
unsigned client_count() {
    return in_guest() ? 8 : 50;
}
unsigned steps() {
    return in_guest() ? 10 : 25;
}
/// There it has one processor to itself for most of the time, and the clients' connections time out.
std::chrono::seconds check_pause() {
    return std::chrono::seconds(in_guest() ? 10 : 0);
}

/// What a snapshot is, as far as who made it knows.
struct Known {
    wire::Kind kind = wire::ACTIVE;
    std::string parent;
    SnapshotClient::Labels labels;
    std::set<std::string> files; ///< in its tree, with the parents'
    unsigned depth = 1;
};
using Model = std::map<std::string, Known>;

/// The first thing that is not as it should be; ends the client's work.
struct Surprise {
    std::string what;
};
void expect(bool as_expected, const std::string &what) {
    if (!as_expected) throw Surprise{what};
}
void expect(const Answer &answer, StatusCode code, const std::string &what) {
    expect(answer.is(code), fmt::format("{}: {}, not {}", what, answer.text(), static_cast<int>(code)));
}

std::set<std::string> files_in(const std::string &at) {
    std::set<std::string> out;
    for (const auto &entry : std::filesystem::directory_iterator(at))
        out.insert(entry.path().filename());
    return out;
}

class Worker {
public:
    Worker(unsigned number, const std::string &socket, const World &world, const Model &shared)
        : number_(number), at_(world / fmt::format("at{}", number)), client_(socket), shared_(shared), random_(number) {
        std::filesystem::create_directory(at_);
    }
    /// Both: what surprised it, or nothing.
    std::string live() {
        return catching([&] {
            for (unsigned n = 0; n < steps(); ++n)
                step(n);
            check_list();
        });
    }
    std::string clear() {
        return catching([&] {
            while (!mine_.empty())
                for (auto one = mine_.begin(); one != mine_.end();) {
                    const std::string name = one->first;
                    ++one;
                    if (!has_children(name)) drop(name);
                }
            check_list();
        });
    }
    [[nodiscard]] const Model &mine() const { return mine_; }

private:
    std::string catching(const std::function<void()> &body) {
        try {
            body();
        } catch (const Surprise &surprise) {
            return surprise.what;
        } catch (const std::exception &error) {
            return error.what();
        }
        return {};
    }
    std::string any(const std::function<bool(const Known &)> &wanted) {
        std::vector<std::string> names;
        for (const auto &[name, one] : mine_)
            if (wanted(one)) names.push_back(name);
        return names.empty() ? std::string() : names[random_() % names.size()];
    }
    std::string any_parent() {
        if (random_() % 8 == 0) return {};
        auto mine = any([](const Known &one) { return one.kind == wire::COMMITTED && one.depth < deepest; });
        if (!mine.empty() && random_() % 2 == 0) return mine;
        return std::next(shared_.begin(), static_cast<ptrdiff_t>(random_() % shared_.size()))->first;
    }
    [[nodiscard]] const Known *known(const std::string &name) const {
        if (const auto one = mine_.find(name); one != mine_.end()) return &one->second;
        const auto one = shared_.find(name);
        return one == shared_.end() ? nullptr : &one->second;
    }
    [[nodiscard]] bool has_children(const std::string &name) const {
        return std::ranges::any_of(mine_, [&](const auto &one) { return one.second.parent == name; });
    }
    std::string key(std::string_view what, unsigned n) {
        return fmt::format("ns{}/{}/{} {}", number_, n, what, random_());
    }

    /// The tree behind `mounts` is what the model says; an active one gets another file.
    void look_in(const std::string &key, const SnapshotClient::Mounts &mounts) {
        Known &one = mine_.at(key);
        std::set<std::string> found;
        const std::string added = fmt::format("{}-{}", number_, random_());
        const auto failed = in_mounts(mounts, at_, [&] {
            found = files_in(at_);
            if (one.kind == wire::ACTIVE) std::ofstream(at_ + "/" + added) << key;
        });
        expect(failed.empty(), key + ": " + failed);
        expect(found == one.files,
               fmt::format("{} has {} files, not {}", key, fmt::join(found, " "), fmt::join(one.files, " ")));
        if (one.kind == wire::ACTIVE) one.files.insert(added);
    }

    void make(unsigned n, wire::Kind kind) {
        const std::string name = key(kind == wire::VIEW ? "view" : "active", n), parent = any_parent();
        Known one{kind, parent, {}, {}, 1};
        if (const auto *below = known(parent)) {
            one.files = below->files;
            one.depth = below->depth + 1;
        }
        SnapshotClient::Mounts mounts;
        if (kind == wire::VIEW) {
            expect(client_.view(name, parent, &mounts), StatusCode::OK, "View " + name);
        } else {
            one.labels = {{"of", std::to_string(number_)}, {"containerd.io/snapshot/n", std::to_string(n)}};
            expect(client_.prepare(name, parent, &mounts, one.labels), StatusCode::OK, "Prepare " + name);
        }
        mine_[name] = one;
        look_in(name, mounts);
        expect(client_.prepare(name, parent, nullptr), StatusCode::ALREADY_EXISTS, "Prepare again " + name);
    }
    void commit(unsigned n) {
        const std::string from = any([](const Known &one) { return one.kind == wire::ACTIVE; });
        if (from.empty()) return;
        const std::string name = key("committed", n);
        const SnapshotClient::Labels labels{{"containerd.io/snapshot.ref", fmt::format("sha256:{}-{}", number_, n)}};
        // Taken: by another of its own, or by one that all share.
        const std::string taken = random_() % 2 == 0 ? any([](const Known &) { return true; }) : shared_.begin()->first;
        expect(client_.commit(taken, from), StatusCode::ALREADY_EXISTS, "Commit on a taken name " + taken);
        expect(client_.commit(name, from, labels), StatusCode::OK, "Commit " + name);
        Known one = mine_.at(from);
        mine_.erase(from);
        one.kind = wire::COMMITTED;
        one.labels = labels;
        mine_[name] = one;
        expect(client_.commit(name, from), StatusCode::NOT_FOUND, "Commit of what was committed " + from);
        // A later one that wants the same layer is told to take this one.
        const auto ref = labels.begin()->second;
        expect(client_.prepare(key("again", n), one.parent, nullptr, labels), StatusCode::ALREADY_EXISTS,
               "Prepare with the label of " + name);
        std::map<std::string, wire::Info> found;
        expect(client_.list({fmt::format(R"(labels."containerd.io/snapshot.ref"=={},parent=="{}")", ref, one.parent)},
                            &found),
               StatusCode::OK, "List of " + ref);
        expect(found.size() == 1 && found.begin()->first == name, "List by label does not find " + name);
    }
    void drop(const std::string &name) {
        const auto answer = client_.remove(name);
        if (has_children(name)) {
            expect(answer, StatusCode::FAILED_PRECONDITION, "Remove of a parent " + name);
            return;
        }
        expect(answer, StatusCode::OK, "Remove " + name);
        mine_.erase(name);
        wire::Info info;
        expect(client_.stat(name, &info), StatusCode::NOT_FOUND, "Stat of what was removed " + name);
        expect(client_.remove(name), StatusCode::NOT_FOUND, "Remove again " + name);
    }
    void remove() {
        const std::string name = any([](const Known &) { return true; });
        if (!name.empty()) drop(name);
        for (const auto &[shared, one] : shared_)
            if (has_children(shared)) {
                expect(client_.remove(shared), StatusCode::FAILED_PRECONDITION, "Remove of a shared parent");
                break;
            }
    }
    void compare(const wire::Info &info, const std::string &name, const Known &one) {
        expect(info.name() == name && info.kind() == one.kind && info.parent() == one.parent,
               fmt::format("{} is said to be {} of kind {} on {}", name, info.name(), static_cast<int>(info.kind()),
                           info.parent()));
        expect(SnapshotClient::Labels(info.labels().begin(), info.labels().end()) == one.labels,
               "other labels: " + name);
    }
    void stat_and_update(unsigned n) {
        const std::string name = any([](const Known &) { return true; });
        if (name.empty()) return;
        Known &one = mine_.at(name);
        wire::Info before, after;
        expect(client_.stat(name, &before), StatusCode::OK, "Stat " + name);
        compare(before, name, one);
        one.labels["changed"] = std::to_string(n);
        one.labels.erase("of");
        expect(client_.update(name, {{"changed", std::to_string(n)}}, {"labels.changed", "labels.of"}, &after),
               StatusCode::OK, "Update " + name);
        compare(after, name, one);
        expect(after.created_at().nanos() == before.created_at().nanos(), "Update changed created_at of " + name);
        expect(client_.update(name, {}, {"kind"}, &after), StatusCode::INVALID_ARGUMENT, "Update of the kind");
    }
    void mounts_and_usage() {
        const std::string name = any([](const Known &) { return true; });
        if (name.empty()) return;
        const Known &one = mine_.at(name);
        SnapshotClient::Mounts mounts;
        const auto answer = client_.mounts(name, &mounts);
        if (one.kind == wire::COMMITTED) {
            expect(answer, StatusCode::FAILED_PRECONDITION, "Mounts of a committed one");
        } else {
            expect(answer, StatusCode::OK, "Mounts " + name);
            look_in(name, mounts);
        }
        drivers::Usage usage;
        expect(client_.usage(name, &usage), StatusCode::OK, "Usage " + name);
        if (one.kind == wire::VIEW && !one.parent.empty())
            expect(usage.inodes == 0, fmt::format("a view uses {} inodes", usage.inodes));
        expect(client_.usage(name + "?", &usage), StatusCode::NOT_FOUND, "Usage of nothing");
    }
    void check_list() {
        std::map<std::string, wire::Info> found;
        expect(client_.list({fmt::format("name~=\"^ns{}/\"", number_)}, &found), StatusCode::OK, "List");
        expect(found.size() == mine_.size(), fmt::format("{} are listed, not {}", found.size(), mine_.size()));
        for (const auto &[name, info] : found) {
            expect(mine_.contains(name), name + " is listed");
            compare(info, name, mine_.at(name));
        }
    }
    void step(unsigned n) {
        switch (random_() % 10) {
        case 0:
        case 1:
        case 2:
            make(n, wire::ACTIVE);
            break;
        case 3:
            make(n, wire::VIEW);
            break;
        case 4:
        case 5:
            commit(n);
            break;
        case 6:
            remove();
            break;
        case 7:
            stat_and_update(n);
            break;
        case 8:
            mounts_and_usage();
            break;
        default:
            random_() % 4 == 0 ? expect(client_.cleanup(), StatusCode::OK, "Cleanup") : check_list();
        }
    }

    unsigned number_;
    std::string at_;
    SnapshotClient client_;
    const Model &shared_;
    Model mine_;
    std::mt19937 random_;
};

class Clients : public testing::TestWithParam<std::string> {
protected:
    void SetUp() override {
        if (const auto why = cannot_load(GetParam()); !why.empty()) GTEST_SKIP() << why;
        shaled_.emplace(shaled_arguments(GetParam(), world_ / "root", world_ / "sock"), world_ / "log");
        client_.emplace(world_ / "sock");
    }
    /// Committed snapshots, one on the other, each with a file.
    void make_shared() {
        std::filesystem::create_directory(world_ / "at");
        std::string parent;
        for (unsigned n = 0; n < shared_count; ++n) {
            SnapshotClient::Mounts mounts;
            const auto made = client_->prepare("make", parent, &mounts);
            ASSERT_TRUE(made.ok()) << made.text();
            const std::string name = fmt::format("shared {}", n);
            ASSERT_EQ(in_mounts(mounts, world_ / "at", [&] { std::ofstream(world_ / ("at/" + name)) << name; }), "");
            ASSERT_TRUE(client_->commit(name, "make").ok());
            Known one{wire::COMMITTED, parent, {}, {name}, n + 1};
            if (n > 0) one.files.insert(shared_.at(parent).files.begin(), shared_.at(parent).files.end());
            shared_[name] = one;
            parent = name;
        }
    }
    void all_at_once(const std::function<std::string(Worker &)> &body) {
        std::vector<std::string> surprises(workers_.size());
        std::vector<std::thread> threads;
        for (size_t n = 0; n < workers_.size(); ++n)
            threads.emplace_back([&, n] { surprises[n] = body(*workers_[n]); });
        for (auto &thread : threads)
            thread.join();
        for (const auto &surprise : surprises)
            if (!surprise.empty()) ADD_FAILURE() << surprise;
    }
    void check_store() {
        const auto store = open_store(world_ / "root", GetParam());
        check(*store);
    }
    static void check(store::Store &store) {
        const auto checked = store.check(store::CheckLevel::full, {});
        ASSERT_TRUE(checked) << checked.error().text();
        for (const auto &problem : checked->problems)
            ADD_FAILURE() << problem.object << ": " << problem.what;
    }

    World world_{GetParam()};
    std::optional<Shaled> shaled_;
    std::optional<SnapshotClient> client_;
    Model shared_;
    std::vector<std::unique_ptr<Worker>> workers_;
};

TEST_P(Clients, FiftyAtOnceAreEachAnsweredAsIfAlone) {
    ASSERT_NO_FATAL_FAILURE(make_shared());
    for (unsigned n = 0; n < client_count(); ++n)
        workers_.push_back(std::make_unique<Worker>(n, world_ / "sock", world_, shared_));
    {
        const auto store = open_store(world_ / "root", GetParam());
        const std::jthread checker([&](const std::stop_token &stop) {
            while (!stop.stop_requested()) { // what comes and goes meanwhile is no problem
                check(*store);
                std::this_thread::sleep_for(check_pause());
            }
        });
        all_at_once([](Worker &worker) { return worker.live(); });
    }
    ASSERT_FALSE(HasFailure()) << read_all(world_ / "log");

    std::map<std::string, wire::Info> listed;
    ASSERT_TRUE(client_->list({}, &listed).ok());
    size_t expected = shared_.size();
    for (const auto &worker : workers_)
        expected += worker->mine().size();
    EXPECT_EQ(listed.size(), expected);
    check_store();

    all_at_once([](Worker &worker) { return worker.clear(); });
    for (auto one = shared_.rbegin(); one != shared_.rend(); ++one) {
        const auto removed = client_->remove(one->first);
        EXPECT_TRUE(removed.ok()) << removed.text();
    }
    ASSERT_TRUE(client_->list({}, &listed).ok());
    EXPECT_TRUE(listed.empty());
    ASSERT_TRUE(client_->cleanup().ok());
    workers_.clear(); // a client that does not read the farewell holds up the end
    client_.reset();
    EXPECT_EQ(shaled_->end(SIGTERM), 0) << "it ends in order";

    const auto store = open_store(world_ / "root", GetParam());
    EXPECT_EQ(store->driver().trash()->layers, 0U);
    EXPECT_TRUE(store->driver().list()->empty());
    check_store();
}

/// Parents come and go under those who want to stand on them.
TEST_P(Clients, AParentThatGoesIsNotFound) {
    const unsigned rounds = in_guest() ? 6 : 60, viewers = in_guest() ? 1 : 4;
    std::atomic<bool> over{false};
    const auto surprised = [](const Answer &answer, std::initializer_list<StatusCode> codes) {
        return std::ranges::none_of(codes, [&](StatusCode code) { return answer.is(code); });
    };
    {
        std::vector<std::jthread> threads;
        for (unsigned n = 0; n < viewers; ++n)
            threads.emplace_back([&, n] {
                SnapshotClient client(world_ / "sock");
                for (unsigned round = 0; !over; ++round) {
                    const std::string key = fmt::format("stands {} {}", n, round);
                    const auto made =
                        round % 2 == 0 ? client.view(key, "parent", nullptr) : client.prepare(key, "parent", nullptr);
                    if (surprised(made, {StatusCode::OK, StatusCode::NOT_FOUND})) ADD_FAILURE() << made.text();
                    if (!made.ok()) continue;
                    const auto removed = client.remove(key);
                    if (!removed.ok()) ADD_FAILURE() << removed.text();
                }
            });
        for (unsigned round = 0; round < rounds; ++round) {
            const std::string key = fmt::format("make {}", round);
            EXPECT_TRUE(client_->prepare(key, "", nullptr).ok());
            const auto committed = client_->commit("parent", key);
            EXPECT_TRUE(committed.ok()) << committed.text();
            for (;;) {
                const auto removed = client_->remove("parent");
                if (removed.ok()) break;
                if (surprised(removed, {StatusCode::FAILED_PRECONDITION})) {
                    ADD_FAILURE() << removed.text();
                    break;
                }
            }
        }
        over = true;
    }
    std::map<std::string, wire::Info> listed;
    ASSERT_TRUE(client_->list({}, &listed).ok());
    EXPECT_TRUE(listed.empty());
    ASSERT_TRUE(client_->cleanup().ok());
    client_.reset();
    EXPECT_EQ(shaled_->end(SIGTERM), 0) << "it ends in order";
    const auto store = open_store(world_ / "root", GetParam());
    EXPECT_TRUE(store->driver().list()->empty());
    check(*store);
}

INSTANTIATE_TEST_SUITE_P(Drivers, Clients, testing::ValuesIn(driver_names()),
                         [](const auto &info) { return info.param; });

} // namespace
} // namespace shale::test
