// SPDX-License-Identifier: Apache-2.0
// Directories that a layer implies where the parents have a symlink to a directory ("bin/foo" over "bin -> usr/bin"):
// programs that apply layers to the merged tree follow the link, so the layer's entries belong to what it leads to.
// A link that leads nowhere, to no directory or round in a circle is hidden by the implied directory.
#include <sys/stat.h>

#include <cerrno>

#include <fmt/format.h>

#include "archive/pack.h"
#include "drivers/apply.h"
#include "drivers/common.h"
#include "sys/fs.h"

namespace shale::drivers {
namespace {

using archive::opaque_marker;
using archive::whiteout_prefix;
using archive::WhiteoutForm;

constexpr size_t path_max = 4095;
/// Where a directory waits while it is emptied. No extraction makes such a name.
constexpr const char *fold_name = ".wh..wh.fold";

std::string below(const std::string &dir, const std::string &name) {
    return dir.empty() || name.empty() ? dir + name : dir + "/" + name;
}

bool is_whiteout(const struct stat &status) {
    return S_ISCHR(status.st_mode) && status.st_rdev == 0;
}

} // namespace

Status Applier::fold() {
    while (!pending_.empty()) {
        const std::string path = *pending_.begin(); // parents come before children
        const auto target = TRY(in_context(fold_target(path), [&] { return fmt::format("directory \"{}\"", path); }));
        pending_.erase(path);
        if (!target) {
            implied_.insert(path);
            continue;
        }
        TRY(in_context(keep_times(staged_.root(), [&] { return move_tree(path, *target); }),
                       [&] { return fmt::format("directory \"{}\", which is \"{}\"", path, *target); }));
    }
    return {};
}

/// The directory that the implied directory `path` stands for; nullopt: it stands for itself.
Result<std::optional<std::string>> Applier::fold_target(const std::string &path) {
    const Look own = TRY(look_up(staged_, path, form_));
    if (own.kind != Look::Kind::found || own.opaque_above) return std::nullopt;
    if (!S_ISDIR(TRY(staged_.stat(own.at.get(), "")).st_mode)) return std::nullopt;
    const auto lower = TRY(lower_.look(path));
    if (!lower || !S_ISLNK(TRY(sys::stat_at(lower->get(), "")).st_mode)) return std::nullopt;
    auto target = TRY(resolve(path));
    if (target && (*target == path || target->starts_with(path + "/"))) return std::nullopt;
    return target;
}

/// Follows `path` in the merged tree, inside its root. nullopt: it does not lead to a directory.
Result<std::optional<std::string>> Applier::resolve(const std::string &path) {
    std::vector<std::string> todo; // last is next
    push_parts(path, todo);
    std::string real;
    int links = 0;
    for (size_t lookups = 0; !todo.empty();) {
        const std::string part = std::move(todo.back());
        todo.pop_back();
        if (part == "..") {
            real.resize(real.contains('/') ? real.rfind('/') : 0);
            continue;
        }
        const std::string next = below(real, part);
        // A name of a deletion would read as one in the staged tree.
        if (++lookups > max_lookups || next.size() > path_max || part.starts_with(whiteout_prefix)) return std::nullopt;
        const Look own = TRY(look_up(staged_, next, form_));
        if (own.kind == Look::Kind::hidden) return std::nullopt;
        bool in_lower = own.kind == Look::Kind::absent;
        std::optional<UniqueFd> lower;
        if (in_lower) {
            lower = TRY(lower_.look(next));
            if (!lower) return std::nullopt;
        } else if ((pending_.contains(next) || implied_.contains(next)) && !own.opaque_above) {
            // One that stays because its link leads nowhere is no way for another link either.
            lower = TRY(lower_.look(next));
            in_lower = lower && S_ISLNK(TRY(sys::stat_at(lower->get(), "")).st_mode);
        }
        const struct stat status = in_lower ? TRY(sys::stat_at(lower->get(), "")) : TRY(staged_.stat(own.at.get(), ""));
        if (S_ISDIR(status.st_mode)) {
            real = next;
            continue;
        }
        if (!S_ISLNK(status.st_mode) || ++links > max_symlinks) return std::nullopt;
        const std::string target =
            in_lower ? TRY(sys::read_link(lower->get(), "")) : TRY(staged_.read_link(own.at.get(), ""));
        if (target.starts_with('/')) real.clear();
        push_parts(target, todo);
    }
    return real;
}

/// Content of the directory `from` to the directory `to`; entries that are there already stay.
Status Applier::move_tree(const std::string &from, const std::string &to) {
    (void)TRY(make_staged(to));
    const auto [parent, name] = split_path(from);
    const archive::Ref parent_dir = TRY(staged_.open_dirs(parent));
    // Out of the way first: the target may be above it, and hold an entry of its name.
    TRY(keep_times(parent_dir.get(), [&] {
        return staged_.rename(parent_dir.get(), std::string(name).c_str(), staged_.root(), fold_name);
    }));
    for (std::vector<std::string> todo{""}; !todo.empty();) {
        const std::string level = std::move(todo.back());
        todo.pop_back();
        TRY(move_level(level, from, to, todo));
    }
    moved_[from] = to;
    return staged_.remove_tree(staged_.root(), fold_name);
}

/// One directory of the tree, `level` below its top.
Status Applier::move_level(const std::string &level, const std::string &from, const std::string &to,
                           std::vector<std::string> &todo) {
    const archive::Ref source = TRY(staged_.open_dirs(below(fold_name, level)));
    const archive::Ref target = TRY(staged_.open_dirs(below(to, level)));
    return keep_times(target.get(), [&]() -> Status {
        if (form_ != WhiteoutForm::oci_names) {
            const char *key = form_ == WhiteoutForm::overlay_user ? "user.overlay.opaque" : "trusted.overlay.opaque";
            if (TRY(staged_.get_xattr(source.get(), "", key)) == "y")
                TRY(staged_.set_xattr(target.get(), "", key, "y"));
        }
        for (const auto &entry : TRY(staged_.list_dir(source.get()))) {
            bool both_directories = false;
            TRY(move_entry(source.get(), target.get(), entry.name, below(from, below(level, entry.name)),
                           below(to, below(level, entry.name)), both_directories));
            if (both_directories) todo.push_back(below(level, entry.name));
        }
        return {};
    });
}

Status Applier::move_entry(int source, int target, const std::string &raw, const std::string &from,
                           const std::string &to, bool &both_directories) {
    const char *name = raw.c_str();
    const struct stat status = TRY(staged_.stat(source, name));
    const bool by_name = form_ == WhiteoutForm::oci_names;
    if (by_name && raw.starts_with(whiteout_prefix)) {
        if (raw != opaque_marker) return move_deletion(source, target, raw, name + whiteout_prefix.size());
        if (TRY(staged_.stat_if_exists(target, name))) return {};
        return staged_.rename(source, name, target, name);
    }
    if (!by_name && is_whiteout(status)) return move_deletion(source, target, raw, name);
    bool deleted = false;
    auto there = TRY(staged_.stat_if_exists(target, name));
    if (by_name) {
        const std::string marker = std::string(whiteout_prefix) + raw;
        if (marker.size() <= 255 && TRY(staged_.stat_if_exists(target, marker.c_str()))) {
            TRY(staged_.unlink(target, marker.c_str()));
            deleted = true;
        }
    } else if (there && is_whiteout(*there)) {
        TRY(staged_.unlink(target, name));
        there.reset();
        deleted = true;
    }
    if (!there) {
        TRY(staged_.rename(source, name, target, name));
        arrived_.insert(to);
        if (!S_ISDIR(status.st_mode)) return {};
        rename_pending(from, to);
        return deleted ? make_opaque(target, name) : Status{};
    }
    if (!S_ISDIR(there->st_mode) || !S_ISDIR(status.st_mode)) return {};
    both_directories = true;
    const bool states_nothing = pending_.erase(from) > 0;
    if (states_nothing || (!pending_.contains(to) && !implied_.contains(to))) return {};
    pending_.erase(to);
    implied_.erase(to);
    return copy_metadata(staged_, TRY(staged_.open_dir(source, name)).get(), staged_,
                         TRY(staged_.open_dir(target, name)).get());
}

/// A deletion of `name`, in the form in which the tree keeps it (`raw`).
Status Applier::move_deletion(int source, int target, const std::string &raw, const char *name) {
    const auto there = TRY(staged_.stat_if_exists(target, name));
    if (there && form_ != WhiteoutForm::oci_names && is_whiteout(*there)) return {};
    if (there) return S_ISDIR(there->st_mode) ? make_opaque(target, name) : Status{};
    return staged_.rename(source, raw.c_str(), target, raw.c_str()); // in place of the same, at most
}

Status Applier::make_opaque(int dir, const char *name) {
    const archive::Ref self = TRY(staged_.open_dir(dir, name));
    return keep_times(self.get(), [&]() -> Status {
        if (form_ == WhiteoutForm::overlay_trusted)
            return staged_.set_xattr(self.get(), "", "trusted.overlay.opaque", "y");
        if (form_ == WhiteoutForm::overlay_user) return staged_.set_xattr(self.get(), "", "user.overlay.opaque", "y");
        const auto made = staged_.create_file(self.get(), opaque_marker, 0600);
        if (!made && made.error().sys_errno() != EEXIST) return std::unexpected(made.error());
        return {};
    });
}

/// The tree `from` is now at `to`, where nothing was.
void Applier::rename_pending(const std::string &from, const std::string &to) {
    std::vector<std::string> names;
    const auto first = pending_.lower_bound(from + "/");
    const auto last = pending_.lower_bound(from + "0"); // '0' follows '/'
    for (auto it = first; it != last; ++it)
        names.push_back(to + it->substr(from.size()));
    pending_.erase(first, last);
    if (pending_.erase(from) > 0) names.push_back(to);
    pending_.insert(names.begin(), names.end());
}

} // namespace shale::drivers
