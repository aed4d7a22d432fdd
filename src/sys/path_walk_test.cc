// SPDX-License-Identifier: Apache-2.0
#include "sys/path_walk.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

#include "sys/fs.h"
#include "sys/pidfd.h"

namespace shale::sys {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class PathWalkTest : public testing::Test {
protected:
    void SetUp() override {
        std::string name = testing::TempDir() + "shale-walk-XXXXXX";
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        path_ = name;
        root_ = UniqueFd(::open(path_.c_str(), O_RDONLY | O_CLOEXEC));
        ASSERT_TRUE(make_dirs(root_.get(), "..2024"));
        ASSERT_TRUE(make_dirs(root_.get(), "etc/sub"));
        ASSERT_TRUE(write_file_durably(root_.get(), "secret", "root's own"));
        const auto data = make_dirs(root_.get(), "..2024");
        ASSERT_TRUE(write_file_durably(data->get(), "app.conf", "x"));
    }
    void TearDown() override {
        root_.reset();
        (void)remove_tree(AT_FDCWD, path_.c_str());
    }
    void link(std::string_view target, const char *name) const { ASSERT_TRUE(make_symlink(target, root_.get(), name)); }
    [[nodiscard]] WalkedPath walk(std::string_view path) const {
        auto walked = walk_path(root_.get(), path);
        EXPECT_TRUE(walked) << walked.error().text();
        return walked ? std::move(*walked) : WalkedPath();
    }
    static std::vector<std::string> names(const WalkedPath &walked) {
        std::vector<std::string> out;
        for (const WalkStep &step : walked.steps)
            out.push_back(step.name);
        return out;
    }
    std::string path_;
    UniqueFd root_;
};

TEST_F(PathWalkTest, EveryDirectoryOnTheWay) {
    link("..2024", "..data");
    link("..data/app.conf", "app.conf");
    const auto walked = walk("/app.conf");
    EXPECT_THAT(names(walked), ElementsAre("app.conf", "..data", "..2024", "app.conf"));
    EXPECT_TRUE(walked.file);
    EXPECT_THAT(walked.names, ElementsAre("..2024", "app.conf"));
}

TEST_F(PathWalkTest, NothingLeadsOut) {
    link("../../../../../../secret", "etc/up");
    link("/secret", "etc/absolute");
    link("..", "etc/sub/parent");
    for (const char *path : {"/etc/up", "/etc/absolute", "/../../secret", "/etc/sub/../../../secret",
                             "/etc/sub/parent/../secret", "secret", "//./secret"}) {
        const auto walked = walk(path);
        EXPECT_THAT(walked.names, ElementsAre("secret")) << path;
        EXPECT_TRUE(walked.file) << path;
    }
    EXPECT_THAT(walk("/..").names, IsEmpty());
    EXPECT_TRUE(walk("/").file);
}

TEST_F(PathWalkTest, WhatIsMissingEndsTheWalk) {
    link("loop", "loop");
    link("nowhere/x", "dangling");
    for (const auto &[path, last] : {std::pair{"/etc/none/more", "none"},
                                     {"/loop", "loop"},
                                     {"/dangling", "nowhere"},
                                     {"/secret/more", "secret"}}) {
        const auto walked = walk(path);
        EXPECT_FALSE(walked.file) << path;
        EXPECT_EQ(names(walked).back(), last) << path;
    }
    EXPECT_FALSE(walk("/" + std::string(300, 'n')).file);
}

TEST_F(PathWalkTest, DepthIsBounded) {
    std::string path;
    for (int i = 0; i < 200; ++i)
        path += "/d";
    ASSERT_TRUE(make_dirs(root_.get(), path.substr(1)));
    const auto walked = walk_path(root_.get(), path);
    ASSERT_FALSE(walked);
    EXPECT_EQ(walked.error().code(), Errc::ResourceExhausted);
}

TEST(ProcessTest, IsTheSameOneUntilItEnds) {
    const pid_t child = ::fork();
    if (child == 0) {
        ::pause();
        ::_exit(0);
    }
    const auto process = open_process(child);
    ASSERT_TRUE(process) << process.error().text();
    EXPECT_FALSE(has_ended(process->get()));
    EXPECT_TRUE(signal_process(process->get(), 0));
    EXPECT_TRUE(signal_process(process->get(), SIGTERM));
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFSIGNALED(status));
    EXPECT_TRUE(has_ended(process->get()));
    const auto again = signal_process(process->get(), SIGTERM);
    ASSERT_FALSE(again);
    EXPECT_EQ(again.error().sys_errno(), ESRCH);
    EXPECT_EQ(open_process(child).error().code(), Errc::NotFound);
}

} // namespace
} // namespace shale::sys
