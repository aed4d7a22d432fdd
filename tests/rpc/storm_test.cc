// SPDX-License-Identifier: Apache-2.0
// A client does 2,000 random calls, of every kind, while shaled is killed again and again under it. Each call is
// repeated until it is answered, as containerd does; what a client was told stays true, and a container that runs all
// along never notices.
#include <fcntl.h>
#include <fmt/format.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <optional>
#include <random>
#include <sstream>
#include <thread>

#include "store/snapshots.h"
#include "support/shaled.h"
#include "support/snapshot_client.h"
#include "support/world.h"
#include "sys/mount.h"

namespace shale::test {
namespace {

using grpc::StatusCode;
using std::chrono::milliseconds;

/// In a guest, where one takes seconds, so many that it is killed a few times.
int calls() {
    return in_guest() ? 200 : 2000;
}

std::vector<std::string> texts(const SnapshotClient::Mounts &mounts) {
    std::vector<std::string> out;
    for (const auto &mount : mounts)
        out.push_back(fmt::format("{} {} {}", mount.type, mount.source, fmt::join(mount.options, ",")));
    return out;
}

class Storm : public testing::TestWithParam<std::string> {
protected:
    struct Known {
        wire::Kind kind = wire::ACTIVE;
        std::string parent;
        SnapshotClient::Labels labels;
        SnapshotClient::Mounts mounts; ///< as they were told first; none: committed
    };
    void SetUp() override {
        if (const auto why = cannot_load(GetParam()); !why.empty()) GTEST_SKIP() << why;
        for (const auto *name : {"run", "look"})
            std::filesystem::create_directory(world_ / name);
        daemon_.emplace(shaled_arguments(GetParam(), world_ / "root", world_ / "sock"), world_ / "log");
        client_.emplace(world_ / "sock", &*daemon_);
    }
    void TearDown() override {
        if (writer_ > 0) {
            ::kill(writer_, SIGKILL);
            ::waitpid(writer_, nullptr, 0);
        }
        daemon_.reset();
        for (const auto *name : {"/run", "/look"})
            (void)sys::unmount(world_.path() + name, 2 /* MNT_DETACH */);
    }
    void in(const SnapshotClient::Mounts &specs, const std::function<void(const std::string &)> &body) {
        const std::string at = world_ / "look";
        const std::lock_guard lock(daemon_->starting());
        ASSERT_EQ(in_mounts(specs, at, [&] { body(at); }), "");
    }
    /// A container: a process that has a directory of it and writes there.
    void run_container() {
        SnapshotClient::Mounts specs;
        const auto made = client_->prepare("running", "", &specs);
        ASSERT_TRUE(made.ok()) << made.text();
        known_["running"] = {};
        ASSERT_EQ(specs.size(), 1U);
        const auto mounted = sys::mount_at(specs[0], world_ / "run");
        ASSERT_TRUE(mounted) << mounted.error().text();
        const std::string beats = world_ / "run/beats";
        writer_ = ::fork();
        if (writer_ == 0) {
            for (;;) {
                const int file = ::open(beats.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
                if (file < 0 || ::write(file, "x", 1) != 1) ::_exit(1);
                ::close(file);
                ::usleep(10'000);
            }
        }
    }
    [[nodiscard]] uintmax_t beats() const {
        std::error_code error;
        const auto size = std::filesystem::file_size(world_ / "run/beats", error);
        return error ? 0 : size;
    }
    std::string any(wire::Kind kind) {
        std::vector<std::string> names;
        for (const auto &[name, one] : known_)
            if (one.kind == kind && name != "running") names.push_back(name);
        return names.empty() ? std::string() : names[random_() % names.size()];
    }
    /// Of the kinds alike, though most are committed.
    std::string any() {
        constexpr std::array kinds{wire::ACTIVE, wire::COMMITTED, wire::VIEW};
        return any(kinds.at(random_() % kinds.size()));
    }
    bool has_children(const std::string &name) {
        return std::ranges::any_of(known_, [&](const auto &one) { return one.second.parent == name; });
    }
    /// An earlier try of the call may have been carried out, and is why this one ended with `code`.
    static bool done(const Answer &answer, StatusCode code) {
        return answer.ok() || (answer.repeated && answer.is(code));
    }
    void compare(const wire::Info &info, const std::string &name) {
        const Known &one = known_.at(name);
        EXPECT_EQ(info.name(), name);
        EXPECT_EQ(info.kind(), one.kind) << name;
        EXPECT_EQ(info.parent(), one.parent) << name;
        EXPECT_EQ(SnapshotClient::Labels(info.labels().begin(), info.labels().end()), one.labels) << name;
    }

    // One random call each; what the client is told is compared with what it knows.
    void prepare(int n) {
        const std::string key = fmt::format("k8s.io/{}/extract-{} sha256:{}", n, n, random_());
        Known one{wire::ACTIVE, {}, {{"n", fmt::format("{}", n)}}, {}};
        if (random_() % 4 != 0) one.parent = any(wire::COMMITTED);
        const auto answer = client_->prepare(key, one.parent, &one.mounts, one.labels);
        ASSERT_TRUE(done(answer, StatusCode::ALREADY_EXISTS)) << answer.text();
        if (one.mounts.empty()) {
            ASSERT_TRUE(client_->mounts(key, &one.mounts).ok());
        }
        in(one.mounts, [&](const std::string &at) { std::ofstream(fmt::format("{}/{}", at, n)) << key; });
        known_[key] = std::move(one);
    }
    void view(int n) {
        Known one{wire::VIEW, any(wire::COMMITTED), {}, {}};
        if (one.parent.empty()) return;
        const std::string key = fmt::format("k8s.io/{}/view {}", n, random_());
        const auto answer = client_->view(key, one.parent, &one.mounts);
        ASSERT_TRUE(done(answer, StatusCode::ALREADY_EXISTS)) << answer.text();
        if (one.mounts.empty()) {
            ASSERT_TRUE(client_->mounts(key, &one.mounts).ok());
        }
        in(one.mounts, [&](const std::string &at) { EXPECT_FALSE(std::filesystem::is_empty(at)) << key; });
        known_[key] = std::move(one);
    }
    void commit(int n) {
        const std::string key = any(wire::ACTIVE);
        if (key.empty()) return;
        const std::string name = fmt::format("name {}", n);
        const SnapshotClient::Labels labels{{"committed", key}};
        const auto answer = client_->commit(name, key, labels);
        ASSERT_TRUE(done(answer, StatusCode::NOT_FOUND) || done(answer, StatusCode::ALREADY_EXISTS)) << answer.text();
        known_[name] = {wire::COMMITTED, known_.at(key).parent, labels, {}};
        known_.erase(key);
    }
    void remove() {
        const std::string key = any();
        if (key.empty()) return;
        const auto answer = client_->remove(key);
        if (has_children(key)) {
            ASSERT_TRUE(answer.is(StatusCode::FAILED_PRECONDITION)) << answer.text();
            return;
        }
        ASSERT_TRUE(done(answer, StatusCode::NOT_FOUND)) << answer.text();
        known_.erase(key);
    }
    void stat() {
        const std::string key = any();
        if (key.empty()) return;
        wire::Info info;
        const auto answer = client_->stat(key, &info);
        ASSERT_TRUE(answer.ok()) << key << ": " << answer.text();
        compare(info, key);
    }
    void update(int n) {
        const std::string key = any();
        if (key.empty()) return;
        auto &labels = known_.at(key).labels;
        labels["updated"] = fmt::format("{}", n);
        labels.erase("n");
        wire::Info info;
        const auto answer =
            client_->update(key, {{"updated", fmt::format("{}", n)}}, {"labels.updated", "labels.n"}, &info);
        ASSERT_TRUE(answer.ok()) << key << ": " << answer.text();
        compare(info, key);
    }
    void mounts() {
        const std::string key = any();
        if (key.empty()) return;
        const Known &one = known_.at(key);
        SnapshotClient::Mounts now;
        const auto answer = client_->mounts(key, &now);
        ASSERT_TRUE(answer.is(one.kind == wire::COMMITTED ? StatusCode::FAILED_PRECONDITION : StatusCode::OK))
            << key << ": " << answer.text();
        EXPECT_EQ(texts(now), texts(one.mounts)) << key;
    }
    void usage() {
        const std::string key = any();
        if (key.empty()) return;
        drivers::Usage usage;
        const auto answer = client_->usage(key, &usage);
        ASSERT_TRUE(answer.ok()) << key << ": " << answer.text();
        // Each but a view has a file of its own.
        EXPECT_EQ(usage.bytes + usage.inodes == 0, known_.at(key).kind == wire::VIEW) << key;
    }
    void list() {
        std::map<std::string, wire::Info> found;
        const auto answer = client_->list({}, &found);
        ASSERT_TRUE(answer.ok()) << answer.text();
        EXPECT_EQ(found.size(), known_.size());
        for (const auto &[name, info] : found) {
            ASSERT_TRUE(known_.contains(name)) << name << " is listed";
            compare(info, name);
        }
    }
    void cleanup() {
        // It may take more than what is left of a life.
        const auto answer = client_->cleanup(std::chrono::seconds(2));
        ASSERT_TRUE(answer.ok() || answer.is(StatusCode::DEADLINE_EXCEEDED)) << answer.text();
    }
    void step(int n) {
        switch (random_() % 16) {
        case 0:
        case 1:
        case 2:
        case 3:
        case 4:
            return prepare(n);
        case 5:
        case 6:
        case 7:
            return commit(n);
        case 8:
        case 9:
            return remove();
        case 10:
            return view(n);
        case 11:
            return update(n);
        case 12:
            return mounts();
        case 13:
            return usage();
        case 14:
            return random_() % 8 == 0 ? cleanup() : list();
        default:
            return stat();
        }
    }

    /// Without removing anything: records and data agree, but for the layers of calls that were killed (one that was
    /// made and not recorded yet, or not recorded any more and not removed yet), `most` of them.
    static void expect_consistent(store::Store &store, int most) {
        const auto would_go = store.gc(true);
        ASSERT_TRUE(would_go) << would_go.error().text();
        EXPECT_EQ(would_go->layers + would_go->blobs, 0U) << fmt::format("{}", fmt::join(would_go->what, "\n"));
        EXPECT_LE(would_go->leftovers, static_cast<uint64_t>(most))
            << fmt::format("{}", fmt::join(would_go->what, "\n"));
        const auto checked = store.check(store::CheckLevel::full, {});
        ASSERT_TRUE(checked) << checked.error().text();
        int orphans = 0;
        for (const auto &problem : checked->problems) {
            if (problem.what != "no record names it")
                ADD_FAILURE() << problem.object << ": " << problem.what;
            else if (++orphans > most)
                ADD_FAILURE() << problem.object << ": " << problem.what << ", the " << orphans << ". of " << most;
        }
    }

    World world_{GetParam()};
    std::optional<Shaled> daemon_;
    std::optional<SnapshotClient> client_;
    std::map<std::string, Known> known_;
    std::mt19937 random_{42};
    pid_t writer_ = -1;
};

TEST_P(Storm, NothingToldIsLostAndARunningContainerGoesOn) {
    run_container();
    daemon_->storm();
    for (int n = 0; n < calls() && !HasFailure(); ++n)
        step(n);
    daemon_->calm();
    ASSERT_FALSE(HasFailure()) << read_all(world_ / "log");
    EXPECT_GT(daemon_->kills(), 3);
    RecordProperty("kills", daemon_->kills());
    ASSERT_EQ(::waitpid(writer_, nullptr, WNOHANG), 0) << "the container has ended";
    const auto before = beats();
    while (beats() == before && ::waitpid(writer_, nullptr, WNOHANG) == 0)
        std::this_thread::sleep_for(milliseconds(10));
    EXPECT_GT(beats(), before);

    list();
    {
        const auto store = open_store(world_ / "root", GetParam());
        ASSERT_NO_FATAL_FAILURE(expect_consistent(*store, daemon_->kills()));
        const auto cleaned = client_->cleanup();
        ASSERT_TRUE(cleaned.ok()) << cleaned.text();
        ASSERT_NO_FATAL_FAILURE(expect_consistent(*store, 0));
    }

    // Everything that is there can be seen, with what was written into it.
    SnapshotClient::Mounts specs;
    for (int n = 0; n < 20; ++n) {
        const std::string name = any(wire::COMMITTED);
        if (name.empty()) break;
        const auto answer = client_->view("look", name, &specs);
        ASSERT_TRUE(answer.ok()) << answer.text();
        in(specs, [&](const std::string &at) { EXPECT_FALSE(std::filesystem::is_empty(at)) << name; });
        ASSERT_TRUE(client_->remove("look").ok());
    }
    EXPECT_EQ(daemon_->end(SIGTERM), 0) << "it ends in order";

    const auto store = open_store(world_ / "root", GetParam());
    store::Snapshots snapshots(*store);
    std::vector<std::string> names, expected;
    ASSERT_TRUE(snapshots.walk(
        {}, [](const store::SnapshotRow &row, std::string &page) { page.append(row.name) += '\0'; },
        [&](std::string &page) -> Status {
            std::istringstream lines(page);
            for (std::string name; std::getline(lines, name, '\0');)
                names.push_back(name);
            return {};
        }));
    std::ranges::sort(names);
    for (const auto &[name, one] : known_)
        expected.push_back(name);
    EXPECT_EQ(names, expected);
    ASSERT_NO_FATAL_FAILURE(expect_consistent(*store, 0));

    ::kill(writer_, SIGKILL);
    ::waitpid(writer_, nullptr, 0);
    writer_ = -1;
    ASSERT_TRUE(sys::unmount(world_ / "run"));
    while (!known_.empty()) // what nothing stands on, again and again
        for (auto one = known_.begin(); one != known_.end();) {
            const std::string name = one->first;
            if (has_children(name)) {
                ++one;
                continue;
            }
            const auto removed = snapshots.remove(name);
            ASSERT_TRUE(removed) << removed.error().text();
            one = known_.erase(one);
        }
    EXPECT_TRUE(store->driver().list()->empty());
    const auto emptied = snapshots.cleanup();
    ASSERT_TRUE(emptied) << emptied.error().text();
    EXPECT_EQ(store->driver().trash()->layers, 0U);
}

INSTANTIATE_TEST_SUITE_P(Drivers, Storm, testing::ValuesIn(driver_names()),
                         [](const auto &info) { return info.param; });

} // namespace
} // namespace shale::test
