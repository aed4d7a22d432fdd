// SPDX-License-Identifier: Apache-2.0
#include "sys/zfs_library.h"

#include <dlfcn.h>

#include <cstring>

#include <fmt/format.h>

namespace shale::sys {
namespace {

template <class F> bool find(void *library, const char *name, F *&out, std::string &why) {
    void *found = ::dlsym(library, name);
    if (found == nullptr) {
        why = fmt::format("libzfs_core has no {}", name);
        return false;
    }
    std::memcpy(&out, &found, sizeof found); // POSIX dlsym(3): a function's address in an object pointer
    return true;
}

} // namespace

std::shared_ptr<const ZfsLibrary> ZfsLibrary::load(std::string &why) {
    void *values = ::dlopen("libnvpair.so.3", RTLD_NOW | RTLD_LOCAL);
    void *core = values == nullptr ? nullptr : ::dlopen("libzfs_core.so.3", RTLD_NOW | RTLD_LOCAL);
    if (core == nullptr) {
        why = ::dlerror(); // NOLINT(concurrency-mt-unsafe): the message is per thread in glibc
        return nullptr;
    }
    auto out = std::make_shared<ZfsLibrary>();
    int (*initialise)() = nullptr;
    const bool whole =
        find(core, "libzfs_core_init", initialise, why) && find(core, "lzc_create", out->create, why) &&
        find(core, "lzc_clone", out->clone, why) && find(core, "lzc_snapshot", out->snapshot, why) &&
        find(core, "lzc_destroy", out->destroy, why) && find(core, "lzc_destroy_snaps", out->destroy_snapshots, why) &&
        find(core, "lzc_exists", out->exists, why) && find(core, "lzc_sync", out->sync, why) &&
        find(values, "nvlist_alloc", out->list_alloc, why) && find(values, "nvlist_free", out->list_free, why) &&
        find(values, "nvlist_add_boolean", out->add_boolean, why) &&
        find(values, "nvlist_add_boolean_value", out->add_boolean_value, why);
    if (!whole) return nullptr;
    if (const int error = initialise(); error != 0) {
        why = fmt::format("libzfs_core: {}", std::strerror(error)); // NOLINT(concurrency-mt-unsafe)
        return nullptr;
    }
    return out;
}

} // namespace shale::sys
