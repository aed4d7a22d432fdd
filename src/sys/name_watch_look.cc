// SPDX-License-Identifier: Apache-2.0
// Watching what a path leads through, and comparing what it shows.
#include <fcntl.h>
#include <linux/openat2.h>

#include <algorithm>
#include <cerrno>

#include <fmt/format.h>

#include "base/paths.h"
#include "base/units.h"
#include "sys/fs.h"
#include "sys/name_watch.h"

namespace shale::sys {
namespace {

constexpr int looks_at_most = 10; ///< who turns a path without end is looked at again with the next event
/// Below a directory: nothing that leads out of it, and no other file systems, which may be endless.
constexpr uint64_t below_it = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV;

bool may_not(const Error &error) {
    return error.sys_errno() == EACCES || error.sys_errno() == EPERM;
}

bool is_below(const std::string &path, const std::string &directory) {
    return directory.empty() ||
           (path.starts_with(directory) && (path.size() == directory.size() || path[directory.size()] == '/'));
}

/// The entry, by the directory that it is in; that directory having gone, it is not there.
Result<FileState> entry_state(int base, const std::string &below) {
    const auto [directory, name] = split_path(below);
    const std::string in(directory.empty() ? "." : directory);
    const auto fd = open_at2(base, in.c_str(), O_PATH | O_DIRECTORY, below_it);
    if (!fd && fd.error().sys_errno() == ENOSYS) return std::unexpected(fd.error());
    if (!fd) return FileState();
    return file_state(fd->get(), std::string(name).c_str());
}

} // namespace

/// The strongest change of one name counts, of whichever view.
void NameWatch::tell(const Look &look, const std::string &below, const FileState &before, const FileState &after,
                     std::optional<ChangeKind> kind) {
    if (look.changes == nullptr || !kind) return;
    const auto [found, fresh] = look.changes->try_emplace(below);
    Change &change = found->second;
    if (!fresh && change.kind <= *kind) return;
    change.kind = *kind;
    change.time_ns = look.first_ns;
    change.path = look.path;
    change.below = below;
    change.view = look.view;
    change.inode_before = before.inode;
    change.inode_after = after.inode;
}

Status NameWatch::too_many(const Look &look) const {
    return fail(
        Errc::ResourceExhausted,
        fmt::format("\"{}\" has more entries than are watched ({} in all): watch parts of it, or not recursively",
                    look.at().where.path, format_count(options_.max_entries)));
}

/// Watched, then looked at: twice the same.
Result<WalkedPath> NameWatch::settle(View &view) {
    for (int looks = 1;; ++looks) {
        const auto steps = view.steps;
        const uint64_t file = view.file;
        auto walked = TRY(walk_and_watch(view));
        if (view.steps == steps && view.file == file) return walked;
        is_use_changed_ = true;
        if (looks == looks_at_most) return walked;
    }
}

Result<WalkedPath> NameWatch::walk_and_watch(View &view) {
    auto walked = TRY(walk_path(view.where.root->get(), view.where.path));
    const bool is_directory = walked.file && TRY(file_state(walked.file.get(), "")).is_directory();
    view.steps.clear();
    for (const WalkStep &step : walked.steps) {
        const bool has_contents = !is_directory && view.steps.size() + 1 == walked.steps.size();
        const auto interest = has_contents ? ChangeQueue::Interest::entries : ChangeQueue::Interest::names;
        auto added = queue_.add(step.directory->get(), interest);
        if (!added && (has_contents || !may_not(added.error())))
            return std::unexpected(std::move(added).error().add(view.where.path));
        if (!added)
            note(fmt::format("{}: a change of \"{}\" there will not be noticed", added.error().text(), step.name));
        view.steps.emplace_back(added.value_or(0), step.name);
    }
    view.file = 0;
    // By its own watch what is done to it by another name (a hard link, another mount) is told; without it the
    // directory tells what is done by this one.
    if (walked.file && !is_directory)
        view.file = queue_.add(walked.file.get(), ChangeQueue::Interest::itself).value_or(0);
    return walked;
}

Status NameWatch::look(Look look, const std::map<std::string, Pending> &pending) {
    const auto walked = TRY(settle(look.at()));
    look.base = walked.file.get();
    const FileState after = walked.file ? TRY(file_state(look.base, "")) : FileState();
    Noticed noticed;
    if (const auto own = pending.find(""); own != pending.end()) {
        noticed = own->second.views[look.view];
        look.first_ns = own->second.first_ns;
    }
    TRY(look_at_base(look, after, noticed));
    if (!look.at().is_looked_into) return {};
    for (const auto &[below, one] : pending) {
        if (below.empty()) continue;
        look.first_ns = one.first_ns;
        TRY(look_at_entry(look, below, one.views[look.view]));
    }
    return {};
}

Status NameWatch::look_at_base(const Look &look, const FileState &after, const Noticed &noticed) {
    View &view = look.at();
    const FileState before = view.base;
    const auto kind = compare(before, after, noticed);
    tell(look, "", before, after, kind);
    view.base = after;
    // Another view of the same directory shows nothing that the first does not.
    const bool was_looked_into = view.is_looked_into;
    view.is_looked_into = after.is_directory() && (look.view == 0 || !after.is_inode_of(look.target.views[0].base));
    if (!was_looked_into && !view.is_looked_into) return {};
    const bool is_same = was_looked_into && view.is_looked_into && kind != ChangeKind::replaced;
    if (is_same && !noticed.is_unsure && !view.directories.empty()) return {};

    is_use_changed_ = true;
    view.directories.clear();
    entries_ -= view.entries.size();
    const Entries old = std::exchange(view.entries, {});
    const Status scanned = view.is_looked_into ? scan(look, "", view.entries) : Status();
    entries_ += view.entries.size();
    TRY(scanned);
    // What was a directory before, and is looked into only now, has not changed by that.
    if (!was_looked_into && before.is_directory()) return {};
    const Noticed compared{.what = noticed.what & event::moved_from, .time_ns = noticed.time_ns, .is_unsure = true};
    for (const auto &[below, state] : old) {
        const auto found = view.entries.find(below);
        const FileState now = found == view.entries.end() ? FileState() : found->second;
        tell(look, below, state, now, compare(state, now, compared));
    }
    for (const auto &[below, state] : view.entries)
        if (!old.contains(below)) tell(look, below, FileState(), state, ChangeKind::created);
    return {};
}

Status NameWatch::look_at_entry(const Look &look, const std::string &below, const Noticed &noticed) {
    View &view = look.at();
    const auto known = view.entries.find(below);
    const FileState before = known == view.entries.end() ? FileState() : known->second;
    const FileState after = TRY(entry_state(look.base, below));
    const auto kind = compare(before, after, noticed);
    tell(look, below, before, after, kind);
    const bool is_same = before.is_inode_of(after) && kind != ChangeKind::replaced;
    if (before.is_directory() && !is_same) drop_below(look, below, noticed);
    if (before.is_there && !after.is_there) --entries_;
    if (!before.is_there && after.is_there) ++entries_;
    if (after.is_there)
        view.entries[below] = after;
    else
        view.entries.erase(below);
    if (entries_ > options_.max_entries) return too_many(look);
    if (!after.is_directory() || is_same || !look.target.is_recursive) return {};

    Entries found;
    TRY(scan(look, below, found));
    is_use_changed_ = true;
    for (auto &[name, state] : found) {
        tell(look, name, FileState(), state, ChangeKind::created);
        if (view.entries.insert_or_assign(name, state).second) ++entries_;
    }
    return {};
}

/// Everything below `top` ("" the base), directories before what is in them.
Status NameWatch::scan(const Look &look, std::string top, Entries &into) {
    std::vector<std::string> todo{std::move(top)};
    while (!todo.empty()) {
        const std::string directory = std::move(todo.back());
        todo.pop_back();
        TRY(scan_one(look, directory, into, todo));
    }
    return {};
}

Status NameWatch::scan_one(const Look &look, const std::string &directory, Entries &into,
                           std::vector<std::string> &todo) {
    const auto fd = open_at2(look.base, directory.empty() ? "." : directory.c_str(), O_RDONLY | O_DIRECTORY, below_it);
    if (!fd) {
        const int error = fd.error().sys_errno();
        if (error == ENOSYS || error == EMFILE || error == ENFILE) return std::unexpected(fd.error());
        // Gone, or another file system: no more is there to be seen. What may not be read is told.
        if (may_not(fd.error())) note(fd.error().text() + ": changes in it will not be noticed");
        return {};
    }
    look.at().directories.insert_or_assign(TRY(queue_.add(fd->get(), ChangeQueue::Interest::entries)), directory);
    Status status;
    TRY(for_each_entry(fd->get(), [&](const char *name, uint64_t, unsigned char) {
        if (!status) return;
        auto state = file_state(fd->get(), name);
        if (!state || !state->is_there) return; // gone again: its event comes
        if (entries_ + into.size() >= options_.max_entries) {
            status = too_many(look);
            return;
        }
        std::string below = directory.empty() ? name : directory + "/" + name;
        if (look.target.is_recursive && state->is_directory()) todo.push_back(below);
        into.insert_or_assign(std::move(below), *state);
    }));
    return status;
}

void NameWatch::drop_below(const Look &look, const std::string &directory, const Noticed &noticed) {
    View &view = look.at();
    is_use_changed_ = true;
    std::erase_if(view.directories, [&](const auto &one) { return is_below(one.second, directory); });
    for (auto at = view.entries.lower_bound(directory + "/");
         at != view.entries.end() && at->first.starts_with(directory + "/");) {
        tell(look, at->first, at->second, FileState(), compare(at->second, FileState(), noticed));
        at = view.entries.erase(at);
        --entries_;
    }
}

} // namespace shale::sys
