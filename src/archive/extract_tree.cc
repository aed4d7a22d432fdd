// SPDX-License-Identifier: Apache-2.0
// Where an entry goes: names, the stack of open directories, implied parents, replaced entries, whiteouts.
// Symlinks in parent paths are walked here, component by component on descriptors opened with O_NOFOLLOW, and ".."
// pops the stack: the walk cannot leave the root even while someone swaps directories for symlinks.
#include <fmt/format.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cerrno>

#include "archive/extract_internal.h"

namespace shale::archive {
namespace {

constexpr size_t name_max = 255;
constexpr int max_symlinks = 40;          // as the kernel's
constexpr size_t open_levels = 64;        // deeper parents are closed and opened again
constexpr size_t booked_max = 256U << 20; // names of implied and locked directories and deferred links
constexpr std::string_view aufs_prefix = ".wh..wh.";

size_t hash_of(std::string_view name) {
    return std::hash<std::string_view>{}(name) % 65'536;
}

} // namespace

Status split_clean(std::string_view path, std::vector<std::string_view> &out) {
    out.clear();
    while (!path.empty()) {
        const size_t slash = path.find('/');
        const std::string_view part = path.substr(0, slash);
        path.remove_prefix(slash == std::string_view::npos ? path.size() : slash + 1);
        if (part.empty() || part == ".") continue;
        if (part == "..") {
            if (!out.empty()) out.pop_back();
            continue;
        }
        if (part.size() > name_max)
            return fail(Errc::InvalidArgument,
                        fmt::format("a name of {} bytes, the most is {}", part.size(), name_max));
        out.push_back(part);
    }
    return {};
}

std::string join(std::span<const std::string_view> components) {
    std::string out;
    for (auto part : components) {
        if (!out.empty()) out += '/';
        out += part;
    }
    return out;
}

std::string escaped(std::string_view name) {
    std::string out;
    for (char c : name) {
        const auto byte = static_cast<unsigned char>(c);
        if (out.size() > 200) return out + "...";
        if (byte < 0x20 || byte >= 0x7f || c == '"' || c == '\\')
            out += fmt::format("\\x{:02x}", byte);
        else
            out += c;
    }
    return out;
}

std::string Extractor::real_path(std::string_view name) const {
    std::string out;
    for (size_t i = 1; i < stack_.size(); ++i) {
        out += stack_[i].name;
        out += '/';
    }
    out += name;
    return out;
}

Status Extractor::book(size_t bytes) {
    booked_ += bytes;
    if (booked_ > booked_max)
        return fail(Errc::ResourceExhausted,
                    fmt::format("implied directories and deferred links need more than {} bytes of names", booked_max));
    return {};
}

/// Descriptor of a level, opened now if it is not; levels far above are closed in turn.
Result<int> Extractor::open_level(size_t index) {
    if (index == 0) return root_;
    if (stack_[index].fd) return stack_[index].fd.get();
    size_t from = index;
    while (from > 1 && !stack_[from - 1].fd)
        --from;
    for (size_t i = from; i <= index; ++i) {
        const int above = i == 1 ? root_ : stack_[i - 1].fd.get();
        stack_[i].fd = TRY(tree_.open_dir(above, stack_[i].name.c_str()));
        if (i > open_levels) stack_[i - open_levels].fd.reset();
    }
    return stack_[index].fd.get();
}

Status Extractor::leave_top() {
    Level &top = stack_.back();
    const size_t index = stack_.size() - 1;
    if (top.set_times || top.leave_mode) {
        const bool by_fd = index == 0 || top.fd;
        const int dir = by_fd ? here() : TRY(open_level(index - 1));
        const char *name = by_fd ? "" : top.name.c_str();
        if (top.set_times) TRY(tree_.set_times(dir, name, top.atime, top.mtime));
        if (top.leave_mode && uid_ != 0 && index > 0) {
            std::string path = real_path("");
            path.pop_back();
            TRY(book(path.size() + 64));
            locked_.insert_or_assign(std::move(path), *top.leave_mode);
        } else if (top.leave_mode) {
            TRY(tree_.chmod(dir, name, *top.leave_mode));
        }
    }
    stack_.pop_back();
    return {};
}

/// Children first: the way to them is open until then.
Status Extractor::lock() {
    for (auto it = locked_.rbegin(); it != locked_.rend(); ++it) {
        const auto &[path, mode] = *it;
        TRY(tree_.chmod(TRY(tree_.open_dirs(path)).get(), "", mode));
    }
    return {};
}

Status Extractor::leave_to(size_t depth) {
    while (stack_.size() > depth)
        TRY(leave_top());
    return {};
}

/// Makes `parents` the top of the stack, following this layer's symlinks inside the root, creating what is missing.
Status Extractor::enter(std::span<const std::string_view> parents) {
    size_t same = 0;
    while (same < parents.size() && same + 1 < stack_.size() && stack_[same + 1].name == parents[same])
        ++same;
    TRY(leave_to(same + 1));
    if (same < parents.size()) {
        std::vector<std::string> todo; // last is next
        for (size_t i = parents.size(); i > same; --i)
            todo.emplace_back(parents[i - 1]);
        for (int links = 0; !todo.empty();) {
            const std::string part = std::move(todo.back());
            todo.pop_back();
            if (part == "..") {
                if (stack_.size() > 1) TRY(leave_top());
                continue;
            }
            auto target = TRY(step_into(part));
            if (!target) continue;
            if (++links > max_symlinks)
                return fail(Errc::InvalidArgument,
                            fmt::format("more than {} symbolic links in its path (a loop?)", max_symlinks));
            if (target->starts_with('/')) TRY(leave_to(1));
            for (std::string_view rest = *target; !rest.empty();) {
                const size_t slash = rest.rfind('/');
                const std::string_view last = slash == std::string_view::npos ? rest : rest.substr(slash + 1);
                if (!last.empty() && last != ".") todo.emplace_back(last);
                rest = rest.substr(0, slash == std::string_view::npos ? 0 : slash);
            }
        }
    }
    TRY(open_level(stack_.size() - 1));
    return {};
}

/// Goes down into `part`, or returns the target when it is a symlink.
Result<std::optional<std::string>> Extractor::step_into(const std::string &part) {
    // The entry's own path has been looked at; this one may come from a symlink's target, and a directory of such a
    // name would read as a deletion, of ".." too, wherever the tree is walked.
    if (part.starts_with(whiteout_prefix))
        return fail(Errc::InvalidArgument,
                    fmt::format("its path leads through \"{}\", a name that stands for a deletion", part));
    const int dir = TRY(open_level(stack_.size() - 1));
    const char *name = part.c_str();
    auto opened = tree_.open_dir(dir, name);
    std::optional<mode_t> leave_mode;
    if (!opened) {
        const int error = opened.error().sys_errno();
        if (error == ENAMETOOLONG) return fail(Errc::InvalidArgument, "a name in its path is too long");
        if (error == ENOENT) {
            TRY(make_implied(part, false));
            return std::nullopt;
        }
        if (error != ENOTDIR && error != ELOOP && error != EACCES) return std::unexpected(std::move(opened).error());
        const auto info = TRY(tree_.stat(dir, name));
        if (S_ISLNK(info.st_mode)) return TRY(tree_.read_link(dir, name));
        if (is_whiteout(info)) {
            touch();
            (void)TRY(make_room(name));
            TRY(make_implied(part, true));
            return std::nullopt;
        }
        if (!S_ISDIR(info.st_mode)) {
            parent_is_no_dir_ = true;
            return fail(Errc::InvalidArgument,
                        fmt::format("its parent \"{}\" is not a directory", escaped(real_path(part))));
        }
        if (error != EACCES) return std::unexpected(std::move(opened).error());
        // A mode that locks out its owner, who is us: opened up while we work in it.
        leave_mode = info.st_mode & 07777U;
        TRY(tree_.chmod(dir, name, *leave_mode | 0700U));
        opened = TRY(tree_.open_dir(dir, name));
    }
    const auto info = TRY(tree_.stat(opened->get(), ""));
    if (!leave_mode && (info.st_mode & 0700U) != 0700 && uid_ != 0) {
        leave_mode = info.st_mode & 07777U;
        TRY(tree_.chmod(opened->get(), "", *leave_mode | 0700U));
    }
    Level level;
    level.name = part;
    level.fd = std::move(*opened);
    level.restore_times = true;
    level.setgid = (info.st_mode & S_ISGID) != 0;
    level.leave_mode = leave_mode;
    level.atime = info.st_atim;
    level.mtime = info.st_mtim;
    stack_.push_back(std::move(level));
    if (stack_.size() > open_levels + 1) stack_[stack_.size() - 1 - open_levels].fd.reset();
    return std::nullopt;
}

/// `deleted`: the layer deleted what the parents have there, so nothing of that counts for the new directory.
Status Extractor::make_implied(const std::string &part, bool deleted) {
    const int dir = here();
    const char *name = part.c_str();
    const bool setgid = stack_.back().setgid;
    if (TRY(drop_named_whiteout(name))) deleted = true;
    touch();
    TRY(tree_.make_dir(dir, name, 0755));
    ++report_.inodes;
    if (options_.owners == OwnerPolicy::keep) {
        // Whose root is not mapped keeps the caller's ids; the driver mends implied directories anyway.
        auto owner = owner_of(0, 0);
        if (owner && (owner->differs || setgid)) TRY(tree_.chown(dir, name, owner->uid, owner->gid));
    }
    if ((umask_ & 0755U) != 0 || setgid || inherits_acl_) TRY(tree_.chmod(dir, name, 0755));
    std::string path = real_path(part);
    TRY(book(path.size() + 64));
    deferred_.erase(path);
    if (!deleted) implied_.insert(std::move(path));
    Level level;
    level.name = part;
    level.fd = TRY(tree_.open_dir(dir, name));
    stack_.push_back(std::move(level));
    if (stack_.size() > open_levels + 1) stack_[stack_.size() - 1 - open_levels].fd.reset();
    if (deleted) TRY(make_opaque(here()));
    return {};
}

bool Extractor::is_whiteout(const struct stat &info) const {
    return options_.whiteouts != WhiteoutForm::oci_names && S_ISCHR(info.st_mode) && info.st_rdev == makedev(0, 0);
}

/// Removes what has the name `name`; true when that was a whiteout.
Result<bool> Extractor::make_room(const char *name) {
    const auto info = TRY(tree_.stat(here(), name));
    const auto gone = [this] { report_.inodes -= report_.inodes > 0 ? 1 : 0; };
    if (is_whiteout(info)) {
        TRY(tree_.unlink(here(), name));
        gone();
        report_.whiteouts -= report_.whiteouts > 0 ? 1 : 0;
        return true;
    }
    if (S_ISDIR(info.st_mode)) {
        TRY(tree_.remove_tree(here(), name, gone));
        forget_below(real_path(name), true);
    } else {
        TRY(tree_.unlink(here(), name));
        if (info.st_nlink <= 1) gone();
    }
    return false;
}

void Extractor::forget_below(const std::string &path, bool itself) {
    const std::string from = path + "/";
    const std::string to = path + "0"; // '0' follows '/'
    implied_.erase(implied_.lower_bound(from), implied_.lower_bound(to));
    deferred_.erase(deferred_.lower_bound(from), deferred_.lower_bound(to));
    locked_.erase(locked_.lower_bound(from), locked_.lower_bound(to));
    if (!itself) return;
    implied_.erase(path);
    locked_.erase(path);
}

/// oci_names: an entry takes the place of its whiteout ".wh.NAME".
Result<bool> Extractor::drop_named_whiteout(const char *name) {
    if (options_.whiteouts != WhiteoutForm::oci_names || report_.whiteouts == 0) return false;
    if (!whiteout_names_.test(hash_of(name))) return false;
    const std::string marker = std::string(whiteout_prefix) + name;
    if (marker.size() > name_max) return false;
    if (auto removed = tree_.unlink(here(), marker.c_str()); !removed) {
        if (removed.error().sys_errno() == ENOENT) return false;
        return std::unexpected(std::move(removed).error());
    }
    --report_.whiteouts;
    report_.inodes -= report_.inodes > 0 ? 1 : 0;
    return true;
}

/// Names that begin with ".wh.": whiteouts, opaque markers, and what AUFS left behind.
Status Extractor::special(const Entry &entry) {
    const std::string_view last = parts_.back();
    for (auto part : parts_) {
        if (part.starts_with(aufs_prefix) && !(part == opaque_marker && part.data() == last.data())) {
            warn(fmt::format("AUFS metadata \"{}\" left out", escaped(entry.path)));
            return {};
        }
        if (part.starts_with(whiteout_prefix) && part.data() != last.data())
            return fail(Errc::InvalidArgument, "a whiteout is used as a directory");
    }
    // AUFS wrote whiteouts as hard links to one empty file.
    if (entry.type != EntryType::file && entry.type != EntryType::hard_link)
        return fail(Errc::InvalidArgument, "a whiteout must be a regular file");
    const std::span<const std::string_view> parents(parts_.data(), parts_.size() - 1);
    const bool opaque = last == opaque_marker;
    const std::string name(last.substr(whiteout_prefix.size()));
    if (!opaque && (name.empty() || name == "." || name == ".."))
        return fail(Errc::InvalidArgument, fmt::format("a whiteout of \"{}\"", name));
    parent_is_no_dir_ = false;
    if (auto entered = enter(parents); !entered) {
        // umoci states what was in a directory as deleted, also where this layer has a file in the directory's place:
        // that file hides it all.
        if (parent_is_no_dir_) return {};
        return entered;
    }
    if (opaque) return make_opaque(here());
    return whiteout(name.c_str());
}

/// A whiteout hides what parents of this layer have; an entry of this layer stays.
Status Extractor::whiteout(const char *name) {
    if (!deferred_.empty() && deferred_.contains(real_path(name))) return {};
    if (options_.whiteouts == WhiteoutForm::oci_names) {
        if (const auto info = TRY(tree_.stat_if_exists(here(), name)); info)
            return S_ISDIR(info->st_mode) ? make_opaque_child(name) : Status{};
        const std::string marker = std::string(whiteout_prefix) + name;
        touch();
        auto made = tree_.create_file(here(), marker.c_str(), 0600);
        if (!made) {
            if (made.error().sys_errno() == EEXIST) return {};
            return std::unexpected(std::move(made).error());
        }
        whiteout_names_.set(hash_of(name));
    } else {
        touch();
        if (auto made = tree_.make_node(here(), name, S_IFCHR, makedev(0, 0)); !made) {
            if (made.error().sys_errno() != EEXIST) return made;
            const auto info = TRY(tree_.stat(here(), name));
            return S_ISDIR(info.st_mode) ? make_opaque_child(name) : Status{};
        }
    }
    ++report_.whiteouts;
    ++report_.inodes;
    return {};
}

Status Extractor::make_opaque(int dir) {
    if (options_.whiteouts == WhiteoutForm::oci_names) {
        auto made = tree_.create_file(dir, opaque_marker, 0600);
        if (!made) {
            if (made.error().sys_errno() == EEXIST) return {};
            return std::unexpected(std::move(made).error());
        }
        if (dir == here()) touch();
        ++report_.inodes;
    } else {
        if (TRY(tree_.get_xattr(dir, "", opaque_key()))) return {};
        TRY(tree_.set_xattr(dir, "", opaque_key(), "y"));
    }
    ++report_.opaque_dirs;
    return {};
}

/// As make_opaque for a child of the current directory that is not on the stack and that the layer deletes.
Status Extractor::make_opaque_child(const char *name) {
    implied_.erase(real_path(name));
    const std::string_view part(name);
    TRY(step_into(std::string(part)));
    TRY(make_opaque(here()));
    return leave_top();
}

} // namespace shale::archive
