// SPDX-License-Identifier: Apache-2.0
// What directory-based drivers share. Layout below a driver's root:
//   ROOT/<id>/...            one layer, whatever its state
//   ROOT/trash/<id>-<n>      removed, waits for the reaper
//   ROOT/exchange-<a>-<b>    two layers that change places where renameat2 knows no RENAME_EXCHANGE (ZFS before 2.2)
//   ROOT/probe-<pid>-<n>     scratch of a running probe
// Invariant: a decimal name directly below ROOT is a layer, and nothing else is. Needs no locks: every change of state
// is one rename (but for that exchange, which holds ROOT/exchange-lock).
#pragma once

#include <sys/stat.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "archive/tree.h"
#include "base/error.h"
#include "base/fd.h"
#include "drivers/driver.h"

namespace shale::drivers {

class LayerRoot {
public:
    /// Opens (makes when missing, 0711) the driver's directory. Writes nothing when it is there, but ends an exchange
    /// that a dead process began.
    static Result<LayerRoot> open(const std::string &root);

    [[nodiscard]] int fd() const noexcept { return fd_.get(); }
    [[nodiscard]] const std::string &path() const noexcept { return path_; } ///< absolute
    /// mode that a mkdir would not give fully (process umask) or whose special bits it drops
    [[nodiscard]] bool needs_chmod(mode_t mode) const noexcept { return (mode & (umask_ | S_ISUID | S_ISGID)) != 0; }

    /// mkdir below ROOT with exactly this mode and owner (0:0 = leave).
    Status make(const char *name, mode_t mode, uid_t uid = 0, gid_t gid = 0) const;
    /// Two layers' directories change places; a missing `old` just receives.
    Status exchange(LayerId fresh, LayerId old) const;
    /// Renames ROOT/`name` into the trash as belonging to layer `id`; where there is no room for that, removes it.
    /// Missing is fine.
    Status to_trash(const std::string &name, LayerId id) const;
    /// What `destroy` did with an entry of the trash: took it away as a whole; left it to be unlinked entry by entry;
    /// left it for the next reaper, because it is in use.
    enum class Destroyed : uint8_t { whole, entries_remain, in_use };
    using Destroy = std::function<Result<Destroyed>(int trash, const char *name)>;
    /// The youngest first.
    Result<uint64_t> reap(const std::atomic<bool> *cancel, const Destroy &destroy = {}) const;
    Result<Driver::TrashUsage> trash() const;
    Result<uint64_t> trash_layers() const;
    Result<std::vector<LayerId>> list() const;
    /// Opens the directory ROOT/<id>/`part`; a missing one is NotFound with the layer's id.
    Result<UniqueFd> open_part(LayerId id, const char *part) const;

    /// A scratch directory for a probe (0700). Those that dead processes left are removed first; `put_to_rest` takes
    /// away what the driver keeps in one that is no file (devices, frozen subvolumes).
    struct Scratch {
        UniqueFd dir;
        std::string path;
        std::shared_ptr<void> keep; ///< removes the tree
    };
    using PutToRest = std::function<Status(int dir)>;
    Result<Scratch> scratch(const PutToRest &put_to_rest = {}) const;

private:
    /// EEXIST when the new name is taken.
    Status rename_to_new(const std::string &name, const std::string &target) const;
    Status exchange_by_steps(const std::string &from, const std::string &to) const;
    Status finish_exchanges() const;
    UniqueFd fd_;
    std::string path_;
    mode_t umask_ = 022;
    uid_t uid_ = 0;
    gid_t gid_ = 0;
};

/// Number of a layer from a directory name or the front of a trash name; nullopt: not one.
std::optional<LayerId> parse_id(std::string_view name);

/// Blocks and inodes below (and with) a directory; a file with several links counts once. `parent` (-1: none): the tree
/// that this one began as, by snapshot or by links; what is at the same path there, the same inode with the same change
/// time, is not counted. Constant number of descriptors.
Result<Usage> walk_usage(int dir, int parent = -1);

/// Calls `visit(directory, name, status, path)` for everything below `dir`, a directory before what is in it; `path` is
/// that of the directory, "" or "a/b/"; links are not followed. Memory: the current path and the names of directories
/// beside it; descriptors: one for 3,000 bytes of path. Stops at the first error.
using Visit = std::function<Status(int, const char *, const struct stat &, std::string_view)>;
Status walk_tree(int dir, const Visit &visit);

/// Owner, mode, extended attributes (none of overlay's own, of security.* only the capabilities) and times of `from`
/// (any descriptor, O_PATH too) onto the open file or directory `to` (not O_PATH).
Status copy_metadata(int from, int to);
/// The same from one tree to another; `to` is open (open_dir).
Status copy_metadata(archive::Tree &source, int from, archive::Tree &target, int to);
/// Copies a file that is no directory, with data and metadata, to a new name. `from` may be O_PATH.
Status copy_entry(int from, int to_dir, const char *to_name);
/// Directories that lock out their owner: path below a root ("" = itself) -> mode.
using LockedModes = std::map<std::string, mode_t>;
/// For work in a tree of one's own without root's rights: every directory gets u+rwx; what their modes were. Root:
/// none.
Result<LockedModes> open_up(int root);
/// Sets the modes of those that are (still) directories.
Status lock_again(int root, const LockedModes &modes);

/// Opens a path of a tree, never leaving it and following no link: O_PATH|O_NOFOLLOW. nullopt: not there (or below
/// something that is not a directory).
Result<std::optional<UniqueFd>> find_below(int root, std::string_view path);

/// Counts layers one by one, in O(1), and limits them.
class LayerCounter : public QuotaControl {
public:
    [[nodiscard]] virtual std::string_view kind() const noexcept = 0; ///< as `shale drivers` says it
    /// The fresh, empty layer is counted from now on.
    virtual Status adopt(LayerId id) = 0;
    /// It is not counted any more, and what is put into its own directory can be shared with others.
    virtual Status disown(LayerId /*id*/) { return {}; }
    /// nullopt: this layer is not counted.
    virtual Result<std::optional<Usage>> usage(LayerId id) = 0;
};

/// Quota by project numbers, one a layer. nullptr where the file system does not count projects (`why` says so).
class ProjectQuota final : public LayerCounter {
public:
    static std::unique_ptr<ProjectQuota> open(const LayerRoot &root, std::string &why);
    Status set(LayerId id, const Quota &quota) override;
    Result<Quota> get(LayerId id) override;
    [[nodiscard]] std::string_view kind() const noexcept override { return "project"; }
    Status adopt(LayerId id) override; ///< gives its directory a number of its own
    Status disown(LayerId id) override;
    Result<std::optional<Usage>> usage(LayerId id) override;

private:
    ProjectQuota(const LayerRoot &root, uint32_t base) : root_(root), base_(base) {}
    Result<UniqueFd> layer(LayerId id) const;
    const LayerRoot &root_;
    uint32_t base_;
};

/// Real directory entries have a type (getdents64 of a fresh file and directory below `dir`).
Result<bool> has_d_type(int dir);
/// The kernel's own escaping of a path in an overlay option.
std::string escape_overlay(std::string_view path);
/// In a user name space other than the first.
bool in_user_namespace();
/// `given` with the defaults of `known` filled in; an unknown key, or a value that is not among an option's choices, is
/// InvalidArgument.
Result<DriverOptions> check_options(std::string_view driver, std::span<const OptionInfo> known,
                                    const DriverOptions &given);

} // namespace shale::drivers
