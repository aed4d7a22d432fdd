// SPDX-License-Identifier: Apache-2.0
#include "doctor/checks/kubelet_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace shale::doctor::checks {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::Pair;

probe::Facts with_file(std::string text) {
    probe::Facts out;
    out.config_files.push_back({"/var/lib/kubelet/config.yaml", "kubelet config", std::move(text)});
    return out;
}

TEST(KubeletConfig, NoneWithoutFileAndProcess) {
    EXPECT_FALSE(kubelet_config({}));
}

TEST(KubeletConfig, BlockMapsCommentsAndQuotes) {
    const auto config =
        kubelet_config(with_file("# of the node\nimageGCHighThresholdPercent: 90 # late\n"
                                 "imageGCLowThresholdPercent: \"70\"\nevictionHard:\n\n"
                                 "  # what\n  nodefs.available: '10%' # a tenth\n  \"imagefs.available\": 15Gi\n"
                                 "evictionSoft:\n  nodefs.available: 20%\nother:\n  nodefs.available: 1%\n"
                                 "mergeDefaultEvictionSettings: true\r\n"));
    ASSERT_TRUE(config);
    EXPECT_EQ(config->high_percent, 90);
    EXPECT_EQ(config->low_percent, 70);
    EXPECT_TRUE(config->has_hard);
    EXPECT_TRUE(config->merges_defaults);
    EXPECT_THAT(config->hard, ElementsAre(Pair("imagefs.available", "15Gi"), Pair("nodefs.available", "10%")));
    EXPECT_THAT(config->soft, ElementsAre(Pair("nodefs.available", "20%")));
    EXPECT_EQ(config->fault, "");
}

TEST(KubeletConfig, FlowMapAndEmptyMap) {
    const auto config = kubelet_config(with_file("evictionHard: {nodefs.available: 10%, \"imagefs.available\": '5%'}\n"
                                                 "evictionSoft: {}\n"));
    ASSERT_TRUE(config);
    EXPECT_THAT(config->hard, ElementsAre(Pair("imagefs.available", "5%"), Pair("nodefs.available", "10%")));
    EXPECT_THAT(config->soft, IsEmpty());
}

TEST(KubeletConfig, Json) {
    const auto config =
        kubelet_config(with_file(R"( {"imageGCHighThresholdPercent": 75, "evictionHard": {"a": "1%", "b": 2}})"));
    ASSERT_TRUE(config);
    EXPECT_EQ(config->high_percent, 75);
    EXPECT_THAT(config->hard, ElementsAre(Pair("a", "1%")));
    EXPECT_NE(kubelet_config(with_file("{"))->fault, "");
}

TEST(KubeletConfig, NotUnderstoodIsSaid) {
    EXPECT_NE(kubelet_config(with_file("evictionHard: *shared\n"))->fault, "");
    EXPECT_NE(kubelet_config(with_file("evictionHard: &shared\n  a: 1%\n"))->fault, "");
    EXPECT_EQ(kubelet_config(with_file("evictionHard: null\n"))->fault, "");
}

TEST(KubeletConfig, FlagsGoBeforeTheFile) {
    probe::Facts facts = with_file("imageGCHighThresholdPercent: 90\nevictionHard:\n  nodefs.available: 10%\n");
    facts.processes.push_back(
        {.pid = 7,
         .command = "kubelet",
         .cgroup = {},
         .mount_namespace = 0,
         .arguments = {"kubelet", "--image-gc-high-threshold", "80", "--eviction-hard=imagefs.available<5%",
                       "--root-dir=/srv/kubelet", "--v"}});
    const auto config = kubelet_config(facts);
    ASSERT_TRUE(config);
    EXPECT_EQ(config->high_percent, 80);
    EXPECT_EQ(config->root, "/srv/kubelet");
    EXPECT_THAT(config->hard, ElementsAre(Pair("imagefs.available", "5%")));
}

TEST(KubeletQuantity, Units) {
    constexpr uint64_t whole = 1000;
    EXPECT_EQ(kubelet_quantity("10%", whole), 100U);
    EXPECT_EQ(kubelet_quantity("0%", whole), 0U);
    EXPECT_EQ(kubelet_quantity("2Ki", whole), 2048U);
    EXPECT_EQ(kubelet_quantity("2k", whole), 2000U);
    EXPECT_EQ(kubelet_quantity("1.5Gi", whole), 1536U << 20U);
    EXPECT_EQ(kubelet_quantity("1e3", whole), 1000U);
    EXPECT_EQ(kubelet_quantity("7", whole), 7U);
    for (const char *bad : {"", "%", "x", "1X", "-1", "1GiB", "nan", "inf%"})
        EXPECT_EQ(kubelet_quantity(bad, whole), std::nullopt) << bad;
    EXPECT_EQ(kubelet_quantity("1e300", whole), 9'000'000'000'000'000'000U);
}

} // namespace
} // namespace shale::doctor::checks
