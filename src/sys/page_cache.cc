// SPDX-License-Identifier: Apache-2.0
#include "sys/page_cache.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "base/fd.h"

namespace shale::sys {

namespace {

// include/uapi/linux/mman.h and the system call table, Linux 6.5; glibc 2.36 has neither.
constexpr long nr_cachestat = 451;
struct Range {
    uint64_t offset = 0, length = 0; ///< length 0: to the end
};
struct Stat {
    uint64_t cache = 0, dirty = 0, writeback = 0, evicted = 0, recently_evicted = 0; ///< pages
};

uint64_t page_bytes() {
    static const auto bytes = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
    return bytes;
}

/// A window at a time: the answer has a byte a page, and address space is bounded.
Result<CachedFile> by_mincore(int fd, uint64_t size) {
    constexpr uint64_t window = uint64_t{256} << 20U;
    CachedFile out{.counts_dirty = false};
    std::vector<unsigned char> pages(window / page_bytes());
    for (uint64_t at = 0; at < size; at += window) {
        const size_t length = std::min(window, size - at);
        void *map = ::mmap(nullptr, length, PROT_READ, MAP_SHARED, fd, static_cast<off_t>(at));
        if (map == MAP_FAILED) return fail_errno(errno, "mmap"); // NOLINT(performance-no-int-to-ptr)
        const ScopeGuard unmap([&] { ::munmap(map, length); });
        if (::mincore(map, length, pages.data()) != 0) return fail_errno(errno, "mincore");
        const size_t count = (length + page_bytes() - 1) / page_bytes();
        out.resident +=
            page_bytes() *
            static_cast<uint64_t>(std::count_if(pages.begin(), pages.begin() + static_cast<std::ptrdiff_t>(count),
                                                [](unsigned char page) { return (page & 1U) != 0; }));
    }
    return out;
}

} // namespace

Result<CachedFile> cached_pages(int fd, uint64_t size, CacheApi api) {
    if (size == 0) return CachedFile();
    if (api == CacheApi::best) {
        Range range;
        Stat stat;
        if (::syscall(nr_cachestat, fd, &range, &stat, 0U) == 0)
            return CachedFile{.resident = stat.cache * page_bytes(),
                              .dirty = stat.dirty * page_bytes(),
                              .writeback = stat.writeback * page_bytes()};
        if (errno != ENOSYS && errno != EOPNOTSUPP && errno != EPERM) return fail_errno(errno, "cachestat");
    }
    return by_mincore(fd, size);
}

Status drop_pages(int fd) {
    const int error = ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    if (error != 0) return fail_errno(error, "posix_fadvise");
    return {};
}

} // namespace shale::sys
