// SPDX-License-Identifier: Apache-2.0
#include <dirent.h>

#include <algorithm>

#include "archive/pack.h"
#include "archive/tree_walk.h"

namespace shale::archive {
namespace {

class Merge {
public:
    Merge(int staged, WhiteoutForm form, int target) : staged_(staged), target_(target), form_(form) {}

    Status run() {
        const auto root = TRY(sys::stat_at(target_.top(), ""));
        TRY(enter_merged({}, TRY(read_xattrs(staged_.top(), ""))));
        while (!frames_.empty()) {
            Frame &frame = frames_.back();
            if (frame.next == frame.items.size()) {
                TRY(leave());
                continue;
            }
            const UpperItem item = std::move(frame.items[frame.next++]);
            TRY(frame.moved ? scrub(item) : merge(item));
        }
        // The root's own metadata is the caller's business: as found.
        return sys::set_times(target_.top(), "", root.st_atim, root.st_mtim);
    }

private:
    struct Frame {
        std::vector<UpperItem> items;
        size_t next = 0;
        bool moved = false; ///< the directory is the target's already and only loses its marks
        std::string raw;    ///< name in the staged tree; "" for the root
        struct stat st{};   ///< of the staged directory as it was
        Xattrs xattrs;
    };

    /// Both stacks stand on the directory pair.
    Status enter_merged(std::string raw, Xattrs xattrs) {
        Frame frame;
        frame.st = TRY(sys::stat_at(staged_.top(), ""));
        auto listing = TRY(list_upper(staged_.top(), form_, overlay_marks(xattrs, form_)));
        if (listing.opaque) {
            for (const auto &entry : TRY(sys::list_dir(target_.top())))
                if (!frames_.empty() || !TRY(is_staged(entry.name)))
                    TRY(sys::remove_tree(target_.top(), entry.name.c_str()));
            if (!listing.opaque_raw.empty()) TRY(sys::unlink_at(staged_.top(), listing.opaque_raw.c_str()));
        }
        frame.raw = std::move(raw);
        frame.xattrs = std::move(xattrs);
        frame.items = std::move(listing.items);
        frames_.push_back(std::move(frame));
        return {};
    }

    /// Whether that entry of the target's root is the staged tree itself.
    Result<bool> is_staged(const std::string &name) {
        const auto entry = TRY(sys::stat_at(target_.top(), name.c_str()));
        const auto staged = TRY(sys::stat_at(staged_.top(), ""));
        return entry.st_dev == staged.st_dev && entry.st_ino == staged.st_ino;
    }

    /// A directory that came over by rename may hold marks, which hide nothing there: they go.
    Status enter_moved(const char *name) {
        TRY(target_.push(name));
        const int dir = target_.top();
        Frame frame;
        frame.moved = true;
        frame.st = TRY(sys::stat_at(dir, ""));
        const Xattrs xattrs = TRY(read_xattrs(dir, ""));
        auto listing = TRY(list_upper(dir, form_, overlay_marks(xattrs, form_)));
        for (const auto &[key, value] : xattrs) {
            if (is_own_mark(key)) TRY(sys::remove_xattr(dir, "", key.c_str()));
        }
        bool touched = !listing.opaque_raw.empty();
        if (touched) TRY(sys::unlink_at(dir, listing.opaque_raw.c_str()));
        for (const auto &item : listing.items) {
            if (!item.whiteout) continue;
            TRY(sys::remove_tree(dir, item.raw.c_str()));
            touched = true;
        }
        if (touched) TRY(sys::set_times(dir, "", frame.st.st_atim, frame.st.st_mtim));
        std::erase_if(listing.items, [](const UpperItem &item) { return item.whiteout || item.type != DT_DIR; });
        frame.items = std::move(listing.items);
        frames_.push_back(std::move(frame));
        return {};
    }

    Status scrub(const UpperItem &item) { return enter_moved(item.raw.c_str()); }

    Status merge(const UpperItem &item) {
        const char *name = item.name.c_str();
        const char *raw = item.raw.c_str();
        if (item.whiteout) {
            TRY(sys::remove_tree(target_.top(), name));
            return sys::remove_tree(staged_.top(), raw);
        }
        const auto existing = TRY(sys::stat_if_exists(target_.top(), name));
        if (item.type == DT_DIR) {
            if (existing && S_ISDIR(existing->st_mode)) {
                TRY(target_.push(name));
                TRY(staged_.push(raw));
                return enter_merged(item.raw, TRY(read_xattrs(staged_.top(), "")));
            }
            if (existing) TRY(sys::unlink_at(target_.top(), name));
            TRY(sys::rename_at(staged_.top(), raw, target_.top(), name));
            return enter_moved(name);
        }
        if (existing && S_ISDIR(existing->st_mode)) TRY(sys::remove_tree(target_.top(), name));
        TRY(sys::rename_at(staged_.top(), raw, target_.top(), name));
        // Two names of one inode: rename(2) then does nothing.
        if (existing && existing->st_nlink > 1) return sys::remove_tree(staged_.top(), raw);
        return {};
    }

    Status leave() {
        Frame frame = std::move(frames_.back());
        frames_.pop_back();
        if (frame.moved) return target_.pop();
        if (frames_.empty()) return {};
        TRY(take_metadata(frame));
        TRY(target_.pop());
        TRY(staged_.pop());
        return sys::unlink_at(staged_.top(), frame.raw.c_str(), AT_REMOVEDIR);
    }

    [[nodiscard]] bool is_own_mark(std::string_view key) const {
        if (form_ == WhiteoutForm::oci_names) return false;
        return key.starts_with(form_ == WhiteoutForm::overlay_user ? "user.overlay." : "trusted.overlay.");
    }

    /// Owner before mode and attributes: chown takes set-id bits and capabilities away. Times last.
    Status take_metadata(const Frame &frame) {
        const int dir = target_.top();
        const auto now = TRY(sys::stat_at(dir, ""));
        if (now.st_uid != frame.st.st_uid || now.st_gid != frame.st.st_gid)
            TRY(sys::chown_at(dir, "", frame.st.st_uid, frame.st.st_gid));
        Xattrs old = TRY(read_xattrs(dir, ""));
        for (const auto &[key, value] : old) {
            const bool stays = std::ranges::binary_search(frame.xattrs, key, {}, &Xattrs::value_type::first);
            // The host's own labels are not a layer's to take away.
            if (!stays && (is_layer_xattr(key) || is_overlay_xattr(key))) TRY(sys::remove_xattr(dir, "", key.c_str()));
        }
        for (const auto &attribute : frame.xattrs) {
            if (is_own_mark(attribute.first) || std::ranges::binary_search(old, attribute)) continue;
            TRY(sys::set_xattr(dir, "", attribute.first.c_str(), attribute.second));
        }
        TRY(sys::chmod_fd(dir, frame.st.st_mode & 07777U));
        return sys::set_times(dir, "", frame.st.st_atim, frame.st.st_mtim);
    }

    DirStack staged_, target_;
    WhiteoutForm form_;
    std::vector<Frame> frames_;
};

} // namespace

Status merge_upper(int staged_dir, WhiteoutForm form, int target_dir) {
    return Merge(staged_dir, form, target_dir).run();
}

} // namespace shale::archive
