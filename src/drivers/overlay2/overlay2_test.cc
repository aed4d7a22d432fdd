// SPDX-License-Identifier: Apache-2.0
// What needs no mounts; the rest is in tests/conformance.
#include "drivers/overlay2/overlay2.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "sys/fs.h"

namespace shale::drivers::overlay2 {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;

TEST(Overlay2Options, RefusesWhatTheKernelWould) {
    for (const DriverOptions &bad : {DriverOptions{{"redirect_dir", "sideways"}},
                                     {{"metacopy", "on"}},
                                     {{"userxattr", "yes"}, {"redirect_dir", "on"}},
                                     {{"volatile", "perhaps"}},
                                     {{"size", "lots"}},
                                     {{"inodes", "many"}}}) {
        const auto config = Config::from(bad);
        ASSERT_FALSE(config) << bad.begin()->first;
        EXPECT_EQ(config.error().code(), Errc::InvalidArgument) << config.error().text();
    }
    const auto bad = Config::from({{"redirect_dir", "sideways"}});
    EXPECT_THAT(bad.error().text(), HasSubstr("off|on|follow|nofollow"));
}

TEST(Overlay2Options, SaysAllToTheKernel) {
    const auto config = Config::from({{"userxattr", "no"}, {"redirect_dir", "on"}, {"volatile", "yes"}});
    ASSERT_TRUE(config);
    EXPECT_TRUE(config->can_redirect());
    EXPECT_THAT(config->mount_options(true),
                ElementsAre("redirect_dir=on", "metacopy=off", "index=off", "xino=auto", "volatile"));
    EXPECT_THAT(config->mount_options(false), Contains("redirect_dir=follow"))
        << "nothing is written: marks are followed";
    const auto user = Config::from({{"userxattr", "yes"}});
    ASSERT_TRUE(user);
    EXPECT_THAT(user->mount_options(true), ElementsAre("userxattr", "index=off", "xino=auto"));
    EXPECT_EQ(user->form(), archive::WhiteoutForm::overlay_user);
}

TEST(Overlay2Mounts, EscapesAndStaysShort) {
    std::string root = "/var/tmp/shale,o:2-XXXXXX";
    ASSERT_NE(::mkdtemp(root.data()), nullptr);
    auto driver = overlay2::open(root, {{"userxattr", "no"}});
    ASSERT_TRUE(driver) << driver.error().text();
    const std::vector parents{LayerId{7}, LayerId{3}};
    const auto specs = (*driver)->mounts(LayerId{9}, parents, Driver::Access::read_write);
    ASSERT_TRUE(specs);
    EXPECT_THAT(specs->front().options.front(), HasSubstr("shale\\,o\\:2-"));
    EXPECT_THAT(specs->front().options.front(), HasSubstr("/7/diff:"));
    const std::vector<LayerId> many(501, LayerId{1});
    EXPECT_FALSE((*driver)->mounts(LayerId{9}, many, Driver::Access::read_write));
    EXPECT_FALSE((*driver)->mounts(LayerId{9}, std::span(many).first(500), Driver::Access::read_only));
    driver->reset();
    EXPECT_TRUE(sys::remove_tree(AT_FDCWD, root.c_str()));
}

} // namespace
} // namespace shale::drivers::overlay2
