// SPDX-License-Identifier: Apache-2.0
#include "cli/watch_source.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <string>
#include <vector>

namespace shale::cli {
namespace {

sys::MountEntry mount(uint64_t id, std::string device, std::string root, std::string target) {
    sys::MountEntry out;
    out.id = id;
    out.device = std::move(device);
    out.root = std::move(root);
    out.target = std::move(target);
    return out;
}
std::vector<std::string> paths(const std::vector<SourceCandidate> &candidates) {
    std::vector<std::string> out;
    for (const auto &one : candidates)
        out.push_back(std::to_string(one.mount_id) + " " + one.path);
    return out;
}
using Paths = std::vector<std::string>;

TEST(SourceCandidatesTest, AFileThatIsBoundAlone) {
    const std::vector<sys::MountEntry> ours{
        mount(1, "8:1", "/", "/"), mount(2, "8:2", "/", "/srv"), mount(3, "8:2", "/conf", "/mnt/conf"),
        mount(4, "8:2", "/config", "/mnt/other"), mount(5, "8:2", "/conf/app.conf", "/run/containers/app.conf")};
    const Paths expected{"2 /srv/conf/app.conf", "3 /mnt/conf/app.conf"};
    EXPECT_EQ(paths(source_candidates(mount(90, "8:2", "/conf/app.conf", "/etc/app.conf"), "/etc/app.conf", ours)),
              expected);
    EXPECT_EQ(
        paths(source_candidates(mount(90, "8:2", "/conf/app.conf//deleted", "/etc/app.conf"), "/etc/app.conf", ours)),
        expected);
    EXPECT_EQ(paths(source_candidates(mount(90, "8:1", "/etc/hosts", "/etc/hosts"), "/etc/hosts", ours)),
              Paths{"1 /etc/hosts"});
    EXPECT_TRUE(source_candidates(mount(90, "8:9", "/conf/app.conf", "/etc/app.conf"), "/etc/app.conf", ours).empty());
}

TEST(SourceCandidatesTest, WhatIsBelowABoundDirectory) {
    const std::vector<sys::MountEntry> ours{mount(1, "8:1", "/@", "/")};
    EXPECT_EQ(paths(source_candidates(mount(90, "8:1", "/@/srv/conf", "/etc/app"), "/etc/app/a/b", ours)),
              Paths{"1 /srv/conf/a/b"});
    EXPECT_EQ(paths(source_candidates(mount(90, "8:1", "/@/srv/conf", "/etc/app"), "/etc/app", ours)),
              Paths{"1 /srv/conf"});
    EXPECT_EQ(paths(source_candidates(mount(90, "8:1", "/@/srv/root", "/"), "/etc/app", ours)),
              Paths{"1 /srv/root/etc/app"});
    EXPECT_TRUE(source_candidates(mount(90, "8:1", "/@home/x", "/x"), "/x", ours).empty()); // another subvolume
}

TEST(SourceCandidatesTest, AWholeFileSystemHasNone) {
    const std::vector<sys::MountEntry> ours{mount(1, "0:50", "/", "/run/kubelet/secret")};
    EXPECT_TRUE(source_candidates(mount(90, "0:50", "/", "/secret"), "/secret/key", ours).empty());
    EXPECT_TRUE(source_candidates(mount(1, "0:50", "/a", "/a"), "/a", {mount(1, "0:50", "/a", "/a")}).empty());
    EXPECT_TRUE(source_candidates(mount(90, "0:50", "/a", "/secret"), "/elsewhere", ours).empty());
}

TEST(ProcessViewTest, OfThisProcess) {
    const auto view = open_process_view(::getpid());
    ASSERT_TRUE(view) << view.error().text();
    EXPECT_FALSE(view->mounts.empty());
    const auto walked = sys::walk_path(view->root->get(), "/proc/self/status");
    ASSERT_TRUE(walked) << walked.error().text();
    const auto source = find_bind_source(*view, *walked);
    ASSERT_TRUE(source) << source.error().text();
    EXPECT_FALSE(*source);
}

} // namespace
} // namespace shale::cli
