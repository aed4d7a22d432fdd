// SPDX-License-Identifier: Apache-2.0
#include "archive/diff_walk.h"

#include <dirent.h>

#include <algorithm>
#include <cstring>

namespace shale::archive {
namespace {

bool same_time(const timespec &a, const timespec &b) {
    return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

bool same_stat(const struct stat &a, const struct stat &b) {
    if (a.st_mode != b.st_mode || a.st_uid != b.st_uid || a.st_gid != b.st_gid || !same_time(a.st_mtim, b.st_mtim))
        return false;
    if (S_ISDIR(a.st_mode)) return true;
    // Another number of names means that the group of hard links has changed: it is written anew.
    if (a.st_nlink != b.st_nlink) return false;
    if (S_ISREG(a.st_mode) && a.st_size != b.st_size) return false;
    return (!S_ISCHR(a.st_mode) && !S_ISBLK(a.st_mode)) || a.st_rdev == b.st_rdev;
}

bool same_xattrs(const Xattrs &a, const Xattrs &b) {
    auto next = [](const Xattrs &list, size_t at) {
        while (at < list.size() && !is_layer_xattr(list[at].first))
            ++at;
        return at;
    };
    size_t i = next(a, 0);
    size_t j = next(b, 0);
    for (; i < a.size() && j < b.size(); i = next(a, i + 1), j = next(b, j + 1)) {
        if (a[i] != b[j]) return false;
    }
    return i == a.size() && j == b.size();
}

class DiffWalk {
public:
    DiffWalk(int lower, int upper, DiffVisitor &visitor, bool snapshot)
        : lower_(lower), upper_(upper), visitor_(visitor), snapshot_(snapshot) {}

    Status run() {
        TRY(enter({}, true));
        frames_.back().reported = true; // the root has no entry
        while (!frames_.empty()) {
            Frame &frame = frames_.back();
            const bool more_lower = frame.next_lower < frame.lower.size();
            const bool more_upper = frame.next_upper < frame.upper.size();
            if (!more_lower && !more_upper) {
                TRY(leave());
                continue;
            }
            int order = !more_lower ? 1 : -1;
            if (more_lower && more_upper)
                order = frame.lower[frame.next_lower].name.compare(frame.upper[frame.next_upper].name);
            if (order < 0) {
                const std::string name = std::move(frame.lower[frame.next_lower++].name);
                TRY(report_parents());
                TRY(visitor_.deleted(path_, name));
                continue;
            }
            const UpperItem item = std::move(frame.upper[frame.next_upper++]);
            if (order == 0) {
                ++frame.next_lower;
                TRY(compare(item));
            } else {
                TRY(take(item, true));
            }
        }
        return {};
    }

private:
    struct Frame {
        std::vector<UpperItem> lower, upper;
        size_t next_lower = 0, next_upper = 0;
        size_t path_length = 0; ///< of the path up to this directory, with its slash
        bool has_lower = false, reported = false;
        Source self;
    };

    Status enter(Source self, bool has_lower) {
        Frame frame;
        frame.self = std::move(self);
        frame.has_lower = has_lower;
        frame.path_length = path_.size();
        frame.upper = TRY(list_plain(upper_.top())).items;
        std::erase_if(frame.upper, [&](const UpperItem &item) { return visitor_.skips(path_, item); });
        if (has_lower) {
            frame.lower = TRY(list_plain(lower_.top())).items;
            std::erase_if(frame.lower, [](const UpperItem &item) { return item.type == DT_SOCK; });
        }
        frames_.push_back(std::move(frame));
        return {};
    }

    Status leave() {
        const bool has_lower = frames_.back().has_lower;
        frames_.pop_back();
        if (frames_.empty()) return {};
        TRY(upper_.pop());
        if (has_lower) TRY(lower_.pop());
        path_.resize(frames_.back().path_length);
        return {};
    }

    Status report_parents() {
        if (frames_.back().reported) return {};
        for (Frame &frame : frames_) {
            if (frame.reported) continue;
            frame.reported = true;
            TRY(visitor_.changed(path_.substr(0, frame.path_length - 1), frame.self, false));
        }
        return {};
    }

    /// An upper entry with nothing comparable below it.
    Status take(const UpperItem &item, bool added) {
        TRY(report_parents());
        Source source = TRY(open_source(upper_.top(), item.raw.c_str(), item.type));
        TRY(visitor_.changed(path_ + item.name, source, added));
        if (!S_ISDIR(source.st.st_mode)) return {};
        return descend(item.name, std::move(source), {}, true);
    }

    Status descend(const std::string &name, Source source, UniqueFd lower, bool reported) {
        TRY(upper_.push(std::move(source.fd)));
        const bool has_lower = static_cast<bool>(lower);
        if (has_lower) TRY(lower_.push(std::move(lower)));
        path_.append(name).append("/");
        TRY(enter(std::move(source), has_lower));
        frames_.back().reported = reported;
        return {};
    }

    Status compare(const UpperItem &item) {
        const char *name = item.raw.c_str();
        const auto lower_st = TRY(sys::stat_at(lower_.top(), name));
        const auto upper_st = TRY(sys::stat_at(upper_.top(), name));
        const bool untouched = snapshot_ && !S_ISDIR(upper_st.st_mode) && lower_st.st_ino == upper_st.st_ino &&
                               same_time(lower_st.st_ctim, upper_st.st_ctim);
        if (untouched || key_of(lower_st) == key_of(upper_st)) {
            if (!S_ISDIR(upper_st.st_mode) && is_odd_link(item, upper_st, lower_st)) return take(item, false);
            return {};
        }
        const bool directories = S_ISDIR(lower_st.st_mode) && S_ISDIR(upper_st.st_mode);
        if (!directories && !same_stat(lower_st, upper_st)) return take(item, false);
        Source upper = TRY(open_source(upper_.top(), name, item.type));
        Source lower = TRY(open_source(lower_.top(), name, item.type));
        bool same = same_stat(lower.st, upper.st) && same_xattrs(lower.xattrs, upper.xattrs);
        if (directories) {
            if (!same) {
                TRY(report_parents());
                TRY(visitor_.changed(path_ + item.name, upper, false));
            }
            return descend(item.name, std::move(upper), std::move(lower.fd), !same);
        }
        if (same && S_ISREG(upper.st.st_mode)) same = TRY(same_content(lower.fd.get(), upper.fd.get()));
        if (same && S_ISLNK(upper.st.st_mode))
            same = TRY(sys::read_link(upper_.top(), name)) == TRY(sys::read_link(lower_.top(), name));
        if (same && !is_odd_link(item, upper.st, lower.st)) return {};
        TRY(report_parents());
        return visitor_.changed(path_ + item.name, upper, false);
    }

    bool is_odd_link(const UpperItem &item, const struct stat &upper, const struct stat &lower) {
        return upper.st_nlink > 1 && visitor_.unchanged_link(path_ + item.name, upper, lower);
    }

    Result<bool> same_content(int lower, int upper) {
        constexpr size_t piece = size_t{128} << 10U;
        buffer_.resize(2 * piece);
        const auto one = std::span(buffer_).first(piece);
        const auto two = std::span(buffer_).last(piece);
        for (uint64_t at = 0;;) {
            const size_t got = TRY(sys::pread_some(lower, one, at));
            // Files answer short only at their end.
            if (TRY(sys::pread_some(upper, two, at)) != got || std::memcmp(one.data(), two.data(), got) != 0)
                return false;
            if (got == 0) return true;
            at += got;
        }
    }

    DirStack lower_, upper_;
    DiffVisitor &visitor_;
    bool snapshot_;
    std::vector<Frame> frames_;
    std::string path_; ///< of the current directory, "" or "a/b/"
    std::vector<std::byte> buffer_;
};

} // namespace

Status diff_trees(int lower_dir, int upper_dir, DiffVisitor &visitor, bool snapshot) {
    return DiffWalk(lower_dir, upper_dir, visitor, snapshot).run();
}

} // namespace shale::archive
