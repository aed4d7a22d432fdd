// SPDX-License-Identifier: Apache-2.0
#include "drivers/apply.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

#include <fmt/format.h>

#include "drivers/common.h"
#include "sys/fs.h"

namespace shale::drivers {
namespace {

using archive::WhiteoutForm;

constexpr size_t name_max = 255;

} // namespace

Result<Look> look_up(archive::Tree &tree, std::string_view path, WhiteoutForm form) {
    Look out;
    const bool by_name = form == WhiteoutForm::oci_names;
    const std::string prefix = form == WhiteoutForm::overlay_user ? "user.overlay." : "trusted.overlay.";
    const std::string opaque = prefix + "opaque", redirect = prefix + "redirect", metacopy = prefix + "metacopy";
    archive::Ref at = TRY(tree.open_path(tree.root(), ""));
    for (size_t begin = 0; begin < path.size();) {
        const size_t slash = std::min(path.find('/', begin), path.size());
        const std::string part(path.substr(begin, slash - begin));
        begin = slash + 1;
        if (part.empty() || part == ".") continue;
        if (part == "..") return fail(Errc::InvalidArgument, fmt::format("path \"{}\" is not clean", path));
        if (by_name) {
            if (TRY(tree.stat_if_exists(at.get(), ".wh..wh..opq"))) out.opaque_above = true;
            if (part.size() + 4 <= name_max && TRY(tree.stat_if_exists(at.get(), (".wh." + part).c_str()))) {
                out.kind = Look::Kind::hidden;
                return out;
            }
        }
        auto next = tree.open_path(at.get(), part.c_str());
        if (!next && next.error().sys_errno() == ENOENT) {
            out.kind = out.opaque_above ? Look::Kind::hidden : Look::Kind::absent;
            return out;
        }
        at = TRY(std::move(next));
        const struct stat status = TRY(tree.stat(at.get(), ""));
        const bool last = slash >= path.size();
        const bool whiteout = !by_name && S_ISCHR(status.st_mode) && status.st_rdev == 0;
        if (whiteout || (!last && !S_ISDIR(status.st_mode))) {
            out.kind = Look::Kind::hidden;
            return out;
        }
        if (last) {
            if (!by_name && S_ISREG(status.st_mode))
                out.redirected |= TRY(tree.get_xattr(at.get(), "", metacopy.c_str())).has_value();
            break;
        }
        if (by_name) continue;
        out.redirected |= TRY(tree.get_xattr(at.get(), "", redirect.c_str())).has_value();
        // "x" marks a directory with xattr whiteouts (Linux 6.7), which is not opaque.
        if (const auto mark = TRY(tree.get_xattr(at.get(), "", opaque.c_str()))) out.opaque_above |= *mark == "y";
    }
    out.kind = Look::Kind::found;
    out.at = std::move(at);
    return out;
}

Status Applier::run(const archive::ExtractReport &report) {
    pending_.insert(report.implied_dirs.begin(), report.implied_dirs.end());
    TRY(fold());
    for (const auto &one : report.deferred_links)
        link_names_.insert(moved_path(one.path));
    for (const auto &one : report.deferred_links)
        TRY(in_context(link(one), [&] { return fmt::format("hard link \"{}\"", one.path); }));
    for (const auto &path : implied_)
        TRY(in_context(inherit(path), [&] { return fmt::format("directory \"{}\"", path); }));
    return {};
}

/// The directory at `path`; missing ones are made and count as implied.
Result<archive::Ref> Applier::make_staged(std::string_view path) {
    archive::Ref at = TRY(staged_.open_dir(staged_.root(), ""));
    for (size_t begin = 0; begin < path.size();) {
        const size_t slash = std::min(path.find('/', begin), path.size());
        const std::string part(path.substr(begin, slash - begin));
        auto next = staged_.open_dir(at.get(), part.c_str());
        if (!next && next.error().sys_errno() == ENOENT) {
            TRY(keep_times(at.get(), [&] { return staged_.make_dir(at.get(), part.c_str(), 0755); }));
            next = staged_.open_dir(at.get(), part.c_str());
            if (next) TRY(staged_.chmod(next->get(), "", 0755));
            implied_.emplace(path.substr(0, slash));
        }
        at = TRY(std::move(next));
        begin = slash + 1;
    }
    return at;
}

/// Where folding has put what the archive has at `path`.
std::string Applier::moved_path(std::string path) const {
    if (moved_.empty()) return path;
    for (size_t slash = path.find('/'); slash != std::string::npos;) {
        const auto moved = moved_.find(path.substr(0, slash));
        if (moved == moved_.end()) {
            slash = path.find('/', slash + 1);
            continue;
        }
        // The new place is a directory for good: only what is below it may have moved once more.
        const std::string &to = moved->second;
        path.replace(0, to.empty() ? slash + 1 : slash, to);
        slash = path.find('/', to.empty() ? 0 : to.size() + 1);
    }
    return path;
}

bool Applier::has_arrived(const std::string &path) const {
    if (arrived_.empty()) return false;
    for (size_t slash = path.find('/'); slash != std::string::npos; slash = path.find('/', slash + 1))
        if (arrived_.contains(path.substr(0, slash))) return true;
    return arrived_.contains(path);
}

/// The target's path in the parents, symlinks on the way resolved inside their root. What they lack is taken as
/// written.
Result<std::string> Applier::resolve_below(const archive::DeferredLink &link) {
    std::vector<std::string> todo; // last is next
    push_parts(link.target, todo);
    std::string real;
    const auto go = [&](const std::string &part) {
        if (part == "..") {
            real.resize(real.contains('/') ? real.rfind('/') : 0);
            return;
        }
        if (!real.empty()) real += '/';
        real += part;
    };
    int links = 0;
    bool missing = false;
    for (size_t lookups = 0; !todo.empty();) {
        const std::string part = std::move(todo.back());
        todo.pop_back();
        const size_t length = real.size();
        go(part);
        if (part == ".." || todo.empty() || missing) continue; // the last name itself is never followed
        if (++lookups > max_lookups) return fail(Errc::InvalidArgument, "the path of its target is too long");
        const auto at = TRY(lower_.look(real));
        if (!at) {
            missing = true;
            continue;
        }
        if (!S_ISLNK(TRY(sys::stat_at(at->get(), "")).st_mode)) continue;
        // A directory of the layer has taken the link's place.
        if (links == 0 && static_cast<size_t>(std::ranges::count(real, '/')) < link.stated_depth) continue;
        if (++links > max_symlinks)
            return fail(Errc::InvalidArgument,
                        fmt::format("more than {} symbolic links in the path of its target (a loop?)", max_symlinks));
        const std::string to = TRY(sys::read_link(at->get(), ""));
        real.resize(to.starts_with('/') ? 0 : length);
        push_parts(to, todo);
    }
    return real;
}

/// Where the layer wrote to the target under another name (by way of the parents' symlinks) the layer's file is meant:
/// the order of the two is not known any more, and archives have a link after its target.
Result<Applier::Found> Applier::find_target(const archive::DeferredLink &link) {
    Found out;
    out.path = link.target;
    const auto in_layer = [&]() -> Result<bool> {
        const Look own = TRY(look_up(staged_, out.path, form_));
        if (own.kind != Look::Kind::found || S_ISDIR(TRY(staged_.stat(own.at.get(), "")).st_mode)) return false;
        out.own = true;
        return true;
    };
    const bool clean = !("/" + link.target + "/").contains("/../");
    if (clean && has_arrived(out.path) && TRY(in_layer())) return out;
    auto from = clean ? TRY(lower_.look(out.path)) : std::nullopt;
    if (!from) {
        out.path = TRY(resolve_below(link));
        // The parents' symlinks led to a place that the layer itself writes to.
        if (out.path != link.target && TRY(in_layer())) return out;
        from = TRY(lower_.look(out.path));
    }
    if (!from)
        return fail(Errc::InvalidArgument,
                    fmt::format("hard link target \"{}\" exists neither in this layer nor in a parent", link.target));
    if (S_ISDIR(TRY(sys::stat_at(from->get(), "")).st_mode))
        return fail(Errc::InvalidArgument, fmt::format("hard link target \"{}\" is a directory", link.target));
    out.fd = std::move(*from);
    return out;
}

Status Applier::link_from(const std::string &path, int to_dir, const char *name) {
    const auto [parent, last] = split_path(path);
    const archive::Ref from_dir = TRY(staged_.open_dirs(parent));
    const std::string from(last);
    auto made = staged_.make_link(from_dir.get(), from.c_str(), to_dir, name);
    if (made || made.error().sys_errno() != EMLINK) return made;
    // As many names as the file system allows (so it is one of the host): a copy begins the next group.
    return copy_entry(TRY(staged_.open_path(from_dir.get(), from.c_str())).get(), to_dir, name);
}

Status Applier::link(const archive::DeferredLink &link) {
    const std::string path = moved_path(link.path);
    const Found target = TRY(find_target(link));
    if (target.path == path) return {}; // its own target, by way of a symlink of the parents
    const auto [to_parent, to_name] = split_path(path);
    const archive::Ref to_dir = TRY(make_staged(to_parent));
    const std::string name(to_name);
    if (path != link.path) arrived_.insert(path);
    return keep_times(to_dir.get(), [&]() -> Status {
        if (const auto there = TRY(staged_.stat_if_exists(to_dir.get(), name.c_str()))) {
            const bool whiteout = form_ != WhiteoutForm::oci_names && S_ISCHR(there->st_mode) && there->st_rdev == 0;
            if (!whiteout) return {}; // an entry of the layer that names this place itself
            TRY(staged_.unlink(to_dir.get(), name.c_str()));
        }
        if (form_ == WhiteoutForm::oci_names && name.size() + 4 <= name_max)
            TRY(staged_.remove_tree(to_dir.get(), (".wh." + name).c_str()));
        if (target.own) return link_from(target.path, to_dir.get(), name.c_str());
        if (const auto home = homes_.find(target.path); home != homes_.end())
            return link_from(home->second, to_dir.get(), name.c_str());
        const Look own = TRY(look_up(staged_, target.path, form_));
        if (!lower_.copies() || own.kind != Look::Kind::absent || link_names_.contains(target.path)) {
            homes_.emplace(target.path, path);
            return lower_.give(target.path, target.fd.get(), to_dir.get(), name.c_str());
        }
        const auto [parent, last] = split_path(target.path);
        const archive::Ref dir = TRY(make_staged(parent));
        TRY(keep_times(dir.get(), [&] {
            return lower_.give(target.path, target.fd.get(), dir.get(), std::string(last).c_str());
        }));
        homes_.emplace(target.path, target.path);
        return link_from(target.path, to_dir.get(), name.c_str());
    });
}

/// Metadata of the parents' directory at `path` onto this layer's.
Status Applier::inherit(const std::string &path) {
    const Look own = TRY(look_up(staged_, path, form_));
    if (own.kind != Look::Kind::found || own.opaque_above) return {};
    if (!S_ISDIR(TRY(staged_.stat(own.at.get(), "")).st_mode)) return {};
    const auto from = TRY(lower_.look(path));
    if (!from || !S_ISDIR(TRY(sys::stat_at(from->get(), "")).st_mode)) return {};
    archive::DirectoryTree parents(-1);
    return copy_metadata(parents, from->get(), staged_, TRY(staged_.open_dir(own.at.get(), "")).get());
}

/// Runs `body`; the staged directory's own times are as before afterwards.
Status Applier::keep_times(int dir, const std::function<Status()> &body) {
    const struct stat before = TRY(staged_.stat(dir, ""));
    TRY(body());
    return staged_.set_times(dir, "", before.st_atim, before.st_mtim);
}

} // namespace shale::drivers
