// SPDX-License-Identifier: Apache-2.0
// OpenZFS. What changes a dataset goes through libzfs_core, loaded when it is wanted (docs/adr/0007-zfs-library.md):
// one ioctl a call, no process. What libzfs_core lacks (lists, properties) and hosts without it go through `zfs -H -p`.
// A call that changes a pool returns when its transaction group is on stable storage.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"

namespace shale::sys {

/// One row of `zfs list -H -p`. Sizes in bytes.
struct ZfsDataset {
    std::string name;
    uint64_t used = 0;                ///< with snapshots and datasets below it
    uint64_t used_by_self = 0;        ///< written in it since it was made or cloned, and still there
    uint64_t used_by_snaps = 0;       ///< held by its snapshots alone
    uint64_t referenced = 0;          ///< its tree, with what it shares
    uint64_t available = 0;           ///< what may still be written here: pool, quotas and reservations of all above
    uint64_t quota = 0, refquota = 0; ///< 0 = none
    std::string origin;               ///< snapshot that it is a clone of; empty: none
    /// Written by this layer alone, its parent excluded.
    [[nodiscard]] uint64_t own_bytes() const noexcept { return used_by_self + used_by_snaps; }
};

/// The value of `zfs list -o` that parse_zfs_list expects.
inline constexpr const char *zfs_list_columns =
    "name,used,usedbydataset,usedbysnapshots,referenced,available,quota,refquota,origin";
/// A malformed line is InvalidArgument with its number.
Result<std::vector<ZfsDataset>> parse_zfs_list(std::string_view text);
/// The errno that fits the words of a failed `zfs` command ("dataset does not exist" -> ENOENT); EIO: none does.
[[nodiscard]] int zfs_errno_of(std::string_view words) noexcept;
/// A name as ZFS takes it: components of letters, digits and "-_.: ", at most 255 bytes (zfs(8)).
[[nodiscard]] bool is_zfs_name(std::string_view name) noexcept;
/// "pool/a/b" -> "pool"
[[nodiscard]] std::string_view zfs_pool_of(std::string_view name) noexcept;

/// True when the open file or directory lies on ZFS.
bool is_zfs(int fd);
/// The dataset that an open file or directory lies on (by its device in the mount table). FailedPrecondition: not on
/// ZFS, with what it is on instead.
Result<std::string> zfs_dataset_of(int fd);

/// Properties by name as the command takes them.
using ZfsProperties = std::vector<std::pair<std::string, std::string>>;

class ZfsLibrary;

/// ZFS of this host. Errors carry the errno: ENOENT no such dataset, EEXIST, EBUSY mounted or held, ENOSPC and EDQUOT.
class Zfs {
public:
    enum class Use : uint8_t { library, command };
    /// FailedPrecondition "this kernel has no ZFS ..." where there is none. `command` leaves libzfs_core alone.
    static Result<Zfs> open(Use use = Use::library);

    Status create(const std::string &name) const;
    Status clone(const std::string &origin, const std::string &name) const;
    Status snapshot(const std::string &name) const;
    /// Of a file system without snapshots, clones or datasets below it. EBUSY: mounted somewhere.
    Status destroy(const std::string &name) const;
    /// EEXIST: clones of it live. `deferred`: it then goes with the last of them.
    Status destroy_snapshot(const std::string &name, bool deferred) const;
    [[nodiscard]] Result<bool> exists(const std::string &name) const;
    /// The pool's open transaction group is written: counters are exact afterwards.
    Status sync_pool(std::string_view pool) const;

    /// The dataset and its children (file systems), with one command.
    [[nodiscard]] Result<std::vector<ZfsDataset>> list(const std::string &name) const;
    [[nodiscard]] Result<ZfsDataset> get(const std::string &name) const;
    /// Names of the dataset's own snapshots.
    [[nodiscard]] Result<std::vector<std::string>> snapshots(const std::string &name) const;
    [[nodiscard]] Result<std::string> property(const std::string &name, const std::string &key) const;
    Status create_with(const std::string &name, const ZfsProperties &properties) const;
    Status set(const std::string &name, const ZfsProperties &properties) const;

    /// "libzfs_core", or "zfs command" with the reason in `why`.
    [[nodiscard]] std::string_view way() const noexcept { return library_ ? "libzfs_core" : "zfs command"; }
    [[nodiscard]] const std::string &why() const noexcept { return why_; }

private:
    [[nodiscard]] Result<std::string> command(const std::vector<std::string> &arguments) const;
    std::shared_ptr<const ZfsLibrary> library_;
    std::string tool_; ///< path of zfs(8); empty: not there
    std::string why_;
};

} // namespace shale::sys
