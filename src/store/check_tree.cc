// SPDX-License-Identifier: Apache-2.0
#include "store/check_tree.h"

#include <fmt/format.h>
#include <linux/openat2.h>
#include <sys/sysmacros.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <optional>
#include <unordered_set>

#include "archive/decompress.h"
#include "archive/tar.h"
#include "archive/tree_walk.h"
#include "drivers/common.h"
#include "sys/fs.h"

namespace shale::store {
namespace {

constexpr size_t buffer_bytes = size_t{256} << 10U;
constexpr size_t max_differences = 100;

/// Bytes of a blob, decompressed, as TarReader takes them.
class BlobBlocks {
public:
    explicit BlobBlocks(const oci::BlobView &blob) : blob_(blob), in_(buffer_bytes), out_(buffer_bytes) {}

    Result<std::span<const std::byte>> next() {
        for (;;) {
            if (!decoder_ || have_ == 0) {
                const auto wanted = std::min<uint64_t>(in_.size(), blob_.size - done_);
                have_ =
                    wanted == 0
                        ? 0
                        : TRY(sys::pread_some(blob_.file->get(), std::span(in_).first(wanted), blob_.offset + done_));
                done_ += have_;
                at_ = 0;
                if (!decoder_)
                    decoder_ =
                        TRY(archive::make_decoder(TRY(archive::detect_compression(std::span(in_).first(have_)))));
            }
            const auto step = TRY(decoder_->step(std::span(in_).subspan(at_, have_), out_));
            at_ += step.consumed;
            have_ -= step.consumed;
            if (step.produced > 0) return std::span<const std::byte>(out_).first(step.produced);
            if (have_ == 0 && done_ == blob_.size) return std::span<const std::byte>();
        }
    }

private:
    const oci::BlobView &blob_;
    std::vector<std::byte> in_, out_;
    std::unique_ptr<archive::Decoder> decoder_;
    uint64_t done_ = 0;
    size_t at_ = 0, have_ = 0;
};

/// What the archive last said about a path.
struct Stated {
    archive::EntryType type = archive::EntryType::file;
    uint32_t mode = 0;
    uint64_t uid = 0, gid = 0, size = 0;
    int64_t mtime_s = 0;
    uint32_t mtime_ns = 0, major = 0, minor = 0;
    std::string link;
    Digest content;
    std::vector<std::pair<std::string, std::string>> xattrs;
};

/// Without "." and "..", which never lead above the root.
std::string clean(std::string_view path) {
    std::string out;
    while (!path.empty()) {
        const auto slash = path.find('/');
        const auto part = path.substr(0, slash);
        path = slash == std::string_view::npos ? std::string_view() : path.substr(slash + 1);
        if (part.empty() || part == ".") continue;
        if (part == "..") {
            out.erase(out.rfind('/') == std::string::npos ? 0 : out.rfind('/'));
            continue;
        }
        if (!out.empty()) out += '/';
        out += part;
    }
    return out;
}

mode_t file_type(archive::EntryType type) {
    using enum archive::EntryType;
    switch (type) {
    case directory:
        return S_IFDIR;
    case symlink:
        return S_IFLNK;
    case char_device:
        return S_IFCHR;
    case block_device:
        return S_IFBLK;
    case fifo:
        return S_IFIFO;
    default:
        return S_IFREG;
    }
}

class Comparison {
public:
    Comparison(int root, bool contents, const archive::ExtractOptions &options)
        : root_(root), contents_(contents), options_(options) {}

    void state(const archive::Entry &entry, const Digest &content);
    Status compare_stated();
    /// Every other regular file is one of `parent`'s.
    Status compare_inherited(int parent);
    TreeComparison finish();

private:
    /// Where the archive means at this point: without "." and "..", through its own symlinks so far (the last component
    /// is itself). Those of the parents are followed when the tree is looked at.
    [[nodiscard]] std::string resolve(std::string_view path) const;
    [[nodiscard]] bool states_below(const std::string &path) const {
        const auto next = stated_.upper_bound(path + "/");
        return next != stated_.end() && next->first.starts_with(path + "/");
    }
    /// Of the path and what is below it.
    void forget(const std::string &path) {
        stated_.erase(path);
        for (auto below = stated_.upper_bound(path + "/");
             below != stated_.end() && below->first.starts_with(path + "/");)
            below = stated_.erase(below);
    }
    Status compare(const std::string &path, const Stated &stated);
    void differs(const std::string &path, std::string what);

    int root_;
    bool contents_;
    const archive::ExtractOptions &options_;
    std::map<std::string, Stated> stated_;
    std::vector<std::string> deleted_;
    std::unordered_set<ino_t> own_; ///< inodes of what the archive states
    TreeComparison out_;
    uint64_t more_ = 0;
};

std::string Comparison::resolve(std::string_view path) const {
    constexpr int most = 40;             // as in the kernel; extraction refuses more
    std::string out, left = clean(path); // ".." of the archive's own is taken as it is written
    for (int links = 0; !left.empty();) {
        const auto slash = left.find('/');
        const std::string part = left.substr(0, slash);
        left = slash == std::string::npos ? std::string() : left.substr(slash + 1);
        if (part.empty() || part == ".") continue;
        if (part == "..") {
            out.erase(out.rfind('/') == std::string::npos ? 0 : out.rfind('/'));
            continue;
        }
        const std::string here = out.empty() ? part : out + "/" + part;
        const auto stated = stated_.find(here);
        const bool is_link = stated != stated_.end() && stated->second.type == archive::EntryType::symlink;
        if (!is_link || left.find_first_not_of('/') == std::string::npos || ++links > most) {
            out = here;
            continue;
        }
        if (stated->second.link.starts_with('/')) out.clear();
        left = stated->second.link + "/" + left;
    }
    return out;
}

void Comparison::state(const archive::Entry &entry, const Digest &content) {
    const std::string path = resolve(entry.path);
    if (("/" + path).find("/.wh..wh.") != std::string::npos) return; // opaque, or what AUFS kept for itself
    const auto slash = path.rfind('/');
    const std::string name = slash == std::string::npos ? path : path.substr(slash + 1);
    if (name.starts_with(archive::whiteout_prefix)) {
        deleted_.push_back(path.substr(0, path.size() - name.size()) + name.substr(archive::whiteout_prefix.size()));
        return;
    }
    if (entry.type == archive::EntryType::hard_link) {
        const auto target = stated_.find(resolve(entry.link));
        auto linked = target == stated_.end() ? std::nullopt : std::optional(target->second);
        forget(path); // what it was; the target may be a parent's
        if (linked) stated_[path] = std::move(*linked);
        return;
    }
    const bool device = entry.type == archive::EntryType::char_device || entry.type == archive::EntryType::block_device;
    if (device && !options_.allow_devices) return;
    // A non-directory in place of a directory takes what was below with it.
    if (entry.type != archive::EntryType::directory) forget(path);
    stated_[path] = {entry.type,     entry.mode,      entry.uid,       entry.gid,  entry.size, entry.mtime_s,
                     entry.mtime_ns, entry.dev_major, entry.dev_minor, entry.link, content,    entry.xattrs};
}

void Comparison::differs(const std::string &path, std::string what) {
    if (out_.differences.size() < max_differences)
        out_.differences.push_back("/" + path + " " + std::move(what));
    else
        ++more_;
}

Status Comparison::compare(const std::string &path, const Stated &stated) {
    ++out_.entries;
    // Resolved inside the root: the archive may name a path through a symlink of its own.
    auto opened = sys::open_at2(root_, path.empty() ? "." : path.c_str(), O_PATH | O_NOFOLLOW,
                                RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
    if (!opened) {
        if (opened.error().sys_errno() != ENOENT && opened.error().sys_errno() != ENOTDIR)
            return std::unexpected(std::move(opened).error());
        differs(path, "is missing");
        return {};
    }
    const auto info = TRY(sys::stat_at(opened->get(), ""));
    own_.insert(info.st_ino);
    if ((info.st_mode & S_IFMT) != file_type(stated.type)) {
        differs(path, "is of another type");
        return {};
    }
    const bool link = stated.type == archive::EntryType::symlink;
    if (!link && (info.st_mode & 07777) != stated.mode)
        differs(path, fmt::format("has mode {:04o}, its layer says {:04o}", info.st_mode & 07777, stated.mode));
    if (options_.owners == archive::OwnerPolicy::keep && (info.st_uid != stated.uid || info.st_gid != stated.gid))
        differs(path, fmt::format("belongs to {}:{}, its layer says {}:{}", info.st_uid, info.st_gid, stated.uid,
                                  stated.gid));
    if (stated.type == archive::EntryType::file && static_cast<uint64_t>(info.st_size) != stated.size)
        differs(path, fmt::format("has {} bytes, its layer says {}", info.st_size, stated.size));
    else if (stated.type == archive::EntryType::file && contents_) {
        const UniqueFd file =
            TRY(sys::open_at2(root_, path.c_str(), O_RDONLY | O_NOFOLLOW, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS));
        if (TRY(digest_of_fd(file.get())) != stated.content) differs(path, "has other content");
    }
    if (info.st_mtim.tv_sec != stated.mtime_s || static_cast<uint32_t>(info.st_mtim.tv_nsec) != stated.mtime_ns)
        differs(path, fmt::format("was modified at {}.{:09}, its layer says {}.{:09}", info.st_mtim.tv_sec,
                                  info.st_mtim.tv_nsec, stated.mtime_s, stated.mtime_ns));
    if (link && TRY(sys::read_link(opened->get(), "")) != stated.link) differs(path, "points elsewhere");
    if ((stated.type == archive::EntryType::char_device || stated.type == archive::EntryType::block_device) &&
        (major(info.st_rdev) != stated.major || minor(info.st_rdev) != stated.minor))
        differs(path, "is another device");
    if (!link)
        for (const auto &[key, value] : stated.xattrs) { // but for those that extraction leaves out
            if (!archive::is_layer_xattr(key)) continue;
            if (key.starts_with("user.") && !S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode)) continue;
            const auto found = sys::get_xattr(opened->get(), "", key.c_str());
            if (!found && found.error().sys_errno() == EOPNOTSUPP && key != "security.capability") continue;
            if (options_.owners == archive::OwnerPolicy::squash && !key.starts_with("user.") && found && !*found)
                continue;
            if (!found || !*found || **found != value) differs(path, "lacks xattr " + key + " as its layer has it");
        }
    return {};
}

Status Comparison::compare_stated() {
    for (const auto &[path, stated] : stated_)
        TRY(compare(path, stated));
    for (const auto &path : deleted_) {
        if (stated_.contains(path) || states_below(path)) continue;
        if (sys::open_at2(root_, path.c_str(), O_PATH | O_NOFOLLOW, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS))
            differs(path, "exists, its layer deletes it");
    }
    return {};
}

Status Comparison::compare_inherited(int parent) {
    std::unordered_set<ino_t> parents;
    TRY(drivers::walk_tree(parent, [&](int, const char *, const struct stat &info, std::string_view) -> Status {
        if (S_ISREG(info.st_mode)) parents.insert(info.st_ino);
        return {};
    }));
    return drivers::walk_tree(
        root_, [&](int, const char *name, const struct stat &info, std::string_view path) -> Status {
            if (S_ISREG(info.st_mode) && !own_.contains(info.st_ino) && !parents.contains(info.st_ino))
                differs(std::string(path) + name, "has lost its hard link: its layer leaves it as its parent's, and it "
                                                  "is a file of its own");
            return {};
        });
}

TreeComparison Comparison::finish() {
    if (more_ > 0) out_.differences.push_back(fmt::format("... and {} more", more_));
    return std::move(out_);
}

} // namespace

Result<Digest> digest_of_fd(int fd) {
    Sha256 hash;
    std::vector<std::byte> buffer(buffer_bytes);
    for (uint64_t offset = 0;;) {
        const size_t got = TRY(sys::pread_some(fd, buffer, offset));
        if (got == 0) return hash.finish();
        hash.update(std::span<const std::byte>(buffer).first(got));
        offset += got;
    }
}

Result<TreeComparison> compare_tree(const oci::BlobView &blob, int root_dir, bool contents,
                                    const archive::ExtractOptions &options, int parent_dir) {
    BlobBlocks blocks(blob);
    archive::TarReader tar([&] { return blocks.next(); }, options.limits);
    Comparison comparison(root_dir, contents, options);
    archive::Entry entry;
    while (TRY(tar.next(entry))) {
        Digest content;
        if (contents && entry.type == archive::EntryType::file && !entry.is_sparse) {
            Sha256 hash;
            for (;;) {
                const auto piece = TRY(tar.data());
                if (piece.empty()) break;
                hash.update(piece);
            }
            content = hash.finish();
        } else if (contents && entry.is_sparse) {
            // Holes read as zeros: hash what a reader of the file would see.
            Sha256 hash;
            const std::vector<std::byte> zeros(buffer_bytes);
            uint64_t at = 0;
            std::span<const std::byte> piece;
            auto fill = [&](uint64_t until) {
                for (; at < until; at += std::min<uint64_t>(zeros.size(), until - at))
                    hash.update(std::span(zeros).first(std::min<uint64_t>(zeros.size(), until - at)));
            };
            for (const auto &range : entry.sparse) {
                fill(range.offset);
                for (uint64_t left = range.length; left > 0;) {
                    if (piece.empty()) piece = TRY(tar.data());
                    if (piece.empty()) break;
                    const auto take = std::min<uint64_t>(left, piece.size());
                    hash.update(piece.first(take));
                    piece = piece.subspan(take);
                    left -= take;
                    at += take;
                }
            }
            fill(entry.size);
            content = hash.finish();
        }
        comparison.state(entry, content);
    }
    TRY(comparison.compare_stated());
    if (parent_dir >= 0) TRY(comparison.compare_inherited(parent_dir));
    return comparison.finish();
}

} // namespace shale::store
