// SPDX-License-Identifier: Apache-2.0
// Changes as the kernel tells them: one queue over directories and files that are watched by inode, whatever mount they
// are seen through. Ladder: fanotify with names and file handles (Linux 5.9), without limits where the caller has
// CAP_SYS_ADMIN, with those of fs.fanotify for anybody else (Linux 5.13); inotify, for all of it or for one directory
// that fanotify refuses (overlay before 6.6: EOPNOTSUPP, a subvolume of btrfs before 6.8: EXDEV, FUSE: ENODEV).
#pragma once

#include <cstddef>
#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/error.h"
#include "base/fd.h"

namespace shale::sys {

/// What happened; several bits where the kernel put events together.
namespace event {
inline constexpr uint32_t modified = 1U << 0U;   ///< written to
inline constexpr uint32_t closed = 1U << 1U;     ///< closed by somebody who could write
inline constexpr uint32_t attributes = 1U << 2U; ///< mode, owner, times, link count, xattrs
inline constexpr uint32_t created = 1U << 3U;
inline constexpr uint32_t deleted = 1U << 4U;
inline constexpr uint32_t moved_from = 1U << 5U;
inline constexpr uint32_t moved_to = 1U << 6U;
inline constexpr uint32_t gone = 1U << 7U; ///< the watched inode itself: deleted, moved, or unmounted
} // namespace event

struct ChangeEvent {
    uint64_t watched = 0; ///< what ChangeQueue::add() gave; 0: of something whose handle is not known (any more)
    std::string name;     ///< the entry of that directory; "": what is watched itself
    uint32_t what = 0;    ///< event::*
};

/// A record of fanotify's queue. An identity is fsid, and type and bytes of the file handle.
struct FanotifyRecord {
    uint64_t mask = 0;     ///< FAN_*
    std::string directory; ///< identity; empty: not told
    std::string name;      ///< in that directory; "": it is about the directory
    std::string object;    ///< identity of what the event is about; empty: not told
    bool operator==(const FanotifyRecord &) const = default;
};
/// What read(2) gave (fanotify(7)). What does not fit together is InvalidArgument. No name has a slash or a NUL.
Result<std::vector<FanotifyRecord>> parse_fanotify(std::span<const std::byte> buffer);

struct InotifyRecord {
    int watch = -1;
    uint32_t mask = 0; ///< IN_*
    std::string name;
    bool operator==(const InotifyRecord &) const = default;
};
/// The same for inotify(7).
Result<std::vector<InotifyRecord>> parse_inotify(std::span<const std::byte> buffer);

class ChangeQueue {
public:
    enum class Api : uint8_t { fanotify, inotify };
    /// Begins with the ladder's rung `first`. An error when there is not even inotify (fs.inotify.max_user_instances).
    static Result<ChangeQueue> open(Api first = Api::fanotify);

    enum class Interest : uint8_t {
        names,   ///< of a directory: which names it has
        entries, ///< of a directory: that, and what happens to the files behind them
        itself,  ///< of a file
    };
    /// `fd` may be O_PATH; it need not stay open, and neither it nor the watch keeps a file system mounted. The same
    /// inode again is the same number, and the interests add up. EACCES: the caller cannot read it. ResourceExhausted:
    /// fs.inotify.max_user_watches (or max_user_marks of fs.fanotify before).
    Result<uint64_t> add(int fd, Interest interest);
    /// All others need not be told any more. Those of fanotify are, still: that takes their inodes away one by one.
    void keep_only(const std::set<uint64_t> &used);
    /// Watched inodes that nobody needs: a new queue has none of them.
    [[nodiscard]] size_t unused() const noexcept { return unused_; }

    /// For poll(2): readable when there are events.
    [[nodiscard]] int fd() const noexcept { return poll_.get(); }
    struct Batch {
        std::vector<ChangeEvent> events;
        bool lost = false; ///< there were more than the kernel kept: anything may have changed
    };
    /// What is there; never waits.
    Result<Batch> read();

    [[nodiscard]] Api api() const noexcept { return fanotify_ ? Api::fanotify : Api::inotify; }
    /// Why fanotify is not used, for anything or for what was refused last; empty: it is.
    [[nodiscard]] const std::string &refusal() const noexcept { return refusal_; }

private:
    ChangeQueue() = default;
    Status start_fanotify();
    Status start_inotify();
    Status poll_also(int fd) const;
    Result<uint64_t> add_fanotify(int fd, Interest interest);
    Result<uint64_t> add_inotify(int fd, Interest interest);
    Status read_fanotify(Batch &batch);
    Status read_inotify(Batch &batch);
    [[nodiscard]] uint64_t number_of(const std::string &identity) const;

    UniqueFd poll_, fanotify_, inotify_;
    std::string refusal_;
    uint64_t last_ = 0; ///< number that was given
    std::unordered_map<std::string, uint64_t> by_identity_;
    std::unordered_map<int, uint64_t> by_watch_;
    size_t unused_ = 0;
};

} // namespace shale::sys
