// SPDX-License-Identifier: Apache-2.0
#include "archive/pack.h"

#include <dirent.h>

#include <optional>
#include <unordered_map>

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

class DiffPack final : public DiffVisitor {
public:
    explicit DiffPack(Packer &packer) : packer_(packer) {}

    Status deleted(const std::string &directory, const std::string &name) override {
        return packer_.whiteout(directory, name);
    }

    Status changed(const std::string &path, Source &upper, bool /*added*/) override {
        if (!S_ISDIR(upper.st.st_mode) && upper.st.st_nlink > 1 && packer_.written(upper.st) == nullptr) {
            // The lower tree's inode of that name is not this one once the layer is applied: an unchanged first
            // name has to come along, to be linked to.
            auto first = unchanged_.find(key_of(upper.st));
            if (first != unchanged_.end()) TRY(packer_.emit(first->second.path, upper));
        }
        return packer_.emit(path, upper);
    }

    bool unchanged_link(const std::string &path, const struct stat &upper, const struct stat &lower) override {
        if (packer_.written(upper) != nullptr) return true;
        const auto [it, is_first] = unchanged_.try_emplace(key_of(upper), First{path, key_of(lower)});
        return !is_first && it->second.lower != key_of(lower);
    }

    bool skips(const std::string &directory, const UpperItem &item) override {
        if (item.type != DT_SOCK) return packer_.refuses(directory, item.name);
        packer_.skip_socket();
        return true;
    }

private:
    struct First {
        std::string path;
        InodeKey lower;
    };
    Packer &packer_;
    std::unordered_map<InodeKey, First, InodeHash> unchanged_;
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
    DiffPack visitor(packer);
    TRY(diff_trees(lower_dir, upper_dir, visitor));
    return packer.finish();
}

} // namespace shale::archive
