// SPDX-License-Identifier: Apache-2.0
// What the guard has in force on others: throttled writers, limits of memory. Kept in DIR/active.json, so that whatever
// kills the guard leaves nothing throttled for ever: its next start undoes what stands there.
//
// Invariants: a measure stands in the file, synced, before it is taken, and until it was undone. So what stands there
// may not have been taken yet, or be undone already: undoing has to bear both (writing the old value again does).
// No two measures have the same target and key, so that an old value is never one of the guard's own.
//
// The file is replaced whole (write, fsync, rename, fsync); should it be damaged all the same, each line that is still
// a measure counts. It is believed only if nobody but the user that runs the guard could have written it; whoever
// undoes opens a target beneath the tree that it belongs to (/sys/fs/cgroup) and follows no link.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "guard/resource.h"
#include "guard/tiers.h"

namespace shale::guard {

struct Measure {
    uint64_t id = 0; ///< given by Measures::add(); not used again while the file is there
    Tier tier = Tier::throttle;
    Kind kind = Kind::bytes;
    std::string subject;   ///< as of Sample: for which resource
    std::string target;    ///< absolute path of what was changed: a file of a cgroup
    std::string key{};     ///< of its lines, for files that have a line a device: "8:0"
    std::string old_value; ///< to be written back
    std::string new_value; ///< what it was set to
    Time time;             ///< when it was about to be taken
    bool operator==(const Measure &) const = default;
};
inline constexpr size_t max_measures = 1024, max_measure_text = 4096;

/// Not for several threads at once.
class Measures {
public:
    /// What is in force, or may be. `dir`: that of open_guard_dir(), or one on a file system that does not fill (/run),
    /// since a measure that cannot be written down is not taken. FailedPrecondition: the file is no file, or others
    /// could have written it. A damaged file is no error: see problems(); what was in it is kept as active.json.bad.
    static Result<Measures> load(UniqueFd dir);

    /// In the order in which they were taken: to be undone from the last to the first.
    [[nodiscard]] std::span<const Measure> active() const noexcept { return measures_; }
    /// What load() could not believe, a line each.
    [[nodiscard]] std::span<const std::string> problems() const noexcept { return problems_; }

    /// Before it is taken; `id` is ignored, and a new one returned. InvalidArgument: the target is no absolute path
    /// without "." and "..", or a text is too long or holds NUL. AlreadyExists: a measure has that target and key;
    /// undo it first. ResourceExhausted: there are max_measures, or 4 MiB of them. After any error the measure must not
    /// be taken.
    Result<uint64_t> add(Measure measure);
    /// After it was undone. NotFound: there is none. After another error it stays, and is undone again at the next
    /// start.
    Status remove(uint64_t id);

private:
    explicit Measures(UniqueFd dir) : dir_(std::move(dir)) {}
    void read(std::string_view text);
    Status write(std::span<const Measure> measures) const;

    UniqueFd dir_;
    std::vector<Measure> measures_;
    std::vector<std::string> problems_;
    uint64_t next_id_ = 1;
};

} // namespace shale::guard
