// SPDX-License-Identifier: Apache-2.0
#include "daemon/footprint.h"

#include <link.h>
#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>

namespace shale::daemon {
namespace {

/// Only segments that never were writable: those with relocations are (PT_GNU_RELRO lies in one), and what was written
/// there would be lost.
int unmap_pages(dl_phdr_info *object, size_t /*size*/, void * /*data*/) {
    const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
    for (int i = 0; i < object->dlpi_phnum; ++i) {
        const auto &segment = object->dlpi_phdr[i];
        if (segment.p_type != PT_LOAD || (segment.p_flags & PF_W) != 0) continue;
        const uintptr_t begin = (object->dlpi_addr + segment.p_vaddr) / page * page;
        const uintptr_t end = (object->dlpi_addr + segment.p_vaddr + segment.p_memsz) / page * page;
        if (end > begin)
            ::madvise(reinterpret_cast<void *>(begin), end - begin, MADV_DONTNEED); // best effort: it only costs memory
    }
    return 0;
}

} // namespace

void forget_the_start() noexcept {
    ::malloc_trim(0);
    ::dl_iterate_phdr(unmap_pages, nullptr);
}

} // namespace shale::daemon
