// SPDX-License-Identifier: Apache-2.0
// Events to what is to be looked at, and when.
#include "sys/name_watch.h"

#include <algorithm>
#include <set>

namespace shale::sys {
namespace {

constexpr int debounces_at_most = 10;
constexpr size_t notes_at_most = 100;

std::string joined(const std::string &directory, const std::string &name) {
    return directory.empty() ? name : directory + "/" + name;
}

} // namespace

NameWatch::Now NameWatch::Now::get() {
    const auto since_epoch = std::chrono::system_clock::now().time_since_epoch();
    return {std::chrono::steady_clock::now(),
            std::chrono::duration_cast<std::chrono::nanoseconds>(since_epoch).count()};
}

Result<NameWatch> NameWatch::open(std::vector<WatchedPath> paths, const NameWatchOptions &options) {
    NameWatch out(TRY(ChangeQueue::open(options.api)), options);
    for (WatchedPath &path : paths) {
        Target &target = out.targets_.emplace_back();
        target.is_recursive = path.is_recursive;
        for (PathView &view : path.views)
            target.views.emplace_back().where = std::move(view);
        for (size_t view = 0; view < target.views.size(); ++view)
            TRY(out.look({.target = target, .path = out.targets_.size() - 1, .view = view}, {}));
    }
    return out;
}

Status NameWatch::read(const Now &now) {
    const auto batch = TRY(queue_.read());
    if (batch.lost) {
        notes_.emplace_back(
            "more changes than the kernel keeps came at once: all paths are compared with what they were");
        touch_all(now, true);
    }
    for (const ChangeEvent &event : batch.events)
        dispatch(now, event);
    return {};
}

void NameWatch::look_again(const Now &now) {
    touch_all(now, false);
}

NameWatch::Pending &NameWatch::touch(const Now &now, size_t path, const std::string &below, size_t view,
                                     uint32_t what) {
    const auto [found, fresh] = pending_.try_emplace({path, below});
    Pending &pending = found->second;
    if (fresh) {
        pending.first = now.steady;
        pending.first_ns = now.unix_ns;
        pending.views.resize(targets_[path].views.size());
    }
    pending.last = now.steady;
    pending.views[view].what |= what;
    pending.views[view].time_ns = now.unix_ns;
    return pending;
}

void NameWatch::touch_all(const Now &now, bool is_unsure) {
    for (size_t path = 0; path < targets_.size(); ++path)
        for (size_t view = 0; view < targets_[path].views.size(); ++view) {
            Noticed &noticed = touch(now, path, "", view, 0).views[view];
            noticed.is_unsure = noticed.is_unsure || is_unsure;
        }
}

void NameWatch::dispatch(const Now &now, const ChangeEvent &event) {
    if (event.watched == 0) {
        dispatch_unknown(now, event);
        return;
    }
    for (size_t path = 0; path < targets_.size(); ++path)
        for (size_t view = 0; view < targets_[path].views.size(); ++view)
            dispatch_to(now, event, path, view);
}

void NameWatch::dispatch_to(const Now &now, const ChangeEvent &event, size_t path, size_t view) {
    const View &at = targets_[path].views[view];
    constexpr uint32_t contents = event::modified | event::closed | event::attributes;
    const bool is_gone = (event.what & event::gone) != 0;
    for (size_t i = 0; i < at.steps.size(); ++i) {
        const auto &[directory, name] = at.steps[i];
        if (directory != event.watched) continue;
        const bool is_last = i + 1 == at.steps.size();
        if (event.name == name)
            touch(now, path, "", view, is_last ? event.what : event.what & event::moved_from);
        else if (event.name.empty() && is_gone)
            touch(now, path, "", view, 0);
    }
    if (at.file == event.watched) touch(now, path, "", view, event.what & contents);
    const auto found = at.directories.find(event.watched);
    if (found == at.directories.end()) return;
    if (!event.name.empty())
        touch(now, path, joined(found->second, event.name), view, event.what);
    else
        touch(now, path, found->second, view, event.what & event::attributes);
}

/// A directory whose entries are told tells of its directories' attributes as theirs (fanotify(7), FAN_EVENT_ON_CHILD
/// with FAN_ONDIR), and they need not be watched. Anything else may be whatever it likes.
void NameWatch::dispatch_unknown(const Now &now, const ChangeEvent &event) {
    if (!event.name.empty() || (event.what & ~event::attributes) != 0) {
        touch_all(now, true);
        return;
    }
    for (size_t path = 0; path < targets_.size(); ++path)
        for (size_t view = 0; view < targets_[path].views.size(); ++view)
            for (const auto &[name, state] : targets_[path].views[view].entries)
                if (!targets_[path].is_recursive && state.is_directory()) touch(now, path, name, view, event.what);
}

NameWatch::Time NameWatch::due(const Pending &pending) const {
    return std::min(pending.last + options_.debounce, pending.first + debounces_at_most * options_.debounce);
}

std::optional<NameWatch::Time> NameWatch::next_due() const {
    std::optional<Time> out;
    for (const auto &[key, pending] : pending_)
        out = std::min(out.value_or(Time::max()), due(pending));
    return out;
}

Result<std::vector<Change>> NameWatch::take(const Now &now) {
    if (queue_.unused() > options_.max_unused) renew(now, TRY(ChangeQueue::open(options_.api)));
    std::vector<Change> out;
    for (size_t path = 0; path < targets_.size(); ++path)
        TRY(look_at(path, now, out));
    if (std::exchange(is_use_changed_, false)) keep_used();
    return out;
}

Status NameWatch::look_at(size_t path, const Now &now, std::vector<Change> &out) {
    std::map<std::string, Pending> looked_at;
    const auto begin = pending_.lower_bound({path, ""});
    for (auto at = begin; at != pending_.end() && at->first.first == path;) {
        if (due(at->second) > now.steady) {
            ++at;
            continue;
        }
        looked_at.emplace(at->first.second, std::move(at->second));
        at = pending_.erase(at);
    }
    if (looked_at.empty()) return {};
    Changes changes;
    Target &target = targets_[path];
    for (size_t view = 0; view < target.views.size(); ++view) {
        const Look look{.target = target, .path = path, .view = view, .changes = &changes, .first_ns = now.unix_ns};
        if (const Status looked = this->look(look, looked_at); !looked) note(looked.error().text());
    }
    for (auto &[below, change] : changes) {
        pending_.erase({path, below}); // of the same burst: it is told with this
        const FileState &first = target.views[0].base, &other = target.views[change.view].base;
        change.is_stale = first.is_there && other.is_there && !first.is_inode_of(other);
        out.push_back(std::move(change));
    }
    return {};
}

/// As if the kernel had lost events of all: the next look watches everything again, and compares it.
void NameWatch::renew(const Now &now, ChangeQueue fresh) {
    queue_ = std::move(fresh);
    for (Target &target : targets_)
        for (View &view : target.views) {
            view.steps.clear();
            view.file = 0;
            view.directories.clear();
        }
    Now then = now;
    then.steady -= debounces_at_most * options_.debounce;
    touch_all(then, true);
    for (auto &[key, pending] : pending_)
        pending.first = std::min(pending.first, then.steady);
}

void NameWatch::keep_used() {
    std::set<uint64_t> used;
    for (const Target &target : targets_)
        for (const View &view : target.views) {
            for (const auto &[directory, name] : view.steps)
                used.insert(directory);
            for (const auto &[directory, name] : view.directories)
                used.insert(directory);
            used.insert(view.file);
        }
    queue_.keep_only(used);
}

void NameWatch::note(std::string text) {
    if (told_.size() < notes_at_most && told_.insert(text).second) notes_.push_back(std::move(text));
}

} // namespace shale::sys
