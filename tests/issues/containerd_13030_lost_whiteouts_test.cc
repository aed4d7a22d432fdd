// SPDX-License-Identifier: Apache-2.0
// containerd #13030: layers that are unpacked at once stand on no parent until they are committed; where the
// snapshotter told a bind mount for such a one, containerd wrote no whiteouts, and what a layer deletes was there
// again. Here: a driver that can put a layer on another tells an overlay with an upper directory, into which
// containerd's applier writes them (core/diff/apply/apply_linux.go); any other refuses to put it there.
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "issues/issue_test.h"
#include "store/snapshots.h"
#include "sys/mount.h"

namespace shale::test {
namespace {

SHALE_ISSUE(Containerd13030);

std::string upper_of(const sys::MountSpec &spec) {
    if (spec.type != "overlay") return {};
    for (const std::string &option : spec.options)
        if (option.starts_with("upperdir=")) return option.substr(9);
    return {};
}

TEST_P(Containerd13030, WhatALayerDeletesIsGone) {
    auto store = open();
    store::Snapshots snapshots(*store);
    const bool rebases = (*drivers::find_driver(driver_of(GetParam())))->rebases;
    const auto below = snapshots.prepare("extract below", "", {}), above = snapshots.prepare("extract above", "", {});
    ASSERT_TRUE(below && above);
    ASSERT_EQ(below->size(), 1U);
    const std::string at = world_ / "at";
    std::filesystem::create_directory(at);
    ASSERT_TRUE(sys::mount_at(below->front(), at));
    std::ofstream(at + "/deleted") << "deleted";
    std::ofstream(at + "/kept") << "kept";
    ASSERT_TRUE(sys::unmount(at));
    const std::string upper = upper_of(above->front());
    EXPECT_EQ(!upper.empty(), rebases);
    if (rebases) {
        ASSERT_EQ(::mknod((upper + "/deleted").c_str(), S_IFCHR, makedev(0, 0)), 0);
        ASSERT_TRUE(sys::mount_at(above->front(), at)) << "it is a mount, too";
        EXPECT_FALSE(std::filesystem::exists(at + "/deleted"));
        ASSERT_TRUE(sys::unmount(at));
    }
    ASSERT_TRUE(snapshots.commit("below", "extract below", {}, ""));
    const auto done = snapshots.commit("above", "extract above", {}, "below");
    ASSERT_EQ(done.has_value(), rebases);
    if (!rebases) {
        EXPECT_EQ(done.error().code(), Errc::Unimplemented);
        return;
    }
    const auto view = snapshots.view("look", "above", {});
    ASSERT_TRUE(view);
    ASSERT_TRUE(sys::mount_at(view->front(), at));
    EXPECT_FALSE(std::filesystem::exists(at + "/deleted"));
    EXPECT_EQ(read_all(at + "/kept"), "kept");
    ASSERT_TRUE(sys::unmount(at));
}

} // namespace
} // namespace shale::test
