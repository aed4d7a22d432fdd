// SPDX-License-Identifier: Apache-2.0
// Which roots, which daemon, which driver in use.
#include "doctor/hosts/docker_daemon.h"

#include <gmock/gmock.h>

#include "doctor/hosts/docker_test_root.h"

namespace shale::doctor {
namespace {

using testing::ElementsAre;
using testing::Field;
using testing::IsEmpty;

TEST_F(DockerTest, TheRootIsWhereTheConfigurationOrTheDaemonSays) {
    root_ = "/srv/docker";
    make_usual();
    EXPECT_THAT(read().stores, IsEmpty());
    write(
        "/etc/docker/daemon.json",
        R"({"data-root":"/srv/docker/","storage-opts":["overlay2.size=10G"],"live-restore":true,"log-opts":{"max-size":"1m"}})");
    auto facts = read();
    ASSERT_EQ(facts.stores.size(), 1U);
    EXPECT_EQ(facts.stores.front().root, "/srv/docker");
    EXPECT_EQ(facts.stores.front().settings.at("storage-opts"), "overlay2.size=10G");
    EXPECT_EQ(facts.stores.front().settings.at("live-restore"), "true");
    EXPECT_EQ(facts.stores.front().settings.at("log-opts.max-size"), "1m");
    ASSERT_EQ(facts.config_files.size(), 1U);
    EXPECT_EQ(facts.config_files.front().kind, "docker daemon.json");

    write("/etc/docker/daemon.json", "{");
    dockerd_.arguments = {"dockerd", "--data-root", "/srv/docker", "-s", "overlay2", "--storage-opt=overlay2.size=1G"};
    facts = read({dockerd_});
    ASSERT_EQ(facts.stores.size(), 1U);
    EXPECT_TRUE(facts.stores.front().running);
    EXPECT_EQ(facts.stores.front().settings.at("storage-opts"), "overlay2.size=1G");
    EXPECT_THAT(facts.problems, ElementsAre(Field(&probe::Problem::about, "/etc/docker/daemon.json")));
}

TEST_F(DockerTest, ThePackageTellsItsVersion) {
    make_usual();
    write("/usr/bin/dockerd", "ELF");
    write("/var/lib/dpkg/info/docker-ce.list", "/usr/bin/dockerd\n");
    write("/var/lib/dpkg/status", "Package: docker-ce\nStatus: install ok installed\nVersion: 5:27.3.1-1~debian.12\n");
    EXPECT_EQ(read().stores.at(0).version, "27.3.1");
    EXPECT_EQ(read({dockerd_}).stores.at(0).version, "") << "which file runs cannot be told";
    make_link("/usr/bin/dockerd", "/proc/42/exe");
    EXPECT_EQ(read({dockerd_}).stores.at(0).version, "27.3.1");
}

TEST_F(DockerTest, ANodeOfASwarmHasItsState) {
    make_usual();
    EXPECT_FALSE(read().stores.at(0).settings.contains("swarm"));
    make_dir(root_ + "/swarm"); // is left there by one that was
    EXPECT_FALSE(read().stores.at(0).settings.contains("swarm"));
    write(root_ + "/swarm/docker-state.json", R"({"LocalAddr":"10.0.0.1"})");
    EXPECT_EQ(read().stores.at(0).settings.at("swarm"), "active");
}

/// With userns-remap dockerd has its data in a root within the root; what lies in the other one is of another time.
TEST_F(DockerTest, ASwarmOfTheOtherRootOfUsernsRemapIsNone) {
    make_usual();
    const std::string outer = root_, inner = root_ + "/165536.165536";
    root_ = inner;
    make_usual();
    const auto swarm_in = [&](const std::string &root) {
        const auto facts = read({dockerd_});
        const auto store = std::ranges::find(facts.stores, root, &probe::Store::root);
        EXPECT_NE(store, facts.stores.end());
        return store != facts.stores.end() && store->settings.contains("swarm");
    };
    for (const std::string &root : {outer, inner})
        write(root + "/swarm/docker-state.json", "{}");
    EXPECT_TRUE(swarm_in(outer));
    EXPECT_FALSE(swarm_in(inner));
    write("/etc/docker/daemon.json", R"({"userns-remap":"default"})");
    EXPECT_FALSE(swarm_in(outer));
    EXPECT_TRUE(swarm_in(inner));
    write("/etc/docker/daemon.json", R"({"userns-remap":""})");
    EXPECT_TRUE(swarm_in(outer));
}

TEST_F(DockerTest, ADockerdInAContainerIsNotThatOfTheHost) {
    make_usual();
    dockerd_.cgroup = "/system.slice/docker-" + id_of('7') + ".scope";
    EXPECT_FALSE(read({dockerd_}).stores.at(0).running);
    write("/run/docker.pid", "42\n"); // unless the host's pid file says so
    EXPECT_TRUE(read({dockerd_}).stores.at(0).running);
}

TEST_F(DockerTest, RootlessAndRemappedRootsAreFound) {
    root_ = "/var/lib/docker/165536.165536";
    make_usual();
    root_ = "/home/u/.local/share/docker";
    driver_ = "fuse-overlayfs";
    make_usual();
    struct stat status{};
    // Root has no rootless daemon.
    ASSERT_TRUE(::geteuid() != 0 || ::chown((base_ + root_).c_str(), 1000, 1000) == 0);
    ASSERT_EQ(::stat((base_ + root_).c_str(), &status), 0);
    dockerd_.cgroup =
        fmt::format("/user.slice/user-{0}.slice/user@{0}.service/app.slice/docker.service", status.st_uid);
    const auto facts = read({dockerd_});
    const auto *remapped = store_of(facts, "docker", "overlay2"),
               *rootless = store_of(facts, "docker", "fuse-overlayfs");
    ASSERT_TRUE(remapped != nullptr && rootless != nullptr);
    EXPECT_EQ(remapped->root, "/var/lib/docker/165536.165536");
    EXPECT_FALSE(remapped->running);
    EXPECT_EQ(remapped->images.size(), 2U);
    EXPECT_EQ(rootless->root, root_);
    EXPECT_TRUE(rootless->running);
    EXPECT_EQ(rootless->layers.size(), 5U);
}

TEST_F(DockerTest, ADockerdStartedFromASessionIsThatOfTheHost) {
    make_usual();
    dockerd_.cgroup = "/user.slice/user-0.slice/session-3.scope";
    EXPECT_TRUE(read({dockerd_}).stores.at(0).running);
    dockerd_.cgroup = "/user.slice/user-1000.slice/session-3.scope";
    EXPECT_TRUE(read({dockerd_}).stores.at(0).running);
}

TEST_F(DockerTest, WithImagesInContainerdContainersAndVolumesAreLeft) {
    driver_ = "overlayfs";
    record_container(container_, Digest::of("index").text());
    make_dir(root_ + "/volumes/data/_data");
    const auto facts = read();
    ASSERT_EQ(facts.stores.size(), 1U);
    const auto &store = facts.stores.front();
    EXPECT_EQ(store.driver, "overlayfs");
    EXPECT_EQ(store.settings.at("containerd-snapshotter"), "true");
    EXPECT_EQ(store.containers.size(), 1U);
    EXPECT_EQ(store.volumes.size(), 1U);
    EXPECT_THAT(store.layers, IsEmpty());
}

TEST_F(DockerTest, AfterTheChangeToContainerdTheGraphDriverIsLeftBehind) {
    make_usual();
    write("/etc/docker/daemon.json", R"({"features":{"containerd-snapshotter":true},"storage-driver":"overlay2"})");
    const auto facts = read({dockerd_});
    ASSERT_EQ(facts.stores.size(), 2U);
    const auto *left = store_of(facts, "docker", "overlay2"), *used = store_of(facts, "docker", "overlayfs");
    ASSERT_TRUE(left != nullptr && used != nullptr);
    EXPECT_FALSE(left->running);
    EXPECT_EQ(left->layers.size(), 5U);
    EXPECT_TRUE(used->running);
    EXPECT_THAT(used->layers, IsEmpty());
    EXPECT_EQ(used->settings.at("containerd-snapshotter"), "true");
}

TEST_F(DockerTest, ADriverThatIsOnlyNamedHidesNothing) {
    make_usual();
    make_dir(root_ + "/volumes/data/_data");
    write("/etc/docker/daemon.json", R"({"storage-driver":"btrfs"})");
    const auto facts = read();
    ASSERT_EQ(facts.stores.size(), 1U);
    EXPECT_EQ(facts.stores.front().driver, "overlay2");
    EXPECT_EQ(facts.stores.front().containers.size(), 1U);
    EXPECT_EQ(facts.stores.front().volumes.size(), 1U);
}

TEST_F(DockerTest, NothingThereIsNoStore) {
    const auto facts = read();
    EXPECT_THAT(facts.stores, IsEmpty());
    EXPECT_THAT(facts.problems, IsEmpty());
}

TEST_F(DockerTest, AGivenRootIsTheOnlyOne) {
    make_usual();
    root_ = "/mnt/old";
    make_usual();
    auto host = probe::Host::open(base_);
    ASSERT_TRUE(host);
    probe::Facts facts;
    read_docker(*host, {}, "/mnt/old", facts);
    ASSERT_EQ(facts.stores.size(), 1U);
    EXPECT_EQ(facts.stores.front().root, "/mnt/old");
    read_docker(*host, {}, "/mnt/none", facts);
    EXPECT_EQ(facts.stores.size(), 1U);
    EXPECT_THAT(facts.problems, ElementsAre(Field(&probe::Problem::about, "/mnt/none")));
}

} // namespace
} // namespace shale::doctor
