// SPDX-License-Identifier: Apache-2.0
// Watching what paths show, where inotify watches what they showed once: a file that is replaced, a link that is
// turned, a directory that goes and comes back under the same name.
//
// How: every directory in which a path is looked up is watched (sys/path_walk.h), the file itself too. An event only
// says what to look at again; what is found there, compared with what was there before, is the change. So no event that
// is lost, put together with another or not understood makes a wrong one, and all is well again after a second look.
// Invariant: a directory is watched before it is looked at, and looked at again until two looks agree.
//
// A path may have several views: as a process sees it, and as the host has what is mounted there. One change is told of
// all of them, the strongest.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "sys/fanotify.h"
#include "sys/file_state.h"
#include "sys/path_walk.h"

namespace shale::sys {

struct PathView {
    std::shared_ptr<const UniqueFd> root; ///< the directory that is "/"
    std::string path;
};
struct WatchedPath {
    std::vector<PathView> views; ///< the first is the one that counts; at least one
    bool is_recursive = false;   ///< of a directory: all below it on the same mount, else its entries only
};

struct Change {
    ChangeKind kind = ChangeKind::modified;
    int64_t time_ns = 0;                        ///< when the first event of it was read, unix
    size_t path = 0;                            ///< which one
    std::string below;                          ///< of a directory: the entry; "" the path itself
    size_t view = 0;                            ///< where it was seen
    uint64_t inode_before = 0, inode_after = 0; ///< 0: nothing was there
    /// The first view still shows another file than the view of this change.
    bool is_stale = false;
};

struct NameWatchOptions {
    /// A change is told when its path was quiet for so long, or when it was not for ten times as long.
    std::chrono::milliseconds debounce{200};
    size_t max_entries = 1'000'000; ///< of directories, all together
    size_t max_unused = 4096;       ///< watches that nobody needs, before all are made anew
    ChangeQueue::Api api = ChangeQueue::Api::fanotify;
};

class NameWatch {
public:
    using Time = std::chrono::steady_clock::time_point;
    struct Now {
        Time steady;
        int64_t unix_ns = 0;
        static Now get();
    };

    /// A path that shows nothing is waited for. Errors: as ChangeQueue; ResourceExhausted beyond `max_entries`;
    /// PermissionDenied where a directory that shows the last name cannot be read.
    static Result<NameWatch> open(std::vector<WatchedPath> paths, const NameWatchOptions &options);

    /// For poll(2). Another one after take().
    [[nodiscard]] int fd() const noexcept { return queue_.fd(); }
    /// Takes what the kernel has to tell.
    Status read(const Now &now);
    /// The paths may lead elsewhere without an event: something was mounted or unmounted.
    void look_again(const Now &now);
    /// When take() has something to do; nullopt: not before there are events.
    [[nodiscard]] std::optional<Time> next_due() const;
    /// What has changed, and whose time has come.
    Result<std::vector<Change>> take(const Now &now);

    /// What the first view of a path shows.
    [[nodiscard]] const FileState &state(size_t path, size_t view = 0) const { return targets_[path].views[view].base; }
    [[nodiscard]] const ChangeQueue &queue() const noexcept { return queue_; }
    /// Since the last call: overflows, and what cannot be watched, for the user.
    std::vector<std::string> take_notes() { return std::exchange(notes_, {}); }

private:
    using Step = std::pair<uint64_t, std::string>; ///< the directory's number, 0: it cannot be watched; the name
    using Entries = std::map<std::string, FileState>;
    struct View {
        PathView where;
        std::vector<Step> steps;
        uint64_t file = 0; ///< number of the file itself
        FileState base;
        bool is_looked_into = false;                           ///< it is a directory, and what follows is kept
        Entries entries;                                       ///< below it
        std::unordered_map<uint64_t, std::string> directories; ///< those that are watched, "" the base itself
    };
    struct Target {
        std::vector<View> views;
        bool is_recursive = false;
    };
    struct Pending {
        Time first, last;
        int64_t first_ns = 0;
        std::vector<Noticed> views; ///< one for each
    };
    using Key = std::pair<size_t, std::string>; ///< which path, what below it
    using Changes = std::map<std::string, Change>;
    struct Look { ///< at one view
        Target &target;
        size_t path = 0, view = 0;
        int base = -1;              ///< what the path shows, O_PATH
        Changes *changes = nullptr; ///< null: the first look, which tells nothing
        int64_t first_ns = 0;
        [[nodiscard]] View &at() const { return target.views[view]; }
    };

    NameWatch(ChangeQueue queue, const NameWatchOptions &options) : queue_(std::move(queue)), options_(options) {}
    // Events (name_watch.cc)
    Pending &touch(const Now &now, size_t path, const std::string &below, size_t view, uint32_t what);
    void touch_all(const Now &now, bool is_unsure);
    void dispatch(const Now &now, const ChangeEvent &event);
    void dispatch_to(const Now &now, const ChangeEvent &event, size_t path, size_t view);
    void dispatch_unknown(const Now &now, const ChangeEvent &event);
    [[nodiscard]] Time due(const Pending &pending) const;
    Status look_at(size_t path, const Now &now, std::vector<Change> &out);
    void renew(const Now &now, ChangeQueue fresh);
    void keep_used();
    void note(std::string text);

    // Looking (name_watch_look.cc)
    Result<WalkedPath> settle(View &view);
    Result<WalkedPath> walk_and_watch(View &view);
    Status look(Look look, const std::map<std::string, Pending> &pending);
    Status look_at_base(const Look &look, const FileState &after, const Noticed &noticed);
    Status look_at_entry(const Look &look, const std::string &below, const Noticed &noticed);
    Status scan(const Look &look, std::string top, Entries &into);
    Status scan_one(const Look &look, const std::string &directory, Entries &into, std::vector<std::string> &todo);
    static void tell(const Look &look, const std::string &below, const FileState &before, const FileState &after,
                     std::optional<ChangeKind> kind);
    [[nodiscard]] Status too_many(const Look &look) const;
    void drop_below(const Look &look, const std::string &directory, const Noticed &noticed);

    ChangeQueue queue_;
    NameWatchOptions options_;
    std::vector<Target> targets_;
    std::map<Key, Pending> pending_;
    size_t entries_ = 0;          ///< of all views
    bool is_use_changed_ = false; ///< some watches may be needed no more
    std::vector<std::string> notes_;
    std::set<std::string> told_; ///< notes that were made; not again
};

} // namespace shale::sys
