// SPDX-License-Identifier: Apache-2.0
#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <utility>

#include "base/paths.h"
#include "sys/fs.h"
#include "sys/fs_internal.h"

namespace shale::sys {
namespace {

using detail::failed;
using detail::invoke;

struct Identity {
    dev_t device = 0;
    ino_t inode = 0;
    uint64_t mount = 0; ///< mount id; the device where the kernel does not tell (before 5.8)
    bool operator==(const Identity &) const = default;
};

Result<Identity> identify(int fd) {
    struct statx found{};
    const int done = invoke(Op::stat, fd, nullptr, [&] {
        return ::statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_INO | STATX_MNT_ID, &found);
    });
    if (done < 0) return failed("stat", fd, nullptr);
    Identity out;
    out.device = makedev(found.stx_dev_major, found.stx_dev_minor);
    out.inode = found.stx_ino;
    // A bind mount has the device of its parent, a btrfs subvolume has another without being a mount: the id is right.
    out.mount = (found.stx_mask & STATX_MNT_ID) != 0 ? found.stx_mnt_id : out.device;
    return out;
}

/// Removes one tree, holding the descriptor of the directory it is in and nothing else: up again goes by "..",
/// which is believed only when device and inode are those noted on the way down.
class Remover {
public:
    Remover(int dir, const char *name, const std::function<void()> &on_entry)
        : top_(dir), name_(name), on_entry_(on_entry) {}

    Status run() {
        for (int restarts = 0; restarts < 100; ++restarts) {
            if (TRY(walk())) return {};
        }
        return fail(Errc::Aborted, detail::what("remove", top_, name_) + ": the tree keeps moving while it is removed");
    }

private:
    struct Frame {
        std::string name; ///< in the parent
        Identity identity;
        std::vector<DirEntry> pending;
    };
    enum class Outcome : uint8_t { removed, gone, is_directory, not_empty };

    /// False: a directory was moved away under us, start over.
    Result<bool> walk() {
        frames_.clear();
        current_.reset();
        for (int attempt = 0; attempt < retries; ++attempt) {
            switch (TRY(remove_one(top_, name_, 0))) {
            case Outcome::removed:
            case Outcome::gone:
                return true;
            default:
                break;
            }
            if (!TRY(descend(top_, name_))) continue; // gone, or replaced by something else
            while (!frames_.empty()) {
                if (!TRY(step())) return false;
            }
            const Outcome outcome = TRY(remove_one(top_, name_, AT_REMOVEDIR));
            if (outcome == Outcome::removed || outcome == Outcome::gone) return true;
        }
        return false;
    }

    /// One directory entry further. False: start over.
    Result<bool> step() {
        Frame &frame = frames_.back();
        if (frame.pending.empty()) {
            bool more = true;
            while (more && frame.pending.empty()) {
                auto read = detail::read_entries(current_.get(), frame.pending);
                if (!read && read.error().sys_errno() == ENOENT) break; // removed by somebody else meanwhile
                more = TRY(std::move(read));
            }
            if (frame.pending.empty()) return leave();
        }
        DirEntry entry = std::move(frame.pending.back());
        frame.pending.pop_back();
        if (entry.type != DT_DIR) {
            if (TRY(remove_one(current_.get(), entry.name.c_str(), 0)) != Outcome::is_directory) return true;
        }
        if (!TRY(descend(current_.get(), entry.name.c_str()))) // no directory any more
            TRY(remove_one(current_.get(), entry.name.c_str(), 0));
        return true;
    }

    /// Out of the current directory, and away with it.
    Result<bool> leave() {
        const std::string name = std::move(frames_.back().name);
        frames_.pop_back();
        if (frames_.empty()) {
            current_.reset();
            return true;
        }
        auto up = open_dir(current_.get(), "..");
        if (!up && up.error().sys_errno() == ENOENT) return false;
        UniqueFd parent = TRY(std::move(up));
        if (TRY(identify(parent.get())) != frames_.back().identity) return false;
        current_ = std::move(parent);
        // "not empty" (somebody adds to it): it comes again with the next listing of the parent, but not for ever.
        if (TRY(remove_one(current_.get(), name.c_str(), AT_REMOVEDIR)) == Outcome::not_empty && ++refused_ > retries)
            return fail_errno(ENOTEMPTY, detail::what("remove", current_.get(), name.c_str()));
        return true;
    }

    /// False when `name` is no directory (any more).
    Result<bool> descend(int dir, const char *name) {
        auto opened = open_dir(dir, name);
        if (!opened && opened.error().sys_errno() == EACCES) {
            if (dir != top_) (void)chmod_fd(dir, S_IRWXU); // a directory that can be listed, not searched
            auto mended = chmod_at(dir, name, S_IRWXU);
            if (mended) opened = open_dir(dir, name);
        }
        if (!opened) {
            const int error = opened.error().sys_errno();
            if (error == ENOENT || error == ENOTDIR || error == ELOOP) return false;
            return std::unexpected(std::move(opened).error());
        }
        const Identity identity = TRY(identify(opened->get()));
        const uint64_t mount = frames_.empty() ? TRY(identify_parent(dir, name)).mount : frames_.back().identity.mount;
        if (identity.mount != mount)
            return fail(Errc::FailedPrecondition, detail::what("remove", opened->get(), nullptr) +
                                                      ": a file system is mounted there; unmount it first");
        current_ = std::move(*opened);
        frames_.push_back({name, identity, {}});
        return true;
    }

    /// Of the directory that `path` (relative to `dir`, or absolute) is an entry of.
    static Result<Identity> identify_parent(int dir, std::string_view path) {
        while (path.size() > 1 && path.ends_with('/'))
            path.remove_suffix(1);
        const std::string_view above = split_path(path).first;
        if (above.empty() && dir != AT_FDCWD) return identify(dir);
        const std::string parent = !above.empty() ? std::string(above) : path.starts_with('/') ? "/" : ".";
        return identify(TRY(open_at(dir, parent.c_str(), O_PATH | O_DIRECTORY)).get());
    }

    Result<Outcome> remove_one(int dir, const char *name, int flags) {
        for (bool mended = false;; mended = true) {
            if (invoke(Op::unlink, dir, name, [&] { return ::unlinkat(dir, name, flags); }) == 0) {
                if (on_entry_) on_entry_();
                return Outcome::removed;
            }
            switch (errno) {
            case ENOENT:
                return Outcome::gone;
            case EISDIR:
                return Outcome::is_directory;
            case ENOTEMPTY:
            case EEXIST:
                return Outcome::not_empty;
            case EACCES:
                if (!mended && dir != top_ && chmod_fd(dir, S_IRWXU)) continue;
                errno = EACCES;
                break;
            case EPERM: { // chattr +i or +a, which a container with CAP_LINUX_IMMUTABLE can set
                const bool entry = !mended && thaw_entry(dir, name);
                const bool above = !mended && dir != top_ && thaw(dir);
                if (entry || above) continue;
                errno = EPERM;
                break;
            }
            default:
                break;
            }
            return failed("remove", dir, name);
        }
    }

    /// True: it was immutable or append-only, and is not any more.
    static bool thaw(int fd) {
        int flags = 0;
        constexpr int frozen = FS_IMMUTABLE_FL | FS_APPEND_FL;
        if (::ioctl(fd, FS_IOC_GETFLAGS, &flags) != 0 || (flags & frozen) == 0) return false;
        flags &= ~frozen;
        return invoke(Op::ioctl, fd, "FS_IOC_SETFLAGS", [&] { return ::ioctl(fd, FS_IOC_SETFLAGS, &flags); }) == 0;
    }
    static bool thaw_entry(int dir, const char *name) {
        const auto status = stat_at(dir, name);
        if (!status || !(S_ISREG(status->st_mode) || S_ISDIR(status->st_mode))) return false;
        const auto entry = open_at(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
        return entry && thaw(entry->get());
    }

    static constexpr int retries = 1000;
    int top_;
    const char *name_;
    const std::function<void()> &on_entry_;
    UniqueFd current_;
    std::vector<Frame> frames_;
    int refused_ = 0;
};

} // namespace

Status remove_tree(int dir, const char *name, const std::function<void()> &on_entry) {
    return Remover(dir, name, on_entry).run();
}

} // namespace shale::sys
