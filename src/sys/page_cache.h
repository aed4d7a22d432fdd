// SPDX-License-Identifier: Apache-2.0
// What of a file is in the page cache, and having it forgotten.
#pragma once

#include <cstdint>

#include "base/error.h"

namespace shale::sys {

/// In bytes, whole pages.
struct CachedFile {
    uint64_t resident = 0, dirty = 0, writeback = 0;
    bool counts_dirty = true; ///< false: mincore was asked, which does not tell dirty pages
};
enum class CacheApi : uint8_t { best, mincore };
/// Of a regular file that is open for reading and has `size` bytes. Ladder: cachestat (Linux 6.5; EPERM from 6.15 on
/// for files of others, to whom it would tell what they read); mincore on a mapping (before, and there: the caller must
/// own the file or be able to write it, else all pages count as resident, mincore(2)).
Result<CachedFile> cached_pages(int fd, uint64_t size, CacheApi api = CacheApi::best);
/// Clean pages that nobody maps are dropped (posix_fadvise, POSIX_FADV_DONTNEED); others stay, and that is no error.
Status drop_pages(int fd);

} // namespace shale::sys
