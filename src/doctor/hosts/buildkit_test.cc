// SPDX-License-Identifier: Apache-2.0
#include "doctor/hosts/buildkit.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/stat.h>

#include <array>

#include "doctor/check.h"
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

/// Steps of builds, in a daemon that began at a time of the test's choice.
class BuildKitStepsTest : public BuildKitTest {
protected:
    static constexpr uint64_t boot_s = 1'000'000, daemon_s = boot_s + 5000;
    static constexpr const char *step_id_ = "0123456789abcdefghijklmno";

    void make_step(const std::string &executor, const std::string &id, uint64_t changed_s) const {
        const std::string dir = fmt::format("{}/{}", executor, id);
        make_dir(dir + "/rootfs");
        write(dir + "/config.json", "{}");
        const timespec time{static_cast<time_t>(changed_s), 0};
        const std::array<timespec, 2> times{time, time};
        ASSERT_EQ(::utimensat(AT_FDCWD, (base_ + dir).c_str(), times.data(), 0), 0);
    }
    void make_started(int pid) const {
        write("/proc/stat", fmt::format("cpu 1\nbtime {}\n", boot_s));
        write(fmt::format("/proc/{}/stat", pid),
              fmt::format("{} (x) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {} 0 0\n", pid, (daemon_s - boot_s) * 100));
    }
    /// What the directory is taken for; "": it is not told.
    static std::string kind_of(const probe::Store *store, const std::string &id) {
        if (store == nullptr) return "no store";
        const auto found = std::ranges::find(store->layers, "executor/" + id, &probe::StoreLayer::id);
        return found == store->layers.end() ? "" : found->kind;
    }
    [[nodiscard]] std::string dockers(const std::vector<probe::Process> &processes,
                                      const std::string &id = step_id_) const {
        const auto facts = read(processes);
        return kind_of(store_of(facts, "buildkit", "overlay2"), id);
    }
    const std::string executor_ = root_ + "/buildkit/executor";
};

TEST_F(BuildKitStepsTest, ThoseOlderThanTheirDaemonAreLeftovers) {
    make_build();
    write_all();
    make_started(dockerd_.pid);
    make_step(executor_, step_id_, daemon_s - 100);
    const std::string running = std::string(24, 'r') + "1", young = std::string(24, 'y') + "1";
    make_step(executor_, running, daemon_s + 100);
    make_step(executor_, young, daemon_s - 3); // the clock may have been set a little
    for (const std::string &other : {std::string("runc-log.json"), std::string(24, 'a'), std::string(26, 'a'),
                                     std::string(25, 'A'), std::string(24, 'a') + "."})
        make_dir(executor_ + "/" + other);
    write(executor_ + "/" + std::string(25, 'f'), "no directory");
    make_link(step_id_, executor_ + "/" + std::string(25, 'l'));
    const auto facts = read({dockerd_});
    const auto *cache = store_of(facts, "buildkit", "overlay2");
    ASSERT_NE(cache, nullptr);
    EXPECT_EQ(kind_of(cache, running), "ingest");
    EXPECT_EQ(kind_of(cache, young), "ingest");
    EXPECT_EQ(std::ranges::count_if(cache->layers, [](const auto &one) { return one.id.starts_with("executor/"); }), 3);
    const auto &left = layer_of(*cache, fmt::format("executor/{}", step_id_));
    EXPECT_EQ(left.kind, "step");
    EXPECT_EQ(left.path, fmt::format("{}/{}", executor_, step_id_));
    EXPECT_EQ(left.created_s, daemon_s - 100);
    EXPECT_TRUE(left.on_disk && !left.recorded);
    const auto outcome = find_check("store-orphans")->run(facts);
    ASSERT_EQ(outcome.findings.size(), 1U);
    EXPECT_THAT(outcome.findings[0].subject, HasSubstr("buildkit overlay2 store"));
    EXPECT_THAT(outcome.findings[0].evidence, ElementsAre(HasSubstr(left.path)));
}

TEST_F(BuildKitStepsTest, OnesWhoseDaemonIsNotKnownAreNone) {
    make_build();
    write_all();
    make_step(executor_, step_id_, daemon_s - 100);
    EXPECT_EQ(dockers({dockerd_}), "ingest") << "when it began cannot be told";
    dockerd_.cgroup = "/docker/" + id_of('7'); // of a container, which may have this root
    EXPECT_EQ(dockers({dockerd_}), "ingest");
    dockerd_.command = "nginx";
    dockerd_.arguments.clear();
    EXPECT_EQ(dockers({dockerd_}), "step") << "nobody builds";
    EXPECT_EQ(dockers({}), "step") << "a disk";
    make_step(executor_, step_id_, taken_s_ - 100);
    EXPECT_EQ(dockers({}), "ingest") << "of a moment ago";
    make_step(executor_, step_id_, 0);
    EXPECT_EQ(dockers({}), "ingest") << "no time at all";
}

TEST_F(BuildKitStepsTest, OneThatRunsForDaysIsNoLeftover) {
    make_build();
    write_all();
    make_started(dockerd_.pid);
    make_step(executor_, step_id_, daemon_s + 100);
    auto facts = read({dockerd_});
    EXPECT_EQ(layer_of(*store_of(facts, "buildkit", "overlay2"), fmt::format("executor/{}", step_id_)).created_s, 0U);
    for (const char *const check : {"store-orphans", "overlay-work-leftovers", "leaked-mounts"})
        EXPECT_THAT(find_check(check)->run(facts).findings, IsEmpty()) << check;
}

TEST_F(BuildKitStepsTest, ImagesInContainerdMakeNoDifference) {
    write("/etc/docker/daemon.json", R"({"features":{"containerd-snapshotter":true}})");
    make_started(dockerd_.pid);
    make_step(executor_, step_id_, daemon_s - 100);
    const auto facts = read({dockerd_});
    EXPECT_EQ(kind_of(store_of(facts, "buildkit", "overlayfs"), step_id_), "step");
}

TEST_F(BuildKitStepsTest, ThoseOfBuildkitdAreItsWorkers) {
    const std::string root = "/var/lib/buildkit";
    for (const std::string worker : {"runc-overlayfs", "containerd-overlayfs", "."})
        make_step(fmt::format("{}/{}/executor", root, worker), step_id_, daemon_s - 100);
    const probe::Process buildkitd{.pid = 7,
                                   .command = "buildkitd",
                                   .cgroup = "/system.slice/buildkit.service",
                                   .mount_namespace = 1,
                                   .arguments = {"buildkitd", "--root", root}};
    const auto kinds = [&](const std::vector<probe::Process> &processes) {
        std::vector<std::string> out;
        for (const auto &store : read(processes).stores)
            out.push_back(fmt::format("{} {}", store.settings.contains("snapshots"), kind_of(&store, step_id_)));
        return out;
    };
    EXPECT_THAT(kinds({buildkitd}), UnorderedElementsAre("false ingest", "true "));
    make_started(buildkitd.pid);
    EXPECT_THAT(kinds({buildkitd}), UnorderedElementsAre("false step", "true "));
    EXPECT_THAT(kinds({}), UnorderedElementsAre("false step", "true "));
    auto one = buildkitd, other = buildkitd; // which of them has that root cannot be told
    one.arguments = other.arguments = {"buildkitd"};
    EXPECT_THAT(kinds({one}), UnorderedElementsAre("false step", "true "));
    other.pid = 8;
    EXPECT_THAT(kinds({other, one}), UnorderedElementsAre("false ingest", "true "));
    make_step(root + "/runc-overlayfs/executor", step_id_, daemon_s + 100);
    EXPECT_THAT(kinds({buildkitd}), UnorderedElementsAre("false ingest", "true "));
}

/// Its process is the container's first one.
TEST_F(BuildKitStepsTest, ThoseOfABuilderOfBuildx) {
    make_usual();
    const std::string data = root_ + "/volumes/buildx_buildkit_b0_state/_data";
    write(data + "/buildkitd.lock", "");
    make_step(data + "/runc-overlayfs/executor", step_id_, daemon_s - 100);
    record_container(container_, app_,
                     R"({"/var/lib/buildkit":{"Destination":"/var/lib/buildkit","Name":"buildx_buildkit_b0_state",)"
                     R"("Driver":"local","Type":"volume"}})");
    const auto kind = [&] {
        const auto facts = read({dockerd_});
        return kind_of(store_of(facts, "buildkit", "overlayfs"), step_id_);
    };
    EXPECT_EQ(kind(), "ingest");
    make_started(4711);
    EXPECT_EQ(kind(), "step");
}

} // namespace
} // namespace shale::doctor
