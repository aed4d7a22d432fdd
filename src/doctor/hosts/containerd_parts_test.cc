// SPDX-License-Identifier: Apache-2.0
// What containerd.cc is made of: its metadata, its configuration, and the snapshotters other than overlayfs.

#include "doctor/hosts/containerd_metadata.h"
#include "doctor/hosts/containerd_test_root.h"

namespace shale::doctor {
namespace {

using namespace containerd_test;
using testing::ElementsAre;
using testing::IsEmpty;

/// Each byte of the metadata in turn is turned over: nothing may crash or hang.
TEST(ContainerdParts, DamagedMetadata) {
    Fake fake;
    fake.image_of_two();
    fake.container("default", "box", fake.chain2);
    const std::string good = fake.metadata();
    size_t read = 0;
    for (size_t at = 0; at < good.size(); at += 7) {
        if (good[at] == '\0' && at % 5 != 0) continue;
        std::string bad = good;
        bad[at] = static_cast<char>(bad[at] ^ 0x5a);
        const auto file = probe::BoltFile::from_bytes(std::move(bad));
        if (!file) continue;
        ++read;
        (void)containerd::snapshot_users(containerd::metadata_of(*file));
    }
    EXPECT_GT(read, 100U);
}

TEST(ContainerdParts, ReferencesOfTheGarbageCollector) {
    Fake fake;
    Bucket &space = fake.space("k8s.io");
    const auto pinned = [&](const std::string &key) { fake.snapshot("k8s.io", key, "n/" + key); };
    for (const char *key :
         {"by-config", "by-lease", "by-container", "by-sandbox", "by-back", "by-root", "by-slash", "free"})
        pinned(key);
    const std::string config = fake.blob("k8s.io", "{}",
                                         {{"containerd.io/gc.ref.snapshot.overlayfs", "by-config"},
                                          {"containerd.io/gc.ref.snapshot.overlayfs/2", "by-slash"}});
    const std::string target = fake.blob("k8s.io", "[]", {{"containerd.io/gc.ref.content.0", config}});
    fake.image("k8s.io", "sha256:0123", target);
    fake.image("k8s.io", "docker.io/a:1", target);
    const std::string leased = fake.blob("k8s.io", "1", {{"containerd.io/gc.ref.snapshot.overlayfs", "by-lease"}});
    space.buckets["leases"].buckets["L"].buckets["content"].values[leased];
    fake.container("k8s.io", "c1", "by-container");
    space.buckets["sandboxes"].buckets["s1"].buckets["labels"].values["containerd.io/gc.ref.snapshot.overlayfs"] =
        "by-sandbox";
    fake.snapshot("k8s.io", "by-back", "n/by-back").buckets["labels"].values["containerd.io/gc.bref.image"] =
        "docker.io/a:1";
    const std::string rooted = fake.blob(
        "k8s.io", "2", {{"containerd.io/gc.ref.snapshot.overlayfs", "by-root"}, {"containerd.io/gc.root", "now"}});
    const auto file = probe::BoltFile::from_bytes(fake.metadata());
    ASSERT_TRUE(file);
    const auto metadata = containerd::metadata_of(*file);
    ASSERT_FALSE(metadata.damage) << metadata.damage->text();
    const auto [users, complete] = containerd::snapshot_users(metadata);
    EXPECT_TRUE(complete);
    const auto of = [&](const char *key) {
        const auto found = users.find({"k8s.io", "overlayfs", key});
        return found == users.end() ? std::set<std::string>() : found->second;
    };
    EXPECT_THAT(of("by-config"), ElementsAre("image docker.io/a:1"));
    EXPECT_THAT(of("by-slash"), ElementsAre("image docker.io/a:1"));
    EXPECT_THAT(of("by-back"), ElementsAre("image docker.io/a:1"));
    EXPECT_THAT(of("by-lease"), ElementsAre("lease L"));
    EXPECT_THAT(of("by-container"), ElementsAre("container c1"));
    EXPECT_THAT(of("by-sandbox"), ElementsAre("sandbox s1"));
    EXPECT_THAT(of("by-root"), ElementsAre("content " + rooted));
    EXPECT_THAT(of("free"), IsEmpty());
}

TEST(ContainerdParts, NativeBlockfileErofsAndBtrfs) {
    Fake fake;
    const auto at = [](const std::string &name) { return std::string(root) + "/io.containerd.snapshotter.v1." + name; };
    for (const std::string name : {"native", "blockfile", "erofs", "btrfs"}) {
        fake.record("base", 1, 3, {}, long_ago_s, at(name));
        fake.record("look", 2, 1, "base", long_ago_s, at(name));
        fake.sequence(at(name), 5);
    }
    fake.host.dir(at("native") + "/snapshots/1");
    fake.host.file(at("blockfile") + "/snapshots/1", "");
    fake.host.file(at("erofs") + "/snapshots/1/layer.erofs", "");
    fake.host.dir(at("erofs") + "/snapshots/2/fs");
    fake.host.dir(at("btrfs") + "/snapshots/1");
    fake.host.dir(at("btrfs") + "/view/rm-2");
    fake.host.dir(at("btrfs") + "/active/1");
    fake.write();
    const auto facts = fake.read();
    EXPECT_TRUE(layer_of(store_of(facts, "native"), "2").on_disk); // it has nothing of its own
    EXPECT_EQ(layer_of(store_of(facts, "native"), "2").path, "");
    EXPECT_THAT(layer_of(store_of(facts, "native"), "2").damage, IsEmpty());
    EXPECT_THAT(layer_of(store_of(facts, "blockfile"), "1").damage, ElementsAre("its block file is empty"));
    EXPECT_THAT(layer_of(store_of(facts, "erofs"), "1").damage, ElementsAre("layer.erofs is empty"));
    EXPECT_THAT(layer_of(store_of(facts, "erofs"), "2").damage, IsEmpty());

    const auto &btrfs = store_of(facts, "btrfs");
    EXPECT_EQ(layer_of(btrfs, "1").path, at("btrfs") + "/snapshots/1");
    EXPECT_THAT(layer_of(btrfs, "2").damage,
                ElementsAre(fmt::format("a removal that did not end has moved it to {}/view/rm-2", at("btrfs"))));
    const auto leftover = std::ranges::find(btrfs.layers, at("btrfs") + "/active/1", &StoreLayer::path);
    ASSERT_NE(leftover, btrfs.layers.end()); // its deletion after the commit failed
    EXPECT_FALSE(leftover->recorded);
    EXPECT_EQ(leftover->kind, "active");
}

TEST(ContainerdParts, ThinDevicesAndDatasets) {
    Fake fake;
    const std::string thin = std::string(root) + "/io.containerd.snapshotter.v1.devmapper";
    const std::string zfs = std::string(root) + "/io.containerd.snapshotter.v1.zfs";
    for (const std::string &where : {thin, zfs}) {
        fake.record("base", 1, 3, {}, long_ago_s, where);
        fake.record("top", 2, 3, "base", long_ago_s, where);
        fake.record("gone", 3, 3, {}, long_ago_s, where);
        fake.sequence(where, 6);
    }
    Bucket pool;
    pool.buckets["devices"].values = {
        {"data-pool-snap-1", R"({"device_id":1,"size":10,"name":"data-pool-snap-1","state":8})"},
        {"data-pool-snap-2", R"({"device_id":2,"size":10,"state":12,"error":"no space"})"},
        {"data-pool-snap-5", R"({"device_id":5,"size":10,"state":4})"},
        {"data-pool-snap-6", R"({"device_id":6,"size":10,"state":11})"}};
    fake.host.file(thin + "/data-pool.db", Fake::database(pool));
    fake.write();
    for (const char *name : {"tank/c", "tank/c/1", "tank/c/1@snapshot", "tank/c/2", "tank/c/4", "tank/c/7"})
        fake.before.zfs_datasets.emplace_back().name = name;
    fake.before.zfs_datasets.front().mountpoint = zfs;

    const auto facts = fake.read();
    const auto &pools = store_of(facts, "devmapper");
    EXPECT_EQ(pools.settings.at("thin pool"), "data-pool");
    EXPECT_TRUE(layer_of(pools, "1").on_disk);
    EXPECT_EQ(layer_of(pools, "2").recorded_bytes, 0U); // 1000 are the parent's
    EXPECT_THAT(layer_of(pools, "2").damage, ElementsAre("thin device data-pool-snap-2 is faulty: no space"));
    EXPECT_FALSE(layer_of(pools, "3").on_disk);
    EXPECT_EQ(layer_of(pools, "5").kind, "");
    EXPECT_FALSE(layer_of(pools, "5").recorded);
    EXPECT_EQ(layer_of(pools, "6").kind, "removing");

    const auto &sets = store_of(facts, "zfs");
    EXPECT_THAT(layer_of(sets, "1").damage, IsEmpty());
    EXPECT_THAT(layer_of(sets, "2").damage, ElementsAre("tank/c/2@snapshot is missing"));
    EXPECT_FALSE(layer_of(sets, "3").on_disk);
    EXPECT_FALSE(layer_of(sets, "4").recorded);
    EXPECT_EQ(layer_of(sets, "7").kind, "ingest");

    fake.before.zfs_datasets.clear();
    const auto blind = fake.read();
    EXPECT_TRUE(layer_of(store_of(blind, "zfs"), "3").on_disk); // not known to be missing
    EXPECT_THAT(store_of(blind, "zfs").sources.back().state, "unreadable");
}

TEST(ContainerdParts, Configuration) {
    Fake fake;
    fake.host.file("/etc/containerd/config.toml", R"(version = 2
root = "/data/containerd"
imports = ["conf.d/*.toml", "/etc/containerd/config.toml"]
[plugins."io.containerd.snapshotter.v1.overlayfs"]
  root_path = "/ssd/overlay"
  mount_options = ["metacopy=on", "index=off"]
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "overlayfs"
[proxy_plugins]
  [proxy_plugins.stargz]
    type = "snapshot"
    address = "/run/stargz.sock"
)");
    fake.host.file("/etc/containerd/conf.d/1.toml",
                   "[proxy_plugins]\nshale = { type = \"snapshot\", address = \"/run/shale.sock\" }\n");
    fake.host.file("/etc/containerd/conf.d/2.txt", "this is not read");
    fake.record("x", 1, 3, {}, long_ago_s, "/ssd/overlay");
    fake.write();
    std::filesystem::create_directories(fake.host.here("/data"));
    std::filesystem::rename(fake.host.here(root), fake.host.here("/data/containerd"));

    const auto facts = fake.read();
    ASSERT_EQ(facts.config_files.size(), 2U);
    EXPECT_EQ(facts.config_files[0].kind, "containerd config.toml");
    EXPECT_EQ(facts.config_files[1].path, "/etc/containerd/conf.d/1.toml");
    const auto &store = store_of(facts);
    EXPECT_EQ(store.root, "/ssd/overlay");
    EXPECT_EQ(store.settings.at("mount_options"), "metacopy=on,index=off");
    EXPECT_EQ(store.settings.at("containerd root"), "/data/containerd");
    EXPECT_EQ(store.settings.at("cri snapshotter"), "overlayfs");
    EXPECT_EQ(store_of(facts, "stargz").settings.at("proxy"), "/run/stargz.sock");
    EXPECT_EQ(store_of(facts, "shale").settings.at("proxy"), "/run/shale.sock");
}

TEST(ContainerdParts, ThePackageTellsItsVersion) {
    Fake fake;
    fake.record("x", 1, 3);
    fake.write();
    fake.host.file("/usr/bin/containerd", "ELF");
    fake.host.file("/var/lib/dpkg/info/containerd.io.list", "/usr/bin/containerd\n");
    fake.host.file("/var/lib/dpkg/status", "Package: containerd.io\nStatus: install ok installed\nVersion: 1.7.22-1\n");
    EXPECT_EQ(store_of(fake.read()).version, "1.7.22");
}

TEST(ContainerdParts, AConfigurationThatIsNoTomlIsAProblem) {
    Fake fake;
    fake.host.file("/etc/containerd/config.toml", "root = \"/data/containerd\"\n[broken\n");
    fake.record("x", 1, 3);
    fake.write();
    const auto facts = fake.read();
    const auto about = [](const probe::Problem &one) { return one.about == "/etc/containerd/config.toml"; };
    ASSERT_EQ(std::ranges::count_if(facts.problems, about), 1); // however often it is asked for
    EXPECT_TRUE(std::ranges::find_if(facts.problems, about)->why.starts_with("nothing of it is used: line "));
    ASSERT_EQ(facts.config_files.size(), 1U);
    EXPECT_EQ(store_of(facts).settings.at("containerd root"), root);
}

} // namespace
} // namespace shale::doctor
