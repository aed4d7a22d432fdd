// SPDX-License-Identifier: Apache-2.0
#include "archive/extract.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/limits.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>

#include "archive/extract_internal.h"
#include "archive/tree_walk.h"

namespace shale::archive {
namespace {

constexpr uint64_t id_max = 0xffff'fffe; // (uid_t)-1 means "leave it" to chown
constexpr size_t warnings_max = 100;

/// The process's umask without changing it (which would be a race with other threads).
mode_t read_umask() {
    constexpr mode_t unknown = 0777; // every mode is then set by chmod
    auto text = sys::read_file(AT_FDCWD, "/proc/self/status", 65'536);
    if (!text) return unknown;
    constexpr std::string_view key = "\nUmask:\t";
    const size_t at = text->find(key);
    if (at == std::string::npos) return unknown;
    unsigned value = 0;
    const char *digits = text->data() + at + key.size();
    if (std::from_chars(digits, text->data() + text->size(), value, 8).ec != std::errc{}) return unknown;
    return value & 0777U;
}

Result<uint32_t> map_id(uint64_t id, const IdMap &map, const char *kind) {
    if (id > id_max) return fail(Errc::InvalidArgument, fmt::format("{} {} is out of range", kind, id));
    if (map.empty()) return static_cast<uint32_t>(id);
    for (const auto &range : map)
        if (id >= range.container_id && id - range.container_id < range.count)
            return static_cast<uint32_t>(range.host_id + (id - range.container_id));
    return fail(Errc::InvalidArgument, fmt::format("{} {} is not in the id map", kind, id));
}

timespec time_of(const Entry &entry) {
    timespec out{};
    out.tv_sec = entry.mtime_s;
    out.tv_nsec = entry.mtime_ns;
    return out;
}

/// Attributes that are the host's to give: overlay's own marks, labels and measurements of security modules.
bool is_host_key(std::string_view key) {
    return !is_layer_xattr(key);
}

/// What the kernel takes (security/commoncap.c, validheader): revision 2 of 20 bytes, revision 3 of 24, little-endian.
/// Asked here, for an image is written past the kernel.
bool is_capability(std::string_view value) {
    if (value.size() < 4) return false;
    if ((value[0] & ~1) != 0 || value[1] != 0 || value[2] != 0) return false; // but for the flag "effective"
    const char revision = value[3];
    return (revision == 2 && value.size() == 20) || (revision == 3 && value.size() == 24);
}

} // namespace

Extractor::Extractor(TarReader &tar, Tree &tree, const ExtractOptions &options, const std::atomic<bool> *cancel)
    : tar_(tar), tree_(tree), root_(tree.root()), options_(options), cancel_(cancel), uid_(::geteuid()),
      gid_(::getegid()), umask_(read_umask()) {}

Result<ExtractReport> Extractor::run() {
    const auto info = TRY(tree_.stat(root_, ""));
    stack_.emplace_back().setgid = (info.st_mode & S_ISGID) != 0;
    Entry now;
    while (TRY(tar_.next(now))) {
        ++report_.entries;
        if (canceled()) return fail(Errc::Canceled, "unpacking was canceled");
        TRY(in_context(entry(now), [&] { return fmt::format("entry {} \"{}\"", report_.entries, escaped(now.path)); }));
    }
    TRY(leave_to(1));
    TRY(lock());
    TRY(leave_top());
    report_.implied_dirs.assign(implied_.begin(), implied_.end()); // a prefix sorts first: parents before children
    std::vector<std::pair<uint64_t, DeferredLink>> links;
    links.reserve(deferred_.size());
    for (auto &[path, link] : deferred_)
        links.emplace_back(std::move(link));
    std::ranges::sort(links, {}, &std::pair<uint64_t, DeferredLink>::first);
    for (auto &[order, link] : links)
        report_.deferred_links.push_back(std::move(link));
    return std::move(report_);
}

void Extractor::warn(std::string text) {
    if (report_.warnings.size() < warnings_max)
        report_.warnings.push_back(fmt::format("entry {}: {}", report_.entries, text));
}

Result<Extractor::Owner> Extractor::owner_of(uint64_t uid, uint64_t gid) {
    if (options_.owners == OwnerPolicy::squash) {
        if (uid > id_max) return fail(Errc::InvalidArgument, fmt::format("uid {} is out of range", uid));
        if (gid > id_max) return fail(Errc::InvalidArgument, fmt::format("gid {} is out of range", gid));
        const auto mapped_uid = map_id(uid, options_.uid_map, "uid");
        const auto mapped_gid = map_id(gid, options_.gid_map, "gid");
        if (!mapped_uid || !mapped_gid || *mapped_uid != uid_ || *mapped_gid != gid_) ++report_.squashed_owners;
        return Owner{uid_, gid_, false};
    }
    Owner out;
    out.uid = TRY(map_id(uid, options_.uid_map, "uid"));
    out.gid = TRY(map_id(gid, options_.gid_map, "gid"));
    out.differs = out.uid != uid_ || out.gid != gid_;
    return out;
}

/// Also true to what a new inode gets in a set-group-id parent, whose group is inherited.
Result<Extractor::Owner> Extractor::owner_of(const Entry &entry) {
    Owner out = TRY(owner_of(entry.uid, entry.gid));
    if (options_.owners == OwnerPolicy::keep && stack_.back().setgid) out.differs = true;
    return out;
}

Status Extractor::entry(Entry &entry) {
    if (entry.path.empty()) return fail(Errc::InvalidArgument, "an entry without a name");
    TRY(split_clean(entry.path, parts_));
    if (parts_.empty()) return root_entry(entry);
    if (entry.path.find(whiteout_prefix) != std::string::npos &&
        std::ranges::any_of(parts_, [](auto part) { return part.starts_with(whiteout_prefix); }))
        return special(entry);
    if (entry.type == EntryType::char_device || entry.type == EntryType::block_device) {
        if (entry.dev_major > 0xfff || entry.dev_minor > 0xfffff)
            return fail(Errc::InvalidArgument,
                        fmt::format("device number {}:{} is out of range", entry.dev_major, entry.dev_minor));
        if (entry.type == EntryType::char_device && entry.dev_major == 0 && entry.dev_minor == 0)
            return fail(Errc::InvalidArgument, "a character device 0:0 would be taken for a whiteout by overlayfs");
        if (!options_.allow_devices) {
            ++report_.skipped_devices;
            return {};
        }
    }
    if (entry.type == EntryType::symlink && entry.link.empty())
        return fail(Errc::InvalidArgument, "a symbolic link without a target");
    TRY(enter({parts_.data(), parts_.size() - 1}));
    name_.assign(parts_.back());
    if (!implied_.empty() || !deferred_.empty() || !locked_.empty()) {
        const std::string path = real_path(name_);
        deferred_.erase(path);
        if (entry.type == EntryType::directory) {
            implied_.erase(path);
            locked_.erase(path);
        }
    }
    switch (entry.type) {
    case EntryType::file:
        return file(entry);
    case EntryType::directory:
        return directory(entry);
    case EntryType::symlink:
        return symlink(entry);
    case EntryType::hard_link:
        return hard_link(entry);
    case EntryType::char_device:
    case EntryType::block_device:
    case EntryType::fifo:
        return node(entry);
    }
    return fail(Errc::Internal, "unknown kind of entry");
}

/// Runs `attempt`, which makes a non-directory; what has its name already goes first (a later entry wins).
template <class F> Status Extractor::create(F attempt) {
    touch();
    Status made = attempt();
    if (!made && made.error().sys_errno() == EEXIST) {
        (void)TRY(make_room(name_.c_str()));
        made = attempt();
    }
    if (!made) return made;
    ++report_.inodes;
    (void)TRY(drop_named_whiteout(name_.c_str()));
    return {};
}

Status Extractor::root_entry(const Entry &entry) {
    if (entry.type != EntryType::directory)
        return fail(Errc::InvalidArgument, "the root itself can only be a directory");
    TRY(leave_to(1));
    const auto info = TRY(tree_.stat(root_, ""));
    Level &root = stack_.back();
    const Owner owner = TRY(owner_of(entry.uid, entry.gid));
    if (options_.owners == OwnerPolicy::keep && (info.st_uid != owner.uid || info.st_gid != owner.gid))
        TRY(tree_.chown(root_, "", owner.uid, owner.gid));
    TRY(xattrs(entry, root_, ""));
    TRY(tree_.chmod(root_, "", entry.mode | 0700U));
    root.leave_mode.reset();
    if ((entry.mode & 0700U) != 0700) root.leave_mode = entry.mode;
    root.setgid = (entry.mode & S_ISGID) != 0;
    root.set_times = true;
    root.atime = root.mtime = time_of(entry);
    report_.has_root_entry = true;
    return {};
}

Status Extractor::file(const Entry &entry) {
    const Owner owner = TRY(owner_of(entry));
    // An owner without the right to write could not set attributes of the file later.
    const mode_t mode = (entry.mode & 0777U) | (entry.xattrs.empty() ? 0U : 0200U);
    Ref made;
    TRY(create([&]() -> Status {
        made = TRY(tree_.create_file(here(), name_.c_str(), mode));
        return {};
    }));
    const int file = made.get();
    TRY(file_data(entry, file));
    if (owner.differs) TRY(tree_.chown(file, "", owner.uid, owner.gid));
    if (!entry.xattrs.empty()) TRY(xattrs(entry, file, ""));
    if (mode != entry.mode || (mode & umask_) != 0 || stack_.back().setgid || inherits_acl_)
        TRY(tree_.chmod(file, "", entry.mode));
    return tree_.set_times(file, "", time_of(entry), time_of(entry));
}

Status Extractor::file_data(const Entry &entry, int file) {
    if (!entry.is_sparse) {
        for (;;) {
            const auto piece = TRY(tar_.data());
            if (piece.empty()) return {};
            TRY(tree_.write(file, piece));
            report_.bytes += piece.size();
            if (canceled()) return fail(Errc::Canceled, "unpacking was canceled");
        }
    }
    // The reader made sure that the ranges are in order and hold exactly the stored bytes.
    TRY(tree_.truncate(file, entry.size));
    std::span<const std::byte> piece;
    for (const auto &range : entry.sparse) {
        for (uint64_t at = range.offset, left = range.length; left > 0;) {
            if (piece.empty()) piece = TRY(tar_.data());
            if (piece.empty()) return fail(Errc::Internal, "sparse data ends early");
            if (canceled()) return fail(Errc::Canceled, "unpacking was canceled");
            const auto now = piece.first(static_cast<size_t>(std::min<uint64_t>(left, piece.size())));
            TRY(tree_.write_at(file, now, at));
            piece = piece.subspan(now.size());
            at += now.size();
            left -= now.size();
            report_.bytes += now.size();
        }
    }
    return {};
}

Status Extractor::directory(const Entry &entry) {
    const Owner owner = TRY(owner_of(entry));
    const int dir = here();
    const char *name = name_.c_str();
    const bool in_setgid = stack_.back().setgid;
    const mode_t open_mode = entry.mode | 0700U; // until it is left
    bool opaque = false;
    struct stat old{};
    bool is_new = true;
    touch();
    auto made = tree_.make_dir(dir, name, open_mode & 0777U);
    if (!made && made.error().sys_errno() == EEXIST) {
        old = TRY(tree_.stat(dir, name));
        if (!S_ISDIR(old.st_mode)) {
            opaque = TRY(make_room(name));
            made = tree_.make_dir(dir, name, open_mode & 0777U);
        } else {
            is_new = false;
            made = {};
        }
    }
    TRY(std::move(made));
    if (is_new) {
        ++report_.inodes;
        if (TRY(drop_named_whiteout(name))) opaque = true;
        if (owner.differs) TRY(tree_.chown(dir, name, owner.uid, owner.gid));
        if ((entry.mode & 07000U) != 0 || (open_mode & umask_) != 0 || in_setgid || inherits_acl_)
            TRY(tree_.chmod(dir, name, open_mode));
    } else {
        if (options_.owners == OwnerPolicy::keep && (old.st_uid != owner.uid || old.st_gid != owner.gid))
            TRY(tree_.chown(dir, name, owner.uid, owner.gid));
        if ((old.st_mode & 07777U) != open_mode) TRY(tree_.chmod(dir, name, open_mode));
    }
    Level level;
    level.name = name_;
    level.set_times = true;
    level.setgid = (entry.mode & S_ISGID) != 0;
    if (open_mode != entry.mode) level.leave_mode = entry.mode;
    level.atime = level.mtime = time_of(entry);
    stack_.push_back(std::move(level));
    if (opaque || !entry.xattrs.empty()) {
        const int self = TRY(open_level(stack_.size() - 1));
        TRY(xattrs(entry, self, ""));
        if (opaque) TRY(make_opaque(self));
    }
    return {};
}

Status Extractor::attributes_by_name(const Entry &entry, const Owner &owner) {
    const char *name = name_.c_str();
    if (owner.differs) TRY(tree_.chown(here(), name, owner.uid, owner.gid));
    TRY(xattrs(entry, here(), name));
    if (entry.type != EntryType::symlink &&
        ((entry.mode & 07000U) != 0 || (entry.mode & umask_) != 0 || stack_.back().setgid || inherits_acl_))
        TRY(tree_.chmod(here(), name, entry.mode));
    return tree_.set_times(here(), name, time_of(entry), time_of(entry));
}

Status Extractor::symlink(const Entry &entry) {
    const Owner owner = TRY(owner_of(entry));
    TRY(create([&] { return tree_.make_symlink(entry.link, here(), name_.c_str()); }));
    return attributes_by_name(entry, owner);
}

Status Extractor::node(const Entry &entry) {
    const Owner owner = TRY(owner_of(entry));
    mode_t type = S_IFIFO;
    dev_t device = 0;
    if (entry.type != EntryType::fifo) {
        type = entry.type == EntryType::char_device ? S_IFCHR : S_IFBLK;
        device = makedev(entry.dev_major, entry.dev_minor);
    }
    TRY(create([&] { return tree_.make_node(here(), name_.c_str(), type | (entry.mode & 0777U), device); }));
    return attributes_by_name(entry, owner);
}

Status Extractor::xattrs(const Entry &entry, int dir, const char *name) {
    for (const auto &[key, value] : entry.xattrs) {
        if (key.size() > XATTR_NAME_MAX || value.size() > XATTR_SIZE_MAX)
            return fail(Errc::InvalidArgument,
                        fmt::format("an attribute with a name of {} and a value of {} bytes, the most is {} and {}",
                                    key.size(), value.size(), XATTR_NAME_MAX, XATTR_SIZE_MAX));
        if (key == "security.capability" && !is_capability(value))
            return fail(Errc::InvalidArgument, "the attribute security.capability is no set of capabilities");
        if (is_host_key(key)) {
            ++report_.skipped_xattrs;
            warn(
                fmt::format("\"{}\": attribute {} is the host's to give, left out", escaped(entry.path), escaped(key)));
            continue;
        }
        Status set = tree_.set_xattr(dir, name, key.c_str(), value);
        if (set) {
            if (key == "system.posix_acl_default") inherits_acl_ = true;
            continue;
        }
        const int error = set.error().sys_errno();
        const bool refused = error == EPERM || error == EACCES;
        // user.* exists on files and directories only.
        const bool wrong_kind =
            refused && key.starts_with("user.") && entry.type != EntryType::file && entry.type != EntryType::directory;
        const bool squash = options_.owners == OwnerPolicy::squash;
        const bool skip = wrong_kind || (squash && (refused || error == EOPNOTSUPP)) ||
                          (error == EOPNOTSUPP && key != "security.capability");
        if (!skip) return set;
        ++report_.skipped_xattrs;
        warn(fmt::format("\"{}\": attribute {} left out: the file system or the kernel refuses it", escaped(entry.path),
                         escaped(key)));
    }
    return {};
}

Result<ExtractReport> extract_tar(TarReader &tar, Tree &tree, const ExtractOptions &options,
                                  const std::atomic<bool> *cancel) {
    return Extractor(tar, tree, options, cancel).run();
}

Result<ExtractReport> extract_tar(TarReader &tar, int root_dir, const ExtractOptions &options,
                                  const std::atomic<bool> *cancel) {
    DirectoryTree tree(root_dir);
    return extract_tar(tar, tree, options, cancel);
}

} // namespace shale::archive
