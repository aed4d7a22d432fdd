// SPDX-License-Identifier: Apache-2.0
#include "base/text.h"
#include "doctor/checks/docker_options.h"

#include <algorithm>

#include <gtest/gtest.h>

namespace shale::doctor::checks {
namespace {

TEST(DockerOptions, KeysAreInOrderAndNoneIsAFlagOrGoneAsWell) {
    EXPECT_TRUE(std::ranges::is_sorted(daemon_keys(), {}, &DaemonKey::name));
    EXPECT_EQ(std::ranges::adjacent_find(daemon_keys(), {}, &DaemonKey::name), daemon_keys().end());
    for (const DaemonKey &key : daemon_keys())
        EXPECT_EQ(gone_key(key.name), nullptr) << key.name;
    EXPECT_EQ(daemon_key("storage-opt"), nullptr);
    EXPECT_EQ(flag_name("storage-opt")->key, "storage-opts");
    EXPECT_NE(daemon_key(flag_name("host")->key), nullptr);
}

TEST(DockerOptions, StorageOptionsOfADriver) {
    const auto use = [](std::string_view option, std::string_view driver, int major = 0) {
        return judge_storage_option(option, driver, major).use;
    };
    EXPECT_EQ(use("overlay2.size=10G", "overlay2"), OptionUse::known);
    EXPECT_EQ(use("Overlay2.Size=10G", "overlay2"), OptionUse::known);
    EXPECT_EQ(use("dm.min_free_space=10%", "devicemapper"), OptionUse::known);
    EXPECT_EQ(use("dm.fs=btrfs", "devicemapper"), OptionUse::refused);
    EXPECT_EQ(use("dm.use_deferred_removal=yes", "devicemapper"), OptionUse::refused);
    EXPECT_EQ(use("dm.min_free_space=10%", "overlay2"), OptionUse::refused);
    EXPECT_EQ(use("overlay2.min_space=10G", "overlay2"), OptionUse::refused);
    EXPECT_EQ(use("btrfs.min_space=10G", "btrfs"), OptionUse::known);
    EXPECT_EQ(use("overlay2.override_kernel_check=true", "overlay2"), OptionUse::obsolete);
    EXPECT_EQ(use("overlay2.override_kernel_check=true", "overlay2", 23), OptionUse::obsolete);
    EXPECT_EQ(use("overlay2.override_kernel_check=true", "overlay2", 24), OptionUse::refused);
    EXPECT_EQ(use("", "overlay2"), OptionUse::refused);
}

TEST(DockerOptions, Drivers) {
    EXPECT_EQ(judge_driver_name("overlay2", 0).use, OptionUse::known);
    EXPECT_EQ(judge_driver_name("devicemapper", 24).use, OptionUse::obsolete);
    EXPECT_EQ(judge_driver_name("devicemapper", 25).use, OptionUse::refused);
    EXPECT_EQ(judge_driver_name("overlay3", 0).why, "no storage driver has that name; overlay is one");
}

TEST(DockerOptions, Nearest) {
    constexpr std::string_view names[] = {"registry-mirrors", "debug"};
    EXPECT_EQ(nearest("registry_mirrors", names), "registry-mirrors");
    EXPECT_EQ(nearest("debgu", names), "debug");
    EXPECT_EQ(nearest("something else", names), "");
    EXPECT_EQ(nearest(std::string(100'000, 'x'), names), "");
}

TEST(DockerOptions, Major) {
    probe::Store old, running, odd;
    old.version = "19.03.1";
    running.version = "27.3.1";
    running.running = true;
    odd.version = "unknown";
    EXPECT_EQ(docker_major({}), 0);
    EXPECT_EQ(docker_major({&odd}), 0);
    EXPECT_EQ(docker_major({&old, &odd}), 19);
    EXPECT_EQ(docker_major({&old, &running}), 27);
}

} // namespace
} // namespace shale::doctor::checks
