// SPDX-License-Identifier: Apache-2.0
#include "sys/page_cache.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <string>

#include "base/fd.h"

namespace shale::sys {
namespace {

constexpr uint64_t page = 4096;

class PageCache : public testing::TestWithParam<CacheApi> {
protected:
    PageCache() {
        std::string name = "/var/tmp/shale-cache-XXXXXX";
        fd_ = UniqueFd(::mkstemp(name.data()));
        ::unlink(name.c_str());
        const std::array<char, 8 * page> data{};
        EXPECT_EQ(::write(fd_.get(), data.data(), data.size()), static_cast<ssize_t>(data.size()));
        EXPECT_EQ(::fsync(fd_.get()), 0);
    }
    [[nodiscard]] uint64_t resident() const {
        const auto cached = cached_pages(fd_.get(), 8 * page, GetParam());
        EXPECT_TRUE(cached) << cached.error().text();
        return cached ? cached->resident : 0;
    }
    UniqueFd fd_;
};

TEST_P(PageCache, WhatWasWrittenIsThereAndWhatIsDroppedIsNot) {
    struct statfs status{};
    ASSERT_EQ(::fstatfs(fd_.get(), &status), 0);
    constexpr long tmpfs_magic = 0x01021994;
    if (status.f_type == tmpfs_magic) GTEST_SKIP() << "/var/tmp is a tmpfs: its pages are the file";
    if (::sysconf(_SC_PAGESIZE) != static_cast<long>(page)) GTEST_SKIP() << "pages are not of 4 KiB";
    EXPECT_EQ(resident(), 8 * page);
    ASSERT_TRUE(drop_pages(fd_.get()));
    EXPECT_EQ(resident(), 0U);
    std::array<char, 1> byte{};
    ASSERT_EQ(::posix_fadvise(fd_.get(), 0, 0, POSIX_FADV_RANDOM), 0); // no read ahead
    ASSERT_EQ(::pread(fd_.get(), byte.data(), 1, 3 * page), 1);
    EXPECT_EQ(resident(), page);
}

TEST_P(PageCache, AnEmptyFileHasNone) {
    const auto cached = cached_pages(fd_.get(), 0, GetParam());
    ASSERT_TRUE(cached);
    EXPECT_EQ(cached->resident, 0U);
}

INSTANTIATE_TEST_SUITE_P(Ladder, PageCache, testing::Values(CacheApi::best, CacheApi::mincore));

TEST(CachedPages, ADescriptorThatIsNoneIsAnError) {
    EXPECT_FALSE(cached_pages(-1, 4096));
    EXPECT_FALSE(drop_pages(-1));
}

} // namespace
} // namespace shale::sys
