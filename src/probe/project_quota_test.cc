// SPDX-License-Identifier: Apache-2.0
#include "probe/project_quota.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>

#include "probe/test_root.h"
#include "sys/quota.h"
#include "sys/seam.h"

namespace shale::probe {
namespace {

using testing::IsEmpty;
using testing::SizeIs;

/// Every call about quota fails with one errno.
class FailQuota : public sys::Hook {
public:
    explicit FailQuota(int error) : error_(error) { sys::set_hook(this); }
    ~FailQuota() override { sys::set_hook(nullptr); }
    FailQuota(const FailQuota &) = delete;
    FailQuota &operator=(const FailQuota &) = delete;
    int before(const sys::Call &call) noexcept override { return call.op == sys::Op::quotactl ? error_ : 0; }

private:
    int error_;
};

TEST(ProjectQuota, AFileSystemWithoutIsNoProblem) {
    for (const int error : {ENOSYS, EINVAL, ESRCH, ENOTBLK}) {
        FailQuota hook(error);
        FileSystem out;
        std::vector<Problem> problems;
        read_project_quota(-1, out, problems);
        EXPECT_EQ(out.project_quota, "");
        EXPECT_EQ(out.project_ids, std::nullopt);
        EXPECT_THAT(problems, IsEmpty()) << error;
    }
}

TEST(ProjectQuota, AFailureIs) {
    FailQuota hook(EIO);
    FileSystem out;
    out.target = "/data";
    std::vector<Problem> problems;
    read_project_quota(-1, out, problems);
    ASSERT_THAT(problems, SizeIs(1));
    EXPECT_EQ(problems[0].about, "project quota of /data");
}

TEST(ProjectQuota, ListsTheNumbersInUse) {
    const char *place = std::getenv("SHALE_TEST_DIR");
    std::string name = std::string(place != nullptr ? place : "/tmp") + "/shale-projects-XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    const ScopeGuard remove([&] { (void)sys::remove_tree(AT_FDCWD, name.c_str()); });
    const auto dir = sys::open_dir(AT_FDCWD, name.c_str());
    ASSERT_TRUE(dir);
    constexpr uint32_t low = 1'900'000'001;
    constexpr uint32_t largest = 4'294'967'294; // the last that the kernel knows
    if (const auto there = sys::project_count(dir->get(), low);
        !there && there.error().code() == Errc::FailedPrecondition)
        GTEST_SKIP() << "this kernel counts no project quota here: " << there.error().text();
    if (::geteuid() != 0) GTEST_SKIP() << "needs root";
    for (const uint32_t project : {low, largest}) {
        const std::string sub = std::to_string(project);
        ASSERT_TRUE(sys::make_dir(dir->get(), sub.c_str(), 0755));
        const auto tree = sys::open_dir(dir->get(), sub.c_str());
        ASSERT_TRUE(tree);
        ASSERT_TRUE(sys::set_project(tree->get(), project));
    }
    ASSERT_TRUE(sys::set_project_limits(dir->get(), low, {.bytes = 1 << 20, .inodes = 50}));

    const ScopeGuard unlimit([&] { (void)sys::set_project_limits(dir->get(), low, {}); });

    FileSystem out;
    std::vector<Problem> problems;
    read_project_quota(dir->get(), out, problems);
    EXPECT_THAT(problems, IsEmpty());
    EXPECT_NE(out.project_quota, "");
    EXPECT_EQ(out.project_ids, out.projects.size());
    const auto limited = std::ranges::find(out.projects, low, &FileSystem::ProjectQuota::id);
    ASSERT_NE(limited, out.projects.end());
    EXPECT_EQ(limited->limit_bytes, 1U << 20);
    EXPECT_EQ(limited->limit_inodes, 50U);
    EXPECT_EQ(limited->used_inodes, 1U);
    const auto last = std::ranges::find(out.projects, largest, &FileSystem::ProjectQuota::id);
    ASSERT_NE(last, out.projects.end());
    EXPECT_EQ(last->limit_bytes, 0U);
    EXPECT_EQ(last->used_inodes, 1U);
}

} // namespace
} // namespace shale::probe
