// SPDX-License-Identifier: Apache-2.0
// Hard links. A target that this layer has is linked at once. One that it lacks belongs to the parents: the link is
// kept for the driver's apply step, with the target's path as it reads at this point of the archive, since a later
// entry may take the target's name.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

#include "archive/extract_internal.h"
#include "base/paths.h"

namespace shale::archive {

/// The directory of a hard link's target: one that is open already, or found by the kernel inside the root.
/// -1: not in this layer.
Result<std::pair<int, Ref>> Extractor::link_source_dir() {
    const size_t count = link_parts_.size() - 1;
    size_t same = 0;
    while (same < count && same + 1 < stack_.size() && stack_[same + 1].name == link_parts_[same])
        ++same;
    if (same == count) {
        const int dir = TRY(open_level(same));
        TRY(open_level(stack_.size() - 1)); // may have been closed for the other
        return std::pair{dir, Ref()};
    }
    const std::string path = join({link_parts_.data(), count});
    auto found = tree_.resolve_dir(path);
    if (found && !*found) return std::pair{-1, Ref()};
    if (found) {
        const int dir = (*found)->get();
        return std::pair{dir, std::move(**found)};
    }
    const int error = found.error().sys_errno();
    if (error == ENOTDIR || error == ELOOP)
        return fail(Errc::InvalidArgument,
                    fmt::format("the path of its target \"{}\" does not lead through directories", escaped(path)));
    return std::unexpected(std::move(found).error());
}

/// Where the target in link_parts_ would be, as far as this layer tells: its symlinks are followed inside the root up
/// to the first component that it lacks.
Result<DeferredLink> Extractor::locate_target() {
    const auto bad = [&](std::string_view what) {
        return fail(Errc::InvalidArgument, fmt::format("hard link to \"{}\": {}", escaped(join(link_parts_)), what));
    };
    std::vector<std::string> todo; // last is next
    for (size_t i = link_parts_.size(); i > 0; --i)
        todo.emplace_back(link_parts_[i - 1]);
    std::string real;
    std::optional<size_t> opaque_length; // of the outermost path that hides what the parents have
    Ref dir = TRY(tree_.open_path(root_, ""));
    const auto look = [&]() -> Status {
        if (report_.opaque_dirs == 0 || opaque_length) return {};
        bool opaque = false;
        if (options_.whiteouts == WhiteoutForm::oci_names)
            opaque = TRY(tree_.stat_if_exists(dir.get(), opaque_marker)).has_value();
        else
            opaque = TRY(tree_.get_xattr(dir.get(), "", opaque_key())) == "y";
        if (opaque) opaque_length = real.size();
        return {};
    };
    TRY(look());
    for (int links = 0; !todo.empty();) {
        std::string part = std::move(todo.back());
        todo.pop_back();
        if (part == "..") {
            const size_t slash = real.rfind('/');
            real.resize(slash == std::string::npos ? 0 : slash);
            if (opaque_length && *opaque_length > real.size()) opaque_length.reset();
            auto above = TRY(tree_.resolve_dir(real));
            if (!above) return bad("its directory was replaced while the archive was read");
            dir = std::move(*above);
            continue;
        }
        const auto info = TRY(tree_.stat_if_exists(dir.get(), part.c_str()));
        if (!info || todo.empty()) {
            if (info && !is_whiteout(*info)) return bad("its directory was replaced while the archive was read");
            if (info) return bad("the layer deletes the target");
            if (options_.whiteouts == WhiteoutForm::oci_names && report_.whiteouts > 0 && part.size() < 252 &&
                TRY(tree_.stat_if_exists(dir.get(), (std::string(whiteout_prefix) + part).c_str())))
                return bad("the layer deletes the target");
            if (opaque_length) return bad("the layer deletes the target");
            DeferredLink out;
            for (size_t end = 0; end < real.size(); ++out.stated_depth) {
                end = std::min(real.find('/', end + 1), real.size());
                if (implied_.contains(real.substr(0, end))) break;
            }
            out.target = std::move(real);
            for (todo.push_back(std::move(part)); !todo.empty(); todo.pop_back()) {
                if (!out.target.empty()) out.target += '/';
                out.target += todo.back();
            }
            return out;
        }
        if (is_whiteout(*info)) return bad("the layer deletes the target");
        if (S_ISLNK(info->st_mode)) {
            if (++links > max_symlinks)
                return bad(fmt::format("more than {} symbolic links in its path (a loop?)", max_symlinks));
            const std::string target = TRY(tree_.read_link(dir.get(), part.c_str()));
            if (target.starts_with('/')) {
                real.clear();
                if (opaque_length && *opaque_length > 0) opaque_length.reset();
                dir = TRY(tree_.open_path(root_, ""));
            }
            push_parts(target, todo);
            continue;
        }
        if (!S_ISDIR(info->st_mode)) return bad("its path does not lead through directories");
        dir = TRY(tree_.open_path(dir.get(), part.c_str()));
        if (!real.empty()) real += '/';
        real += part;
        TRY(look());
    }
    return bad("the target is a directory"); // the last symlink led to one; the last name itself is never followed
}

Status Extractor::defer(const std::string &path) {
    DeferredLink link = TRY(locate_target());
    if (link.target == path)
        return fail(Errc::InvalidArgument, fmt::format("hard link to \"{}\": it is its own target", escaped(path)));
    if (const auto first = deferred_.find(link.target); first != deferred_.end()) link = first->second.second;
    link.path = path;
    if (deferred_.size() >= options_.max_deferred_links)
        return fail(Errc::ResourceExhausted,
                    fmt::format("more than {} hard links to files of lower layers", options_.max_deferred_links));
    TRY(book(2 * path.size() + link.target.size() + 128));
    if (TRY(tree_.stat_if_exists(here(), name_.c_str()))) {
        touch();
        (void)TRY(make_room(name_.c_str()));
    }
    (void)TRY(drop_named_whiteout(name_.c_str()));
    deferred_.insert_or_assign(path, std::pair{deferred_count_++, std::move(link)});
    return {};
}

/// The entry's own mode, owner and times are ignored: they would change the target, whatever that is.
Status Extractor::hard_link(const Entry &entry) {
    TRY(split_clean(entry.link, link_parts_));
    const auto bad = [&](std::string_view what) {
        return fail(Errc::InvalidArgument, fmt::format("hard link to \"{}\": {}", escaped(entry.link), what));
    };
    if (entry.link.empty()) return bad("no target");
    if (link_parts_.empty()) return bad("the target is a directory");
    if (std::ranges::any_of(link_parts_, [](auto part) { return part.starts_with(whiteout_prefix); }))
        return bad("the target is a whiteout");
    const std::string path = real_path(name_);
    const std::string target_path = join(link_parts_);
    if (path == target_path) return bad("it is its own target");
    if (target_path.starts_with(path + "/")) return bad("the target lies below the link");
    const std::string target(link_parts_.back());
    const auto source_dir = TRY(link_source_dir());
    const int from = source_dir.first;
    if (from < 0) return defer(path);
    const auto source = TRY(tree_.stat_if_exists(from, target.c_str()));
    if (!source) return defer(path);
    if (S_ISDIR(source->st_mode)) return bad("the target is a directory");
    if (is_whiteout(*source)) return bad("the layer deletes the target");
    touch();
    const auto attempt = [&] { return tree_.make_link(from, target.c_str(), here(), name_.c_str()); };
    Status made = attempt();
    if (!made && made.error().sys_errno() == EEXIST) {
        const auto old = TRY(tree_.stat(here(), name_.c_str()));
        if (old.st_dev == source->st_dev && old.st_ino == source->st_ino) {
            const auto dir_to = TRY(tree_.stat(here(), ""));
            const auto dir_from = TRY(tree_.stat(from, ""));
            if (target == name_ && dir_to.st_ino == dir_from.st_ino) return bad("it is its own target");
            return {}; // two names of one file already
        }
        (void)TRY(make_room(name_.c_str()));
        made = attempt();
    }
    TRY(std::move(made));
    (void)TRY(drop_named_whiteout(name_.c_str()));
    return {};
}

} // namespace shale::archive
