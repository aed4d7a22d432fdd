// SPDX-License-Identifier: Apache-2.0
#include "probe/facts_json.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace shale::probe {
namespace {

using testing::HasSubstr;

Facts some_facts() {
    Facts facts;
    facts.shale = "0.1.0";
    facts.taken_s = 1'700'000'000;
    facts.host_root = "/";
    facts.kernel.release = "6.18";
    facts.kernel.parameters["overlay.redirect_dir"] = "N";
    auto &space = facts.mount_namespaces.emplace_back();
    space.id = 4026531840;
    space.mounts.emplace_back().target = "/";
    auto &fs = facts.file_systems.emplace_back();
    fs.total_bytes = ~0ULL;
    fs.d_type = false;
    fs.projects.push_back({.id = 7, .used_bytes = 1});
    auto &btrfs = fs.btrfs.emplace();
    btrfs.groups.emplace_back().kind = "data";
    btrfs.qgroups.push_back({.id = 257, .has_subvolume = false});
    auto &pool = facts.thin_pools.emplace_back();
    pool.autoextend_percent = 100;
    pool.devices.emplace_back().name = "thin";
    facts.pressure["io"].some_10s = 1.5;
    facts.problems.push_back({"/var/lib/docker", "no permission"});
    auto &store = facts.stores.emplace_back();
    store.engine = "docker";
    store.sources.emplace_back().state = "read";
    auto &layer = store.layers.emplace_back();
    layer.used_by = {"image b:1"};
    layer.usage = Usage{.bytes = 5, .complete = false};
    store.images.emplace_back().id = "i";
    store.containers.emplace_back().id = "c";
    store.volumes.emplace_back().name = "v";
    store.other_bytes["content"] = 9;
    return facts;
}

std::string error_of(std::string_view text) {
    const auto facts = facts_from_json(text);
    return facts ? std::string("no error") : facts.error().text();
}

TEST(FactsJson, WhatWasWrittenIsRead) {
    const std::string text = to_json(some_facts());
    const auto facts = facts_from_json(text);
    ASSERT_TRUE(facts) << facts.error().text();
    EXPECT_EQ(to_json(*facts), text);
    EXPECT_EQ(facts->file_systems.at(0).d_type, false);
    EXPECT_EQ(facts->file_systems.at(0).total_bytes, ~0ULL);
    EXPECT_FALSE(facts->file_systems.at(0).btrfs->qgroups.at(0).has_subvolume);
    EXPECT_EQ(facts->thin_pools.at(0).autoextend_percent, 100);
    EXPECT_EQ(facts->stores.at(0).layers.at(0).usage->bytes, 5U);
    EXPECT_EQ(facts->stores.at(0).layers.at(0).recorded_bytes, std::nullopt);
    EXPECT_EQ(facts->pressure.at("io").some_10s, 1.5);
}

TEST(FactsJson, MissingMembersHaveTheirDefaults) {
    const auto facts = facts_from_json(R"({"version":1,"thin_pools":[{"name":"p"}],"unknown":{"a":[1,2]}})");
    ASSERT_TRUE(facts) << facts.error().text();
    EXPECT_TRUE(facts->live);
    EXPECT_EQ(facts->thin_pools.at(0).transaction, 0U);
}

TEST(FactsJson, AnotherVersionIsNamed) {
    const std::string error = error_of(R"({"version":2,"shale":"9.9","kernel":"may be anything then"})");
    EXPECT_THAT(error, HasSubstr("version 2, written by shale 9.9"));
    EXPECT_THAT(error, HasSubstr("reads version 1"));
    EXPECT_THAT(error_of(R"({"version":0})"), HasSubstr("version 0;"));
    EXPECT_THAT(error_of(R"({"version":"1"})"), HasSubstr("version must be a whole number, and is string"));
}

TEST(FactsJson, WhatIsNoFactsIsSaid) {
    EXPECT_THAT(error_of("{}"), HasSubstr("not the facts of a host"));
    EXPECT_THAT(error_of("[]"), HasSubstr("not the facts of a host"));
    EXPECT_THAT(error_of(""), HasSubstr("no JSON document"));
    EXPECT_THAT(error_of("\x7f"
                         "ELF"),
                HasSubstr("byte 1 of 4"));
}

TEST(FactsJson, EveryCutIsSaid) {
    const std::string text = to_json(some_facts());
    for (size_t bytes = 0; bytes + 2 < text.size(); ++bytes)
        ASSERT_THAT(error_of(text.substr(0, bytes)), HasSubstr("cut off")) << bytes;
}

TEST(FactsJson, AWrongTypeIsNamedByItsPlace) {
    EXPECT_THAT(error_of(R"({"version":1,"stores":[{},{"layers":[{"depth":-1}]}]})"),
                HasSubstr("stores[1].layers[0].depth must be a whole number, 0 or more, and is number"));
    EXPECT_THAT(error_of(R"({"version":1,"pressure":{"io":3}})"), HasSubstr("pressure.io must be an object"));
    EXPECT_THAT(error_of(R"({"version":1,"processes":[{"pid":4294967296}]})"), HasSubstr("a number of 32 bits"));
    for (const char *pid : {"18446744073709551615", "9223372036854775808", "2147483648", "-2147483649"})
        EXPECT_THAT(error_of(fmt::format(R"({{"version":1,"processes":[{{"pid":{}}}]}})", pid)),
                    HasSubstr("processes[0].pid must be a number of 32 bits"))
            << pid;
    EXPECT_THAT(error_of(R"({"version":1,"live":1})"), HasSubstr("live must be true or false"));
    EXPECT_THAT(error_of(R"({"version":1,"stores":{}})"), HasSubstr("stores must be a list"));
    EXPECT_THAT(error_of(R"({"version":1,"shale":null})"), HasSubstr("shale must be a string, and is null"));
}

TEST(FactsJson, DeepNestingIsRefused) {
    const std::string deep(100'000, '[');
    EXPECT_THAT(error_of(R"({"version":1,"x":)" + deep), HasSubstr("facts:"));
    EXPECT_THAT(error_of(R"({"version":1,"x":)" + deep + std::string(100'000, ']') + "}"),
                HasSubstr("levels of nesting"));
}

TEST(FactsJson, TextThatIsNotUtf8IsWrittenAllTheSame) {
    Facts facts;
    facts.problems.push_back({"/x/\xff", "\x01"});
    const auto again = facts_from_json(to_json(facts));
    ASSERT_TRUE(again) << again.error().text();
    EXPECT_EQ(again->problems.at(0).about, "/x/\xEF\xBF\xBD");
    EXPECT_EQ(again->problems.at(0).why, "\x01");
}

} // namespace
} // namespace shale::probe
