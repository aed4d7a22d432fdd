// SPDX-License-Identifier: Apache-2.0
#include "doctor/hosts/containerd.h"

#include "doctor/hosts/containerd_test_root.h"

namespace shale::doctor {
namespace {

using namespace containerd_test;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

TEST(Containerd, ImageContainerAndLease) {
    Fake fake;
    fake.image_of_two();
    fake.record("default/3/box", 3, 2, "default/2/" + fake.chain2);
    fake.snapshot("default", "box", "default/3/box", fake.chain2);
    fake.tree(3);
    Bucket &container = fake.container("default", "box", "box");
    container.values["spec"] = any("types.containerd.io/opencontainers/runtime-spec/1/Spec",
                                   R"({"mounts":[{"destination":"/data","type":"bind","source":"/srv/data"},)"
                                   R"({"destination":"/proc","type":"proc","source":"proc"}]})");
    container.buckets["extensions"].values["io.cri-containerd.container.metadata"] =
        any("x", R"({"Version":"v1","Metadata":{"ID":"box","Name":"web","LogPath":"/var/log/pods/web/0.log"}})");
    fake.host.file("/var/log/pods/web/0.log", "12345");
    fake.record("default/4/pull", 4, 2);
    fake.snapshot("default", "pull", "default/4/pull");
    fake.tree(4);
    fake.space("default").buckets["leases"].buckets["L1"].buckets["snapshots"].buckets["overlayfs"].values["pull"];
    fake.write();

    const auto facts = fake.read();
    ASSERT_EQ(facts.stores.size(), 1U);
    EXPECT_THAT(facts.problems, IsEmpty());
    const auto &store = store_of(facts);
    EXPECT_EQ(store.engine, "containerd");
    EXPECT_EQ(store.root, overlay);
    EXPECT_TRUE(all_read(store));
    ASSERT_EQ(store.layers.size(), 4U);

    const auto &low = layer_of(store, "1"), &high = layer_of(store, "2"), &box = layer_of(store, "3");
    EXPECT_EQ(low.name, "default/1/" + fake.chain1);
    EXPECT_EQ(low.path, std::string(overlay) + "/snapshots/1");
    EXPECT_EQ(low.kind, "committed");
    EXPECT_EQ(low.recorded_bytes, 1000U);
    EXPECT_EQ(low.recorded_inodes, 7U);
    EXPECT_EQ(low.created_s, long_ago_s);
    EXPECT_THAT(low.used_by, UnorderedElementsAre("image docker.io/library/a:1", "layer 2"));
    EXPECT_EQ(high.parent, "1");
    EXPECT_EQ(high.depth, 1U);
    EXPECT_THAT(high.used_by, UnorderedElementsAre("image docker.io/library/a:1", "layer 3"));
    EXPECT_EQ(box.kind, "active");
    EXPECT_EQ(box.depth, 2U);
    EXPECT_THAT(box.used_by, ElementsAre("container box"));
    EXPECT_THAT(layer_of(store, "4").used_by, ElementsAre("lease L1"));
    for (const StoreLayer &layer : store.layers)
        EXPECT_TRUE(layer.recorded && layer.on_disk && layer.damage.empty()) << layer.id;

    ASSERT_EQ(store.images.size(), 1U);
    EXPECT_EQ(store.images[0].id, fake.manifest);
    EXPECT_THAT(store.images[0].names, ElementsAre("docker.io/library/a:1"));
    EXPECT_THAT(store.images[0].layers, ElementsAre("1", "2"));
    EXPECT_EQ(store.images[0].missing_layers, 0U);
    EXPECT_THAT(store.images[0].damage, IsEmpty());

    ASSERT_EQ(store.containers.size(), 1U);
    EXPECT_EQ(store.containers[0].layer, "3");
    EXPECT_EQ(store.containers[0].name, "web");
    EXPECT_EQ(store.containers[0].state, "unknown"); // a disk has no processes
    EXPECT_EQ(store.containers[0].log_bytes, 5U);
    EXPECT_THAT(store.containers[0].binds, ElementsAre("/srv/data:/data"));
}

TEST(Containerd, TheTrashOfOrphansIsNoSnapshot) {
    Fake fake;
    fake.image_of_two();
    fake.host.dir(std::string(overlay) + "/snapshots/.shale-trash/1/tree");
    fake.write();
    const auto facts = fake.read();
    const auto &store = store_of(facts);
    EXPECT_EQ(store.layers.size(), 2U);
    for (const auto &source : store.sources)
        if (source.path == std::string(overlay) + "/snapshots") {
            EXPECT_EQ(source.entries, 2U);
        }
}

TEST(Containerd, OrphansLeakedRecordsAndMissingDirectories) {
    Fake fake;
    fake.image_of_two();
    fake.record("default/3/lost", 3, 2); // recorded, in no namespace
    fake.tree(3);
    fake.record("default/4/gone", 4, 3); // recorded, not on disk
    fake.snapshot("default", "gone", "default/4/gone");
    fake.record("default/5/bare", 5, 2); // without "work"
    fake.snapshot("default", "bare", "default/5/bare").buckets["labels"].values["containerd.io/gc.root"] = "1";
    fake.tree(5, false);
    fake.tree(6); // an orphan
    fake.host.dir(std::string(overlay) + "/snapshots/new-123");
    fake.host.dir(std::string(overlay) + "/snapshots/rm-7");
    fake.sequence(overlay, 9);
    fake.write();

    const auto facts = fake.read();
    const auto &store = store_of(facts);
    EXPECT_TRUE(all_read(store));
    EXPECT_THAT(layer_of(store, "3").used_by, IsEmpty());
    EXPECT_EQ(layer_of(store, "3").kind, "active");
    EXPECT_FALSE(layer_of(store, "4").on_disk);
    EXPECT_THAT(layer_of(store, "4").damage, ElementsAre(HasSubstr("snapshots/4 is missing")));
    EXPECT_THAT(layer_of(store, "5").damage, ElementsAre("work is missing"));
    EXPECT_THAT(layer_of(store, "5").used_by, ElementsAre("label containerd.io/gc.root"));
    for (const char *id : {"6", "new-123", "rm-7"}) {
        EXPECT_FALSE(layer_of(store, id).recorded) << id;
        EXPECT_TRUE(layer_of(store, id).on_disk) << id;
    }
    EXPECT_EQ(layer_of(store, "6").kind, "");
    EXPECT_EQ(layer_of(store, "new-123").kind, "");
    EXPECT_EQ(layer_of(store, "rm-7").kind, "removing");
    EXPECT_EQ(store.settings.at("snapshots of no namespace"), "1");
    EXPECT_EQ(store.settings.at("unused snapshots"), "1"); // number 4
}

TEST(Containerd, WhatMayBeInTheMakingIsNotJudged) {
    Fake fake;
    fake.image_of_two();
    const auto now_s = static_cast<uint64_t>(::time(nullptr));
    fake.record("default/3/new", 3, 2, {}, now_s - 1); // not yet in its namespace
    fake.tree(3);
    fake.tree(4); // beyond the sequence: not yet committed
    fake.host.dir(std::string(overlay) + "/snapshots/new-1");
    fake.host.dir(std::string(overlay) + "/snapshots/rm-1");
    fake.tree(99);
    fake.write();
    const auto facts = fake.read(0);
    for (const char *id : {"3", "4", "99", "new-1", "rm-1"})
        EXPECT_EQ(layer_of(store_of(facts), id).kind, "ingest") << id;

    fake.sequence(overlay, 50); // number 4 was given, so it is no longer being made: its record is gone, a moment ago
    fake.write();
    const auto later = fake.read(0);
    EXPECT_EQ(layer_of(store_of(later), "4").kind, "ingest");
    const auto hour = fake.read(3600);
    EXPECT_EQ(layer_of(store_of(hour), "3").kind, "active");
    EXPECT_EQ(layer_of(store_of(hour), "4").kind, "");
    EXPECT_EQ(layer_of(store_of(hour), "new-1").kind, "ingest"); // a copy of a large tree takes its time
    EXPECT_EQ(layer_of(store_of(hour), "rm-1").kind, "ingest");
    EXPECT_EQ(layer_of(store_of(fake.read(2 * 86'400)), "new-1").kind, "");
}

TEST(Containerd, ContentStore) {
    Fake fake;
    fake.image_of_two();
    const std::string blobs = std::string(root) + "/io.containerd.content.v1.content/blobs/sha256/";
    fake.host.file(blobs + std::string(64, 'a'), "nobody's");
    fake.host.file(std::string(root) + "/io.containerd.content.v1.content/ingest/abc/data", "half a blob");
    fake.host.file(blobs + fake.layer2.substr(7), "lay"); // cut short
    std::filesystem::remove(fake.host.here(blobs + fake.layer1.substr(7)));
    fake.write();

    const auto facts = fake.read();
    const auto &store = store_of(facts);
    EXPECT_EQ(store.other_bytes.at("content unreferenced"), 8U);
    EXPECT_EQ(store.other_bytes.at("ingest"), 11U);
    EXPECT_GT(store.other_bytes.at("content"), 100U);
    EXPECT_EQ(store.settings.at("content unreferenced"), "1");
    ASSERT_EQ(store.images.size(), 1U);
    EXPECT_EQ(store.images[0].missing_layers, 0U); // it is unpacked
    EXPECT_THAT(store.images[0].damage, ElementsAre(fmt::format("blob {} is missing", fake.layer1),
                                                    fmt::format("blob {}: 3 bytes, the record has 7", fake.layer2)));
}

TEST(Containerd, IndexDamagedDocumentAndImageThatIsNotUnpacked) {
    Fake fake;
    fake.image_of_two();
    const std::string elsewhere = "sha256:" + std::string(64, 'b'); // of another platform, not there
    const std::string index = fake.blob(
        "default", fmt::format(R"({{"manifests":[{{"digest":"{}"}},{{"digest":"{}"}}]}})", elsewhere, fake.manifest));
    fake.image("default", "many:1", index);
    const std::string odd = fake.blob("default", R"({"config": {"digest": "sha256:short"}})");
    fake.image("default", "odd:1", odd);
    const std::string config = fake.blob("default", fmt::format(R"({{"rootfs":{{"diff_ids":["{}","{}"]}}}})",
                                                                Digest::of("x").text(), Digest::of("y").text()));
    const std::string half = fake.blob(
        "default", fmt::format(R"({{"config":{{"digest":"{}"}},"layers":[{{"digest":"{}"}},{{"digest":"{}"}}]}})",
                               config, fake.blob("default", "there"), elsewhere));
    fake.image("default", "half:1", half);
    fake.write();

    const auto facts = fake.read();
    const auto image_of = [&](const std::string &name) {
        for (const auto &image : store_of(facts).images)
            if (image.names.front() == name) return image;
        return probe::StoreImage{};
    };
    EXPECT_EQ(image_of("many:1").id, fake.manifest);
    EXPECT_THAT(image_of("many:1").layers, ElementsAre("1", "2"));
    EXPECT_THAT(image_of("many:1").damage, IsEmpty());
    EXPECT_THAT(image_of("odd:1").damage, ElementsAre(HasSubstr("config: no digest")));
    EXPECT_EQ(image_of("half:1").missing_layers, 1U);
    EXPECT_THAT(image_of("half:1").layers, IsEmpty());
    EXPECT_THAT(layer_of(store_of(facts), "2").used_by, Contains("image many:1"));
}

TEST(Containerd, MetadataHasWhatTheSnapshotterHasNot) {
    Fake fake;
    fake.image_of_two();
    fake.snapshots(overlay)["v1"].buckets["snapshots"].buckets.erase("default/2/" + fake.chain2);
    fake.write();
    const auto facts = fake.read();
    EXPECT_THAT(store_of(facts).images.at(0).damage,
                ElementsAre(fmt::format("snapshot {} is not in the snapshotter's records", fake.chain2)));
    EXPECT_EQ(layer_of(store_of(facts), "2").kind, ""); // an orphan now
}

TEST(Containerd, UnreadableRecordsAreTold) {
    Fake fake;
    fake.image_of_two();
    fake.write();
    const std::string meta = std::string(root) + "/io.containerd.metadata.v1.bolt/meta.db";
    fake.host.file(meta, fake.metadata().substr(0, 5000));
    const auto cut = fake.read();
    EXPECT_EQ(store_of(cut).sources.at(0).state, "unreadable");
    EXPECT_EQ(store_of(cut).layers.size(), 2U);
    EXPECT_EQ(store_of(cut).other_bytes.at("content unreferenced"), 0U);

    std::filesystem::remove(fake.host.here(meta));
    EXPECT_EQ(store_of(fake.read()).sources.at(0).state, "unreadable"); // not "missing": there are records of layers

    fake.write();
    std::filesystem::remove(fake.host.here(std::string(overlay) + "/metadata.db"));
    const auto none = fake.read();
    EXPECT_THAT(store_of(none).sources, Contains(testing::Field(&probe::RecordSource::state, "unreadable")));
}

TEST(Containerd, RecordsThatContradictThemselves) {
    Fake fake;
    fake.record("a", 1, 3, "b");
    fake.record("b", 2, 3, "a");
    fake.record("c", 3, 3, "nobody");
    fake.record("d", 3, 7);
    fake.record("e", 4, 3, "c");
    fake.write();
    const auto facts = fake.read();
    const auto &layers = store_of(facts).layers;
    ASSERT_EQ(layers.size(), 5U);
    EXPECT_THAT(layers[0].damage, Contains("its parents form a loop"));
    EXPECT_THAT(layers[1].damage, Contains("its parents form a loop"));
    EXPECT_THAT(layers[2].damage, Contains("its parent \"nobody\" has no record"));
    EXPECT_THAT(layers[3].damage, Contains("\"c\" has the same number"));
    EXPECT_THAT(layers[3].damage, Contains("its record does not say what kind it is"));
    EXPECT_EQ(layers[4].depth, 1U);
}

TEST(Containerd, WhereItLooks) {
    probe::TestRoot empty;
    probe::Facts facts;
    read_containerd(empty.host(), {}, "", facts);
    EXPECT_THAT(facts.stores, IsEmpty());
    EXPECT_THAT(facts.problems, IsEmpty());
    read_containerd(empty.host(), {}, "/nowhere", facts);
    EXPECT_THAT(facts.stores, IsEmpty());
    EXPECT_EQ(facts.problems.size(), 1U);

    Fake fake;
    fake.image_of_two();
    fake.write();
    fake.host.file("/etc/passwd", "u:x:1000:1000::/home/u:/bin/sh\n");
    std::filesystem::create_directories(fake.host.here("/home/u/.local/share"));
    std::filesystem::copy(fake.host.here(root), fake.host.here("/home/u/.local/share/containerd"),
                          std::filesystem::copy_options::recursive);
    std::filesystem::create_directories(fake.host.here("/var/lib/rancher/k3s/agent"));
    std::filesystem::create_directory_symlink("/var/lib/containerd",
                                              fake.host.here("/var/lib/rancher/k3s/agent/containerd"));
    const auto all = fake.read();
    ASSERT_EQ(all.stores.size(), 2U); // the link leads to one that is known
    EXPECT_EQ(all.stores[1].root, "/home/u/.local/share/containerd/io.containerd.snapshotter.v1.overlayfs");
    const auto one = fake.read(0, "/home/u/.local/share/containerd");
    ASSERT_EQ(one.stores.size(), 1U);
    EXPECT_EQ(one.stores[0].images.size(), 1U);
}

TEST(Containerd, EmptySnapshottersAreLeftOut) {
    Fake fake;
    fake.snapshots(std::string(root) + "/io.containerd.snapshotter.v1.native")["v1"];
    fake.write();
    const auto facts = fake.read();
    ASSERT_EQ(facts.stores.size(), 1U);
    EXPECT_EQ(facts.stores[0].driver, "overlayfs");
}

} // namespace
} // namespace shale::doctor
