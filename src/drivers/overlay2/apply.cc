// SPDX-License-Identifier: Apache-2.0
// The part of an import that needs the parents. Order matters: links first (they add entries), then directories'
// metadata.
#include <fcntl.h>
#include <sys/stat.h>

#include <fmt/format.h>

#include "drivers/overlay2/overlay2.h"
#include "sys/fs.h"

namespace shale::drivers::overlay2 {
namespace {

bool is_whiteout(const struct stat &status) {
    return S_ISCHR(status.st_mode) && status.st_rdev == 0;
}

Result<UniqueFd> reopen_dir(int path_fd) {
    return sys::open_dir(path_fd, ".");
}

std::pair<std::string_view, std::string_view> split_path(std::string_view path) {
    const size_t slash = path.rfind('/');
    if (slash == std::string_view::npos) return {{}, path};
    return {path.substr(0, slash), path.substr(slash + 1)};
}

/// The work of one apply().
class Applier {
public:
    Applier(Driver &driver, const LayerRoot &root, LayerId id, Parents parents, std::string prefix, int diff)
        : driver_(driver), root_(root), id_(id), parents_(parents), prefix_(std::move(prefix)), diff_(diff) {}

    Status links(const std::vector<archive::DeferredLink> &links) {
        for (const auto &link : links)
            TRY(in_context(one_link(link),
                           [&] { return fmt::format("layer {}: hard link \"{}\"", id_.value, link.path); }));
        return {};
    }

    Status implied(const std::vector<std::string> &paths) {
        for (const auto &path : paths)
            TRY(in_context(inherit(path), [&] { return fmt::format("layer {}: directory \"{}\"", id_.value, path); }));
        return {};
    }

    Status root_directory() {
        if (parents_.empty()) return {};
        const UniqueFd from = TRY(root_.open_part(parents_.front(), "diff"));
        return copy_metadata(from.get(), diff_);
    }

private:
    /// What the parents show at `path`; nullopt: nothing.
    Result<std::optional<UniqueFd>> in_parents(std::string_view path) {
        if (view_.root) return find_below(view_.root.get(), path);
        if (opened_.empty()) opened_.resize(parents_.size());
        for (size_t i = 0; i < parents_.size(); ++i) {
            if (!opened_[i]) opened_[i] = TRY(root_.open_part(parents_[i], "diff"));
            Look look = TRY(look_up(opened_[i].get(), path, prefix_));
            if (look.redirected) {
                view_ = TRY(driver_.open_view(parents_.front(), parents_.subspan(1)));
                return find_below(view_.root.get(), path);
            }
            if (look.kind == Look::Kind::found) return std::optional(std::move(look.fd));
            if (look.kind == Look::Kind::hidden) return std::nullopt;
        }
        return std::nullopt;
    }

    /// Metadata of the parents' directory at `path` onto this layer's.
    Status inherit(std::string_view path) {
        Look own = TRY(look_up(diff_, path, prefix_));
        if (own.kind != Look::Kind::found || own.opaque_above) return {};
        const struct stat mine = TRY(sys::stat_at(own.fd.get(), ""));
        if (!S_ISDIR(mine.st_mode)) return {};
        const auto from = TRY(in_parents(path));
        if (!from || !S_ISDIR(TRY(sys::stat_at(from->get(), "")).st_mode)) return {};
        return copy_metadata(from->get(), TRY(reopen_dir(own.fd.get())).get());
    }

    /// The directory at `path` in this layer; missing ones are made as the parents have them.
    Result<UniqueFd> directory(std::string_view path) {
        UniqueFd at = TRY(reopen_dir(diff_));
        for (size_t begin = 0; begin < path.size();) {
            const size_t slash = std::min(path.find('/', begin), path.size());
            const std::string part(path.substr(begin, slash - begin));
            auto next = sys::open_dir(at.get(), part.c_str());
            if (!next && next.error().sys_errno() == ENOENT) {
                TRY(keeping_times(at.get(), [&] { return sys::make_dir(at.get(), part.c_str(), 0755); }));
                next = sys::open_dir(at.get(), part.c_str());
                if (next) TRY(sys::chmod_fd(next->get(), 0755));
                TRY(inherit(path.substr(0, slash)));
            }
            at = TRY(std::move(next));
            begin = slash + 1;
        }
        return at;
    }

    Status one_link(const archive::DeferredLink &link) {
        const auto [to_parent, to_name] = split_path(link.path);
        const UniqueFd to_dir = TRY(directory(to_parent));
        const std::string name(to_name);
        if (const auto there = TRY(sys::stat_if_exists(to_dir.get(), name.c_str()))) {
            if (!is_whiteout(*there)) return {}; // a later entry of the archive took the name
            TRY(keeping_times(to_dir.get(), [&] { return sys::unlink_at(to_dir.get(), name.c_str()); }));
        }
        const Look own = TRY(look_up(diff_, link.target, prefix_));
        if (own.kind != Look::Kind::found) {
            const auto from = TRY(in_parents(link.target));
            if (!from)
                return fail(
                    Errc::InvalidArgument,
                    fmt::format("hard link target \"{}\" exists neither in this layer nor in a parent", link.target));
            if (S_ISDIR(TRY(sys::stat_at(from->get(), "")).st_mode))
                return fail(Errc::InvalidArgument, fmt::format("hard link target \"{}\" is a directory", link.target));
            // Deleted further on in the same archive: the link is the only name left.
            if (own.kind == Look::Kind::hidden || own.opaque_above)
                return keeping_times(to_dir.get(), [&] { return copy_entry(from->get(), to_dir.get(), name.c_str()); });
            const auto [from_parent, from_name] = split_path(link.target);
            const UniqueFd from_dir = TRY(directory(from_parent));
            const std::string copy(from_name);
            TRY(keeping_times(from_dir.get(), [&] { return copy_entry(from->get(), from_dir.get(), copy.c_str()); }));
            return keeping_times(
                to_dir.get(), [&] { return sys::make_link(from_dir.get(), copy.c_str(), to_dir.get(), name.c_str()); });
        }
        const auto [own_parent, own_name] = split_path(link.target);
        const UniqueFd own_dir = TRY(directory(own_parent));
        const std::string target(own_name);
        return keeping_times(to_dir.get(),
                             [&] { return sys::make_link(own_dir.get(), target.c_str(), to_dir.get(), name.c_str()); });
    }

    Driver &driver_;
    const LayerRoot &root_;
    LayerId id_;
    Parents parents_;
    std::string prefix_;
    int diff_;
    std::vector<UniqueFd> opened_; ///< parents' diff directories, as far as needed
    Driver::View view_;
};

} // namespace

Result<Look> look_up(int diff, std::string_view path, const std::string &prefix) {
    Look out;
    UniqueFd at = TRY(sys::open_at(diff, ".", O_PATH | O_DIRECTORY));
    const std::string opaque = prefix + "opaque", redirect = prefix + "redirect", metacopy = prefix + "metacopy";
    for (size_t begin = 0; begin < path.size();) {
        const size_t slash = std::min(path.find('/', begin), path.size());
        const std::string part(path.substr(begin, slash - begin));
        begin = slash + 1;
        if (part.empty() || part == ".") continue;
        if (part == "..") return fail(Errc::InvalidArgument, fmt::format("path \"{}\" is not clean", path));
        auto next = sys::open_at(at.get(), part.c_str(), O_PATH);
        if (!next && next.error().sys_errno() == ENOENT) {
            out.kind = out.opaque_above ? Look::Kind::hidden : Look::Kind::absent;
            return out;
        }
        at = TRY(std::move(next));
        const struct stat status = TRY(sys::stat_at(at.get(), ""));
        const bool last = slash >= path.size();
        if (is_whiteout(status) || (!last && !S_ISDIR(status.st_mode))) {
            out.kind = Look::Kind::hidden;
            return out;
        }
        if (last) {
            if (S_ISREG(status.st_mode))
                out.redirected |= TRY(sys::get_xattr(at.get(), "", metacopy.c_str())).has_value();
            break;
        }
        out.redirected |= TRY(sys::get_xattr(at.get(), "", redirect.c_str())).has_value();
        // "x" marks a directory with xattr whiteouts (Linux 6.7), which is not opaque.
        if (const auto mark = TRY(sys::get_xattr(at.get(), "", opaque.c_str()))) out.opaque_above |= *mark == "y";
    }
    out.kind = Look::Kind::found;
    out.fd = std::move(at);
    return out;
}

Status Overlay2::apply(LayerId id, Parents parents, const archive::ExtractReport &report) {
    TRY(check_depth(id, parents));
    const UniqueFd diff = TRY(root_.open_part(id, "diff"));
    Applier applier(*this, root_, id, parents, config_.prefix(), diff.get());
    TRY(applier.links(report.deferred_links));
    if (!parents.empty()) TRY(applier.implied(report.implied_dirs));
    if (!report.has_root_entry) TRY(applier.root_directory());
    return {};
}

} // namespace shale::drivers::overlay2
