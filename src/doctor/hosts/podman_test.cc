// SPDX-License-Identifier: Apache-2.0
#include "doctor/hosts/podman.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sqlite3.h>

#include <algorithm>
#include <filesystem>
#include <map>

#include "doctor/hosts/libpod.h"
#include "doctor/hosts/podman_records.h"
#include "doctor/hosts/test_store.h"
#include "probe/bolt_test_writer.h"
#include "probe/test_root.h"

namespace shale::doctor {
namespace {

using probe::TestRoot;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;
using testing::UnorderedElementsAre;

constexpr const char *graph = "/var/lib/containers/storage";

/// Two images that share their base, and a container; ids are short here, as containers/storage allows.
class FakeStore {
public:
    FakeStore() {
        layer("base", "", {});
        layer("top1", "base", {"base"});
        layer("top2", "base", {"base"});
        layer("ctr", "top1", {"top1", "base"});
        layers_.emplace_back(R"({"id":"base","created":"2026-01-02T03:04:05.678Z","diff-digest":"sha256:aa",)"
                             R"("diff-size":1000})");
        layers_.emplace_back(R"({"id":"top1","parent":"base","diff-digest":"sha256:bb","diff-size":2000})");
        layers_.emplace_back(R"({"id":"top2","parent":"base","diff-digest":"sha256:cc","diff-size":3000})");
        layers_.emplace_back(R"({"id":"ctr","parent":"top1"})");
        root.file(at("overlay-images/images.json"),
                  R"([{"id":"i1","names":["docker.io/a:1","docker.io/a:2"],"layer":"top1",)"
                  R"("big-data-names":["manifest","sha256:ff"],"big-data-sizes":{"manifest":4,"sha256:ff":3}},)"
                  R"({"id":"i2","layer":"top2","mapped-layers":["top1"],"created":"2026-01-02T03:04:05+01:00"}])");
        root.file(at("overlay-images/i1/manifest"), "1234");
        root.file(at("overlay-images/i1/=c2hhMjU2OmZm"), "123");
        root.file(at("overlay-containers/containers.json"),
                  R"([{"id":"c1","names":["web"],"image":"i1","layer":"ctr","created":"2026-01-02T03:04:05Z"}])");
        root.file(at("overlay-layers/base.tar-split.gz"), "\x1f\x8b...");
        write_layers();
    }

    static std::string at(std::string_view path) { return fmt::format("{}/{}", graph, path); }
    /// The directory of a layer, with its links; `lowers` by id, the nearest first.
    void layer(const std::string &id, const std::string &parent, const std::vector<std::string> &lowers) {
        const std::string dir = at("overlay/" + id);
        for (const char *part : {"/diff", "/work", "/merged"})
            root.dir(dir + part);
        root.file(dir + "/link", link_of(id));
        root.link("../" + id + "/diff", at("overlay/l/" + link_of(id)));
        std::string text;
        for (const std::string &lower : lowers)
            text += (text.empty() ? "l/" : ":l/") + link_of(lower);
        if (!parent.empty()) root.file(dir + "/lower", text);
    }
    static std::string link_of(const std::string &id) { return "LINK" + id; }
    void record(const std::string &json) {
        layers_.push_back(json);
        write_layers();
    }
    void write_layers() const {
        root.file(at("overlay-layers/layers.json"), fmt::format("[{}]", fmt::join(layers_, ",")));
    }

    [[nodiscard]] probe::Facts read(const std::string &path = {},
                                    const std::vector<probe::Process> &processes = {}) const {
        probe::Facts facts;
        read_podman(root.host(), processes, path, facts);
        return facts;
    }
    [[nodiscard]] probe::Store store() const { return only_store(read()); }

    TestRoot root;

private:
    std::vector<std::string> layers_;
};

const probe::RecordSource &source_of(const probe::Store &store, const std::string &end) {
    static const probe::RecordSource none;
    const auto found =
        std::ranges::find_if(store.sources, [&](const probe::RecordSource &one) { return one.path.ends_with(end); });
    EXPECT_NE(found, store.sources.end()) << end;
    return found == store.sources.end() ? none : *found;
}

TEST(Podman, ReadsLayersImagesAndContainers) {
    const FakeStore fake;
    const probe::Store store = fake.store();
    EXPECT_EQ(store.engine, "podman");
    EXPECT_EQ(store.root, graph);
    EXPECT_EQ(store.driver, "overlay");
    EXPECT_FALSE(store.running);
    ASSERT_THAT(store.layers, SizeIs(4));
    const auto &base = layer_of(store, "base");
    EXPECT_TRUE(base.recorded && base.on_disk);
    EXPECT_EQ(base.kind, "committed");
    EXPECT_EQ(base.path, FakeStore::at("overlay/base"));
    EXPECT_EQ(base.name, "sha256:aa");
    EXPECT_EQ(base.recorded_bytes, 1000);
    EXPECT_EQ(base.created_s, 1767323045);
    EXPECT_EQ(base.depth, 0);
    EXPECT_THAT(base.used_by, UnorderedElementsAre("image docker.io/a:1", "image i2", "image i2", "layer top1",
                                                   "layer top2", "layer ctr"));
    EXPECT_THAT(base.used_by.front(), HasSubstr("image"));
    const auto &active = layer_of(store, "ctr");
    EXPECT_EQ(active.kind, "active");
    EXPECT_EQ(active.depth, 2);
    EXPECT_EQ(active.recorded_bytes, std::nullopt);
    EXPECT_THAT(active.used_by, ElementsAre("container c1"));
    for (const auto &layer : store.layers)
        EXPECT_THAT(layer.damage, IsEmpty()) << layer.id;
    ASSERT_THAT(store.images, SizeIs(2));
    EXPECT_THAT(store.images[0].names, ElementsAre("docker.io/a:1", "docker.io/a:2"));
    EXPECT_THAT(store.images[0].layers, ElementsAre("base", "top1"));
    EXPECT_THAT(store.images[0].damage, IsEmpty());
    EXPECT_THAT(store.images[1].layers, ElementsAre("base", "top2"));
    EXPECT_EQ(store.images[1].missing_layers, 0);
    EXPECT_EQ(store.images[1].created_s, 1767319445);
    ASSERT_THAT(store.containers, SizeIs(1));
    EXPECT_EQ(store.containers[0].name, "web");
    EXPECT_EQ(store.containers[0].image, "i1");
    EXPECT_EQ(store.containers[0].layer, "ctr");
    EXPECT_EQ(source_of(store, "/layers.json").state, "read");
    EXPECT_EQ(source_of(store, "/layers.json").entries, 4);
    EXPECT_THAT(store.sources, SizeIs(3)); // no volatile lists are there
}

TEST(Podman, FindsADirectoryWithoutARecord) {
    FakeStore fake;
    fake.layer("orphan", "base", {"top1", "base"});
    fake.root.dir(FakeStore::at("overlay/staging/100"));
    fake.root.dir(FakeStore::at("overlay/tempdirs/temp-dir-7/0-old"));
    fake.root.dir(FakeStore::at("overlay/bare"));
    fake.root.dir(FakeStore::at("overlay/metacopy-check12"));
    const probe::Store store = fake.store();
    const auto &orphan = layer_of(store, "orphan");
    EXPECT_FALSE(orphan.recorded);
    EXPECT_TRUE(orphan.on_disk);
    EXPECT_EQ(orphan.parent, "top1");
    EXPECT_EQ(orphan.depth, 2);
    EXPECT_THAT(orphan.used_by, IsEmpty());
    EXPECT_THAT(layer_of(store, "bare").damage, IsEmpty());
    EXPECT_EQ(layer_of(store, "staging/100").kind, "removing");
    EXPECT_EQ(layer_of(store, "tempdirs/temp-dir-7").kind, "removing");
    EXPECT_THAT(store.layers, SizeIs(8)); // the trial of the kernel is none
}

TEST(Podman, WhatARecordedLayerIsMountedOnIsInUse) {
    FakeStore fake;
    for (const char *id : {"lost", "unlinked", "other"})
        fake.layer(id, "", {});
    std::filesystem::remove(fake.root.here(FakeStore::at("overlay/l/LINKunlinked")));
    fake.layer("orphan", "base", {"base", "other"});
    fake.root.file(FakeStore::at("overlay/ctr/lower"), "l/LINKtop1:l/LINKlost:l/LINKbase:l/LINKunlinked:l/LINKlost");
    const probe::Store store = fake.store();
    for (const char *id : {"lost", "unlinked"}) {
        EXPECT_FALSE(layer_of(store, id).recorded) << id;
        EXPECT_THAT(layer_of(store, id).used_by, Contains("layer ctr")) << id;
    }
    EXPECT_THAT(layer_of(store, "unlinked").used_by, ElementsAre("layer ctr"));
    EXPECT_THAT(layer_of(store, "other").used_by, IsEmpty()); // no record needs it
    EXPECT_THAT(layer_of(store, "top1").used_by, UnorderedElementsAre("image docker.io/a:1", "image i2", "layer ctr"));
}

TEST(Podman, WhatALayerNeedsMayBeUnreadable) {
    FakeStore fake;
    fake.layer("orphan", "", {});
    for (const char *id : {"base", "orphan"})
        fake.root.dir(FakeStore::at(fmt::format("overlay/{}/lower", id)));
    const probe::Store store = fake.store();
    EXPECT_EQ(source_of(store, "/overlay/base/lower").state, "unreadable");
    EXPECT_THAT(store.sources, SizeIs(4)); // with the three lists: the orphan needs nothing
}

TEST(Podman, TheTrashOfOrphansIsNoLayer) {
    const FakeStore fake;
    for (const char *dir : {"overlay", "overlay/staging", "overlay/tempdirs"})
        fake.root.dir(FakeStore::at(fmt::format("{}/.shale-trash/1/tree", dir)));
    EXPECT_THAT(fake.store().layers, SizeIs(4));
    const TestRoot root;
    root.file(FakeStore::at("vfs-layers/layers.json"), R"([{"id":"v"}])");
    root.dir(FakeStore::at("vfs/dir/v"));
    root.dir(FakeStore::at("vfs/dir/.shale-trash/1/tree"));
    probe::Facts facts;
    read_podman(root.host(), {}, "", facts);
    EXPECT_THAT(facts.stores.at(0).layers, SizeIs(1));
}

TEST(Podman, WhatIsBeingPulledOrDeletedIsTold) {
    const FakeStore fake;
    fake.root.file(FakeStore::at("overlay/staging/100/staging.lock"), "");
    fake.root.dir(FakeStore::at("overlay/tempdirs/temp-dir-7"));
    fake.root.file(FakeStore::at("overlay/tempdirs/lock-7"), "");
    std::vector<UniqueFd> held;
    for (const char *path : {"overlay/staging/100/staging.lock", "overlay/tempdirs/lock-7"}) {
        held.emplace_back(::open(fake.root.here(FakeStore::at(path)).c_str(), O_RDWR | O_CLOEXEC));
        ASSERT_TRUE(sys::try_lock_range(held.back().get(), 0, 0, sys::LockMode::exclusive).value());
    }
    const probe::Store store = fake.store();
    EXPECT_EQ(layer_of(store, "staging/100").kind, "ingest");
    EXPECT_EQ(layer_of(store, "tempdirs/temp-dir-7").kind, "ingest");
}

TEST(Podman, AnIncompleteLayerIsNotDamaged) {
    FakeStore fake;
    fake.root.dir(FakeStore::at("overlay/half"));
    fake.record(R"({"id":"half","parent":"top1","flags":{"incomplete":true}})");
    const auto half = layer_of(fake.store(), "half");
    EXPECT_EQ(half.kind, "ingest");
    EXPECT_TRUE(half.recorded && half.on_disk);
    EXPECT_THAT(half.damage, IsEmpty());
}

TEST(Podman, DamageIsNamed) {
    FakeStore fake;
    namespace fs = std::filesystem;
    fs::remove_all(fake.root.here(FakeStore::at("overlay/top2")));
    fs::remove(fake.root.here(FakeStore::at("overlay/l/LINKtop1")));
    fs::remove_all(fake.root.here(FakeStore::at("overlay/base/diff")));
    fake.root.file(FakeStore::at("overlay/ctr/lower"), "");
    fake.root.file(FakeStore::at("overlay-layers/base.tar-split.gz"), "");
    fake.root.file(FakeStore::at("overlay-images/i1/manifest"), "12345");
    fs::remove(fake.root.here(FakeStore::at("overlay-images/i1/=c2hhMjU2OmZm")));
    fake.record(R"({"id":"lost","parent":"nowhere"})");
    fake.layer("lost", "nowhere", {"nowhere"});
    const probe::Store store = fake.store();
    EXPECT_THAT(layer_of(store, "top2").damage, ElementsAre(FakeStore::at("overlay/top2") + " is missing"));
    EXPECT_FALSE(layer_of(store, "top2").on_disk);
    EXPECT_THAT(layer_of(store, "base").damage,
                ElementsAre("diff is missing", HasSubstr("base.tar-split.gz: 0 bytes")));
    EXPECT_THAT(layer_of(store, "top1").damage,
                ElementsAre("l/LINKtop1 is missing", HasSubstr("leads to base: that is missing")));
    EXPECT_THAT(layer_of(store, "ctr").damage, ElementsAre("lower: 0 bytes", HasSubstr("lower is missing")));
    EXPECT_THAT(layer_of(store, "lost").damage,
                ElementsAre("its parent nowhere is not recorded", HasSubstr("lower names l/LINKnowhere")));
    EXPECT_EQ(store.images[1].missing_layers, 1);
    EXPECT_THAT(store.images[0].damage,
                ElementsAre("its data \"manifest\" has 5 bytes, not 4", "its data \"sha256:ff\" is missing"));
    EXPECT_EQ(store.settings.at("links to missing layers"), "1"); // that of top2
}

TEST(Podman, BrokenListsAreUnreadable) {
    const std::map<std::string, std::string> broken{
        {"", "0 bytes"},
        {R"([{"id":"base"},{"id":"to)", "cut off after 24 bytes"},
        {R"([{"id":"base"}] x)", "byte 16"},
        {R"([{"id":"../../etc"}])", "no name"},
        {R"([{"names":[]}])", "is missing"},
        {R"([{"id":7}])", "not a string"},
        {R"({"id":"base"})", "byte 0"},
        {R"(["base"])", "not a JSON object"},
    };
    for (const auto &[text, why] : broken) {
        const FakeStore fake;
        fake.root.file(FakeStore::at("overlay-layers/layers.json"), text);
        const probe::Store store = fake.store();
        const auto &source = source_of(store, "/layers.json");
        EXPECT_EQ(source.state, "unreadable") << text;
        EXPECT_THAT(source.why, HasSubstr(why)) << text;
        EXPECT_FALSE(layer_of(store, "base").recorded) << text;
    }
}

TEST(Podman, AMissingListThatIsWantedIsUnreadable) {
    const FakeStore fake;
    std::filesystem::remove(fake.root.here(FakeStore::at("overlay-layers/layers.json")));
    EXPECT_EQ(source_of(fake.store(), "/layers.json").state, "unreadable");
    fake.root.file(FakeStore::at("overlay-images/images.json"), "[]");
    fake.root.file(FakeStore::at("overlay-containers/containers.json"), "null");
    EXPECT_EQ(source_of(fake.store(), "/layers.json").state, "missing");
}

TEST(Podman, WhoeverWritesIsNotWaitedForLong) {
    const FakeStore fake;
    const std::string lock = FakeStore::at("overlay-layers/layers.lock");
    fake.root.file(lock, "");
    const UniqueFd held(::open(fake.root.here(lock).c_str(), O_RDWR | O_CLOEXEC));
    ASSERT_TRUE(sys::try_lock_range(held.get(), 0, 0, sys::LockMode::shared).value());
    EXPECT_EQ(source_of(fake.store(), "/layers.json").state, "read"); // a reader is in nobody's way
    ASSERT_TRUE(sys::try_lock_range(held.get(), 0, 0, sys::LockMode::exclusive).value());
    const probe::Store store = fake.store();
    for (const auto &source : store.sources)
        EXPECT_EQ(source.state, "changing") << source.path;
    EXPECT_THAT(store.sources.at(0).why, HasSubstr("lock"));
}

TEST(Podman, RecordsThatNeverEndAreBounded) {
    FakeStore fake;
    fake.record(R"({"id":"x","parent":"y"})");
    fake.record(R"({"id":"y","parent":"x"})");
    fake.root.file(FakeStore::at("overlay-images/images.json"), R"([{"id":"loop","layer":"x"}])");
    const probe::Store store = fake.store();
    EXPECT_THAT(store.images.at(0).layers, SizeIs(1000));
    EXPECT_LE(layer_of(store, "x").depth, 2);
}

TEST(Podman, ConfigurationNamesRoots) {
    FakeStore fake;
    fake.root.file("/etc/containers/storage.conf",
                   "[storage]\ngraphroot = \"/srv/store/\"\nimagestore = '/srv/images'\n"
                   "[storage.options]\nadditionalimagestores = [\n  \"/srv/more\", # shared\n]\n"
                   "[storage.options.overlay]\nmountopt = \"nodev,metacopy=on\"\n");
    fake.root.dir("/srv/store/overlay-layers");
    fake.root.file("/srv/store/overlay-layers/layers.json", R"([{"id":"c","parent":"far"},{"id":"d","parent":"i"}])");
    fake.root.file("/srv/images/overlay-layers/layers.json", R"([{"id":"i","diff-digest":"sha256:aa"}])");
    fake.root.dir("/srv/images/overlay/i/diff");
    fake.root.file("/srv/more/overlay-layers/layers.json", R"([{"id":"far","parent":"farther"},{"id":"farther"}])");
    const probe::Facts facts = fake.read();
    EXPECT_THAT(facts.problems, IsEmpty());
    ASSERT_THAT(facts.config_files, SizeIs(1));
    EXPECT_EQ(facts.config_files[0].kind, "containers storage.conf");
    ASSERT_THAT(facts.stores, SizeIs(1)); // not the one at the default root
    const probe::Store &store = facts.stores[0];
    EXPECT_EQ(store.root, "/srv/store");
    EXPECT_EQ(store.settings.at("mountopt"), "nodev,metacopy=on");
    EXPECT_EQ(store.settings.at("additionalimagestores"), "/srv/more");
    EXPECT_THAT(store.layers, SizeIs(3));
    EXPECT_TRUE(layer_of(store, "i").on_disk);
    EXPECT_EQ(layer_of(store, "i").path, "/srv/images/overlay/i");
    EXPECT_EQ(layer_of(store, "c").depth, 2);
    EXPECT_THAT(layer_of(store, "c").damage, ElementsAre("/srv/store/overlay/c is missing"));
}

TEST(Podman, AConfigurationThatIsNoTomlIsAProblem) {
    const FakeStore fake;
    fake.root.file("/etc/containers/storage.conf", "[storage]\ngraphroot = \"/srv/store\"\nwhat is this\n");
    const probe::Facts facts = fake.read();
    ASSERT_THAT(facts.problems, SizeIs(1));
    EXPECT_EQ(facts.problems[0].about, "/etc/containers/storage.conf");
    EXPECT_THAT(facts.problems[0].why, HasSubstr("nothing of it is used: line "));
    EXPECT_THAT(facts.config_files, SizeIs(1));
    ASSERT_THAT(facts.stores, SizeIs(1));
    EXPECT_EQ(facts.stores[0].root, graph); // podman itself would not start
}

TEST(Podman, VolatileRecordsMayLieBelowTheRunRoot) {
    const FakeStore fake;
    fake.root.file("/run/containers/storage/overlay-layers/volatile-layers.json", R"([{"id":"v","parent":"top1"}])");
    fake.root.file("/run/containers/storage/overlay-containers/volatile-containers.json",
                   R"([{"id":"vc","layer":"v"}])");
    fake.root.dir(FakeStore::at("overlay/v/diff"));
    const probe::Store store = fake.store();
    EXPECT_THAT(store.containers, SizeIs(2));
    EXPECT_EQ(layer_of(store, "v").kind, "active");
    EXPECT_EQ(source_of(store, "volatile-layers.json").entries, 1);
    const probe::Facts named = fake.read("/var/lib/containers/storage/"); // the same store by its name
    EXPECT_TRUE(layer_of(named.stores.at(0), "v").recorded);
}

TEST(Podman, ReadsStoresOfUsers) {
    const TestRoot root;
    root.file("/etc/passwd",
              "root:x:0:0::/root:/bin/sh\nann:x:1000:1000:Ann:/home/ann:/bin/sh\nnobody:x:9:9::/nonexistent:\n"
              "broken\n");
    root.file("/home/ann/.local/share/containers/storage/vfs-layers/layers.json", R"([{"id":"v"}])");
    root.dir("/home/ann/.local/share/containers/storage/vfs/dir/v");
    root.file("/home/bob/.config/containers/storage.conf", "[storage]\ngraphroot = \"$HOME/mine-$USER\"\n");
    root.file("/home/bob/mine-bob/btrfs-layers/layers.json", "[]");
    root.dir("/home/bob/mine-bob/btrfs/subvolumes/sub");
    root.link("/home/ann", "/home/link");
    probe::Facts facts;
    read_podman(root.host(), {}, "", facts);
    ASSERT_THAT(facts.stores, SizeIs(2));
    EXPECT_EQ(facts.stores[0].driver, "vfs");
    EXPECT_TRUE(layer_of(facts.stores[0], "v").on_disk);
    EXPECT_EQ(facts.stores[1].root, "/home/bob/mine-bob");
    EXPECT_FALSE(layer_of(facts.stores[1], "sub").recorded);
}

TEST(Podman, ANamedRootThatIsNotThereIsAProblem) {
    const TestRoot root;
    probe::Facts facts;
    read_podman(root.host(), {}, "/nowhere", facts);
    EXPECT_THAT(facts.stores, IsEmpty());
    ASSERT_THAT(facts.problems, SizeIs(1));
    EXPECT_EQ(facts.problems[0].about, "/nowhere");
}

TEST(Podman, KnowsTheEngineThatServesIt) {
    const FakeStore fake;
    const auto pid = [&](std::vector<probe::Process> processes) { return fake.read({}, processes).stores.at(0).pid; };
    EXPECT_EQ(pid({{.pid = 5, .command = "crio", .cgroup = {}, .arguments = {"crio"}}}), 5);
    EXPECT_EQ(pid({{.pid = 6, .command = "crio", .cgroup = {}, .arguments = {"crio", "--root", "/other"}}}), 0);
    EXPECT_EQ(pid({{.pid = 7, .command = "podman", .cgroup = {}, .arguments = {"podman", "ps"}}}), 0);
    EXPECT_EQ(pid({{.pid = 8,
                    .command = "podman",
                    .cgroup = {},
                    .arguments = {"podman", fmt::format("--root={}", graph), "system", "service"}}}),
              8);
}

TEST(Podman, ZfsLayersAreDatasets) {
    const TestRoot root;
    root.file(FakeStore::at("zfs-layers/layers.json"), R"([{"id":"a"},{"id":"b"}])");
    probe::Facts facts;
    read_podman(root.host(), {}, "", facts);
    EXPECT_EQ(facts.stores.at(0).sources.back().state, "unreadable");
    EXPECT_THAT(layer_of(facts.stores.at(0), "a").damage, IsEmpty());
    facts = {};
    facts.zfs_datasets.emplace_back().name = "tank/podman/a";
    facts.zfs_datasets[0].type = "filesystem";
    read_podman(root.host(), {}, "", facts);
    EXPECT_TRUE(layer_of(facts.stores.at(0), "a").on_disk);
    EXPECT_THAT(layer_of(facts.stores.at(0), "b").damage, SizeIs(1));
}

constexpr std::string_view config_json =
    R"({"id":"c1","name":"web","rootfsImageID":"i1","logPath":"/log",)"
    R"("namedVolumes":[{"volumeName":"data","dest":"/d"}],"spec":{"mounts":)"
    R"([{"type":"bind","source":"/srv","destination":"/s"},{"type":"proc","destination":"/proc"}]}})";

TEST(Podman, ContainersOfABoltDatabase) {
    FakeStore fake;
    fake.root.file("/log", "12345");
    probe::bolt_writer::Bucket database;
    database.buckets["ctr"].buckets["c1"].values = {{"config", std::string(config_json)},
                                                    {"state", R"({"state":3,"pid":77})"}};
    database.buckets["vol"].buckets["data"].values = {{"config", R"({"name":"data","volumeDriver":"local"})"}};
    const std::string file = probe::bolt_writer::database(database);
    fake.root.file(FakeStore::at("libpod/bolt_state.db"), file);
    fake.root.dir(FakeStore::at("volumes/data/_data"));
    fake.root.dir(FakeStore::at("volumes/left"));
    const probe::Store store = fake.store();
    ASSERT_THAT(store.containers, SizeIs(1));
    EXPECT_EQ(store.containers[0].state, "running");
    EXPECT_EQ(store.containers[0].pid, 77);
    EXPECT_EQ(store.containers[0].log_bytes, 5);
    EXPECT_THAT(store.containers[0].binds, ElementsAre("/srv:/s"));
    ASSERT_THAT(store.volumes, SizeIs(2));
    EXPECT_TRUE(store.volumes[0].recorded && store.volumes[0].on_disk);
    EXPECT_THAT(store.volumes[0].used_by, ElementsAre("container c1"));
    EXPECT_EQ(store.volumes[1].name, "left");
    EXPECT_FALSE(store.volumes[1].recorded);
    EXPECT_EQ(source_of(store, "bolt_state.db").state, "read");
    fake.root.file(FakeStore::at("libpod/bolt_state.db"), file.substr(0, 5000));
    EXPECT_EQ(source_of(fake.store(), "bolt_state.db").state, "unreadable");
}

TEST(Podman, ContainersOfAnSqliteDatabase) {
    FakeStore fake;
    sqlite3 *db = nullptr;
    ASSERT_EQ(sqlite3_open(fake.root.here(FakeStore::at("db.sql")).c_str(), &db), SQLITE_OK);
    const std::string sql = fmt::format(
        "CREATE TABLE DBConfig(VolumeDir TEXT); INSERT INTO DBConfig VALUES ('/vols');"
        "CREATE TABLE ContainerConfig(ID TEXT, Name TEXT, PodID TEXT, JSON TEXT);"
        "CREATE TABLE ContainerState(ID TEXT, State INTEGER, ExitCode INTEGER, JSON TEXT);"
        "CREATE TABLE VolumeConfig(Name TEXT, StorageID TEXT, JSON TEXT);"
        "INSERT INTO ContainerConfig VALUES ('c1', 'web', NULL, '{0}'), ('other', 'r', NULL, '{{\"name\":\"r\"}}');"
        "INSERT INTO ContainerState VALUES ('c1', 6, 0, '{{\"state\":6}}'), ('other', 3, 0, '{{\"state\":99}}');"
        "INSERT INTO VolumeConfig VALUES ('data', NULL, '{{\"volumeDriver\":\"nfs\"}}')",
        config_json);
    ASSERT_EQ(sqlite3_exec(db, sql.c_str(), nullptr, nullptr, nullptr), SQLITE_OK) << sqlite3_errmsg(db);
    sqlite3_close(db);
    fake.root.dir("/vols/loose");
    const probe::Store store = fake.store();
    ASSERT_THAT(store.containers, SizeIs(2));
    EXPECT_EQ(store.containers[0].state, "exited");
    EXPECT_EQ(store.containers[1].id, "other"); // has no layer: its root is elsewhere
    EXPECT_EQ(store.containers[1].state, "unknown");
    ASSERT_THAT(store.volumes, SizeIs(2));
    EXPECT_EQ(store.volumes[0].driver, "nfs");
    EXPECT_FALSE(store.volumes[0].on_disk);
    EXPECT_EQ(store.volumes[1].path, "/vols/loose");
}

TEST(Podman, StatesOfCrio) {
    const FakeStore fake;
    fake.root.file(FakeStore::at("overlay-containers/c1/userdata/state.json"), R"({"status":"running","pid":42})");
    const probe::Store store = fake.store();
    EXPECT_EQ(store.containers.at(0).state, "running");
    EXPECT_EQ(store.containers.at(0).pid, 42);
}

TEST(PodmanRecords, NamesOfFiles) {
    EXPECT_EQ(podman::data_file("manifest"), "manifest");
    EXPECT_EQ(podman::data_file("sha256:ff"), "=c2hhMjU2OmZm");
    EXPECT_EQ(podman::data_file("signature-a"), "=c2lnbmF0dXJlLWE=");
    EXPECT_EQ(podman::data_file("abcD"), "abcD"); // containers/storage does not notice the last one
    EXPECT_FALSE(podman::is_plain_name(".."));
    EXPECT_FALSE(podman::is_plain_name("a/b"));
}

TEST(PodmanRecords, ElementsOfAList) {
    const auto split = [](std::string_view text) {
        std::vector<std::string> out;
        EXPECT_TRUE(podman::for_each_element(text, [&](std::string_view one) -> Status {
            out.emplace_back(one);
            return {};
        }));
        return out;
    };
    EXPECT_THAT(split(" [ ] "), IsEmpty());
    EXPECT_THAT(split("null\n"), IsEmpty());
    EXPECT_THAT(split(R"([{"a":[1,2]},{"b":"]},\"{"}])"), ElementsAre(R"({"a":[1,2]})", R"({"b":"]},\"{"})"));
}

} // namespace
} // namespace shale::doctor
