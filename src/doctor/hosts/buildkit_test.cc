// SPDX-License-Identifier: Apache-2.0
#include "doctor/hosts/buildkit.h"

#include <gmock/gmock.h>

#include "doctor/hosts/docker_test_root.h"

namespace shale::doctor {
namespace {

using probe::bolt_writer::Bucket;
using Values = std::map<std::string, std::string>;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

std::string value(std::string_view json) {
    return fmt::format(R"({{"value":{}}})", json);
}
std::string text_value(std::string_view text) {
    return value(fmt::format("\"{}\"", text));
}
std::string varint(uint64_t number) {
    std::string out;
    for (; number >= 128; number >>= 7U)
        out += static_cast<char>((number & 127U) | 128U);
    return out + static_cast<char>(number);
}

class BuildKitTest : public DockerTest {
protected:
    const std::string run_ = "abcdefghijklmnopqrstuvwx1";   ///< what a RUN step wrote into
    const std::string step_ = "abcdefghijklmnopqrstuvwx2";  ///< the record of the finished step
    const std::string image_ = "abcdefghijklmnopqrstuvwx3"; ///< the record of the image's layer

    /// A build on the image: its layer, and a step that was finished.
    void make_build() {
        make_usual();
        make_tree(run_, {id_of('b'), id_of('a')});
        snapshots_.buckets[app_layer_.text()];
        snapshots_.buckets[run_].values = Values{{"parent", app_layer_.text()}, {"iscommitted", ""}};
        snapshots_.buckets[step_].values = Values{{"committed", run_}, {"size", "77"}};
        auto &main = records_.buckets["_main"];
        main.buckets[image_].values = Values{{"cache.snapshot", text_value(app_layer_.text())},
                                             {"snapshot.committed", value("true")},
                                             {"cache.createdAt", value("1681247606000000000")}};
        main.buckets[step_].values = {{"cache.parent", text_value(image_)},
                                      {"snapshot.committed", value("true")},
                                      {"snapshot.size", value("77")}};
        auto &leases = leases_.buckets["v1"].buckets["buildkit"].buckets["leases"];
        leases.buckets[step_].buckets["snapshots"].buckets["default"].values[step_] = "";
    }
    void write_all() {
        write_bolt(root_ + "/buildkit/snapshots.db", snapshots_);
        write_bolt(root_ + "/buildkit/metadata_v2.db", records_);
        write_bolt(root_ + "/buildkit/containerdmeta.db", leases_);
    }

    Bucket snapshots_, records_, leases_;
};

TEST_F(BuildKitTest, ItsSnapshotsAreLayersOfDocker) {
    make_build();
    write_all();
    write(root_ + "/buildkit/content/blobs/sha256/" + id_of('1'), std::string(5000, 'x'));
    const auto facts = read({dockerd_});
    const auto *docker = store_of(facts, "docker", "overlay2"), *cache = store_of(facts, "buildkit", "overlay2");
    ASSERT_TRUE(docker != nullptr && cache != nullptr);

    const auto &tree = layer_of(*docker, run_);
    EXPECT_TRUE(tree.recorded && tree.on_disk);
    EXPECT_EQ(tree.name, step_);
    EXPECT_EQ(tree.kind, "committed");
    EXPECT_EQ(tree.parent, id_of('b'));
    EXPECT_EQ(tree.depth, 2U);
    EXPECT_EQ(tree.recorded_bytes, 77U);
    EXPECT_THAT(tree.used_by, ElementsAre(fmt::format("build cache {}", step_)));
    EXPECT_THAT(tree.damage, IsEmpty());
    EXPECT_THAT(layer_of(*docker, id_of('b')).used_by, Contains(fmt::format("build cache {}", image_)));
    EXPECT_EQ(state_of(*docker, root_ + "/buildkit/snapshots.db"), "read");

    EXPECT_EQ(cache->root, root_ + "/buildkit");
    EXPECT_TRUE(cache->running);
    ASSERT_EQ(cache->layers.size(), 2U);
    const auto &step = layer_of(*cache, step_);
    EXPECT_TRUE(step.recorded && step.on_disk);
    EXPECT_EQ(step.path, "");
    EXPECT_EQ(step.kind, "cache");
    EXPECT_EQ(step.parent, image_);
    EXPECT_EQ(step.depth, 1U);
    EXPECT_EQ(layer_of(*cache, image_).created_s, 1681247606U);
    EXPECT_THAT(layer_of(*cache, image_).used_by, ElementsAre(fmt::format("layer {}", step_)));
    EXPECT_GE(cache->other_bytes.at("content"), 5000U);
}

TEST_F(BuildKitTest, AStepThatIsNotFinishedHasTheTreeOfItsMutable) {
    make_build();
    snapshots_.buckets.erase(step_);
    snapshots_.buckets[run_].values = Values{{"parent", app_layer_.text()}};
    records_.buckets["_main"].buckets[step_].values["cache.equalMutable"] = text_value(run_);
    records_.buckets["_main"].buckets[run_].values = Values{{"cache.parent", text_value(image_)}};
    write_all();
    const auto facts = read();
    const auto *docker = store_of(facts, "docker", "overlay2"), *cache = store_of(facts, "buildkit", "overlay2");
    ASSERT_TRUE(docker != nullptr && cache != nullptr);
    EXPECT_EQ(layer_of(*docker, run_).kind, "active");
    EXPECT_THAT(layer_of(*docker, run_).used_by,
                UnorderedElementsAre(fmt::format("build cache {}", run_), fmt::format("build cache {}", step_)));
    EXPECT_EQ(layer_of(*cache, run_).kind, "active");
    EXPECT_THAT(layer_of(*cache, step_).damage, IsEmpty());
}

TEST_F(BuildKitTest, WhatOnlySnapshotsNameIsRecordedAndInNoUse) {
    make_build();
    records_.buckets["_main"].buckets.erase(step_);
    leases_.buckets.clear();
    write_all();
    const auto facts = read();
    const auto *docker = store_of(facts, "docker", "overlay2");
    ASSERT_NE(docker, nullptr);
    EXPECT_TRUE(layer_of(*docker, run_).recorded);
    EXPECT_THAT(layer_of(*docker, run_).used_by, IsEmpty());
}

TEST_F(BuildKitTest, ALeaseWithoutARecordIsAUser) {
    make_build();
    records_.buckets["_main"].buckets.erase(step_);
    write_all();
    const auto facts = read();
    const auto *docker = store_of(facts, "docker", "overlay2");
    ASSERT_NE(docker, nullptr);
    EXPECT_THAT(layer_of(*docker, run_).used_by, ElementsAre(fmt::format("lease {}", step_)));
}

TEST_F(BuildKitTest, AStepThatBecameAnImagesLayerIsThatLayer) {
    make_build();
    const auto layer = record_layer(run_, "step", app_layer_);
    snapshots_.buckets[step_].values["chainid"] = layer.chain.text();
    write_all();
    const auto facts = read();
    const auto *docker = store_of(facts, "docker", "overlay2");
    ASSERT_NE(docker, nullptr);
    EXPECT_EQ(layer_of(*docker, run_).name, layer.chain.text());
    EXPECT_THAT(layer_of(*docker, run_).used_by, ElementsAre(fmt::format("build cache {}", step_)));
    EXPECT_THAT(layer_of(*docker, run_).damage, IsEmpty());
}

TEST_F(BuildKitTest, RecordsWithoutTreesAreDamageUnlessTheyAreLazy) {
    make_build();
    auto &main = records_.buckets["_main"];
    main.buckets["lazy"].values = Values{{"cache.blobonly", value("true")}, {"snapshot.committed", value("true")}};
    main.buckets["merged"].values = Values{{"cache.mergeParents", value(R"(["x","y"])")}};
    main.buckets["lost"].values = Values{{"snapshot.committed", value("true")}};
    main.buckets["nolayer"].values = Values{{"cache.snapshot", text_value(Digest::of("nobody").text())}};
    main.buckets["broken"].values = Values{{"cache.parent", "{"}};
    write_all();
    remove(graph(run_));
    const auto facts = read();
    const auto *cache = store_of(facts, "buildkit", "overlay2"), *docker = store_of(facts, "docker", "overlay2");
    ASSERT_TRUE(cache != nullptr && docker != nullptr);
    EXPECT_EQ(cache->settings.at("records without a tree"), "2");
    EXPECT_THAT(layer_of(*cache, "lost").damage, ElementsAre(HasSubstr("is unknown")));
    EXPECT_THAT(layer_of(*cache, "nolayer").damage, ElementsAre(HasSubstr("has no record")));
    EXPECT_FALSE(layer_of(*cache, step_).on_disk);
    EXPECT_FALSE(layer_of(*docker, run_).on_disk);
    EXPECT_TRUE(layer_of(*docker, run_).recorded);
    EXPECT_THAT(cache->sources, Contains(testing::Field(&probe::RecordSource::what, "build cache record")));
}

TEST_F(BuildKitTest, ABrokenDatabaseSaysNothingAndIsTold) {
    make_build();
    write_all();
    write(root_ + "/buildkit/snapshots.db", std::string(8192, 'x'));
    const auto facts = read();
    const auto *docker = store_of(facts, "docker", "overlay2"), *cache = store_of(facts, "buildkit", "overlay2");
    ASSERT_TRUE(docker != nullptr && cache != nullptr);
    EXPECT_EQ(state_of(*docker, root_ + "/buildkit/snapshots.db"), "unreadable");
    EXPECT_FALSE(layer_of(*docker, run_).recorded); // what follows is up to the one who sees "unreadable"
    EXPECT_THAT(cache->layers, IsEmpty());
}

TEST_F(BuildKitTest, ADriverLeftBehindKeepsItsTreesOfTheCache) {
    make_build();
    write_all();
    write("/etc/docker/daemon.json", R"({"storage-driver":"vfs"})");
    make_dir(root_ + "/image/vfs/layerdb");
    make_dir(root_ + "/vfs/dir/" + id_of('5'));
    const auto facts = read();
    const auto *left = store_of(facts, "docker", "overlay2"), *used = store_of(facts, "docker", "vfs");
    ASSERT_TRUE(left != nullptr && used != nullptr);
    EXPECT_TRUE(layer_of(*left, run_).recorded);
    EXPECT_THAT(layer_of(*left, run_).used_by, Contains(fmt::format("build cache {}", step_)));
    EXPECT_NE(store_of(facts, "buildkit", "vfs"), nullptr);
}

TEST_F(BuildKitTest, BuildkitdHasASnapshotterOfContainerd) {
    const std::string worker = "/var/lib/buildkit/runc-overlayfs";
    Bucket snapshotter;
    auto &snapshots = snapshotter.buckets["v1"].buckets["snapshots"];
    snapshots.sequence = 3;
    snapshots.buckets["buildkit/1/base"].values = Values{{"id", varint(1)}, {"kind", std::string(1, 3)}};
    snapshots.buckets["buildkit/2/step"].values = {
        {"id", varint(2)}, {"kind", std::string(1, 3)}, {"parent", "buildkit/1/base"}};
    snapshots.buckets["buildkit/3/left"].values = Values{{"id", varint(3)}, {"kind", std::string(1, 2)}};
    write_bolt(worker + "/snapshots/metadata.db", snapshotter);
    for (const char c : {'1', '2', '3', '9'}) {
        make_dir(fmt::format("{}/snapshots/snapshots/{}/fs", worker, c));
        make_dir(fmt::format("{}/snapshots/snapshots/{}/work", worker, c));
    }
    auto &space = leases_.buckets["v1"].buckets["buildkit"];
    auto &keys = space.buckets["snapshots"].buckets["overlayfs"];
    keys.buckets["base"].values = Values{{"name", "buildkit/1/base"}};
    keys.buckets["step"].values = Values{{"name", "buildkit/2/step"}, {"parent", "base"}};
    keys.buckets["left"].values = Values{{"name", "buildkit/3/left"}};
    space.buckets["leases"].buckets["record2"].buckets["snapshots"].buckets["overlayfs"].values["step"] = "";
    write_bolt(worker + "/containerdmeta.db", leases_);
    auto &main = records_.buckets["_main"];
    main.buckets["record1"].values =
        Values{{"cache.snapshot", text_value("base")}, {"snapshot.committed", value("true")}};
    main.buckets["record2"].values =
        Values{{"cache.snapshot", text_value("step")}, {"snapshot.committed", value("true")}};
    write_bolt(worker + "/metadata_v2.db", records_);

    const auto facts = read({{.pid = 7,
                              .command = "buildkitd",
                              .cgroup = "/system.slice/buildkit.service",
                              .mount_namespace = 1,
                              .arguments = {"buildkitd", "--root", "/var/lib/buildkit"}}});
    const auto *store = store_of(facts, "buildkit", "overlayfs");
    ASSERT_NE(store, nullptr);
    EXPECT_TRUE(store->running);
    EXPECT_EQ(store->pid, 7);
    EXPECT_EQ(store->root, "/var/lib/buildkit");
    EXPECT_EQ(store->settings.at("records"), "2");
    std::map<std::string, std::vector<std::string>> cache_users;
    for (const auto &layer : store->layers) {
        EXPECT_TRUE(layer.on_disk) << layer.id;
        for (const auto &user : layer.used_by)
            if (user.starts_with("build cache ")) cache_users[layer.name].push_back(user);
        EXPECT_EQ(std::ranges::count(layer.used_by, "lease record2"), 0);
        if (layer.name == "buildkit/3/left") {
            EXPECT_THAT(layer.used_by, IsEmpty());
        }
    }
    EXPECT_EQ(cache_users.at("buildkit/1/base"), std::vector<std::string>{"build cache record1"});
    EXPECT_EQ(cache_users.at("buildkit/2/step"), std::vector<std::string>{"build cache record2"});
    EXPECT_EQ(store->layers.size(), 4U); // with 9, which has no record
}

TEST_F(BuildKitTest, ABuilderOfBuildxIsInAVolume) {
    make_usual();
    const std::string data = root_ + "/volumes/buildx_buildkit_b0_state/_data";
    write(data + "/buildkitd.lock", "");
    write_bolt(data + "/runc-overlayfs/metadata_v2.db", records_);
    record_container(container_, app_,
                     R"({"/var/lib/buildkit":{"Destination":"/var/lib/buildkit","Name":"buildx_buildkit_b0_state",)"
                     R"("Driver":"local","Type":"volume"}})");
    const auto facts = read({dockerd_});
    const auto *store = store_of(facts, "buildkit", "overlayfs");
    ASSERT_NE(store, nullptr);
    EXPECT_EQ(store->root, data);
    EXPECT_TRUE(store->running);
    EXPECT_EQ(store->pid, 0);
}

} // namespace
} // namespace shale::doctor
