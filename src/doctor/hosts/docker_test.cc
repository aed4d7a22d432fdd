// SPDX-License-Identifier: Apache-2.0
#include "doctor/hosts/docker.h"

#include <gmock/gmock.h>

#include <sys/xattr.h>

#include <functional>

#include "doctor/hosts/docker_draft.h"
#include "doctor/hosts/docker_test_root.h"
#include "sys/seam.h"

namespace shale::doctor {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::Each;
using testing::ElementsAre;
using testing::Field;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Ne;
using testing::UnorderedElementsAre;

TEST_F(DockerTest, ImagesShareALayerAndAContainerStandsOnOne) {
    make_usual();
    const auto facts = read();
    EXPECT_THAT(facts.problems, IsEmpty());
    ASSERT_EQ(facts.stores.size(), 1U);
    const auto &store = facts.stores.front();
    EXPECT_EQ(store.engine, "docker");
    EXPECT_EQ(store.driver, "overlay2");
    EXPECT_EQ(store.root, root_);
    EXPECT_FALSE(store.running);
    ASSERT_EQ(store.layers.size(), 5U);
    for (const auto &layer : store.layers) {
        EXPECT_TRUE(layer.recorded && layer.on_disk) << layer.id;
        EXPECT_THAT(layer.damage, IsEmpty()) << layer.id;
        EXPECT_EQ(layer.path, graph(layer.id));
        EXPECT_GT(layer.created_s, 0U);
    }
    const auto &base = layer_of(store, id_of('a'));
    EXPECT_EQ(base.kind, "committed");
    EXPECT_EQ(base.name, base_layer_.text());
    EXPECT_EQ(base.recorded_bytes, 4U);
    EXPECT_EQ(base.depth, 0U);
    EXPECT_THAT(base.used_by,
                UnorderedElementsAre("image app:1", "image tool:latest", "layer " + id_of('b'), "layer " + id_of('c'),
                                     "layer " + id_of('d') + "-init", "layer " + id_of('d')));
    EXPECT_THAT(base.used_by.front(), HasSubstr("image"));
    const auto &app = layer_of(store, id_of('b'));
    EXPECT_EQ(app.parent, id_of('a'));
    EXPECT_THAT(app.used_by,
                UnorderedElementsAre("image app:1", "layer " + id_of('d') + "-init", "layer " + id_of('d')));
    const auto &init = layer_of(store, id_of('d') + "-init");
    EXPECT_EQ(init.kind, "init");
    EXPECT_EQ(init.parent, id_of('b'));
    EXPECT_THAT(init.used_by, UnorderedElementsAre("container " + container_, "layer " + id_of('d')));
    const auto &writable = layer_of(store, id_of('d'));
    EXPECT_EQ(writable.kind, "active");
    EXPECT_EQ(writable.name, container_);
    EXPECT_EQ(writable.depth, 3U);
    EXPECT_THAT(writable.used_by, ElementsAre("container " + container_));
    EXPECT_EQ(state_of(store, image("layerdb/sha256")), "read");
    EXPECT_EQ(state_of(store, root_ + "/volumes/metadata.db"), "missing");
    EXPECT_EQ(store.settings.at("dangling links"), "0");
}

TEST_F(DockerTest, ImagesAndContainersHaveWhatTheirRecordsSay) {
    make_usual();
    write(fmt::format("{0}/containers/{1}/{1}-json.log", root_, container_), "12345");
    write(fmt::format("{0}/containers/{1}/{1}-json.log.1", root_, container_), "123");
    write(fmt::format("{0}/containers/{1}/local-logs/container.log", root_, container_), "1234567");
    const auto facts = read();
    ASSERT_EQ(facts.stores.size(), 1U);
    const auto &store = facts.stores.front();
    ASSERT_EQ(store.images.size(), 2U);
    EXPECT_THAT(store.images, Contains(AllOf(Field(&probe::StoreImage::id, app_),
                                             Field(&probe::StoreImage::names, ElementsAre("app:1")),
                                             Field(&probe::StoreImage::layers, ElementsAre(id_of('a'), id_of('b'))),
                                             Field(&probe::StoreImage::missing_layers, 0U),
                                             Field(&probe::StoreImage::created_s, 1681247606U))));
    ASSERT_EQ(store.containers.size(), 1U);
    const auto &container = store.containers.front();
    EXPECT_EQ(container.id, container_);
    EXPECT_EQ(container.name, "web");
    EXPECT_EQ(container.image, app_);
    EXPECT_EQ(container.state, "running");
    EXPECT_EQ(container.layer, id_of('d'));
    EXPECT_EQ(container.driver, "overlay2");
    EXPECT_EQ(container.pid, 4711);
    EXPECT_EQ(container.log_bytes, 15U);
    EXPECT_EQ(container.created_s, 1704161045U);
    EXPECT_EQ(store.other_bytes.at("logs"), 15U);
    EXPECT_EQ(store.settings.at("containers without a log limit"), "1");
}

TEST_F(DockerTest, WhatNoRecordNamesIsTold) {
    make_usual();
    make_tree(id_of('f'), {id_of('b'), id_of('a')});
    make_dir(graph(id_of('0') + "-removing/diff"));
    make_link("../gone/diff", graph("l/DANGLING"));
    const auto facts = read();
    ASSERT_EQ(facts.stores.size(), 1U);
    const auto &store = facts.stores.front();
    const auto &orphan = layer_of(store, id_of('f'));
    EXPECT_FALSE(orphan.recorded);
    EXPECT_TRUE(orphan.on_disk);
    EXPECT_EQ(orphan.parent, id_of('b'));
    EXPECT_EQ(orphan.kind, "active");
    EXPECT_EQ(orphan.depth, 2U);
    EXPECT_THAT(orphan.used_by, IsEmpty());
    EXPECT_THAT(orphan.damage, IsEmpty());
    const auto &removing = layer_of(store, id_of('0') + "-removing");
    EXPECT_EQ(removing.kind, "removing");
    EXPECT_FALSE(removing.recorded);
    EXPECT_THAT(removing.damage, IsEmpty()); // it has no link any more, and need not
    EXPECT_EQ(store.settings.at("dangling links"), "1");
    EXPECT_EQ(store.settings.at("dangling links, the first"), graph("l/DANGLING"));
    for (const auto &source : store.sources)
        EXPECT_THAT(source.state, testing::AnyOf("read", "missing")) << source.path;
}

TEST_F(DockerTest, AnInterruptedPullIsNoOrphanOfTheRecords) {
    make_usual();
    make_tree(id_of('f'), {id_of('a')});
    write(image("layerdb/tmp/write-set-123/tar-split.json.gz"), "half");
    write(root_ + "/tmp/GetImageBlob456", "partial");
    auto facts = read();
    ASSERT_EQ(facts.stores.size(), 1U);
    {
        const auto &store = facts.stores.front();
        EXPECT_EQ(layer_of(store, "layerdb/tmp/write-set-123").kind, "ingest");
        EXPECT_EQ(layer_of(store, "tmp/GetImageBlob456").path, root_ + "/tmp/GetImageBlob456");
        EXPECT_EQ(state_of(store, image("layerdb/sha256")), "read");
    }
    // Without a dockerd it is not known, as long as it may still grow: there may be one that was not found.
    const auto made_s = static_cast<uint64_t>(::time(nullptr));
    taken_s_ = made_s;
    EXPECT_EQ(state_of(read().stores.at(0), image("layerdb/sha256")), "changing");
    taken_s_ += 700;
    EXPECT_EQ(state_of(read().stores.at(0), image("layerdb/sha256")), "read");
    // With one at work it is not known, as long as it is young ...
    taken_s_ = made_s;
    facts = read({dockerd_});
    ASSERT_EQ(facts.stores.size(), 1U);
    EXPECT_TRUE(facts.stores.front().running);
    EXPECT_EQ(facts.stores.front().pid, 42);
    EXPECT_EQ(state_of(facts.stores.front(), image("layerdb/sha256")), "changing");
    EXPECT_EQ(state_of(facts.stores.front(), root_ + "/overlay2"), "changing");
    // ... or younger than the daemon: 12 s before now it was started.
    const auto start = [&](uint64_t ticks) {
        write("/proc/stat", fmt::format("cpu 1 2\nbtime {}\nprocesses 1\n", made_s - 1000));
        write("/proc/42/stat",
              fmt::format("42 (doc) kerd) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 9 0 {} 1 2\n", ticks));
    };
    start(98'800);
    EXPECT_EQ(state_of(read({dockerd_}).stores.at(0), image("layerdb/sha256")), "changing");
    taken_s_ += 20;
    start(101'900);
    facts = read({dockerd_});
    EXPECT_EQ(state_of(facts.stores.at(0), image("layerdb/sha256")), "read");
    EXPECT_EQ(state_of(facts.stores.at(0), root_ + "/overlay2"), "read");
    remove("/proc");
    EXPECT_EQ(state_of(read({dockerd_}).stores.at(0), image("layerdb/sha256")), "changing");
    // ... however long it has not grown: an import may wait for the rest of its archive.
    taken_s_ += 86'400;
    facts = read({dockerd_});
    ASSERT_EQ(facts.stores.size(), 1U);
    EXPECT_EQ(state_of(facts.stores.front(), image("layerdb/sha256")), "changing");
    EXPECT_EQ(state_of(facts.stores.front(), root_ + "/overlay2"), "read");
    start(98'800);
    EXPECT_EQ(state_of(read({dockerd_}).stores.at(0), image("layerdb/sha256")), "changing");
    start(101'900);
    EXPECT_EQ(state_of(read({dockerd_}).stores.at(0), image("layerdb/sha256")), "read");
}

/// Does something each time that a path of the host is opened.
class Meddler final : public sys::Hook {
public:
    Meddler(std::string path, std::function<void(int)> meddle) : path_(std::move(path)), meddle_(std::move(meddle)) {
        sys::set_hook(this);
    }
    Meddler(const Meddler &) = delete;
    Meddler &operator=(const Meddler &) = delete;
    ~Meddler() override { sys::set_hook(nullptr); }
    int before(const sys::Call &call) noexcept override {
        if (call.op == sys::Op::openat2 && call.name != nullptr && path_ == fmt::format("/{}", call.name))
            meddle_(++times_);
        return 0;
    }

private:
    std::string path_;
    std::function<void(int)> meddle_;
    int times_ = 0;
};

TEST_F(DockerTest, WhatStandsStillIsReadAgainAndThenBelieved) {
    make_usual();
    int readings = 0;
    Meddler meddler(graph(id_of('a')), [&](int time) {
        readings = time;
        if (time == 1) make_tree(id_of('f'), {id_of('a')}); // behind the list of trees
    });
    const auto facts = read({dockerd_});
    ASSERT_EQ(facts.stores.size(), 1U);
    EXPECT_EQ(readings, 2);
    EXPECT_EQ(layer_of(facts.stores.front(), id_of('f')).parent, id_of('a'));
    EXPECT_EQ(state_of(facts.stores.front(), root_ + "/overlay2"), "read");
}

TEST_F(DockerTest, WhatNeverStandsStillIsChangingAndDamageCountsIfItLasts) {
    make_usual();
    remove(graph(id_of('b') + "/diff"));
    int readings = 0;
    Meddler meddler(graph(id_of('a')), [&](int time) {
        readings = time;
        make_dir(graph(fmt::format("{}{}", id_of('0').substr(1), time)));
        if (time % 2 != 0)
            remove(graph(id_of('c') + "/diff")); // in the third reading, not in the second
        else
            make_dir(graph(id_of('c') + "/diff"));
        if (time == 3) remove(graph(id_of('d')));
    });
    const auto facts = read({dockerd_});
    ASSERT_EQ(facts.stores.size(), 1U);
    const auto &store = facts.stores.front();
    EXPECT_EQ(readings, 3);
    EXPECT_EQ(state_of(store, root_ + "/overlay2"), "changing");
    EXPECT_EQ(state_of(store, image("layerdb/sha256")), "read");
    EXPECT_THAT(layer_of(store, id_of('b')).damage, ElementsAre("diff is missing"));
    EXPECT_THAT(layer_of(store, id_of('c')).damage, IsEmpty());
    EXPECT_THAT(store.layers, Each(Field(&probe::StoreLayer::id, Ne(id_of('d'))))); // it is going
    EXPECT_EQ(store.images.size(), 2U);
}

/// What a power failure leaves of files that were written and not synced.
TEST_F(DockerTest, EmptyRecordsAreUnreadableAndNothingIsMadeOfThem) {
    make_usual();
    const std::string cache_id = image("layerdb/sha256/" + tool_layer_.hex() + "/cache-id");
    const std::string size = image("layerdb/sha256/" + app_layer_.hex() + "/size");
    const std::string config = image("imagedb/content/sha256/" + tool_.substr(7));
    write(cache_id, "");
    write(size, "12x");
    write(config, "");
    write(image("layerdb/sha256/" + base_layer_.hex() + "/tar-split.json.gz"), "");
    const auto facts = read();
    ASSERT_EQ(facts.stores.size(), 1U);
    const auto &store = facts.stores.front();
    EXPECT_EQ(state_of(store, cache_id), "unreadable");
    EXPECT_EQ(state_of(store, size), "unreadable");
    EXPECT_EQ(state_of(store, config), "unreadable");
    EXPECT_FALSE(layer_of(store, id_of('c')).recorded);
    EXPECT_THAT(layer_of(store, id_of('b')).damage, ElementsAre(HasSubstr("size is not a number")));
    EXPECT_THAT(layer_of(store, id_of('a')).damage, ElementsAre("tar-split.json.gz: 0 bytes"));
    EXPECT_EQ(store.images.size(), 1U);
    EXPECT_THAT(store.sources, Contains(AllOf(Field(&probe::RecordSource::path,
                                                    config.substr(0, config.rfind('/')) + "/" + tool_.substr(7)),
                                              Field(&probe::RecordSource::why, HasSubstr("0 bytes")))));
}

TEST_F(DockerTest, ATruncatedConfigIsUnreadable) {
    make_usual();
    const std::string config = image("imagedb/content/sha256/" + app_.substr(7));
    std::filesystem::resize_file(base_ + config, 40);
    write(fmt::format("{}/containers/{}/config.v2.json", root_, container_), R"({"ID":"e)");
    const auto facts = read();
    ASSERT_EQ(facts.stores.size(), 1U);
    const auto &store = facts.stores.front();
    EXPECT_EQ(state_of(store, config), "unreadable");
    EXPECT_EQ(state_of(store, fmt::format("{}/containers/{}/config.v2.json", root_, container_)), "unreadable");
    EXPECT_THAT(store.containers, IsEmpty());
    EXPECT_TRUE(layer_of(store, id_of('d')).recorded); // layerdb has it, whoever it is of
}

TEST_F(DockerTest, DamagedTreesAreTold) {
    make_usual();
    remove(graph(id_of('b') + "/diff"));
    remove(graph("l/" + link_of(id_of('c'))));
    write(graph(id_of('a') + "/link"), "");
    write(graph(id_of('d') + "-init/lower"), "l/NOSUCHLINK:l/" + link_of(id_of('a')));
    const auto facts = read();
    ASSERT_EQ(facts.stores.size(), 1U);
    const auto &store = facts.stores.front();
    EXPECT_THAT(layer_of(store, id_of('b')).damage, ElementsAre("diff is missing"));
    EXPECT_THAT(layer_of(store, id_of('c')).damage, ElementsAre(HasSubstr("does not exist")));
    EXPECT_THAT(layer_of(store, id_of('a')).damage, ElementsAre(HasSubstr("0 bytes")));
    EXPECT_THAT(layer_of(store, id_of('d') + "-init").damage,
                ElementsAre(AllOf(HasSubstr("l/NOSUCHLINK"), HasSubstr("does not exist"))));
    EXPECT_THAT(layer_of(store, id_of('d')).damage, ElementsAre(HasSubstr("leads nowhere")));
}

TEST_F(DockerTest, ATreeThatIsGoneIsMissingFromItsImage) {
    make_usual();
    remove(graph(id_of('b')));
    const auto facts = read();
    ASSERT_EQ(facts.stores.size(), 1U);
    const auto &store = facts.stores.front();
    EXPECT_TRUE(layer_of(store, id_of('b')).recorded);
    EXPECT_FALSE(layer_of(store, id_of('b')).on_disk);
    EXPECT_THAT(store.images, Contains(AllOf(Field(&probe::StoreImage::id, app_),
                                             Field(&probe::StoreImage::layers, ElementsAre(id_of('a'))),
                                             Field(&probe::StoreImage::missing_layers, 1U))));
}

TEST_F(DockerTest, RecordsThatDoNotFitTogetherAreDamage) {
    make_usual();
    const std::string dir = image("layerdb/sha256/" + app_layer_.hex());
    write(dir + "/parent", Digest::of("nobody").text());
    write(graph(id_of('c') + "/lower"), "l/" + link_of(id_of('b')));
    const auto facts = read();
    ASSERT_EQ(facts.stores.size(), 1U);
    const auto &store = facts.stores.front();
    EXPECT_THAT(layer_of(store, id_of('b')).damage,
                UnorderedElementsAre(HasSubstr("do not give its chain id"), HasSubstr("has no record")));
    EXPECT_THAT(layer_of(store, id_of('c')).damage, ElementsAre(HasSubstr("the layer below by the records is")));
}

TEST_F(DockerTest, ALayerThatCouldNotBeRemovedIsRecorded) {
    make_usual();
    make_tree(id_of('f'), {id_of('a')});
    const auto layer = record_layer(id_of('f'), "old", base_layer_);
    std::filesystem::rename(base_ + image("layerdb/sha256/" + layer.chain.hex()),
                            base_ + image("layerdb/sha256/" + layer.chain.hex() + "-0123abc-removing"));
    const auto facts = read();
    ASSERT_EQ(facts.stores.size(), 1U);
    const auto &removing = layer_of(facts.stores.front(), id_of('f'));
    EXPECT_EQ(removing.kind, "removing");
    EXPECT_TRUE(removing.recorded);
    EXPECT_EQ(removing.name, layer.chain.text());
}

TEST_F(DockerTest, HostileNamesDoNotBecomePaths) {
    make_usual();
    const std::string record = image("layerdb/sha256/" + tool_layer_.hex() + "/cache-id");
    write(record, "../../../../etc");
    write(graph(id_of('c') + "/lower"), "l/../../../etc:/etc");
    make_link("../../../../../etc/diff", graph("l/ESCAPE"));
    make_link(graph("l/LOOP"), graph("l/LOOP"));
    write(image("layerdb/sha256/not-a-digest/cache-id"), id_of('9'));
    const auto facts = read();
    ASSERT_EQ(facts.stores.size(), 1U);
    const auto &store = facts.stores.front();
    EXPECT_EQ(state_of(store, record), "unreadable");
    EXPECT_EQ(store.settings.at("dangling links"), "2");
    EXPECT_EQ(layer_of(store, id_of('c')).damage.size(), 2U);
    for (const auto &layer : store.layers)
        EXPECT_NE(layer.id, id_of('9'));
}

TEST_F(DockerTest, LoopsAndRepeatsEnd) {
    make_tree(id_of('a'), {});
    make_tree(id_of('b'), {id_of('a')});
    write(graph(id_of('a') + "/lower"), "l/" + link_of(id_of('b')));
    std::string long_lower;
    for (int i = 0; i < 200; ++i)
        long_lower += fmt::format("{}l/{}", i == 0 ? "" : ":", link_of(id_of('a')));
    make_tree(id_of('c'), {});
    write(graph(id_of('c') + "/lower"), long_lower);
    const auto facts = read();
    ASSERT_EQ(facts.stores.size(), 1U);
    EXPECT_EQ(facts.stores.front().layers.size(), 3U);
    EXPECT_THAT(layer_of(facts.stores.front(), id_of('c')).damage, ElementsAre(HasSubstr("names 200 layers")));
}

TEST_F(DockerTest, VolumesAreJoinedFromTheirDatabaseAndTheDisk) {
    make_usual();
    record_container(container_, app_,
                     R"({"/data":{"Source":"","Destination":"/data","Name":"data","Driver":"local","Type":"volume"},)"
                     R"("/etc/x":{"Source":"/srv/x","Destination":"/etc/x","Name":"","Type":"bind"}})");
    probe::bolt_writer::Bucket volumes;
    volumes.buckets["volumes"].values["data"] = R"({"Name":"data","Driver":"local","Labels":null,"Options":null})";
    volumes.buckets["volumes"].values["share"] = R"({"Name":"share","Driver":"nfs"})";
    volumes.buckets["volumes"].values["lost"] = R"({"Name":"lost","Driver":"local"})";
    write_bolt(root_ + "/volumes/metadata.db", volumes);
    make_dir(root_ + "/volumes/data/_data");
    make_dir(root_ + "/volumes/old/_data");
    const auto facts = read();
    ASSERT_EQ(facts.stores.size(), 1U);
    const auto &store = facts.stores.front();
    using probe::StoreVolume;
    const auto volume = [](const char *name, const char *driver, bool recorded, bool on_disk) {
        return AllOf(Field(&StoreVolume::name, name), Field(&StoreVolume::driver, driver),
                     Field(&StoreVolume::recorded, recorded), Field(&StoreVolume::on_disk, on_disk));
    };
    EXPECT_THAT(store.volumes,
                UnorderedElementsAre(AllOf(volume("data", "local", true, true),
                                           Field(&StoreVolume::path, root_ + "/volumes/data/_data"),
                                           Field(&StoreVolume::used_by, ElementsAre("container " + container_))),
                                     volume("share", "nfs", true, false), volume("lost", "local", true, false),
                                     volume("old", "local", false, true)));
    ASSERT_EQ(store.containers.size(), 1U);
    EXPECT_THAT(store.containers.front().binds, ElementsAre("/srv/x:/etc/x"));
    EXPECT_EQ(state_of(store, root_ + "/volumes/metadata.db"), "read");
}

TEST_F(DockerTest, ADriverThatWasLeftBehindIsAStoreThatDoesNotRun) {
    make_usual();
    make_dir(root_ + "/vfs/dir/" + id_of('5'));
    make_dir(root_ + "/aufs"); // empty: no store
    const auto facts = read({dockerd_});
    ASSERT_EQ(facts.stores.size(), 2U);
    const auto *vfs = store_of(facts, "docker", "vfs"), *overlay2 = store_of(facts, "docker", "overlay2");
    ASSERT_TRUE(vfs != nullptr && overlay2 != nullptr);
    EXPECT_TRUE(overlay2->running);
    EXPECT_FALSE(vfs->running);
    EXPECT_EQ(layer_of(*vfs, id_of('5')).path, root_ + "/vfs/dir/" + id_of('5'));
    EXPECT_FALSE(layer_of(*vfs, id_of('5')).recorded);
    EXPECT_THAT(vfs->containers, IsEmpty());
    EXPECT_EQ(overlay2->containers.size(), 1U);
    EXPECT_EQ(state_of(*vfs, root_ + "/image/vfs/layerdb/sha256"), "unreadable"); // it may have named the tree
}

TEST_F(DockerTest, OtherDriversHaveTheirTreesElsewhere) {
    for (const std::string driver : {"vfs", "btrfs", "aufs", "overlay"}) {
        driver_ = driver;
        const std::string below = driver == "vfs"     ? "dir/"
                                  : driver == "btrfs" ? "subvolumes/"
                                  : driver == "aufs"  ? "diff/"
                                                      : "";
        for (const char c : {'a', 'b', 'f'})
            make_dir(graph(below + id_of(c)));
        const auto parent = record_layer(id_of('a'), "base").chain;
        record_layer(id_of('b'), "app", parent);
        if (driver == "aufs") {
            write(graph("layers/" + id_of('a')), "");
            write(graph("layers/" + id_of('b')), id_of('a') + "\n");
            write(graph("layers/" + id_of('f')), id_of('b') + "\n" + id_of('a') + "\n");
        }
        if (driver == "overlay") {
            make_dir(graph(id_of('a') + "/root"));
            make_dir(graph(id_of('b') + "/root"));
            make_dir(graph(id_of('f') + "/upper"));
            write(graph(id_of('f') + "/lower-id"), id_of('b'));
        }
    }
    const auto facts = read();
    ASSERT_EQ(facts.stores.size(), 4U);
    for (const auto &store : facts.stores) {
        ASSERT_EQ(store.layers.size(), 3U) << store.driver;
        EXPECT_TRUE(layer_of(store, id_of('b')).recorded && layer_of(store, id_of('b')).on_disk) << store.driver;
        EXPECT_EQ(layer_of(store, id_of('b')).parent, id_of('a')) << store.driver;
        const auto &orphan = layer_of(store, id_of('f'));
        EXPECT_FALSE(orphan.recorded);
        EXPECT_THAT(orphan.damage, IsEmpty()) << store.driver;
        const bool says_parent = store.driver == "aufs" || store.driver == "overlay";
        EXPECT_EQ(orphan.parent, says_parent ? id_of('b') : "") << store.driver;
    }
}

TEST_F(DockerTest, DeviceMapperAndZfsHaveNoTrees) {
    driver_ = "devicemapper";
    record_layer(id_of('a'), "base");
    const auto device = [&](const std::string &id, bool deleted) {
        write(graph("metadata/" + id), fmt::format(R"({{"device_id":1,"size":10737418240,"transaction_id":2,)"
                                                   R"("initialized":true,"deleted":{}}})",
                                                   deleted));
    };
    device("base", false);
    device(id_of('a'), false);
    device(id_of('b'), true);
    write(graph("metadata/deviceset-metadata"), "{}");
    write(graph("metadata/" + id_of('c')), "");
    driver_ = "zfs";
    record_layer(id_of('a'), "base");
    probe::Facts facts;
    const auto dataset = [&](const std::string &name, const char *type) {
        auto &added = facts.zfs_datasets.emplace_back();
        added.name = name;
        added.type = type;
    };
    dataset("tank/docker", "filesystem");
    dataset("tank/docker/" + id_of('a'), "filesystem");
    dataset("tank/docker/" + id_of('f'), "filesystem");
    dataset("tank/docker/" + id_of('a') + "@1", "snapshot");
    dataset("tank/other", "filesystem");
    auto host = probe::Host::open(base_);
    ASSERT_TRUE(host);
    read_docker(*host, {}, {}, facts);
    const auto *devices = store_of(facts, "docker", "devicemapper"), *zfs = store_of(facts, "docker", "zfs");
    ASSERT_TRUE(devices != nullptr && zfs != nullptr);
    EXPECT_EQ(devices->layers.size(), 3U);
    EXPECT_TRUE(layer_of(*devices, id_of('a')).recorded && layer_of(*devices, id_of('a')).on_disk);
    EXPECT_EQ(layer_of(*devices, id_of('b')).kind, "removing");
    EXPECT_EQ(devices->settings.at("base device bytes"), "10737418240");
    EXPECT_EQ(state_of(*devices, root_ + "/devicemapper/metadata/" + id_of('c')), "unreadable");
    EXPECT_EQ(zfs->layers.size(), 2U);
    EXPECT_TRUE(layer_of(*zfs, id_of('a')).on_disk);
    EXPECT_FALSE(layer_of(*zfs, id_of('f')).recorded);
    EXPECT_EQ(zfs->settings.at("zfs.fsname"), "tank/docker");
}

TEST_F(DockerTest, AttributesOfOverlayfsAreSampled) {
    make_usual();
    write(graph(id_of('d') + "/diff/file"), "");
    make_dir(graph(id_of('d') + "/diff/dir"));
    const std::string dir = base_ + graph(id_of('d') + "/diff/dir");
    if (::setxattr(dir.c_str(), "user.overlay.redirect", "/old", 4, 0) != 0)
        GTEST_SKIP() << "no user attributes here: " << errno;
    const auto facts = read();
    ASSERT_EQ(facts.stores.size(), 1U);
    EXPECT_EQ(facts.stores.front().settings.at("xattr sample"), "2");
    EXPECT_EQ(facts.stores.front().settings.at("xattr redirect"), "1");
    EXPECT_EQ(facts.stores.front().settings.at("xattr metacopy"), "0");
}

TEST_F(DockerTest, FilesInPlacesOfDirectoriesAreTold) {
    make_usual();
    for (const std::string &path : {image("layerdb/mounts"), image("repositories.json"), root_ + "/containers",
                                    root_ + "/volumes", graph("l"), root_ + "/tmp"}) {
        remove(path);
        write(path, "?");
    }
    const auto facts = read();
    ASSERT_EQ(facts.stores.size(), 1U);
    for (const std::string &path :
         {image("layerdb/mounts"), image("repositories.json"), root_ + "/containers", graph("l")})
        EXPECT_EQ(state_of(facts.stores.front(), path), "unreadable") << path;
    EXPECT_THAT(facts.problems, Contains(Field(&probe::Problem::about, root_ + "/tmp")));
}

TEST(DockerText, IdsAreSafeComponents) {
    for (const char *const good : {"a", "0123abc-init", "x_y.z"})
        EXPECT_TRUE(docker::is_id(good)) << good;
    for (const char *const bad : {"", ".", "..", "a/b", "/", ".hidden", "a b", "a\n"})
        EXPECT_FALSE(docker::is_id(bad)) << bad;
    EXPECT_FALSE(docker::is_id(std::string(256, 'a')));
}

TEST(DockerText, SourcesAreBounded) {
    docker::Sources sources;
    for (size_t i = 0; i < docker::max_broken + 7; ++i)
        sources.broken(fmt::format("/{}", i), "record", "empty");
    const auto all = std::move(sources).finish();
    ASSERT_EQ(all.size(), docker::max_broken + 1);
    EXPECT_EQ(all.back().entries, 7U);
    EXPECT_EQ(all.back().state, "unreadable");
}

} // namespace
} // namespace shale::doctor
