// SPDX-License-Identifier: Apache-2.0
#include "doctor/hosts/shale.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>

#include "doctor/hosts/test_store.h"
#include "probe/test_root.h"
#include "store/locks.h"
#include "store/records.h"

namespace shale::doctor {
namespace {

using probe::TestRoot;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;
using testing::UnorderedElementsAre;

constexpr const char *store_root = "/var/lib/shale";

std::string sha(char c) {
    return "sha256:" + std::string(64, c);
}

/// The real records, and directories made by hand. Layers 1 and 2 are an image's, 3 is a container, 4 a snapshot.
class FakeStore {
public:
    explicit FakeStore(const char *driver = "vfs") : driver_(driver) {
        root.dir(at("blobs/sha256"));
        root.file(at("lock"), "");
        auto opened = store::Records::open(root.here(at("shale.db")), false, false);
        EXPECT_TRUE(opened) << opened.error().text();
        records_ = std::move(*opened);
        run(fmt::format("INSERT INTO meta VALUES ('driver', '{}')", driver));
        run(fmt::format("INSERT INTO layers VALUES (1, NULL, 'ready', 0, '{}', NULL, NULL, 500, 5, 1000000000)",
                        sha('1')));
        run(fmt::format("INSERT INTO layers VALUES (2, 1, 'ready', 0, '{}', NULL, NULL, 600, 6, 2000000000)",
                        sha('2')));
        run("INSERT INTO layers VALUES (9, 2, 'staging', 77, NULL, NULL, NULL, 0, 0, 0)");
        run(fmt::format("INSERT INTO images VALUES ('{}', '{}', 'linux', 'amd64', 3000000000)", sha('m'), sha('c')));
        run(fmt::format("INSERT INTO image_layers VALUES ('{}', 0, 1, '{}', '', 0)", sha('m'), sha('b')));
        run(fmt::format("INSERT INTO image_layers VALUES ('{}', 1, 2, '{}', '', 0)", sha('m'), sha('b')));
        run(fmt::format("INSERT INTO names VALUES ('docker.io/a:1', '{}')", sha('m')));
        run(fmt::format("INSERT INTO blobs VALUES ('{}', 4, 0)", sha('b')));
        run("INSERT INTO containers(id, name, parent, image_name, created_ns) VALUES (3, 'web', 2, 'a', 4000000000)");
        run("INSERT INTO snapshots VALUES (4, 'k8s.io/1/key', 2, 4, NULL, 0, 0, '', '', NULL, NULL, 1)");
        run("INSERT INTO leases VALUES ('kept', 0, 0), ('over', 0, 5000000000)");
        run("INSERT INTO lease_refs VALUES ('kept', 'layer:1'), ('over', 'layer:2')");
        root.file(at(fmt::format("blobs/sha256/{}", std::string(64, 'b'))), "blob");
        for (const char *id : {"1", "2", "3", "4"})
            root.dir(at(fmt::format("{}/{}/fs", driver_, id)));
    }
    static std::string at(std::string_view path) { return fmt::format("{}/{}", store_root, path); }
    void run(const std::string &sql) const {
        auto tx = records_->begin(store::Sync::relaxed).value();
        ASSERT_TRUE(tx.prepare(sql).value().run()) << sql;
        ASSERT_TRUE(tx.commit());
    }
    [[nodiscard]] probe::Facts read(probe::Facts facts = {}) const {
        facts.taken_s = 100;
        read_shale(root.host(), {}, "", facts);
        return facts;
    }
    [[nodiscard]] probe::Store store() const { return only_store(read()); }

    TestRoot root;

private:
    std::string driver_;
    std::unique_ptr<store::Records> records_;
};

TEST(Shale, ReadsItsRecordsWhileTheyAreOpen) {
    const FakeStore fake;
    const probe::Store store = fake.store();
    EXPECT_EQ(store.engine, "shale");
    EXPECT_EQ(store.driver, "vfs");
    EXPECT_EQ(store.version, "record format 3");
    ASSERT_THAT(store.sources, SizeIs(1));
    EXPECT_EQ(store.sources[0].state, "read") << store.sources[0].why;
    ASSERT_THAT(store.layers, SizeIs(5));
    const auto &base = layer_of(store, "1");
    EXPECT_EQ(base.kind, "committed");
    EXPECT_EQ(base.path, "/var/lib/shale/vfs/1");
    EXPECT_EQ(base.name, sha('1'));
    EXPECT_EQ(base.recorded_bytes, 500);
    EXPECT_EQ(base.recorded_inodes, 5);
    EXPECT_THAT(base.used_by, UnorderedElementsAre("image docker.io/a:1", "lease kept", "layer 2"));
    EXPECT_THAT(layer_of(store, "2").used_by, UnorderedElementsAre("image docker.io/a:1", "layer 3", "layer 9"));
    const auto &active = layer_of(store, "3");
    EXPECT_EQ(active.kind, "active");
    EXPECT_EQ(active.name, "web");
    EXPECT_EQ(active.depth, 2);
    EXPECT_THAT(active.used_by, ElementsAre("container 3"));
    EXPECT_THAT(layer_of(store, "4").used_by, ElementsAre("snapshot k8s.io/1/key"));
    EXPECT_EQ(layer_of(store, "9").kind, "ingest");
    for (const auto &layer : store.layers) {
        EXPECT_TRUE(layer.recorded) << layer.id;
        EXPECT_THAT(layer.damage, IsEmpty()) << layer.id;
    }
    ASSERT_THAT(store.images, SizeIs(1));
    EXPECT_EQ(store.images[0].id, sha('m'));
    EXPECT_THAT(store.images[0].layers, ElementsAre("1", "2"));
    EXPECT_THAT(store.images[0].damage, IsEmpty());
    EXPECT_EQ(store.images[0].created_s, 3);
    ASSERT_THAT(store.containers, SizeIs(1));
    EXPECT_EQ(store.containers[0].state, "");
    EXPECT_GT(store.other_bytes.at("blobs"), 0);
}

TEST(Shale, TellsWhatNoRecordNames) {
    const FakeStore fake;
    for (const char *path :
         {"vfs/50/fs", "vfs/51", "vfs/trash/7-0", "vfs/probe-999999999-1", "vfs/exchange-1-2", "erofs/3"})
        fake.root.dir(FakeStore::at(path));
    fake.root.file(FakeStore::at("blobs/sha256/unknown"), "12345");
    const probe::Facts facts = fake.read();
    ASSERT_THAT(facts.stores, SizeIs(2));
    const probe::Store &other = facts.stores[0], &store = facts.stores[1];
    EXPECT_EQ(other.driver, "erofs");
    EXPECT_FALSE(layer_of(other, "3").recorded);
    EXPECT_EQ(layer_of(other, "3").kind, "committed");
    EXPECT_FALSE(layer_of(store, "50").recorded);
    EXPECT_EQ(layer_of(store, "50").kind, "committed");
    EXPECT_EQ(layer_of(store, "51").kind, "committed");
    EXPECT_EQ(layer_of(store, "trash/7-0").kind, "removing");
    EXPECT_EQ(layer_of(store, "probe-999999999-1").kind, "removing");
    EXPECT_EQ(layer_of(store, "exchange-1-2").kind, "ingest");
    EXPECT_EQ(store.other_bytes.at("blobs without a record"), 5);
    const UniqueFd lock(::open(fake.root.here(FakeStore::at("lock")).c_str(), O_RDWR | O_CLOEXEC));
    ASSERT_TRUE(
        sys::try_lock_range(lock.get(), store::Locks::container_offset({51}), 1, sys::LockMode::exclusive).value());
    const probe::Facts busy = fake.read();
    EXPECT_EQ(layer_of(busy.stores.at(1), "50").kind, "committed");
    EXPECT_EQ(layer_of(busy.stores.at(1), "51").kind, "ingest"); // a container that is being made
}

TEST(Shale, TrashAndTrialsAreThoseOfADaemonAtWork) {
    const FakeStore fake;
    for (const char *path : {"vfs/trash/7-0", "vfs/probe-999999999-1", "erofs/trash/8-0"})
        fake.root.dir(FakeStore::at(path));
    const auto kinds = [&] {
        const probe::Facts facts = fake.read();
        std::vector<std::string> out;
        for (const auto &store : facts.stores)
            for (const auto &layer : store.layers)
                if (!layer.recorded) out.push_back(layer.kind);
        return out;
    };
    EXPECT_THAT(kinds(), ElementsAre("removing", "removing", "removing"));
    {
        const UniqueFd root(::open(fake.root.here(store_root).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        const auto daemon = store::Locks::open(root.get()); // as every process that opens the store
        ASSERT_TRUE(daemon) << daemon.error().text();
        EXPECT_THAT(kinds(), ElementsAre("ingest", "ingest", "ingest"));
        fake.run("PRAGMA user_version=4"); // without records, too
        EXPECT_THAT(kinds(), testing::Contains("ingest").Times(3));
    }
    EXPECT_THAT(kinds(), testing::Contains("removing").Times(3));
}

TEST(Shale, TheTrashOfOrphansIsNoneOfItsOwn) {
    const FakeStore fake;
    for (const char *path : {"vfs/.shale-trash/1/tree", "vfs/trash/.shale-trash/1/tree"})
        fake.root.dir(FakeStore::at(path));
    EXPECT_THAT(fake.store().layers, SizeIs(5));
}

TEST(Shale, ACollectionAtWorkExplainsWhatIsLeft) {
    const FakeStore fake;
    fake.root.dir(FakeStore::at("vfs/50/fs"));
    const UniqueFd lock(::open(fake.root.here(FakeStore::at("lock")).c_str(), O_RDWR | O_CLOEXEC));
    ASSERT_TRUE(sys::try_lock_range(lock.get(), store::Locks::gc_offset, 1, sys::LockMode::shared).value());
    EXPECT_EQ(layer_of(fake.store(), "50").kind, "committed"); // others who make something
    ASSERT_TRUE(sys::try_lock_range(lock.get(), store::Locks::gc_offset, 1, sys::LockMode::exclusive).value());
    EXPECT_EQ(layer_of(fake.store(), "50").kind, "removing");
}

TEST(Shale, DamageIsNamed) {
    const FakeStore fake;
    namespace fs = std::filesystem;
    fs::remove_all(fake.root.here(FakeStore::at("vfs/1")));
    fs::remove_all(fake.root.here(FakeStore::at("vfs/2/fs")));
    fake.root.file(FakeStore::at(fmt::format("blobs/sha256/{}", std::string(64, 'b'))), "");
    fake.run("INSERT INTO snapshots VALUES (5, 'lost', 3, 2, NULL, 0, 0, '', '', 70, 7, 2)");
    const probe::Store store = fake.store();
    EXPECT_THAT(layer_of(store, "1").damage, ElementsAre("/var/lib/shale/vfs/1 is missing"));
    EXPECT_THAT(layer_of(store, "2").damage, ElementsAre(HasSubstr("snapshot \"lost\""), "fs is missing"));
    EXPECT_EQ(layer_of(store, "2").recorded_bytes, 70);
    EXPECT_EQ(store.images.at(0).missing_layers, 1);
    EXPECT_THAT(store.images.at(0).damage.at(0), HasSubstr("has 0 bytes, not 4"));
}

TEST(Shale, PartsOfEachDriver) {
    const std::map<std::string, std::string> part{
        {"overlay2", "diff"}, {"overlay", "upper"}, {"erofs", "tree"}, {"zfs", "volume"}, {"devicemapper", "volume"}};
    for (const auto &[driver, name] : part) {
        const FakeStore fake(driver.c_str());
        EXPECT_EQ(layer_of(fake.store(), "1").damage.empty(), driver == "overlay") << driver; // it has fs alone
        fake.root.dir(FakeStore::at(fmt::format("{}/1/{}", driver, name)));
        EXPECT_THAT(layer_of(fake.store(), "1").damage, IsEmpty()) << driver;
    }
    const FakeStore fake("erofs");
    fake.root.file(FakeStore::at("erofs/1/image.erofs"), "");
    EXPECT_THAT(layer_of(fake.store(), "1").damage, ElementsAre("image.erofs: 0 bytes"));
}

TEST(Shale, BrokenRecordsAreUnreadable) {
    const FakeStore fake;
    std::filesystem::resize_file(fake.root.here(FakeStore::at("shale.db")), 0);
    std::filesystem::resize_file(fake.root.here(FakeStore::at("shale.db-wal")), 0);
    const probe::Store store = fake.store();
    EXPECT_EQ(store.sources.at(0).state, "unreadable");
    EXPECT_THAT(store.sources.at(0).why, HasSubstr("0 bytes"));
    EXPECT_TRUE(layer_of(store, "1").on_disk);
    EXPECT_FALSE(layer_of(store, "1").recorded);
    std::filesystem::remove(fake.root.here(FakeStore::at("shale.db")));
    EXPECT_EQ(fake.store().sources.at(0).state, "unreadable");
}

TEST(Shale, ANewerFormatIsUnreadable) {
    const FakeStore fake;
    fake.run("PRAGMA user_version=4");
    const probe::Store store = fake.store();
    EXPECT_EQ(store.sources.at(0).state, "unreadable");
    EXPECT_THAT(store.sources.at(0).why, HasSubstr("record format 4"));
}

TEST(Shale, AMigrationUnderWayJudgesNothing) {
    const FakeStore fake;
    fake.run("INSERT INTO meta VALUES ('migrate_phase', 'copy'), ('migrate_driver', 'overlay2')");
    fake.root.dir(FakeStore::at("overlay2/12/diff"));
    const probe::Facts facts = fake.read();
    ASSERT_THAT(facts.stores, SizeIs(2));
    EXPECT_EQ(facts.stores[0].driver, "overlay2");
    EXPECT_EQ(facts.stores[0].sources.at(0).state, "changing");
    EXPECT_EQ(facts.stores[1].sources.at(0).state, "read");
    EXPECT_EQ(facts.stores[1].settings.at("migrate_driver"), "overlay2");
}

TEST(Shale, MountsTellWhichContainersAreInUse) {
    const FakeStore fake;
    probe::Facts facts;
    auto &mounts = facts.mount_namespaces.emplace_back().mounts;
    mounts.emplace_back().target = "/";
    mounts.emplace_back().target = "/var/lib/shale/mnt/3";
    EXPECT_EQ(fake.read(facts).stores.at(0).containers.at(0).state, "mounted");
    mounts.pop_back();
    EXPECT_EQ(fake.read(facts).stores.at(0).containers.at(0).state, "not mounted");
}

TEST(Shale, ConfigurationNamesRoots) {
    const FakeStore fake;
    fake.root.file("/etc/shale/shale.toml",
                   "root = \"/srv/none\"\n[[snapshotter]]\nname = \"a\"\nroot = \"/var/lib/shale\"\n");
    probe::Facts facts = fake.read();
    EXPECT_THAT(facts.stores, SizeIs(1));
    fake.root.file("/etc/shale/shale.toml", "root = \"/srv/none\"\nroot = 5\n");
    facts = fake.read();
    EXPECT_THAT(facts.stores, SizeIs(1)); // that at the default root
    ASSERT_THAT(facts.problems, SizeIs(1));
    EXPECT_THAT(facts.problems[0].why, HasSubstr("nothing of it is used: line "));
    fake.root.file("/etc/shale/shale.toml", "root = \"/srv/none\"\n");
    facts = fake.read();
    EXPECT_THAT(facts.stores, IsEmpty());
    EXPECT_THAT(facts.problems, IsEmpty()); // none was made there yet
    read_shale(fake.root.host(), {}, "/srv/none", facts);
    EXPECT_THAT(facts.problems, SizeIs(1)); // but this one was asked for
    facts = {};
    read_shale(fake.root.host(),
               {{.pid = 9, .command = "shaled", .cgroup = {}, .arguments = {"shaled", "--root=/var/lib/shale"}}},
               store_root, facts);
    EXPECT_EQ(facts.stores.at(0).pid, 9);
}

} // namespace
} // namespace shale::doctor
