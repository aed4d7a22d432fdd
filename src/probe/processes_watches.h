// SPDX-License-Identifier: Apache-2.0
// Where a watched inode is. The kernel tells a watch by inode and file handle and keeps no path (fs/notify/fdinfo.c);
// here the handle is opened (open_by_handle_at(2), CAP_DAC_READ_SEARCH) on a mount of its file system, and the kernel
// asked for the name: the last one of a file that has none any more, where something still holds it (an open file, a
// bind mount; else its watch is gone as well, inotify(7), IN_DELETE_SELF).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "probe/host.h"
#include "probe/processes.h"
#include "sys/mount.h"

namespace shale::probe {

inline constexpr std::string_view deleted_mark = " (deleted)"; ///< after the path of what has no name (fs/d_path.c)

/// Mounts of file systems on disk (file_system_kind(): `local`) to which the way leads over nothing that may hang: each
/// mount on it, of several at one place the last, is local, in memory or layered.
std::vector<const sys::MountEntry *> mounts_to_look_on(const std::vector<sys::MountEntry> &table);

/// For the host that this process runs on, with its own mounts: only file systems on disk that have one of these are
/// looked into (mounts_to_look_on()), nothing that may hang. A path is believed when the file system itself
/// shows there what it has to.
class WatchPaths {
public:
    explicit WatchPaths(const Host &host) : host_(host) {}

    /// There is a mount to look on. Nothing is opened for this.
    bool may_find(const std::string &device);

    struct Found {
        std::string path; ///< "": not known
        std::optional<uint64_t> inode{};
    };
    /// As InotifyWatch has them. Never an error: a file system that opens no handles, a name that changes meanwhile, a
    /// lack of privileges leave it empty.
    Found find(const WatchedInode &watched, const FileHandle &handle);
    /// Lets go of the mounts, which cannot be unmounted meanwhile.
    void close() noexcept;
    /// CAP_DAC_READ_SEARCH is lacking: from then on nothing may be found.
    [[nodiscard]] bool is_denied() const noexcept { return denied_; }

private:
    struct Mount {
        uint64_t id = 0;
        std::string root, target;
    };
    struct Opened {
        UniqueFd fd;
        std::string path;
        bool whole = false; ///< no name of the file system lies outside of it
    };
    void load();
    void open(const std::string &device);
    std::optional<Found> find_on(const Opened &mount, const WatchedInode &watched, const FileHandle &handle);

    const Host &host_;
    bool loaded_ = false, denied_ = false;
    std::map<std::string, std::vector<Mount>> mounts_; ///< by device; the best to look on first
    std::string device_;                               ///< whose mounts are open
    std::vector<Opened> opened_;
};

} // namespace shale::probe
