// SPDX-License-Identifier: Apache-2.0
#include <dirent.h>

#include <unordered_map>

#include "archive/pack.h"
#include "archive/pack_walk.h"
#include "archive/tree_walk.h"

namespace shale::archive {
namespace {

class TreeCopy {
public:
    TreeCopy(int from, int to, CopyFiles files) : from_(from), to_(to), to_root_(to), files_(files) {}

    Result<CopyReport> run() {
        Source root;
        root.st = TRY(sys::stat_at(from_.top(), ""));
        root.xattrs = TRY(read_xattrs(from_.top(), ""));
        TRY(enter(std::move(root)));
        while (!frames_.empty()) {
            Frame &frame = frames_.back();
            if (frame.next < frame.items.size()) {
                const UpperItem item = std::move(frame.items[frame.next++]);
                TRY(in_context(copy(item), [&] { return "copy " + quoted(path_ + item.raw); }));
                continue;
            }
            TRY(set_metadata(to_.top(), "", frame.self)); // times: after the children
            frames_.pop_back();
            if (frames_.empty()) break;
            TRY(from_.pop());
            TRY(to_.pop());
            path_.resize(frames_.back().path_length);
        }
        return report_;
    }

private:
    struct Frame {
        std::vector<UpperItem> items;
        size_t next = 0;
        size_t path_length = 0;
        Source self;
    };

    Status enter(Source self) {
        self.fd.reset();
        auto listing = TRY(list_plain(from_.top()));
        frames_.push_back({std::move(listing.items), 0, path_.size(), std::move(self)});
        return {};
    }

    Status copy(const UpperItem &item) {
        if (item.type == DT_SOCK) return {};
        const char *name = item.raw.c_str();
        ++report_.entries;
        if (files_ == CopyFiles::links && item.type != DT_DIR) {
            auto linked = sys::make_link(from_.top(), name, to_.top(), name);
            if (linked) return {};
            if (linked.error().sys_errno() != EMLINK) return linked;
        }
        Source source = TRY(open_source(from_.top(), name, item.type));
        const struct stat &st = source.st;
        if (S_ISDIR(st.st_mode)) {
            TRY(sys::make_dir(to_.top(), name, S_IRWXU));
            TRY(to_.push(name));
            TRY(from_.push(std::move(source.fd)));
            path_.append(item.raw).append("/");
            return enter(std::move(source));
        }
        if (st.st_nlink > 1) {
            const auto [it, is_first] = links_.try_emplace(key_of(st), path_ + item.raw);
            if (!is_first && TRY(link(it->second, name))) return {};
            it->second = path_ + item.raw;
        }
        if (S_ISREG(st.st_mode)) return copy_file(name, source);
        if (S_ISLNK(st.st_mode)) {
            TRY(sys::make_symlink(TRY(sys::read_link(from_.top(), name)), to_.top(), name));
        } else {
            TRY(sys::make_node(to_.top(), name, (st.st_mode & S_IFMT) | S_IRUSR | S_IWUSR, st.st_rdev));
        }
        return set_metadata(to_.top(), name, source);
    }

    /// False: the inode has all the names its file system allows; a copy starts the next group.
    Result<bool> link(const std::string &first, const char *name) {
        UniqueFd parent;
        std::string rest = first;
        // A path for linkat ends at PATH_MAX; a deeper one is walked.
        while (rest.size() > 3000) {
            const size_t slash = rest.find('/');
            parent = TRY(sys::open_dir(parent ? parent.get() : to_root_, rest.substr(0, slash).c_str()));
            rest.erase(0, slash + 1);
        }
        auto linked = sys::make_link(parent ? parent.get() : to_root_, rest.c_str(), to_.top(), name);
        if (linked) return true;
        if (linked.error().sys_errno() == EMLINK) return false;
        return std::unexpected(std::move(linked).error());
    }

    Status copy_file(const char *name, const Source &source) {
        UniqueFd out = TRY(sys::open_at(to_.top(), name, O_WRONLY | O_CREAT | O_EXCL, S_IRUSR | S_IWUSR));
        const auto size = static_cast<uint64_t>(source.st.st_size);
        if (size > 0) {
            const auto method = TRY(sys::copy_file_data(source.fd.get(), out.get(), size));
            report_.bytes += size;
            if (method == sys::CopyMethod::reflink) report_.reflinked_bytes += size;
        }
        return set_metadata(out.get(), "", source);
    }

    /// Owner before attributes and mode: chown takes capabilities and set-id bits away. Times last.
    Status set_metadata(int dir, const char *name, const Source &source) {
        const struct stat &st = source.st;
        TRY(sys::chown_at(dir, name, st.st_uid, st.st_gid));
        for (const auto &[key, value] : source.xattrs) {
            // Labels and measurements are the host's to give to the copy; overlay's marks are part of a tree as it
            // lies.
            if (!is_layer_xattr(key) && !is_overlay_xattr(key)) continue;
            auto set = sys::set_xattr(dir, name, key.c_str(), value);
            if (set) continue;
            const int error = set.error().sys_errno();
            const bool privileged = key.starts_with("trusted.") || key.starts_with("security.");
            if (privileged && (error == EPERM || error == EOPNOTSUPP)) continue;
            return set;
        }
        if (!S_ISLNK(st.st_mode)) {
            if (*name == '\0') {
                TRY(sys::chmod_fd(dir, st.st_mode & 07777U));
            } else {
                TRY(sys::chmod_at(dir, name, st.st_mode & 07777U));
            }
        }
        return sys::set_times(dir, name, st.st_atim, st.st_mtim);
    }

    DirStack from_, to_;
    int to_root_;
    CopyFiles files_;
    std::vector<Frame> frames_;
    std::string path_;
    std::unordered_map<InodeKey, std::string, InodeHash> links_;
    CopyReport report_;
};

} // namespace

Result<CopyReport> copy_tree(int from_dir, int to_dir, CopyFiles files) {
    return TreeCopy(from_dir, to_dir, files).run();
}

} // namespace shale::archive
