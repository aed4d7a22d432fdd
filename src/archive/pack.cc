// SPDX-License-Identifier: Apache-2.0
#include "archive/pack.h"

#include <dirent.h>

#include <optional>
#include <unordered_map>
#include <unordered_set>

#include "archive/diff_walk.h"
#include "archive/pack_walk.h"
#include "archive/tree_walk.h"

namespace shale::archive {
namespace {

/// One tree, in upper form or (without a form) complete.
class TreePack {
public:
    TreePack(int root, std::optional<WhiteoutForm> form, Packer &packer)
        : directories_(root), form_(form), packer_(packer) {}

    Status run() {
        OverlayMarks marks;
        if (form_) marks = TRY(marks_of("the root of the tree", TRY(read_xattrs(directories_.top(), ""))));
        TRY(enter(marks));
        while (!frames_.empty()) {
            Frame &frame = frames_.back();
            if (frame.next < frame.items.size()) {
                const UpperItem item = std::move(frame.items[frame.next++]);
                TRY(visit(item));
                continue;
            }
            frames_.pop_back();
            if (frames_.empty()) break;
            TRY(directories_.pop());
            path_.resize(frames_.back().path_length);
        }
        return {};
    }

private:
    struct Frame {
        std::vector<UpperItem> items;
        size_t next = 0;
        size_t path_length = 0;
    };

    Result<OverlayMarks> marks_of(const std::string &path, const Xattrs &xattrs) const {
        if (!form_ || xattrs.empty()) return OverlayMarks{};
        const OverlayMarks marks = overlay_marks(xattrs, *form_);
        if (marks.redirect || marks.metacopy)
            return fail(Errc::FailedPrecondition,
                        "pack " + quoted(path) + ": overlay's " + (marks.redirect ? "redirect" : "metacopy") +
                            " attribute is set, so the upper directory alone does not hold the change; compare the "
                            "mounted trees instead");
        return marks;
    }

    Status enter(const OverlayMarks &marks) {
        auto listing = form_ ? TRY(list_upper(directories_.top(), *form_, marks)) : TRY(list_plain(directories_.top()));
        if (listing.opaque) TRY(packer_.opaque(path_));
        frames_.push_back({std::move(listing.items), 0, path_.size()});
        return {};
    }

    Status visit(const UpperItem &item) {
        if (item.whiteout) return packer_.whiteout(path_, item.name);
        if (packer_.refuses(path_, item.name)) return {};
        if (item.type == DT_SOCK) {
            packer_.skip_socket();
            return {};
        }
        Source source = TRY(open_source(directories_.top(), item.raw.c_str(), item.type));
        const std::string path = path_ + item.name;
        const OverlayMarks marks = TRY(marks_of(path, source.xattrs));
        TRY(packer_.emit(path, source));
        if (!S_ISDIR(source.st.st_mode)) return {};
        TRY(directories_.push(std::move(source.fd)));
        path_.append(item.name).append("/");
        return enter(marks);
    }

    DirStack directories_;
    std::optional<WhiteoutForm> form_;
    Packer &packer_;
    std::vector<Frame> frames_;
    std::string path_;
};

/// Inodes of the upper tree whose names are not just the names of one lower inode: all names have to be written, or
/// the links would not come out. Looked for beforehand, since a later name may tell about an earlier one.
class LinkGroups {
public:
    LinkGroups(int lower, int upper) : lower_(lower), upper_(upper) {}

    Result<std::unordered_set<InodeKey, InodeHash>> run() {
        TRY(enter(true));
        while (!frames_.empty()) {
            Frame &frame = frames_.back();
            if (frame.next < frame.entries.size()) {
                const sys::DirEntry entry = std::move(frame.entries[frame.next++]);
                TRY(visit(entry, frame.has_lower));
                continue;
            }
            const bool has_lower = frame.has_lower;
            frames_.pop_back();
            if (frames_.empty()) break;
            TRY(upper_.pop());
            if (has_lower) TRY(lower_.pop());
        }
        return std::move(changed_);
    }

private:
    struct Frame {
        std::vector<sys::DirEntry> entries;
        size_t next = 0;
        bool has_lower = false;
    };

    Status enter(bool has_lower) {
        frames_.push_back({TRY(sys::list_dir(upper_.top())), 0, has_lower});
        return {};
    }

    Status visit(const sys::DirEntry &entry, bool has_lower) {
        const char *name = entry.name.c_str();
        if (entry.type != DT_DIR) {
            const auto st = TRY(sys::stat_at(upper_.top(), name));
            if (st.st_nlink < 2 || changed_.contains(key_of(st))) return {};
            std::optional<struct stat> lower;
            if (has_lower) lower = TRY(sys::stat_if_exists(lower_.top(), name));
            if (!lower || seen_.try_emplace(key_of(st), key_of(*lower)).first->second != key_of(*lower))
                changed_.insert(key_of(st));
            return {};
        }
        std::optional<struct stat> lower;
        if (has_lower) lower = TRY(sys::stat_if_exists(lower_.top(), name));
        const bool both = lower && S_ISDIR(lower->st_mode);
        if (both) TRY(lower_.push(name));
        TRY(upper_.push(name));
        return enter(both);
    }

    DirStack lower_, upper_;
    std::vector<Frame> frames_;
    std::unordered_map<InodeKey, InodeKey, InodeHash> seen_;
    std::unordered_set<InodeKey, InodeHash> changed_;
};

class DiffPack final : public DiffVisitor {
public:
    DiffPack(Packer &packer, std::unordered_set<InodeKey, InodeHash> changed_links)
        : packer_(packer), changed_links_(std::move(changed_links)) {}

    Status deleted(const std::string &directory, const std::string &name) override {
        return packer_.whiteout(directory, name);
    }
    Status changed(const std::string &path, Source &upper, bool /*added*/) override {
        return packer_.emit(path, upper);
    }
    bool unchanged_link(const std::string & /*path*/, const struct stat &upper,
                        const struct stat & /*lower*/) override {
        return changed_links_.contains(key_of(upper));
    }
    bool skips(const std::string &directory, const UpperItem &item) override {
        if (item.type != DT_SOCK) return packer_.refuses(directory, item.name);
        packer_.skip_socket();
        return true;
    }

private:
    Packer &packer_;
    std::unordered_set<InodeKey, InodeHash> changed_links_;
};

} // namespace

Result<PackReport> pack_upper(int upper_dir, WhiteoutForm form, const PackOptions &options, const Sink &sink) {
    Packer packer(options, sink);
    TRY(TreePack(upper_dir, form, packer).run());
    return packer.finish();
}

Result<PackReport> pack_tree(int root_dir, const PackOptions &options, const Sink &sink) {
    Packer packer(options, sink);
    TRY(TreePack(root_dir, std::nullopt, packer).run());
    return packer.finish();
}

Result<PackReport> pack_diff(int lower_dir, int upper_dir, const PackOptions &options, const Sink &sink) {
    Packer packer(options, sink);
    DiffPack visitor(packer, TRY(LinkGroups(lower_dir, upper_dir).run()));
    TRY(diff_trees(lower_dir, upper_dir, visitor, options.snapshot));
    return packer.finish();
}

} // namespace shale::archive
