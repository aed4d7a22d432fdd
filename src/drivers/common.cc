// SPDX-License-Identifier: Apache-2.0
#include "drivers/common.h"

#include <dirent.h>
#include <linux/openat2.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>
#include <cstring>
#include <functional>
#include <thread>
#include <unordered_set>

#include <fmt/format.h>

#include "archive/tree_walk.h"
#include "sys/fs.h"
#include "sys/quota.h"

namespace shale::drivers {
namespace {

constexpr const char *trash_name = "trash";
/// exchange-FRESH-OLD holds what OLD was while two layers change places where the file system cannot do it at once.
constexpr std::string_view exchange_prefix = "exchange-";
constexpr const char *exchange_lock = "exchange-lock";
constexpr unsigned most_reapers = 4; ///< threads: they all wait for one file system's locks

/// Of this process, without changing it: umask(2) cannot be read without a moment in which it is another.
mode_t read_umask() {
    const auto text = sys::read_file(AT_FDCWD, "/proc/self/status", 65'536);
    if (!text) return 07777; // unknown: chmod always
    const size_t at = text->find("\nUmask:\t");
    if (at == std::string::npos) return 07777;
    mode_t mask = 0;
    const char *begin = text->data() + at + 8;
    const auto [end, error] = std::from_chars(begin, text->data() + text->size(), mask, 8);
    return error == std::errc() ? mask : 07777;
}

bool is_missing(const Error &error) {
    return error.sys_errno() == ENOENT;
}

} // namespace

std::optional<LayerId> parse_id(std::string_view name) {
    LayerId id;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), id.value);
    if (error != std::errc() || (end != name.data() + name.size() && *end != '-')) return std::nullopt;
    return id;
}

Result<LayerRoot> LayerRoot::open(const std::string &root) {
    LayerRoot out;
    auto opened = sys::open_dir(AT_FDCWD, root.c_str());
    if (!opened && is_missing(opened.error())) {
        const size_t slash = root.find_last_not_of('/');
        const std::string trimmed = root.substr(0, slash == std::string::npos ? 0 : slash + 1);
        const size_t cut = trimmed.rfind('/');
        const std::string parent = cut == std::string::npos ? "." : trimmed.substr(0, cut + 1);
        const UniqueFd parent_fd = TRY(sys::open_at(AT_FDCWD, parent.c_str(), O_RDONLY | O_DIRECTORY));
        opened = sys::make_dirs(parent_fd.get(),
                                std::string_view(trimmed).substr(cut == std::string::npos ? 0 : cut + 1), 0711);
    }
    out.fd_ = TRY(std::move(opened));
    out.path_ = TRY(sys::path_of_fd(out.fd_.get()));
    out.umask_ = read_umask();
    out.uid_ = ::geteuid();
    out.gid_ = ::getegid();
    TRY(out.finish_exchanges());
    return out;
}

Status LayerRoot::make(const char *name, mode_t mode, uid_t uid, gid_t gid) const {
    TRY(sys::make_dir(fd(), name, mode));
    // A caller that is not root cannot give anything away: what should be root's stays the caller's.
    if ((uid != 0 || gid != 0 || uid_ == 0) && (uid != uid_ || gid != gid_)) TRY(sys::chown_at(fd(), name, uid, gid));
    if (needs_chmod(mode)) TRY(sys::chmod_at(fd(), name, mode));
    return {};
}

Status LayerRoot::to_trash(const std::string &name, LayerId id) const {
    for (uint64_t n = 0;; ++n) {
        const std::string target = fmt::format("{}/{}-{}", trash_name, id.value, n);
        const auto done = rename_to_new(name, target);
        if (done) return {};
        if (done.error().sys_errno() == EEXIST) continue;
        // A full btrfs refuses to rename, but it can always delete. What a crash leaves of it is a leftover.
        if (done.error().code() == Errc::ResourceExhausted) return sys::remove_tree(fd(), name.c_str());
        if (!is_missing(done.error())) return done;
        // Either end may be what is missing.
        if (!TRY(sys::stat_if_exists(fd(), name.c_str()))) return {};
        const auto made = sys::make_dir(fd(), trash_name, 0700);
        if (!made && made.error().code() == Errc::ResourceExhausted) return sys::remove_tree(fd(), name.c_str());
        if (!made && made.error().sys_errno() != EEXIST) return made;
        if (n > 1'000'000) return done;
    }
}

Status LayerRoot::rename_to_new(const std::string &name, const std::string &target) const {
    auto done = sys::rename_at(fd(), name.c_str(), fd(), target.c_str(), RENAME_NOREPLACE);
    if (done || done.error().sys_errno() != EINVAL) return done;
    // ZFS before 2.2 knows no flags. A directory of our own making, empty, is what rename may replace.
    if (!TRY(sys::stat_if_exists(fd(), name.c_str()))) return fail_errno(ENOENT, fmt::format("rename \"{}\"", name));
    TRY(sys::make_dir(fd(), target.c_str(), 0700));
    done = sys::rename_at(fd(), name.c_str(), fd(), target.c_str());
    if (!done) (void)sys::unlink_at(fd(), target.c_str(), AT_REMOVEDIR);
    return done;
}

Status LayerRoot::exchange(LayerId fresh, LayerId old) const {
    const std::string from = to_string(fresh);
    const std::string to = to_string(old);
    auto done = sys::rename_at(fd(), from.c_str(), fd(), to.c_str(), RENAME_EXCHANGE);
    if (!done && done.error().sys_errno() == EINVAL) return exchange_by_steps(from, to);
    if (!done && is_missing(done.error())) return rename_to_new(from, to);
    return done;
}

Status LayerRoot::exchange_by_steps(const std::string &from, const std::string &to) const {
    if (!TRY(sys::stat_if_exists(fd(), from.c_str()))) return fail_errno(ENOENT, fmt::format("exchange \"{}\"", from));
    if (!TRY(sys::stat_if_exists(fd(), to.c_str()))) return rename_to_new(from, to);
    const UniqueFd lock = TRY(sys::open_at(fd(), exchange_lock, O_RDWR | O_CREAT, 0600));
    TRY(sys::lock_range(lock.get(), 0, 1, sys::LockMode::exclusive));
    const std::string aside = fmt::format("{}{}-{}", exchange_prefix, from, to);
    TRY(sys::rename_at(fd(), to.c_str(), fd(), aside.c_str()));
    if (auto done = sys::rename_at(fd(), from.c_str(), fd(), to.c_str()); !done) {
        (void)sys::rename_at(fd(), aside.c_str(), fd(), to.c_str());
        return done;
    }
    return sys::rename_at(fd(), aside.c_str(), fd(), from.c_str());
}

Status LayerRoot::finish_exchanges() const {
    const UniqueFd again = TRY(sys::open_dir(fd(), "."));
    UniqueFd lock;
    for (const auto &entry : TRY(sys::list_dir(again.get()))) {
        std::string_view name = entry.name;
        if (!name.starts_with(exchange_prefix) || name == exchange_lock) continue;
        if (!lock) {
            lock = TRY(sys::open_at(fd(), exchange_lock, O_RDWR | O_CREAT, 0600));
            TRY(sys::lock_range(lock.get(), 0, 1, sys::LockMode::exclusive));
        }
        if (!TRY(sys::stat_if_exists(fd(), entry.name.c_str()))) continue; // whoever held the lock finished it
        name.remove_prefix(exchange_prefix.size());
        const std::string from(name.substr(0, name.find('-')));
        const std::string to(name.substr(std::min(name.size(), from.size() + 1)));
        // Before the second step nothing has moved but the old one.
        const bool moved = TRY(sys::stat_if_exists(fd(), to.c_str())).has_value();
        TRY(sys::rename_at(fd(), entry.name.c_str(), fd(), (moved ? from : to).c_str()));
    }
    return {};
}

Result<uint64_t> LayerRoot::reap(const std::atomic<bool> *cancel, const Destroy &destroy) const {
    std::atomic<uint64_t> removed = 0;
    const auto opened = sys::open_dir(fd(), trash_name);
    if (!opened) {
        if (is_missing(opened.error())) return 0;
        return std::unexpected(opened.error());
    }
    auto entries = TRY(sys::list_dir(opened->get()));
    // Children before their parents: what depends on a layer is younger.
    std::ranges::sort(entries, std::greater{},
                      [](const sys::DirEntry &entry) { return parse_id(entry.name).value_or(LayerId{}); });
    // An entry that cannot be deleted keeps no other from going; the first error is told when all were tried.
    std::optional<Error> failed;
    const auto note = [&](const Error &error) {
        if (!failed) failed = error;
    };
    const auto cancelled = [&] { return cancel != nullptr && cancel->load(std::memory_order_relaxed); };
    std::vector<std::string> names;
    for (const auto &entry : entries) {
        if (cancelled()) break;
        const auto left = destroy ? destroy(opened->get(), entry.name.c_str()) : Destroyed::entries_remain;
        if (!left) note(left.error());
        if (left == Destroyed::whole) ++removed;
        if (left != Destroyed::entries_remain) continue;
        names.push_back(entry.name);
        const auto dir = sys::open_dir(opened->get(), entry.name.c_str());
        const uint32_t project = dir ? sys::project_of(dir->get()).value_or(0) : 0;
        // The number can be given again as soon as nothing has it.
        if (project != 0) (void)sys::set_project_limits(fd(), project, {});
    }
    const auto count = [&] { ++removed; };
    const unsigned threads = std::clamp(std::thread::hardware_concurrency(), 1U, most_reapers);
    if (threads > 1) sys::remove_what_goes(opened->get(), names, {threads, cancel, count});
    for (const auto &name : names) {
        if (cancelled()) break;
        if (const auto gone = sys::remove_tree(opened->get(), name.c_str(), count); !gone) note(gone.error());
    }
    if (failed) return std::unexpected(std::move(*failed));
    return removed.load();
}

Result<Driver::TrashUsage> LayerRoot::trash() const {
    Driver::TrashUsage out;
    const auto opened = sys::open_dir(fd(), trash_name);
    if (!opened) {
        if (is_missing(opened.error())) return out;
        return std::unexpected(opened.error());
    }
    for (const auto &entry : TRY(sys::list_dir(opened->get()))) {
        ++out.layers;
        if (const auto id = parse_id(entry.name)) out.ids.push_back(*id);
        const auto tree = sys::open_dir(opened->get(), entry.name.c_str());
        const auto usage = tree ? walk_usage(tree->get()) : std::unexpected(tree.error());
        if (!usage) continue; // a reaper is taking it just now
        out.bytes += usage->bytes;
        out.inodes += usage->inodes;
    }
    std::ranges::sort(out.ids);
    return out;
}

Result<uint64_t> LayerRoot::trash_layers() const {
    const auto opened = sys::open_dir(fd(), trash_name);
    if (opened) return TRY(sys::list_dir(opened->get())).size();
    if (is_missing(opened.error())) return 0;
    return std::unexpected(opened.error());
}

Result<std::vector<LayerId>> LayerRoot::list() const {
    std::vector<LayerId> out;
    const UniqueFd again = TRY(sys::open_dir(fd(), ".")); // own offset: calls may run at once
    for (const auto &entry : TRY(sys::list_dir(again.get()))) {
        if (!std::ranges::all_of(entry.name, [](char c) { return c >= '0' && c <= '9'; })) continue;
        if (const auto id = parse_id(entry.name)) out.push_back(*id);
    }
    std::ranges::sort(out);
    return out;
}

Result<UniqueFd> LayerRoot::open_part(LayerId id, const char *part) const {
    auto opened = sys::open_dir(fd(), fmt::format("{}/{}", id.value, part).c_str());
    if (!opened && is_missing(opened.error()))
        return fail(Errc::NotFound, fmt::format("layer {} has no \"{}\" below {}", id.value, part, path_));
    return opened;
}

Result<LayerRoot::Scratch> LayerRoot::scratch(const PutToRest &put_to_rest) const {
    static std::atomic<unsigned> counter;
    const UniqueFd again = TRY(sys::open_dir(fd(), "."));
    for (const auto &entry : TRY(sys::list_dir(again.get()))) {
        std::string_view name = entry.name;
        if (!name.starts_with("probe-")) continue;
        name.remove_prefix(6);
        const auto pid = parse_id(name);
        if (!pid || ::kill(static_cast<pid_t>(pid->value), 0) == 0 || errno != ESRCH) continue;
        TRY(sys::unmount_all(fmt::format("{}/{}/", path_, entry.name))); // what it tried out
        if (put_to_rest)
            TRY(in_context(put_to_rest(TRY(sys::open_dir(fd(), entry.name.c_str())).get()),
                           [&] { return fmt::format("{}/{}, which a probe left", path_, entry.name); }));
        TRY(sys::remove_tree(fd(), entry.name.c_str()));
    }
    const std::string name = fmt::format("probe-{}-{}", ::getpid(), counter.fetch_add(1));
    TRY(sys::make_dir(fd(), name.c_str(), 0700));
    Scratch out;
    out.dir = TRY(sys::open_dir(fd(), name.c_str()));
    out.path = path_ + "/" + name;
    const int own = TRY(sys::open_dir(fd(), ".")).release();
    out.keep = std::shared_ptr<void>(nullptr, [own, name, path = out.path](void *) {
        (void)sys::unmount_all(path + "/");
        (void)sys::remove_tree(own, name.c_str());
        ::close(own);
    });
    return out;
}

Status walk_tree(int dir, const Visit &visit) {
    // Depth first, so that only names beside the current path wait. A directory is opened by its path below a base that
    // is open, so that depth costs no descriptors and a directory that is moved meanwhile is just passed over; a path
    // that grows beyond what one call takes begins at a new base.
    struct Frame {
        std::shared_ptr<UniqueFd> base;
        size_t base_length = 0; ///< of the path's part that is above the base
        size_t length = 0;      ///< of the path
        std::vector<std::string> directories;
    };
    std::string path = ".";
    std::vector<Frame> frames;
    const auto enter = [&](Frame frame, UniqueFd opened) -> Status {
        auto here = std::make_shared<UniqueFd>(std::move(opened));
        const std::string shown = path == "." ? "" : path.substr(2) + "/";
        for (auto &entry : TRY(sys::list_dir(here->get()))) {
            const auto status = TRY(sys::stat_if_exists(here->get(), entry.name.c_str()));
            if (!status) continue;
            TRY(visit(here->get(), entry.name.c_str(), *status, shown));
            if (S_ISDIR(status->st_mode)) frame.directories.push_back(std::move(entry.name));
        }
        if (frame.directories.empty()) return {};
        if (frame.length - frame.base_length > 3000) {
            frame.base = std::move(here);
            frame.base_length = frame.length + 1;
        }
        frames.push_back(std::move(frame));
        return {};
    };
    Frame root;
    root.base = std::make_shared<UniqueFd>(TRY(sys::open_dir(dir, ".")));
    root.length = path.size();
    TRY(enter(std::move(root), TRY(sys::open_dir(dir, "."))));
    while (!frames.empty()) {
        Frame &above = frames.back();
        if (above.directories.empty()) {
            frames.pop_back();
            continue;
        }
        path.resize(above.length);
        path += '/';
        path += above.directories.back();
        above.directories.pop_back();
        Frame frame{above.base, above.base_length, path.size(), {}};
        auto opened = sys::open_at2(frame.base->get(), path.c_str() + frame.base_length,
                                    O_RDONLY | O_DIRECTORY | O_CLOEXEC, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
        if (!opened && is_missing(opened.error())) continue; // removed meanwhile
        TRY(enter(std::move(frame), TRY(std::move(opened))));
    }
    return {};
}

Result<Usage> walk_usage(int dir, int parent) {
    Usage out;
    std::unordered_set<uint64_t> linked;
    auto of_parent = [&](const std::string &path, const struct stat &status) -> Result<bool> {
        if (parent < 0) return false;
        const auto at = TRY(find_below(parent, path));
        if (!at) return false;
        const struct stat below = TRY(sys::stat_at(at->get(), ""));
        return below.st_ino == status.st_ino && below.st_ctim.tv_sec == status.st_ctim.tv_sec &&
               below.st_ctim.tv_nsec == status.st_ctim.tv_nsec;
    };
    auto add = [&](const std::string &path, const struct stat &status) -> Status {
        if (TRY(of_parent(path, status))) return {};
        if (!S_ISDIR(status.st_mode) && status.st_nlink > 1 && !linked.insert(status.st_ino).second) return {};
        out.bytes += static_cast<uint64_t>(status.st_blocks) * 512;
        ++out.inodes;
        return {};
    };
    TRY(add(".", TRY(sys::stat_at(dir, ""))));
    TRY(walk_tree(dir, [&](int, const char *name, const struct stat &status, std::string_view path) {
        return add(parent < 0 ? std::string() : std::string(path) + name, status);
    }));
    return out;
}

Status copy_metadata(archive::Tree &source, int from, archive::Tree &target, int to) {
    const struct stat status = TRY(source.stat(from, ""));
    TRY(target.chown(to, "", status.st_uid, status.st_gid));
    TRY(target.chmod(to, "", status.st_mode & 07777));
    for (const auto &key : TRY(source.list_xattrs(from, ""))) {
        if (!archive::is_layer_xattr(key)) continue;
        if (const auto value = TRY(source.get_xattr(from, "", key.c_str())))
            TRY(target.set_xattr(to, "", key.c_str(), *value));
    }
    return target.set_times(to, "", status.st_atim, status.st_mtim);
}

Status copy_metadata(int from, int to) {
    archive::DirectoryTree host(-1);
    return copy_metadata(host, from, host, to);
}

Status copy_entry(int from, int to_dir, const char *to_name) {
    const struct stat status = TRY(sys::stat_at(from, ""));
    if (S_ISREG(status.st_mode)) {
        const UniqueFd in(::open(sys::fd_path(from).c_str(), O_RDONLY | O_CLOEXEC));
        if (!in) return fail_errno(errno, fmt::format("open the source of \"{}\"", to_name));
        const UniqueFd out = TRY(sys::open_at(to_dir, to_name, O_WRONLY | O_CREAT | O_EXCL, 0600));
        TRY(sys::copy_file_data(in.get(), out.get(), static_cast<uint64_t>(status.st_size)));
        return copy_metadata(from, out.get());
    }
    if (S_ISDIR(status.st_mode)) return fail(Errc::InvalidArgument, fmt::format("\"{}\" is a directory", to_name));
    if (S_ISLNK(status.st_mode)) {
        TRY(sys::make_symlink(TRY(sys::read_link(from, "")), to_dir, to_name));
    } else {
        TRY(sys::make_node(to_dir, to_name, status.st_mode, status.st_rdev));
        TRY(sys::chmod_at(to_dir, to_name, status.st_mode & 07777));
    }
    TRY(sys::chown_at(to_dir, to_name, status.st_uid, status.st_gid));
    for (const auto &key : TRY(sys::list_xattrs(from, ""))) {
        if (!archive::is_layer_xattr(key)) continue;
        if (const auto value = TRY(sys::get_xattr(from, "", key.c_str())))
            TRY(sys::set_xattr(to_dir, to_name, key.c_str(), *value));
    }
    return sys::set_times(to_dir, to_name, status.st_atim, status.st_mtim);
}

Result<LockedModes> open_up(int root) {
    LockedModes out;
    if (::geteuid() == 0) return out;
    const struct stat self = TRY(sys::stat_at(root, ""));
    if ((self.st_mode & S_IRWXU) != S_IRWXU) {
        out.emplace("", self.st_mode & 07777U);
        TRY(sys::chmod_fd(root, (self.st_mode & 07777U) | S_IRWXU));
    }
    // A directory is shown before it is opened.
    TRY(walk_tree(root, [&](int dir, const char *name, const struct stat &status, std::string_view path) -> Status {
        if (!S_ISDIR(status.st_mode) || (status.st_mode & S_IRWXU) == S_IRWXU) return {};
        out.emplace(std::string(path) + name, status.st_mode & 07777U);
        return sys::chmod_at(dir, name, (status.st_mode & 07777U) | S_IRWXU);
    }));
    return out;
}

Status lock_again(int root, const LockedModes &modes) {
    // Children first: the way to them is open until then.
    for (auto it = modes.rbegin(); it != modes.rend(); ++it) {
        const auto dir = sys::open_dirs(root, it->first);
        if (dir) {
            TRY(sys::chmod_fd(dir->get(), it->second));
        } else if (const int error = dir.error().sys_errno(); error != ENOENT && error != ENOTDIR && error != ELOOP) {
            return std::unexpected(dir.error());
        }
    }
    return {};
}

Result<std::optional<UniqueFd>> find_below(int root, std::string_view path) {
    auto found = sys::open_at2(root, path.empty() ? "." : std::string(path).c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC,
                               RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
    if (found) return std::optional(std::move(*found));
    const int error = found.error().sys_errno();
    if (error == ENOENT || error == ENOTDIR || error == ELOOP) return std::nullopt;
    return std::unexpected(found.error());
}

std::unique_ptr<ProjectQuota> ProjectQuota::open(const LayerRoot &root, std::string &why) {
    if (const auto own = sys::project_of(root.fd()); !own) {
        why = own.error().message();
        return nullptr;
    }
    // Number 0 is everything without a project: it can always be asked for where projects are counted.
    if (const auto count = sys::project_count(root.fd(), 0); !count) {
        why = count.error().message();
        return nullptr;
    }
    const auto status = sys::stat_at(root.fd(), "");
    // Two stores on one file system start at different numbers; adopt() looks for one that is free.
    const auto seed = status ? static_cast<uint32_t>(status->st_ino * 2'654'435'761U) : 0U;
    return std::unique_ptr<ProjectQuota>(new ProjectQuota(root, 0x1000'0000U + (seed & 0x3fff'0000U)));
}

Result<UniqueFd> ProjectQuota::layer(LayerId id) const {
    return sys::open_dir(root_.fd(), to_string(id).c_str());
}

Status ProjectQuota::adopt(LayerId id) {
    const UniqueFd dir = TRY(layer(id));
    for (uint32_t tries = 0; tries < 1000; ++tries) {
        const uint32_t project = base_ + static_cast<uint32_t>(id.value) + tries * 65'537;
        const auto count = sys::project_count(root_.fd(), project);
        if (count && (count->used_inodes != 0 || count->used_bytes != 0)) continue;
        if (!count && count.error().sys_errno() != ENOENT) return std::unexpected(count.error());
        return sys::set_project(dir.get(), project);
    }
    return fail(Errc::ResourceExhausted,
                fmt::format("no free project number for layer {} after 1,000 tries", id.value));
}

Status ProjectQuota::disown(LayerId id) {
    return sys::set_project(TRY(layer(id)).get(), 0);
}

Status ProjectQuota::set(LayerId id, const Quota &quota) {
    const UniqueFd dir = TRY(layer(id));
    const uint32_t project = TRY(sys::project_of(dir.get()));
    if (project == 0)
        return fail(
            Errc::FailedPrecondition,
            fmt::format("layer {} was made while the file system did not count projects: it has no number to limit",
                        id.value));
    return sys::set_project_limits(root_.fd(), project, {quota.bytes, quota.inodes});
}

Result<Quota> ProjectQuota::get(LayerId id) {
    const UniqueFd dir = TRY(layer(id));
    const uint32_t project = TRY(sys::project_of(dir.get()));
    if (project == 0) return Quota{};
    const auto count = TRY(sys::project_count(root_.fd(), project));
    return Quota{count.limits.bytes, count.limits.inodes};
}

Result<std::optional<Usage>> ProjectQuota::usage(LayerId id) {
    const UniqueFd dir = TRY(layer(id));
    const uint32_t project = TRY(sys::project_of(dir.get()));
    if (project == 0) return std::nullopt;
    const auto count = TRY(sys::project_count(root_.fd(), project));
    return Usage{count.used_bytes, count.used_inodes, true};
}

Result<bool> has_d_type(int dir) {
    TRY(sys::make_dir(dir, "d_type", 0700));
    const UniqueFd probe = TRY(sys::open_dir(dir, "d_type"));
    TRY(sys::make_dir(probe.get(), "d", 0700));
    TRY(sys::make_symlink("d", probe.get(), "l"));
    (void)TRY(sys::open_at(probe.get(), "f", O_WRONLY | O_CREAT | O_EXCL, 0600));
    // sys::list_dir resolves DT_UNKNOWN, so the kernel is asked directly.
    alignas(8) std::array<char, 4096> buffer{};
    bool typed = true;
    for (;;) {
        const long got = ::syscall(SYS_getdents64, probe.get(), buffer.data(), buffer.size());
        if (got < 0) return fail_errno(errno, "getdents64");
        if (got == 0) break;
        for (size_t at = 0; at < static_cast<size_t>(got);) {
            uint16_t length = 0; // struct linux_dirent64: ino 8, off 8, reclen 2, type 1, name
            std::memcpy(&length, buffer.data() + at + 16, sizeof length);
            const char *name = buffer.data() + at + 19;
            if (name[0] != '.' && static_cast<unsigned char>(buffer[at + 18]) == DT_UNKNOWN) typed = false;
            at += length;
        }
    }
    TRY(sys::remove_tree(dir, "d_type"));
    return typed;
}

std::string escape_overlay(std::string_view path) {
    std::string out;
    for (const char c : path) {
        if (c == ':' || c == ',' || c == '\\') out.push_back('\\');
        out.push_back(c);
    }
    return out;
}

bool in_user_namespace() {
    const auto map = sys::read_file(AT_FDCWD, "/proc/self/uid_map", 65'536);
    if (!map) return false;
    uint64_t inside = 1, outside = 1, count = 0;
    return std::sscanf(map->c_str(), "%lu %lu %lu", &inside, &outside, &count) != 3 || inside != 0 || outside != 0 ||
           count != 4'294'967'295U;
}

Result<DriverOptions> check_options(std::string_view driver, std::span<const OptionInfo> known,
                                    const DriverOptions &given) {
    DriverOptions out;
    for (const auto &option : known)
        out.emplace(option.key, option.default_value);
    for (const auto &[key, value] : given) {
        const auto option = std::ranges::find(known, key, &OptionInfo::key);
        if (option == known.end()) {
            std::string names;
            for (const auto &one : known)
                names.append(names.empty() ? "" : ", ").append(one.key);
            return fail(Errc::InvalidArgument, fmt::format("driver {} has no option \"{}\"; it has: {}", driver, key,
                                                           names.empty() ? "none" : names));
        }
        if (!option->choices.empty() && !fmt::format("|{}|", option->choices).contains(fmt::format("|{}|", value)))
            return fail(Errc::InvalidArgument,
                        fmt::format("driver {}: option {}={} is none of {}", driver, key, value, option->choices));
        out[key] = value;
    }
    return out;
}

} // namespace shale::drivers
