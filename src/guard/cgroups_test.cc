// SPDX-License-Identifier: Apache-2.0
// Limits in files of cgroups, in a tree of a test's own: what is set, and that it is set back whenever the guard is
// killed.
#include "guard/cgroups.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "guard/test_dir.h"
#include "guard/throttle.h"
#include "probe/test_root.h"
#include "sys/seam.h"

namespace shale::guard {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

constexpr std::string_view v1_mounts = "30 1 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
                                       "31 30 0:27 / /sys/fs/cgroup/blkio rw - cgroup cgroup rw,blkio\n"
                                       "32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
                                       "33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
constexpr std::string_view v2_mounts = "30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
constexpr std::string_view of_process = "8:blkio:/docker/abc\n4:memory:/mem/abc\n0::/unified.slice/x:y\n";

std::string text_in(const probe::TestRoot &root, std::string_view path) {
    std::ostringstream out;
    out << std::ifstream(root.here(path), std::ios::binary).rdbuf();
    return out.str();
}

TEST(Cgroups, ControllersAreWhereTheyAreMounted) {
    const probe::TestRoot root;
    root.file("/proc/self/mountinfo", v1_mounts);
    root.file("/sys/fs/cgroup/unified/cgroup.controllers", "\n");
    const auto v1 = Cgroups::read(root.host());
    ASSERT_TRUE(v1) << v1.error().text();
    ASSERT_NE(v1->io(), nullptr);
    EXPECT_EQ(v1->io()->mount, "/sys/fs/cgroup/blkio");
    EXPECT_EQ(v1->io_group(of_process), "/docker/abc");
    EXPECT_EQ(v1->memory_group(of_process), "/mem/abc");
    EXPECT_EQ(Cgroups::unified_group(of_process), "/unified.slice/x:y");
    EXPECT_EQ(v1->io_group("4:memory:/mem\n"), "");

    root.file("/proc/self/mountinfo", v2_mounts);
    root.file("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory\n");
    const auto v2 = Cgroups::read(root.host());
    ASSERT_TRUE(v2 && v2->io() != nullptr && v2->memory() != nullptr);
    EXPECT_TRUE(v2->io()->unified);
    EXPECT_EQ(v2->io_group("0::/a/b\n"), "/a/b");

    root.file("/sys/fs/cgroup/cgroup.controllers", "cpu\n");
    const auto without = Cgroups::read(root.host());
    ASSERT_TRUE(without);
    EXPECT_EQ(without->io(), nullptr);
}

TEST(Cgroups, AFileOfAGroupIsBelowTheMount) {
    const Hierarchy whole{"/sys/fs/cgroup", "/", true}, part{"/sys/fs/cgroup", "/docker/abc", true};
    EXPECT_EQ(file_of(whole, "/a/b", "io.max"), "/sys/fs/cgroup/a/b/io.max");
    EXPECT_EQ(file_of(whole, "/", "io.stat"), "/sys/fs/cgroup/io.stat");
    EXPECT_EQ(file_of(part, "/docker/abc/d", "io.max"), "/sys/fs/cgroup/d/io.max");
    EXPECT_EQ(file_of(part, "/docker/abcd", "io.max"), "") << "what is mounted is another group";
}

TEST(Cgroups, LimitsAreReadOfBothVersions) {
    EXPECT_EQ(limit_in("7:3 1048576\n8:0 5\n", "7:3"), 1048576U);
    EXPECT_EQ(limit_in("7:3 1048576\n", "8:0"), std::nullopt);
    EXPECT_EQ(limit_in("7:3 0\n", "7:3"), std::nullopt);
    EXPECT_EQ(limit_in("8:16 rbps=max wbps=77 riops=max wiops=9\n", "8:16"), 77U);
    EXPECT_EQ(limit_in("8:16 rbps=5 wbps=max riops=max wiops=max\n", "8:16"), std::nullopt);
    EXPECT_EQ(limit_in("max\n", ""), std::nullopt);
    EXPECT_EQ(limit_in("4096\n", ""), 4096U);
    EXPECT_EQ(limit_in("", "8:0"), std::nullopt);
}

class ThrottleTest : public testing::Test {
protected:
    ThrottleTest() {
        root_.file("/proc/self/mountinfo", v1_mounts);
        root_.file("/sys/fs/cgroup/unified/cgroup.controllers", "");
        root_.file(file, "");
        root_.file(std::string(group) + "/cgroup.procs", "");
    }
    [[nodiscard]] Limit limit(uint64_t value = 1 << 20) const {
        const Hierarchy io{"/sys/fs/cgroup/blkio", "/", false};
        Limit out = write_limit(io, "/docker/abc", "7:3", value);
        out.subject = "/data";
        out.who = "container abc";
        return out;
    }
    [[nodiscard]] Throttle open() const {
        auto out = Throttle::open(host_, dir_.fd());
        if (!out) std::abort();
        return std::move(*out);
    }
    static constexpr const char *group = "/sys/fs/cgroup/blkio/docker/abc";
    static constexpr const char *file = "/sys/fs/cgroup/blkio/docker/abc/blkio.throttle.write_bps_device";

    probe::TestRoot root_;
    probe::Host host_ = root_.host();
    TestDir dir_;
};

TEST_F(ThrottleTest, IsSetOnceAndSetBack) {
    auto throttle = open();
    const Limit wanted = limit();
    const auto first = throttle.hold(std::span(&wanted, 1), Time());
    EXPECT_THAT(first.set, ElementsAre(HasSubstr("container abc")));
    EXPECT_THAT(first.failed, IsEmpty());
    EXPECT_EQ(text_in(root_, file), "7:3 1048576");
    const auto second = throttle.hold(std::span(&wanted, 1), Time());
    EXPECT_THAT(second.set, IsEmpty()) << "it is in force";
    const auto back = throttle.undo_all();
    EXPECT_THAT(back.undone, SizeIs(1));
    EXPECT_EQ(text_in(root_, file), "7:3 0");
    EXPECT_FALSE(dir_.has("active.json"));
    EXPECT_THAT(throttle.undo_all().undone, IsEmpty());
}

TEST_F(ThrottleTest, AnOldLimitComesBackAndALowerOneStays) {
    root_.file(file, "7:3 9000000\n8:0 5\n");
    auto throttle = open();
    const Limit wanted = limit();
    EXPECT_THAT(throttle.hold(std::span(&wanted, 1), Time()).set, SizeIs(1));
    EXPECT_THAT(throttle.undo_all().undone, SizeIs(1));
    EXPECT_EQ(text_in(root_, file), "7:3 9000000");
    root_.file(file, "7:3 1000\n");
    EXPECT_THAT(throttle.hold(std::span(&wanted, 1), Time()).set, IsEmpty());
    EXPECT_EQ(text_in(root_, file), "7:3 1000\n");
}

TEST_F(ThrottleTest, WhatOthersSetMeanwhileStays) {
    auto throttle = open();
    const Limit wanted = limit();
    EXPECT_THAT(throttle.hold(std::span(&wanted, 1), Time()).set, SizeIs(1));
    root_.file(file, "7:3 33\n");
    EXPECT_THAT(throttle.undo_all().failed, IsEmpty());
    EXPECT_EQ(text_in(root_, file), "7:3 33\n");
    EXPECT_THAT(throttle.active(), IsEmpty());
}

TEST_F(ThrottleTest, AGroupThatIsGoneIsUndone) {
    auto throttle = open();
    const Limit wanted = limit();
    EXPECT_THAT(throttle.hold(std::span(&wanted, 1), Time()).set, SizeIs(1));
    std::filesystem::remove_all(root_.here(group));
    const auto back = throttle.undo_all();
    EXPECT_THAT(back.failed, IsEmpty());
    EXPECT_THAT(throttle.active(), IsEmpty());
    EXPECT_THAT(throttle.hold(std::span(&wanted, 1), Time()).failed, IsEmpty()) << "it has ended: nobody is slowed";
    root_.file(std::string(group) + "/cgroup.procs", "");
    EXPECT_THAT(throttle.hold(std::span(&wanted, 1), Time()).failed, ElementsAre(HasSubstr("not enabled")));
}

TEST_F(ThrottleTest, NoLinkIsFollowedAndNothingOutsideIsWritten) {
    root_.file("/etc/passwd", "7:3 1048576");
    std::filesystem::remove(root_.here(file));
    root_.link("/etc/passwd", file);
    auto throttle = open();
    const Limit wanted = limit();
    const auto set = throttle.hold(std::span(&wanted, 1), Time());
    EXPECT_THAT(set.set, IsEmpty());
    EXPECT_THAT(set.failed, SizeIs(1));
    const auto cgroups = Cgroups::read(host_);
    ASSERT_TRUE(cgroups);
    Measure measure;
    measure.target = "/etc/passwd";
    measure.key = "7:3";
    measure.new_value = "7:3 1048576";
    measure.old_value = "7:3 0";
    EXPECT_FALSE(undo(host_, *cgroups, measure));
    EXPECT_EQ(text_in(root_, "/etc/passwd"), "7:3 1048576");
}

TEST_F(ThrottleTest, OfVersion2AndOfMemory) {
    root_.file("/proc/self/mountinfo", v2_mounts);
    root_.file("/sys/fs/cgroup/cgroup.controllers", "io memory\n");
    root_.file("/sys/fs/cgroup/c/io.max", "8:0 rbps=max wbps=max riops=max wiops=max\n");
    root_.file("/sys/fs/cgroup/c/memory.high", "max\n");
    const Hierarchy unified{"/sys/fs/cgroup", "/", true};
    const std::vector<Limit> wanted{write_limit(unified, "/c", "8:0", 1000), memory_limit(unified, "/c", 1'000'000)};
    auto throttle = open();
    EXPECT_THAT(throttle.hold(wanted, Time()).set, SizeIs(2));
    EXPECT_EQ(text_in(root_, "/sys/fs/cgroup/c/io.max"), "8:0 wbps=1000");
    EXPECT_EQ(text_in(root_, "/sys/fs/cgroup/c/memory.high"), "999424") << "whole pages";
    EXPECT_THAT(throttle.undo_all().undone, SizeIs(2));
    EXPECT_EQ(text_in(root_, "/sys/fs/cgroup/c/io.max"), "8:0 wbps=max");
    EXPECT_EQ(text_in(root_, "/sys/fs/cgroup/c/memory.high"), "max");
}

/// Ends the process at its `number`th call that changes something, as kill -9 would.
class KillAt : public sys::Hook {
public:
    explicit KillAt(int number) : left_(number) { sys::set_hook(this); }
    ~KillAt() override { sys::set_hook(nullptr); }
    int before(const sys::Call &call) noexcept override {
        if (sys::op_mutates(call.op) && left_-- == 0) ::_exit(9);
        return 0;
    }

private:
    int left_;
};

TEST_F(ThrottleTest, AKillAtAnyCallIsUndoneByTheNextStart) {
    const Limit wanted = limit();
    int number = 0, was_set = 0;
    for (bool ended = false; !ended; ++number) {
        root_.file(file, "");
        const pid_t pid = ::fork();
        if (pid == 0) {
            auto throttle = open();
            const KillAt at(number);
            (void)throttle.hold(std::span(&wanted, 1), Time());
            ::_exit(throttle.undo_all().failed.empty() ? 0 : 1);
        }
        int status = 0;
        ASSERT_EQ(::waitpid(pid, &status, 0), pid);
        ASSERT_TRUE(WIFEXITED(status) && (WEXITSTATUS(status) == 9 || WEXITSTATUS(status) == 0)) << status;
        ended = WEXITSTATUS(status) == 0;
        if (text_in(root_, file) == "7:3 1048576") ++was_set;
        auto next = open();
        EXPECT_THAT(next.problems(), IsEmpty()) << number;
        EXPECT_THAT(next.undo_all().failed, IsEmpty()) << number;
        EXPECT_EQ(limit_in(text_in(root_, file), "7:3"), std::nullopt) << number;
        EXPECT_THAT(open().active(), IsEmpty()) << number;
    }
    EXPECT_GT(number, 6) << "nothing was killed";
    EXPECT_GT(was_set, 1) << "nothing was killed while the limit was set";
}

} // namespace
} // namespace shale::guard
