// SPDX-License-Identifier: Apache-2.0
#include "archive/compare.h"

#include <dirent.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "archive/extract.h"
#include "archive/pack_walk.h"
#include "archive/tree_walk.h"

namespace shale::archive {
namespace {

constexpr size_t max_differences = 20;
constexpr size_t piece_bytes = size_t{256} << 10U;

using Links = std::unordered_map<InodeKey, std::string, InodeHash>;

class Comparison {
public:
    Comparison(int first, int second, const CompareOptions &options)
        : first_(first), second_(second), options_(options) {}

    Result<CompareReport> run() {
        if (options_.root) {
            const Source one = TRY(open_source(first_.top(), ".", DT_DIR));
            const Source two = TRY(open_source(second_.top(), ".", DT_DIR));
            compare_metadata("", one, two);
        }
        TRY(enter());
        while (!frames_.empty() && report_.differences.size() < max_differences) {
            Frame &frame = frames_.back();
            if (frame.next == frame.items.size()) {
                TRY(leave());
                continue;
            }
            const UpperItem item = std::move(frame.items[frame.next++]);
            TRY(in_context(compare(item), [&] { return "compare " + quoted(path_ + item.raw); }));
        }
        return std::move(report_);
    }

private:
    struct Frame {
        std::vector<UpperItem> items; ///< that both have
        size_t next = 0;
        size_t path_length = 0;
    };

    /// Without what Packer leaves out.
    static Result<std::vector<UpperItem>> list(int dir) {
        auto items = TRY(list_plain(dir)).items;
        std::erase_if(items, [](const UpperItem &item) {
            return item.type == DT_SOCK || item.name.starts_with(whiteout_prefix);
        });
        return items;
    }

    /// Both stacks stand on the pair of directories.
    Status enter() {
        auto one = TRY(list(first_.top()));
        auto two = TRY(list(second_.top()));
        Frame frame;
        frame.path_length = path_.size();
        for (size_t i = 0, j = 0; i < one.size() || j < two.size();) {
            const int order = i == one.size() ? 1 : j == two.size() ? -1 : one[i].name.compare(two[j].name);
            if (order == 0) {
                frame.items.push_back(std::move(one[i]));
                ++i;
                ++j;
            } else if (order < 0) {
                differs(path_ + one[i++].name, "is missing in the copy");
            } else {
                differs(path_ + two[j++].name, "is only in the copy");
            }
        }
        frames_.push_back(std::move(frame));
        return {};
    }

    Status leave() {
        frames_.pop_back();
        if (frames_.empty()) return {};
        TRY(first_.pop());
        TRY(second_.pop());
        path_.resize(frames_.back().path_length);
        return {};
    }

    Status compare(const UpperItem &item) {
        const std::string path = path_ + item.name;
        const char *name = item.raw.c_str();
        ++report_.entries;
        const struct stat two_st = TRY(sys::stat_at(second_.top(), name));
        Source one = TRY(open_source(first_.top(), name, item.type));
        if ((one.st.st_mode & S_IFMT) != (two_st.st_mode & S_IFMT)) {
            differs(path, "is of another type");
            return {};
        }
        Source two = TRY(open_source(second_.top(), name, item.type));
        compare_metadata(path, one, two);
        if (S_ISDIR(one.st.st_mode)) {
            TRY(first_.push(std::move(one.fd)));
            TRY(second_.push(std::move(two.fd)));
            path_.append(item.name).append("/");
            return enter();
        }
        if (options_.links && options_.links(path)) compare_links(path, one.st, two.st);
        if (S_ISLNK(one.st.st_mode)) {
            if (TRY(sys::read_link(first_.top(), name)) != TRY(sys::read_link(second_.top(), name)))
                differs(path, "points elsewhere");
        } else if (S_ISREG(one.st.st_mode)) {
            if (one.st.st_size != two.st.st_size)
                differs(path, fmt::format("{} bytes, copy {}", one.st.st_size, two.st.st_size));
            else if (options_.contents && options_.contents(path) && !TRY(same_content(one.fd.get(), two.fd.get())))
                differs(path, "has other content");
        } else if ((S_ISCHR(one.st.st_mode) || S_ISBLK(one.st.st_mode)) && one.st.st_rdev != two.st.st_rdev) {
            differs(path, "is another device");
        }
        return {};
    }

    void compare_metadata(const std::string &path, const Source &one, const Source &two) {
        const struct stat &a = one.st;
        const struct stat &b = two.st;
        if (!S_ISLNK(a.st_mode) && (a.st_mode & 07777U) != (b.st_mode & 07777U))
            differs(path, fmt::format("mode {:04o}, copy {:04o}", a.st_mode & 07777U, b.st_mode & 07777U));
        if (a.st_uid != b.st_uid || a.st_gid != b.st_gid)
            differs(path, fmt::format("owner {}:{}, copy {}:{}", a.st_uid, a.st_gid, b.st_uid, b.st_gid));
        if (a.st_mtim.tv_sec != b.st_mtim.tv_sec || a.st_mtim.tv_nsec != b.st_mtim.tv_nsec)
            differs(path, fmt::format("modified at {}.{:09}, copy {}.{:09}", a.st_mtim.tv_sec, a.st_mtim.tv_nsec,
                                      b.st_mtim.tv_sec, b.st_mtim.tv_nsec));
        const auto kept = [](Xattrs all) {
            std::erase_if(all, [](const auto &attribute) {
                return !is_layer_xattr(attribute.first) || attribute.first.contains('=');
            });
            return all;
        };
        if (kept(one.xattrs) != kept(two.xattrs)) differs(path, "has other extended attributes");
    }

    /// The names of one file in one tree must be the names of one file in the other.
    void compare_links(const std::string &path, const struct stat &one, const struct stat &two) {
        if (one.st_nlink < 2 && two.st_nlink < 2) return;
        const std::string &a = first_links_.try_emplace(key_of(one), path).first->second;
        const std::string &b = second_links_.try_emplace(key_of(two), path).first->second;
        if (a != b) differs(path, fmt::format("is the same file as /{}, copy as /{}", a, b));
    }

    Result<bool> same_content(int one, int two) {
        buffer_.resize(2 * piece_bytes);
        const auto a = std::span(buffer_).first(piece_bytes);
        const auto b = std::span(buffer_).last(piece_bytes);
        for (uint64_t at = 0;;) {
            const size_t got = TRY(sys::pread_some(one, a, at));
            // Files answer short only at their end.
            if (TRY(sys::pread_some(two, b, at)) != got || std::memcmp(a.data(), b.data(), got) != 0) return false;
            if (got == 0) return true;
            at += got;
            report_.bytes_read += got;
        }
    }

    void differs(const std::string &path, const std::string &what) {
        if (report_.differences.size() < max_differences)
            report_.differences.push_back(fmt::format("/{}: {}", path, what));
    }

    DirStack first_, second_;
    const CompareOptions &options_;
    std::vector<Frame> frames_;
    std::string path_; ///< of the current directory, "" or "a/b/"
    Links first_links_, second_links_;
    std::vector<std::byte> buffer_;
    CompareReport report_;
};

} // namespace

Result<CompareReport> compare_trees(int first_dir, int second_dir, const CompareOptions &options) {
    return Comparison(first_dir, second_dir, options).run();
}

} // namespace shale::archive
