// SPDX-License-Identifier: Apache-2.0
// The calls that reach a snapshotter when a kubelet's containerd pulls an image and runs pods of it: containerd's
// metadata store in front, keys of the form NAMESPACE/NUMBER/KEY, unpackers that race for a layer, garbage collection
// at the end.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <barrier>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <ranges>
#include <thread>

#include "store/snapshots.h"
#include "support/shaled.h"
#include "support/snapshot_client.h"
#include "support/world.h"

namespace shale::test {
namespace {

using grpc::StatusCode;
using testing::ElementsAre;

constexpr unsigned layer_count = 5, unpackers = 6;
const std::string ref_label(store::ref_label);

std::string chain_id(unsigned layer) {
    return fmt::format("sha256:{:064x}", 0xC0FFEE00U + layer);
}
/// The name that the metadata store gives to a committed layer.
std::string layer_name(unsigned layer) {
    return fmt::format("k8s.io/{}/{}", 100 + layer, chain_id(layer));
}

class Cri : public testing::TestWithParam<std::string> {
protected:
    void SetUp() override {
        if (const auto why = cannot_test(GetParam()); !why.empty()) GTEST_SKIP() << why;
        shaled_.emplace(shaled_arguments(GetParam(), world_ / "root", world_ / "sock"), world_ / "log");
        client_.emplace(world_ / "sock");
        std::filesystem::create_directory(world_ / "at");
    }
    std::string look(const SnapshotClient::Mounts &mounts, const std::function<void(const std::string &)> &body) {
        return in_mounts(mounts, world_ / "at", [&] { body(world_ / "at"); });
    }
    std::vector<std::string> names(const std::vector<std::string> &filters) {
        std::map<std::string, wire::Info> found;
        const auto answer = client_->list(filters, &found);
        EXPECT_TRUE(answer.ok()) << answer.text();
        const auto keys = std::views::keys(found);
        return {keys.begin(), keys.end()};
    }

    /// One of several that unpack an image: what a layer's Commit answered, layer by layer.
    std::array<StatusCode, layer_count> unpack(unsigned number, std::barrier<> &together) {
        SnapshotClient client(world_ / "sock");
        const std::string at = world_ / fmt::format("unpack{}", number);
        std::filesystem::create_directory(at);
        std::array<StatusCode, layer_count> out{};
        for (unsigned layer = 0; layer < layer_count; ++layer) {
            const std::string key = fmt::format("k8s.io/{}/extract-{}-Ab_{} {}", 1000 * (number + 1) + layer,
                                                987'654'321 - number, number, chain_id(layer));
            const SnapshotClient::Labels labels{
                {ref_label, chain_id(layer)},
                {"containerd.io/snapshot/cri.image-ref", "example.test/image:latest"},
                {"containerd.io/snapshot/cri.layer-digest", chain_id(layer + 50)},
            };
            SnapshotClient::Mounts mounts, again;
            const auto made = client.prepare(key, layer == 0 ? "" : layer_name(layer - 1), &mounts, labels);
            EXPECT_TRUE(made.ok()) << made.text();
            EXPECT_TRUE(client.mounts(key, &again).ok());
            EXPECT_TRUE(again.size() == 1 && mounts.size() == 1 && again[0].options == mounts[0].options);
            EXPECT_EQ(in_mounts(mounts, at,
                                [&] {
                                    std::ofstream(fmt::format("{}/layer-{}", at, layer)) << std::string(10'000, 'x');
                                    std::ofstream(at + "/top") << layer;
                                }),
                      "");
            together.arrive_and_wait(); // all have prepared before any of them commits
            const auto committed = client.commit(layer_name(layer), key, labels);
            out[layer] = committed.status.error_code();
            if (!committed.ok()) {
                const auto removed = client.remove(key);
                EXPECT_TRUE(removed.ok()) << removed.text();
            }
            together.arrive_and_wait();
        }
        return out;
    }
    void unpack_by_many() {
        std::barrier together(unpackers);
        std::array<std::array<StatusCode, layer_count>, unpackers> answers{};
        {
            std::vector<std::jthread> threads;
            for (unsigned n = 0; n < unpackers; ++n)
                threads.emplace_back([&, n] { answers.at(n) = unpack(n, together); });
        }
        for (unsigned layer = 0; layer < layer_count; ++layer) {
            unsigned won = 0;
            for (const auto &of_one : answers) {
                if (of_one.at(layer) == StatusCode::OK) ++won;
                EXPECT_TRUE(of_one.at(layer) == StatusCode::OK || of_one.at(layer) == StatusCode::ALREADY_EXISTS)
                    << static_cast<int>(of_one.at(layer));
            }
            EXPECT_EQ(won, 1U) << "layer " << layer;
        }
    }

    World world_{GetParam()};
    std::optional<Shaled> shaled_;
    std::optional<SnapshotClient> client_;
};

TEST_P(Cri, UnpackersRaceAndOneWinsEachLayer) {
    ASSERT_NO_FATAL_FAILURE(unpack_by_many());
    EXPECT_EQ(names({}).size(), layer_count);
    for (unsigned layer = 0; layer < layer_count; ++layer) {
        wire::Info info;
        ASSERT_TRUE(client_->stat(layer_name(layer), &info).ok());
        EXPECT_EQ(info.kind(), wire::COMMITTED);
        EXPECT_EQ(info.parent(), layer == 0 ? "" : layer_name(layer - 1));
        EXPECT_EQ(info.labels().at(ref_label), chain_id(layer));
        // The next unpacker needs neither blob nor snapshot.
        EXPECT_TRUE(client_
                        ->prepare("moby/1/extract-1-abcd " + chain_id(layer), layer == 0 ? "" : layer_name(layer - 1),
                                  nullptr, {{ref_label, chain_id(layer)}})
                        .is(StatusCode::ALREADY_EXISTS));
        EXPECT_THAT(names({fmt::format(R"(labels."{}"=={},parent=="{}")", ref_label, chain_id(layer),
                                       layer == 0 ? "" : layer_name(layer - 1))}),
                    ElementsAre(layer_name(layer)));
        drivers::Usage usage;
        ASSERT_TRUE(client_->usage(layer_name(layer), &usage).ok());
        EXPECT_GE(usage.bytes, 8'000U);
    }
    // On another parent it is another layer.
    EXPECT_TRUE(
        client_->prepare("moby/2/extract-1-abcd " + chain_id(2), layer_name(3), nullptr, {{ref_label, chain_id(2)}})
            .ok());
}

TEST_P(Cri, PodsThenGarbageCollection) {
    ASSERT_NO_FATAL_FAILURE(unpack_by_many());
    const std::string top = layer_name(layer_count - 1);
    const std::string volumes = "k8s.io/200/7c0ffee-volumes", pause = "k8s.io/201/" + std::string(64, 'a'),
                      one = "k8s.io/202/" + std::string(64, 'b');

    // An image's volumes are copied from a view of it.
    SnapshotClient::Mounts mounts, again;
    ASSERT_TRUE(client_->view(volumes, top, &mounts).ok());
    EXPECT_EQ(look(mounts,
                   [&](const std::string &at) {
                       EXPECT_EQ(read_all(at + "/top"), std::to_string(layer_count - 1));
                       EXPECT_FALSE(std::ofstream(at + "/new") << "x" << std::flush);
                   }),
              "");
    ASSERT_TRUE(client_->remove(volumes).ok());

    for (const std::string &key : {pause, one})
        ASSERT_TRUE(client_->prepare(key, top, &mounts, {{"containerd.io/snapshot/pod", "p"}}).ok());
    ASSERT_TRUE(client_->mounts(one, &again).ok());
    ASSERT_EQ(again.size(), 1U);
    EXPECT_EQ(again[0].source, mounts[0].source);
    EXPECT_EQ(again[0].options, mounts[0].options);
    EXPECT_EQ(look(mounts,
                   [&](const std::string &at) {
                       for (unsigned n = 0; n < layer_count; ++n)
                           EXPECT_TRUE(std::filesystem::exists(fmt::format("{}/layer-{}", at, n)));
                       std::ofstream(at + "/big") << std::string(1'000'000, 'x');
                       std::filesystem::remove(at + "/layer-0");
                   }),
              "");

    // Its statistics: everything, one after the other.
    std::map<std::string, wire::Info> all;
    ASSERT_TRUE(client_->list({}, &all).ok());
    EXPECT_EQ(all.size(), layer_count + 2);
    for (const auto &[name, info] : all) {
        drivers::Usage usage;
        const auto answer = client_->usage(name, &usage);
        EXPECT_TRUE(answer.ok()) << answer.text();
        if (name == one) {
            // Where a file system's use is all there is, what was deleted counts against it.
            EXPECT_GE(usage.bytes, driver_of(GetParam()) == "devicemapper" ? 950'000U : 1'000'000U);
        }
    }
    EXPECT_THAT(names({"kind==active"}), ElementsAre(pause, one));
    EXPECT_THAT(names({fmt::format("parent==\"{}\",kind==active", top), "name==\"nothing\""}), ElementsAre(pause, one));
    EXPECT_THAT(names({"labels.\"containerd.io/snapshot/pod\"==p"}), ElementsAre(pause, one));
    EXPECT_THAT(names({"kind==view"}), ElementsAre());
    EXPECT_EQ(names({"kind!=active", "labels.\"containerd.io/snapshot/pod\"==p"}).size(), layer_count + 2);
    EXPECT_EQ(names({"name~=\"^k8s.io/1[0-9]+/sha256:\""}).size(), layer_count);

    wire::Info before, after;
    ASSERT_TRUE(client_->stat(top, &before).ok());
    ASSERT_TRUE(client_
                    ->update(top, {{"containerd.io/snapshot/pinned", "yes"}},
                             {"labels.containerd.io/snapshot/pinned", "labels.containerd.io/snapshot/cri.image-ref"},
                             &after)
                    .ok());
    EXPECT_EQ(after.labels().at("containerd.io/snapshot/pinned"), "yes");
    EXPECT_FALSE(after.labels().contains("containerd.io/snapshot/cri.image-ref"));
    EXPECT_EQ(after.labels().at(ref_label), chain_id(layer_count - 1));
    EXPECT_EQ(after.parent(), before.parent());

    // The collector goes from the leaves to the root, and may find more than it may remove.
    EXPECT_TRUE(client_->remove(top).is(StatusCode::FAILED_PRECONDITION));
    EXPECT_TRUE(client_->remove(layer_name(1)).is(StatusCode::FAILED_PRECONDITION));
    for (const std::string &key : {pause, one})
        ASSERT_TRUE(client_->remove(key).ok());
    for (unsigned layer = layer_count; layer-- > 0;)
        ASSERT_TRUE(client_->remove(layer_name(layer)).ok());
    EXPECT_TRUE(client_->remove(top).is(StatusCode::NOT_FOUND));
    ASSERT_TRUE(client_->cleanup().ok());
    EXPECT_THAT(names({}), ElementsAre());
    client_.reset(); // a client that does not read the farewell holds up the end
    EXPECT_EQ(shaled_->end(SIGTERM), 0) << "it ends in order";
    const auto store = open_store(world_ / "root", GetParam());
    EXPECT_TRUE(store->driver().list()->empty());
    EXPECT_EQ(store->driver().trash()->layers, 0U);
    const auto checked = store->check(store::CheckLevel::full, {});
    ASSERT_TRUE(checked) << checked.error().text();
    EXPECT_TRUE(checked->problems.empty());
}

INSTANTIATE_TEST_SUITE_P(Drivers, Cri, testing::ValuesIn(driver_names()), [](const auto &info) { return info.param; });

} // namespace
} // namespace shale::test
