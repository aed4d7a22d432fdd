// SPDX-License-Identifier: Apache-2.0
// Shared by the sources of sys/zfs.h only: libzfs_core as far as it is used, loaded at run time.
#pragma once

#include <memory>
#include <string>

namespace shale::sys {

/// The few entries of libzfs_core.so.3 and libnvpair.so.3 (OpenZFS 2.0 and later) that are called. Declared here after
/// their documentation, because their headers are no part of Debian's main archive. All return an errno, 0 when done.
class ZfsLibrary {
public:
    struct List;      // nvlist_t
    using Bool = int; // boolean_t, an enumeration of 0 and 1

    /// nullptr: not to be had; `why` says so. Stays loaded as long as the process.
    static std::shared_ptr<const ZfsLibrary> load(std::string &why);

    int (*create)(const char *name, int type, List *properties, const unsigned char *key,
                  unsigned key_length) = nullptr;
    int (*clone)(const char *name, const char *origin, List *properties) = nullptr;
    int (*snapshot)(List *names, List *properties, List **errors) = nullptr;
    int (*destroy)(const char *name) = nullptr;
    int (*destroy_snapshots)(List *names, Bool deferred, List **errors) = nullptr;
    Bool (*exists)(const char *name) = nullptr;
    int (*sync)(const char *pool, List *options, List **out) = nullptr;
    int (*list_alloc)(List **out, unsigned flags, int how) = nullptr;
    void (*list_free)(List *list) = nullptr;
    int (*add_boolean)(List *list, const char *name) = nullptr;
    int (*add_boolean_value)(List *list, const char *name, Bool value) = nullptr;

    static constexpr int file_system = 2;       ///< LZC_DATSET_TYPE_ZFS
    static constexpr unsigned unique_names = 1; ///< NV_UNIQUE_NAME
};

} // namespace shale::sys
