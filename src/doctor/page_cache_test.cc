// SPDX-License-Identifier: Apache-2.0
#include "doctor/page_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "probe/test_root.h"

namespace shale::doctor {
namespace {

using testing::HasSubstr;

class PageCacheOfTest : public testing::Test {
protected:
    PageCacheOfTest() {
        auto &store = facts_.stores.emplace_back();
        store.engine = "docker";
        store.driver = "overlay2";
        store.root = "/docker";
        for (const auto &[id, bytes] :
             {std::pair("small", 4'000), std::pair("large", 40'000), std::pair("upper", 8'000)}) {
            auto &layer = store.layers.emplace_back();
            layer.id = id;
            layer.path = std::string("/docker/overlay2/") + id;
            layer.on_disk = true;
            root_.file(layer.path + "/diff/file", std::string(static_cast<size_t>(bytes), 'x'));
        }
        auto &image = store.images.emplace_back();
        image.id = "sha256:1";
        image.names = {"debian:12"};
        image.layers = {"small", "large"};
        auto &container = store.containers.emplace_back();
        container.id = "c";
        container.name = "web";
        container.layer = "upper";
        container.pid = 42;
        auto &process = facts_.processes.emplace_back();
        process.pid = 42;
        process.cgroup = "/docker/c";
    }
    std::vector<CachedThing> all() {
        std::vector<probe::Problem> problems;
        auto out = page_cache_of(root_.host(), facts_, {}, problems);
        EXPECT_THAT(problems, testing::IsEmpty());
        return out;
    }
    static const CachedThing &of(const std::vector<CachedThing> &all, CachedThing::Kind kind, std::string_view id) {
        for (const auto &thing : all)
            if (thing.kind == kind && thing.id == id) return thing;
        throw std::runtime_error("it is not there");
    }
    probe::TestRoot root_;
    probe::Facts facts_;
};

/// What has just been written is in the page cache.
TEST_F(PageCacheOfTest, ImagesAreTheSumOfTheirLayers) {
    root_.file("/sys/fs/cgroup/docker/c/memory.stat", "anon 5\nfile 12345\n");
    const auto found = all();
    EXPECT_EQ(found.front().id, "large") << "the largest layer is the first";
    EXPECT_GE(of(found, CachedThing::Kind::layer, "large").resident_bytes, 40'000U);
    EXPECT_EQ(of(found, CachedThing::Kind::image, "sha256:1").resident_bytes,
              of(found, CachedThing::Kind::layer, "small").resident_bytes +
                  of(found, CachedThing::Kind::layer, "large").resident_bytes);
    EXPECT_EQ(of(found, CachedThing::Kind::container, "c").resident_bytes,
              of(found, CachedThing::Kind::layer, "upper").resident_bytes);
    EXPECT_EQ(of(found, CachedThing::Kind::container, "c").cgroup_bytes, 12345U);
}

TEST_F(PageCacheOfTest, CgroupV1IsReadToo) {
    root_.file("/sys/fs/cgroup/memory/docker/c/memory.stat", "cache 1\ntotal_cache 777\n");
    EXPECT_EQ(of(all(), CachedThing::Kind::container, "c").cgroup_bytes, 777U);
}

TEST_F(PageCacheOfTest, OnlyTheTargetIsDropped) {
    ::sync(); // dirty pages stay
    const auto dry = evict(root_.host(), facts_, {.layer = "large", .image = {}, .cgroup = {}}, true, {});
    ASSERT_TRUE(dry) << dry.error().text();
    EXPECT_EQ(dry->before_bytes, dry->after_bytes);
    const auto done = evict(root_.host(), facts_, {.layer = "large", .image = {}, .cgroup = {}}, false, {});
    ASSERT_TRUE(done) << done.error().text();
    EXPECT_GE(done->before_bytes, 40'000U);
    EXPECT_LE(done->after_bytes, done->before_bytes);
    EXPECT_THAT(done->how, HasSubstr("1 layer"));
    EXPECT_GE(of(all(), CachedThing::Kind::layer, "small").resident_bytes, 4'000U);
    const auto image = evict(root_.host(), facts_, {.layer = {}, .image = "debian:12", .cgroup = {}}, true, {});
    ASSERT_TRUE(image);
    EXPECT_THAT(image->how, HasSubstr("2 layers"));
}

TEST_F(PageCacheOfTest, AControlGroupIsAskedToReclaim) {
    root_.file("/sys/fs/cgroup/docker/c/memory.stat", "file 12345\n");
    root_.file("/sys/fs/cgroup/docker/c/memory.reclaim", "");
    const auto done = evict(root_.host(), facts_, {.layer = {}, .image = {}, .cgroup = "/docker/c"}, false, {});
    ASSERT_TRUE(done) << done.error().text();
    EXPECT_EQ(done->how, "memory.reclaim");
    EXPECT_EQ(*root_.host().read("/sys/fs/cgroup/docker/c/memory.reclaim"), "12345");
}

TEST_F(PageCacheOfTest, WhatIsNotThereIsSaid) {
    for (const EvictTarget &target :
         {EvictTarget{"none", "", ""}, EvictTarget{"", "none", ""}, EvictTarget{"", "", "/none"}})
        EXPECT_EQ(evict(root_.host(), facts_, target, false, {}).error().code(), Errc::NotFound);
}

} // namespace
} // namespace shale::doctor
