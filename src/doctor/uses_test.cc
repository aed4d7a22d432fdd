// SPDX-License-Identifier: Apache-2.0
// Of this very process: what it has open is found.
#include "doctor/uses.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "base/fd.h"
#include "probe/test_root.h"

namespace shale::doctor {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TEST(Uses, WhatAProcessHasOpenIsSeen) {
    const probe::TestRoot root;
    root.file("/tree/sub/file", "x");
    root.dir("/other");
    const std::string tree = std::filesystem::canonical(root.here("/tree")),
                      other = std::filesystem::canonical(root.here("/other"));
    const UniqueFd fd(::open((tree + "/sub/file").c_str(), O_RDONLY | O_CLOEXEC));
    const auto uses = read_uses(true);
    EXPECT_GT(uses.processes, 0U);
    ASSERT_THAT(uses.gaps, IsEmpty()) << "the caller said that it is alone";
    const auto place = place_of(uses, tree);
    ASSERT_TRUE(place);
    EXPECT_THAT(use_of(uses, *place, {}), HasSubstr("process " + std::to_string(::getpid()) + " has "));
    EXPECT_EQ(use_of(uses, *place_of(uses, other), {}), "");
}

TEST(Uses, OptionsOfOverlaysAreTakenApart) {
    EXPECT_THAT(directories_of_overlay("rw,relatime,lowerdir=/a:/b\\:c,upperdir=/u,workdir=/w,redirect_dir=on"),
                ElementsAre("/a", "/b:c", "/u", "/w"));
    EXPECT_THAT(directories_of_overlay("ro,lowerdir+=/a:1,lowerdir+=/b,datadir+=/d,metacopy=on"),
                ElementsAre("/a:1", "/b", "/d"));
    EXPECT_THAT(directories_of_overlay("rw,lowerdir=/with,Comma:/b,upperdir=/u"),
                ElementsAre("/with,Comma", "/b", "/u"));
    EXPECT_THAT(directories_of_overlay("lowerdir=::/a:"), ElementsAre("/a"));
    EXPECT_THAT(directories_of_overlay(""), IsEmpty());
    EXPECT_THAT(directories_of_overlay("lowerdir"), IsEmpty());
    EXPECT_THAT(directories_of_overlay("lowerdir=/a\\"), ElementsAre("/a\\"));
}

} // namespace
} // namespace shale::doctor
