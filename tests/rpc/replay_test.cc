// SPDX-License-Identifier: Apache-2.0
// A script of calls, and after each answer shaled is killed with -9. When it is back, everything is as the script has
// made it; the call that was answered last is made once more, as by a client that has not heard the answer, is answered
// as a repeated one, and changes nothing. At the end nothing is left, without a gc.
#include <fmt/format.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "store/snapshots.h"
#include "support/shaled.h"
#include "support/snapshot_client.h"
#include "support/world.h"

namespace shale::test {
namespace {

using grpc::StatusCode;
using Labels = SnapshotClient::Labels;

const std::string ref_label(store::ref_label);

std::vector<std::string> texts(const SnapshotClient::Mounts &mounts) {
    std::vector<std::string> out;
    for (const auto &mount : mounts)
        out.push_back(fmt::format("{} {} {}", mount.type, mount.source, fmt::join(mount.options, ",")));
    return out;
}

class Replay : public testing::TestWithParam<std::string> {
protected:
    struct Known {
        wire::Kind kind = wire::ACTIVE;
        std::string parent;
        Labels labels;
        std::set<std::string> files;   ///< in its tree, with the parents'
        SnapshotClient::Mounts mounts; ///< as they were told first; none: committed
    };
    /// One call. `call` compares what else it is answered with the model; `change` is what it does to that, the first
    /// time.
    struct Step {
        std::string what;
        std::function<Answer()> call;
        StatusCode first = StatusCode::OK, again = StatusCode::OK;
        std::function<void()> change = [] {};
    };

    void SetUp() override {
        if (const auto why = cannot_test(GetParam()); !why.empty()) GTEST_SKIP() << why;
        shaled_.emplace(shaled_arguments(GetParam(), world_ / "root", world_ / "sock"), world_ / "log");
        client_.emplace(world_ / "sock", &*shaled_);
        std::filesystem::create_directory(world_ / "at");
    }

    // ------------------------------------------------------------------------------------------------------- the model
    std::string in(const std::string &key, const std::function<void()> &body) {
        return in_mounts(model_.at(key).mounts, world_ / "at", body);
    }
    void add(const std::string &key, wire::Kind kind, const std::string &parent, const Labels &labels) {
        Known one{kind, parent, labels, {}, told_};
        if (!parent.empty()) one.files = model_.at(parent).files;
        model_[key] = one;
    }
    /// What runs in it does not need shaled for that.
    void write_into(const std::string &key) {
        const std::string file = fmt::format("file{}", files_++);
        EXPECT_EQ(in(key, [&] { std::ofstream(world_ / ("at/" + file)) << key; }), "");
        model_.at(key).files.insert(file);
    }
    void take(const std::string &key) {
        model_.erase(key);
        created_.erase(key);
    }
    void compare(const wire::Info &info) {
        const std::string &name = info.name();
        ASSERT_TRUE(model_.contains(name)) << name;
        const Known &one = model_.at(name);
        EXPECT_EQ(info.kind(), one.kind) << name;
        EXPECT_EQ(info.parent(), one.parent) << name;
        EXPECT_EQ(Labels(info.labels().begin(), info.labels().end()), one.labels) << name;
        const auto when = fmt::format("{}.{:09}", info.created_at().seconds(), info.created_at().nanos());
        EXPECT_EQ(created_.emplace(name, when).first->second, when) << name;
    }
    /// Every snapshot that there is, or those of which `wanted` says so.
    void compare(const std::map<std::string, wire::Info> &listed, const std::function<bool(const Known &)> &wanted) {
        std::set<std::string> names, expected;
        for (const auto &[name, info] : listed)
            names.insert(name);
        for (const auto &[name, one] : model_)
            if (wanted(one)) expected.insert(name);
        EXPECT_EQ(names, expected);
        for (const auto &[name, info] : listed)
            compare(info);
    }
    void compare_all() {
        std::map<std::string, wire::Info> listed;
        const auto answer = client_->list({}, &listed);
        ASSERT_TRUE(answer.ok()) << answer.text();
        compare(listed, [](const Known &) { return true; });
        for (const auto &[name, one] : model_) {
            wire::Info info;
            const auto found = client_->stat(name, &info);
            ASSERT_TRUE(found.ok()) << name << ": " << found.text();
            EXPECT_EQ(info.name(), name);
            compare(info);
            if (one.kind == wire::COMMITTED) continue;
            SnapshotClient::Mounts now;
            const auto mounts = client_->mounts(name, &now);
            ASSERT_TRUE(mounts.ok()) << name << ": " << mounts.text();
            EXPECT_EQ(texts(now), texts(one.mounts)) << name;
            std::set<std::string> files;
            EXPECT_EQ(in(name,
                         [&] {
                             for (const auto &entry : std::filesystem::directory_iterator(world_ / "at"))
                                 files.insert(entry.path().filename());
                         }),
                      "");
            EXPECT_EQ(files, one.files) << name;
        }
    }

    // ------------------------------------------------------------------------------------------------------- the calls
    Step prepare(const std::string &key, const std::string &parent, const Labels &labels = {}) {
        return {"Prepare " + key,
                [=, this] {
                    SnapshotClient::Mounts mounts;
                    const auto answer = client_->prepare(key, parent, &mounts, labels);
                    if (answer.ok()) told_ = mounts;
                    return answer;
                },
                StatusCode::OK, StatusCode::ALREADY_EXISTS,
                [=, this] {
                    add(key, wire::ACTIVE, parent, labels);
                    write_into(key);
                }};
    }
    /// The layer that the label names is there.
    Step prepare_known(const std::string &key, const std::string &parent, const std::string &ref) {
        return {"Prepare of a known layer " + key,
                [=, this] { return client_->prepare(key, parent, nullptr, {{ref_label, ref}}); },
                StatusCode::ALREADY_EXISTS, StatusCode::ALREADY_EXISTS};
    }
    Step view(const std::string &key, const std::string &parent) {
        return {"View " + key,
                [=, this] {
                    SnapshotClient::Mounts mounts;
                    const auto answer = client_->view(key, parent, &mounts);
                    if (answer.ok()) told_ = mounts;
                    return answer;
                },
                StatusCode::OK, StatusCode::ALREADY_EXISTS, [=, this] { add(key, wire::VIEW, parent, {}); }};
    }
    Step mounts(const std::string &key, StatusCode code = StatusCode::OK) {
        return {"Mounts " + key,
                [=, this] {
                    SnapshotClient::Mounts now;
                    const auto answer = client_->mounts(key, &now);
                    EXPECT_EQ(texts(now), texts(model_.at(key).mounts));
                    return answer;
                },
                code, code};
    }
    Step commit(const std::string &name, const std::string &key, const Labels &labels = {}) {
        return {"Commit " + name, [=, this] { return client_->commit(name, key, labels); }, StatusCode::OK,
                StatusCode::NOT_FOUND, // the key
                [=, this] {
                    Known one = model_.at(key);
                    take(key);
                    one.kind = wire::COMMITTED;
                    one.labels = labels;
                    one.mounts.clear();
                    model_[name] = one;
                }};
    }
    Step stat(const std::string &key) {
        return {"Stat " + key, [=, this] {
                    wire::Info info;
                    const auto answer = client_->stat(key, &info);
                    compare(info);
                    return answer;
                }};
    }
    Step update(const std::string &key, const Labels &labels, const std::vector<std::string> &fields,
                const Labels &then) {
        return {"Update " + key,
                [=, this] {
                    wire::Info info;
                    const auto answer = client_->update(key, labels, fields, &info);
                    EXPECT_EQ(Labels(info.labels().begin(), info.labels().end()), then);
                    return answer;
                },
                StatusCode::OK, StatusCode::OK, [=, this] { model_.at(key).labels = then; }};
    }
    Step usage(const std::string &key) {
        return {"Usage " + key, [=, this] {
                    drivers::Usage usage;
                    const auto answer = client_->usage(key, &usage);
                    EXPECT_EQ(usage.bytes + usage.inodes == 0, model_.at(key).kind == wire::VIEW);
                    return answer;
                }};
    }
    Step list(const std::string &filter, const std::function<bool(const Known &)> &wanted) {
        return {"List " + filter, [=, this] {
                    std::map<std::string, wire::Info> listed;
                    const auto answer = client_->list(
                        filter.empty() ? std::vector<std::string>() : std::vector<std::string>{filter}, &listed);
                    compare(listed, wanted);
                    return answer;
                }};
    }
    Step remove(const std::string &key) {
        return {"Remove " + key, [=, this] { return client_->remove(key); }, StatusCode::OK, StatusCode::NOT_FOUND,
                [=, this] { take(key); }};
    }
    Step remove_parent(const std::string &key) {
        return {"Remove of a parent " + key, [=, this] { return client_->remove(key); },
                StatusCode::FAILED_PRECONDITION, StatusCode::FAILED_PRECONDITION};
    }
    Step cleanup() {
        return {"Cleanup", [this] { return client_->cleanup(); }};
    }

    std::vector<Step> script() {
        const std::string extract = "k8s.io/1/extract-1-Ab_ sha256:1", base = "k8s.io/2/sha256:1",
                          middle = "k8s.io/3/sha256:2", top = "k8s.io/4/sha256:3";
        const auto all = [](const Known &) { return true; };
        const auto on_base = [=](const Known &one) { return one.parent == base; };
        return {
            prepare(extract, "", {{"of", "one"}, {"n", "1"}}),
            mounts(extract),
            update(extract, {{"n", "2"}}, {"labels.n", "labels.of"}, {{"n", "2"}}),
            usage(extract),
            commit(base, extract, {{ref_label, "sha256:1"}, {"pinned", "no"}}),
            stat(base),
            prepare_known("k8s.io/5/extract-5-Ab_ sha256:1", "", "sha256:1"),
            view("look", base),
            mounts("look"),
            mounts(base, StatusCode::FAILED_PRECONDITION),
            prepare(extract, base), // the key is free again
            commit(middle, extract, {{ref_label, "sha256:2"}}),
            usage(middle),
            prepare("run", middle, {{"pod", "p"}}),
            update(base, {{"only", "this"}}, {"labels"}, {{"only", "this"}}),
            list("", all),
            list(fmt::format("parent==\"{}\"", base), on_base),
            remove_parent(base),
            usage("look"),
            remove("look"),
            cleanup(),
            commit(top, "run"),
            view("look", top), // another of the same key
            remove("look"),
            remove(top),
            prepare("run", middle),
            mounts("run"),
            commit(top, "run", {{"another", "one"}}), // of the same name
            stat(top),
            remove(top),
            remove(middle),
            remove(base),
            list("", all),
            cleanup(),
        };
    }

    World world_{GetParam()};
    std::optional<Shaled> shaled_;
    std::optional<SnapshotClient> client_;
    std::map<std::string, Known> model_;
    std::map<std::string, std::string> created_; ///< when, of those in the model
    SnapshotClient::Mounts told_;                ///< by the last Prepare or View
    unsigned files_ = 0;
};

TEST_P(Replay, KilledBetweenAnyTwoCallsItKeepsWhatItAnswered) {
    for (const Step &step : script()) {
        SCOPED_TRACE(step.what);
        const auto first = step.call();
        ASSERT_TRUE(first.is(step.first)) << first.text();
        shaled_->restart(step.change); // a container writes while nobody serves
        ASSERT_NO_FATAL_FAILURE(compare_all());
        const auto again = step.call();
        ASSERT_TRUE(again.is(step.again)) << again.text();
        ASSERT_NO_FATAL_FAILURE(compare_all());
        ASSERT_FALSE(HasFailure()) << read_all(world_ / "log");
    }
    EXPECT_TRUE(model_.empty());

    client_.reset(); // a client that does not read the farewell holds up the end
    EXPECT_EQ(shaled_->end(SIGTERM), 0) << "it ends in order";
    const auto store = open_store(world_ / "root", GetParam());
    EXPECT_TRUE(store->driver().list()->empty());
    EXPECT_EQ(store->driver().trash()->layers, 0U);
    EXPECT_TRUE(store->list_layers()->empty());
    const auto checked = store->check(store::CheckLevel::full, {});
    ASSERT_TRUE(checked) << checked.error().text();
    for (const auto &problem : checked->problems)
        ADD_FAILURE() << problem.object << ": " << problem.what;
}

INSTANTIATE_TEST_SUITE_P(Drivers, Replay, testing::ValuesIn(driver_names()),
                         [](const auto &info) { return info.param; });

} // namespace
} // namespace shale::test
