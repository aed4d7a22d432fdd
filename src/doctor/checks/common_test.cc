// SPDX-License-Identifier: Apache-2.0
#include "doctor/checks/common.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "doctor/checks/mounted_layers.h"

namespace shale::doctor::checks {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

probe::FileSystem fs_at(std::string target) {
    probe::FileSystem out;
    out.target = std::move(target);
    return out;
}

probe::Store store_of(std::string engine, std::string driver, std::string root) {
    probe::Store out;
    out.engine = std::move(engine);
    out.driver = std::move(driver);
    out.root = std::move(root);
    return out;
}

probe::StoreLayer layer_of(std::string id, std::string path) {
    probe::StoreLayer out;
    out.id = std::move(id);
    out.path = std::move(path);
    out.on_disk = true;
    return out;
}

probe::Mount mount_of(std::string target, std::string type, std::string device, std::string super_options) {
    probe::Mount out;
    out.target = std::move(target);
    out.type = std::move(type);
    out.device = std::move(device);
    out.root = "/";
    out.super_options = std::move(super_options);
    return out;
}

TEST(DoctorCommon, PathsLieInDirectories) {
    EXPECT_TRUE(lies_in("/var/lib/docker", "/var/lib/docker"));
    EXPECT_TRUE(lies_in("/var/lib/docker/x", "/var/lib/docker"));
    EXPECT_TRUE(lies_in("/x", "/"));
    EXPECT_FALSE(lies_in("/var/lib/docker2", "/var/lib/docker"));
    EXPECT_FALSE(lies_in("/var/lib", "/var/lib/docker"));
    EXPECT_FALSE(lies_in("/x", ""));
}

TEST(DoctorCommon, FileSystemWithTheLongestTarget) {
    probe::Facts facts;
    facts.file_systems = {fs_at("/var"), fs_at("/"), fs_at("/var/lib/docker/overlay2"), fs_at("/var/lib")};
    EXPECT_EQ(file_system_of(facts, "/var/lib/docker"), &facts.file_systems[3]);
    EXPECT_EQ(file_system_of(facts, "/variable"), &facts.file_systems[1]);
    EXPECT_EQ(file_system_of(probe::Facts(), "/"), nullptr);

    auto store = store_of("docker", "overlay2", "/var/lib/docker");
    EXPECT_EQ(file_system_of(facts, store), &facts.file_systems[3]);
    EXPECT_EQ(file_system_of_layers(facts, store), &facts.file_systems[3]);
    store.layers = {layer_of("a", "/var/lib/docker/overlay2/a")};
    EXPECT_EQ(file_system_of_layers(facts, store), &facts.file_systems[2]);
    store.known_file_system = true;
    EXPECT_EQ(file_system_of(facts, store), &facts.file_systems[0]);
    store.file_system = 4; // hostile: out of range
    EXPECT_EQ(file_system_of(facts, store), &facts.file_systems[3]);
}

TEST(DoctorCommon, PercentIsRoundedDown) {
    EXPECT_EQ(percent_text(999'999, 1'000'000), "99.9 %");
    EXPECT_EQ(percent_text(573, 1000), "57.3 %");
    EXPECT_EQ(percent_text(1, 1), "100.0 %");
    EXPECT_EQ(percent_text(5, 0), "0.0 %");
    EXPECT_EQ(percent_text(UINT64_MAX, UINT64_MAX), "100.0 %");
}

TEST(DoctorCommon, CountsAndLists) {
    EXPECT_EQ(counted(1, "layer"), "1 layer");
    EXPECT_EQ(counted(0, "layer"), "0 layers");
    EXPECT_EQ(counted(2345, "process has", "processes have"), "2,345 processes have");
    EXPECT_EQ(listed({"a"}), "a");
    EXPECT_EQ(listed({"a", "b"}), "a and b");
    EXPECT_EQ(listed({"a", "b", "c"}), "a, b and c");
    EXPECT_EQ(listed({"a", "b", "c"}, 2), "a, b ... and 1 more");
}

TEST(DoctorCommon, EvidenceIsLimited) {
    std::vector<std::string> lines(max_evidence, "x");
    EXPECT_EQ(limited(lines), lines);
    lines.resize(1234, "y");
    const auto cut = limited(lines);
    ASSERT_EQ(cut.size(), max_evidence);
    EXPECT_EQ(cut[max_evidence - 2], "x");
    EXPECT_EQ(cut.back(), "... and 1,215 more");
}

TEST(DoctorCommon, ShownTextIsOnePrintableLine) {
    EXPECT_EQ(shown("a\x1b[31m\n\x7f"), "a\\x1b[31m\\x0a\\x7f");
    EXPECT_EQ(shown("caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x90\xb3"), "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x90\xb3");
    EXPECT_EQ(shown("\xc3"), "\\xc3");                   // cut off
    EXPECT_EQ(shown("\xc0\xaf"), "\\xc0\\xaf");          // too long a form
    EXPECT_EQ(shown("\xed\xa0\x80"), "\\xed\\xa0\\x80"); // a surrogate
    EXPECT_EQ(shown("\xc2\x9b"), "\\xc2\\x9b");          // C1: CSI
    const std::string cut = shown(std::string(10'000, 'x'));
    EXPECT_EQ(cut.size(), 303U);
    EXPECT_TRUE(cut.ends_with("x..."));
}

TEST(DoctorCommon, ShellQuoting) {
    EXPECT_EQ(shell_quote("/var/lib/docker"), "/var/lib/docker");
    EXPECT_EQ(shell_quote(""), "''");
    EXPECT_EQ(shell_quote("-rf"), "'-rf'");
    EXPECT_EQ(shell_quote("a b;$(c)"), "'a b;$(c)'");
    EXPECT_EQ(shell_quote("it's"), "$'it\\'s'");
    EXPECT_EQ(shell_quote("a\\b"), "'a\\b'");
    EXPECT_EQ(shell_quote("a\nb\\\xff"), "$'a\\012b\\\\\\377'");
}

TEST(DoctorCommon, KernelVersions) {
    probe::Facts facts;
    EXPECT_FALSE(kernel_at_least(facts, 0, 0));
    facts.kernel.release = "6.1.0-18-amd64";
    EXPECT_TRUE(kernel_at_least(facts, 6, 1));
    EXPECT_TRUE(kernel_at_least(facts, 5, 15));
    EXPECT_FALSE(kernel_at_least(facts, 6, 2));
    facts.kernel.release = "6";
    EXPECT_FALSE(kernel_at_least(facts, 6, 0));
    facts.kernel.release = "99999999999.1";
    EXPECT_FALSE(kernel_at_least(facts, 1, 0));
}

TEST(DoctorCommon, DockerSettings) {
    probe::Facts facts;
    EXPECT_EQ(docker_setting(facts, {"log-driver"}), std::nullopt);
    facts.config_files = {{.path = "/etc/docker/daemon.json",
                           .kind = "docker daemon.json",
                           .text = R"({"log-opts": {"max-size": "10m"}, "debug": true, "mtu": 9000, "hosts": []})"}};
    EXPECT_EQ(docker_setting(facts, {"log-opts", "max-size"}), "10m");
    EXPECT_EQ(docker_setting(facts, {"debug"}), "true");
    EXPECT_EQ(docker_setting(facts, {"mtu"}), "9000");
    EXPECT_EQ(docker_setting(facts, {"hosts"}), std::nullopt);
    EXPECT_EQ(docker_setting(facts, {"debug", "max-size"}), std::nullopt);
    facts.config_files[0].text = "{";
    EXPECT_EQ(docker_setting(facts, {"debug"}), std::nullopt);
}

TEST(DoctorCommon, RecordsThatForbidAVerdict) {
    auto store = store_of("docker", "overlay2", "/d");
    store.sources = {{.path = "/a", .what = "layer records", .state = "read", .why = {}},
                     {.path = "/b", .what = "build cache", .state = "missing", .why = {}}};
    EXPECT_EQ(unread_records(store), "");
    store.sources.push_back({.path = "/c", .what = "images", .state = "unreadable", .why = "it is empty"});
    EXPECT_EQ(unread_records(store), "docker overlay2 store at /d: images cannot be read (/c): it is empty");
    store.sources[2] = {.path = "/d/l", .what = "links", .state = "changing", .why = ""};
    EXPECT_EQ(unread_records(store), "docker overlay2 store at /d: /d/l (links) changed while it was read; look "
                                     "again when the store is idle");
    store.sources[2].why = "/d/l/x is being made";
    EXPECT_EQ(unread_records(store), "docker overlay2 store at /d: /d/l (links) changed while it was read: /d/l/x is "
                                     "being made; look again when the store is idle");
}

TEST(DoctorCommon, SizesOfStores) {
    auto store = store_of("podman", "overlay", "/c");
    store.layers = {layer_of("a", "/c/overlay/a"), layer_of("b", "/c/overlay/b")};
    store.layers[0].usage = probe::Usage{.bytes = 100, .inodes = 10, .exclusive_bytes = 40, .exclusive_inodes = 4};
    store.other_bytes = {{"content", 7}};
    EXPECT_EQ(size_of(store).bytes, 107U);
    EXPECT_EQ(size_of(store).inodes, 10U);
    EXPECT_FALSE(size_of(store).complete); // b lies on disk and was not measured
    store.layers[1].on_disk = false;
    EXPECT_TRUE(size_of(store).complete);
    store.engine = "docker"; // whose driver "overlay" makes layers of hard links
    EXPECT_EQ(size_of(store).bytes, 47U);
}

TEST(DoctorCommon, InitLayersWithoutTheirContainer) {
    auto store = store_of("docker", "overlay2", "/d");
    store.layers = {layer_of("c", "/d/c"), layer_of("c-init", "/d/c-init"), layer_of("x-init", "/d/x-init")};
    for (auto &layer : store.layers)
        layer.kind = "init";
    const Layers all = layers_by_id(store);
    EXPECT_FALSE(is_init_leftover(store.layers[1], all));
    EXPECT_TRUE(is_init_leftover(store.layers[2], all));
    store.layers[2].recorded = true;
    EXPECT_FALSE(is_init_leftover(store.layers[2], all));
}

TEST(DoctorCommon, DatesThatNoCalendarHas) {
    EXPECT_EQ(since_text(0), "");
    EXPECT_EQ(since_text(1'764'288'000), "since 2025-11-28");
    EXPECT_EQ(since_text(UINT64_MAX), "");
}

TEST(MountedLayers, UpperDirectories) {
    const auto upper = [](std::string options) {
        const auto mount = mount_of("/m", "overlay", "0:50", std::move(options));
        return std::string(upper_directory(mount));
    };
    EXPECT_EQ(upper("rw,lowerdir=/l1:/l2,upperdir=/u,workdir=/w,index=off"), "/u");
    EXPECT_EQ(upper("rw,lowerdir=/l,upperdir=/with,comma,workdir=/w"), "/with,comma");
    EXPECT_EQ(upper("ro,lowerdir=/l1:/l2"), "");
    EXPECT_EQ(upper("rw,upperdir=/u"), "/u");
    EXPECT_EQ(upper("rw,lowerdir=/l,upperdir="), "");
    EXPECT_EQ(upper(""), "");
}

probe::Facts facts_with_layer() {
    probe::Facts out;
    out.stores = {store_of("docker", "overlay2", "/d")};
    out.stores[0].layers = {layer_of("a", "/d/overlay2/a")};
    out.stores[0].containers.resize(1);
    out.stores[0].containers[0].id = "c1";
    out.stores[0].containers[0].layer = "a";
    out.mount_namespaces.resize(1);
    out.mount_namespaces[0].id = 1;
    out.mount_namespaces[0].pid = 1;
    return out;
}

TEST(MountedLayers, ByUpperDirectoryByPlaceAndByContainer) {
    auto facts = facts_with_layer();
    facts.mount_namespaces[0].mounts = {
        mount_of("/", "ext4", "254:1", "rw"),
        mount_of("/anywhere", "overlay", "0:50", "rw,lowerdir=/l,upperdir=/d/overlay2/a/diff,workdir=/w"),
        mount_of("/d/overlay2/a/merged", "overlay", "0:51", "ro,lowerdir=/l1:/l2"),
        mount_of("/d/containers/c1/mounts/shm", "tmpfs", "0:52", "rw"),
        mount_of("/d/containers/c2/mounts/shm", "tmpfs", "0:53", "rw"),
        mount_of("/d/volumes/v/_data", "nfs", "0:54", "rw"),
        mount_of("/elsewhere", "overlay", "0:55", "rw,lowerdir=/l,upperdir=/home/u/upper,workdir=/w"),
        mount_of("no path", "overlay", "0:57", "rw,lowerdir=/l,upperdir=no path either,workdir=/w"),
        mount_of("", "overlay", "0:58", "rw,lowerdir=/l,upperdir=,workdir=/w"),
        mount_of("/gone", "overlay", "0:56", "rw,lowerdir=/l,upperdir=/d/overlay2/z/diff,workdir=/w"),
    };
    const auto found = mounted_layers(facts);
    ASSERT_EQ(found.size(), 5U);
    const auto *const layer = facts.stores[0].layers.data();
    const auto *const container = facts.stores[0].containers.data();
    EXPECT_EQ(found[0].layer, layer);
    EXPECT_EQ(found[0].container, container);
    EXPECT_EQ(found[1].layer, layer);
    EXPECT_EQ(found[2].layer, nullptr);
    EXPECT_EQ(found[2].container, container);
    EXPECT_EQ(found[3].container, nullptr);
    EXPECT_EQ(found[3].container_id, "c2");
    EXPECT_EQ(found[4].layer, nullptr); // in the store, but no layer that it knows
    EXPECT_EQ(found[4].container_id, "");
}

TEST(MountedLayers, AnEngineInAContainerHasItsOwnPaths) {
    auto facts = facts_with_layer();
    const auto inner =
        mount_of("/d/overlay2/a/merged", "overlay", "0:60", "rw,lowerdir=/l,upperdir=/d/overlay2/a/diff");
    facts.mount_namespaces[0].mounts = {mount_of("/", "ext4", "254:1", "rw")};
    facts.mount_namespaces.resize(2);
    auto &nested = facts.mount_namespaces[1];
    nested.id = 2;
    nested.pid = 300;
    nested.command = "sh";
    nested.mounts = {mount_of("/", "overlay", "0:50", "rw"), inner};
    EXPECT_EQ(mounted_layers(facts).size(), 1U); // a container that sees the store
    facts.processes.resize(1);
    facts.processes[0].pid = 301;
    facts.processes[0].command = "containerd-shim";
    facts.processes[0].mount_namespace = 2;
    EXPECT_THAT(mounted_layers(facts), IsEmpty());
    nested.mounts[0] = mount_of("/", "ext4", "254:1", "rw"); // an engine with a namespace of its own, as by MountFlags=
    EXPECT_EQ(mounted_layers(facts).size(), 1U);
    EXPECT_THAT(engine_namespaces(facts), ElementsAre(1U, 2U));
}

} // namespace
} // namespace shale::doctor::checks
