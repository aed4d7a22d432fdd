// SPDX-License-Identifier: Apache-2.0
// What must not be taken for an orphan: trees whose records were lost, and trees that recorded layers are mounted on.
#include <gmock/gmock.h>

#include <fmt/format.h>

#include "doctor/hosts/docker_test_root.h"

namespace shale::doctor {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

/// Why the source of that path says nothing; "": it does.
std::string why_lost(const probe::Store &store, const std::string &path) {
    for (const auto &source : store.sources)
        if (source.path == path && source.state == "unreadable") return source.why;
    return {};
}

TEST_F(DockerTest, MissingRecordsOfLayersAreLost) {
    make_usual();
    remove(image("layerdb/sha256"));
    remove(root_ + "/containers");
    const auto facts = read();
    ASSERT_EQ(facts.stores.size(), 1U);
    EXPECT_THAT(why_lost(facts.stores.front(), image("layerdb/sha256")), HasSubstr("may have named tree"));
    EXPECT_EQ(state_of(facts.stores.front(), image("layerdb/mounts")), "read");
}

TEST_F(DockerTest, MissingRecordsOfContainersAreLost) {
    make_usual();
    remove(image("layerdb/mounts"));
    auto facts = read();
    ASSERT_EQ(facts.stores.size(), 1U);
    EXPECT_THAT(why_lost(facts.stores.front(), image("layerdb/mounts")), HasSubstr(container_));
    EXPECT_EQ(state_of(facts.stores.front(), image("layerdb/sha256")), "read");
    remove(root_ + "/containers"); // the tree tells, too
    EXPECT_THAT(why_lost(read().stores.at(0), image("layerdb/mounts")), HasSubstr("tree " + id_of('d')));
    for (const char *const tree : {"", "-init"})
        remove(graph(id_of('d') + tree)); // now no container was ever made
    facts = read();
    EXPECT_EQ(state_of(facts.stores.at(0), image("layerdb/mounts")), "missing");
}

TEST_F(DockerTest, AContainerWithoutItsRecordHasLostIt) {
    make_usual();
    record_container(id_of('9'), app_);
    driver_ = "btrfs"; // left behind: its containers have their records there, or nowhere
    record_container(id_of('8'), app_);
    driver_ = "overlay2";
    auto facts = read();
    ASSERT_EQ(facts.stores.size(), 1U);
    EXPECT_THAT(why_lost(facts.stores.front(), image("layerdb/mounts")), HasSubstr("container " + id_of('9')));
    EXPECT_EQ(state_of(facts.stores.front(), image("layerdb/sha256")), "read");
    remove(fmt::format("{}/containers/{}", root_, id_of('9')));
    facts = read();
    EXPECT_EQ(state_of(facts.stores.at(0), image("layerdb/mounts")), "read");
}

TEST_F(DockerTest, WhatARecordedLayerIsMountedOnIsInUse) {
    make_usual();
    for (const char c : {'7', '8', '9'})
        make_tree(id_of(c), {});
    remove(graph("l/" + link_of(id_of('8'))));
    std::string lower =
        fmt::format("l/{}:l/{}:l/{}", link_of(id_of('d') + "-init"), link_of(id_of('7')), link_of(id_of('8')));
    write(graph(id_of('d') + "/lower"), lower);
    const auto facts = read();
    ASSERT_EQ(facts.stores.size(), 1U);
    const auto &store = facts.stores.front();
    for (const char c : {'7', '8'}) {
        EXPECT_FALSE(layer_of(store, id_of(c)).recorded) << c;
        EXPECT_THAT(layer_of(store, id_of(c)).used_by, ElementsAre("layer " + id_of('d'))) << c;
    }
    EXPECT_THAT(layer_of(store, id_of('9')).used_by, IsEmpty());
    for (int i = 0; i < 200; ++i) // more than can be mounted
        lower += ":l/" + link_of(id_of('9'));
    write(graph(id_of('d') + "/lower"), lower);
    EXPECT_THAT(layer_of(read().stores.at(0), id_of('9')).used_by, ElementsAre("layer " + id_of('d')));
}

TEST_F(DockerTest, ALayerThatCouldNotBeRemovedUsesWhatItWasMountedOn) {
    make_usual();
    make_tree(id_of('8'), {});
    make_tree(id_of('f'), {id_of('a'), id_of('8')});
    remove(graph(id_of('f') + "/link"));
    const auto layer = record_layer(id_of('f'), "old", base_layer_);
    std::filesystem::rename(base_ + image("layerdb/sha256/" + layer.chain.hex()),
                            base_ + image("layerdb/sha256/" + layer.chain.hex() + "-0123abc-removing"));
    const auto facts = read();
    ASSERT_EQ(facts.stores.size(), 1U);
    EXPECT_THAT(layer_of(facts.stores.front(), id_of('8')).used_by, ElementsAre("layer " + id_of('f')));
    EXPECT_THAT(layer_of(facts.stores.front(), id_of('a')).used_by, Contains("layer " + id_of('f')));
    EXPECT_THAT(layer_of(facts.stores.front(), id_of('f')).damage, IsEmpty());
}

TEST_F(DockerTest, WhatALayerNeedsMayBeUnreadable) {
    make_usual();
    make_dir(graph(id_of('a') + "/lower"));
    make_tree(id_of('f'), {});
    make_dir(graph(id_of('f') + "/lower"));
    const auto facts = read();
    ASSERT_EQ(facts.stores.size(), 1U);
    EXPECT_EQ(state_of(facts.stores.front(), graph(id_of('a') + "/lower")), "unreadable");
    EXPECT_EQ(state_of(facts.stores.front(), graph(id_of('f') + "/lower")), "not told"); // it needs nothing
}

TEST_F(DockerTest, TheTrashOfOrphansIsNoTree) {
    make_usual();
    make_dir(graph(".shale-trash/1/tree/diff"));
    for (const char *const trees : {"vfs/dir", "btrfs/subvolumes"})
        make_dir(fmt::format("{}/{}/.shale-trash/1/tree", root_, trees));
    auto facts = read();
    ASSERT_EQ(facts.stores.size(), 1U); // the other drivers have nothing else
    EXPECT_EQ(facts.stores.front().layers.size(), 5U);
    make_dir(root_ + "/vfs/dir/" + id_of('5'));
    facts = read();
    const auto *vfs = store_of(facts, "docker", "vfs");
    ASSERT_NE(vfs, nullptr);
    EXPECT_EQ(vfs->layers.size(), 1U);
}

} // namespace
} // namespace shale::doctor
