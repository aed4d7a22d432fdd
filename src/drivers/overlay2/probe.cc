// SPDX-License-Identifier: Apache-2.0
// Every fact by doing the real thing in a scratch directory, on mounts that no name space ever shows.
#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include <fmt/format.h>

#include "drivers/concurrent_writes.h"
#include "drivers/overlay2/overlay2.h"
#include "sys/fs.h"

namespace shale::drivers::overlay2 {
namespace {

/// An overlay of lower {f, d/f} and an empty upper, mounted with `options` (detached).
struct Trial {
    UniqueFd dir, mount, root;
    Result<std::optional<std::string>> upper_xattr(const char *name, const std::string &key) const {
        return sys::get_xattr(TRY(sys::open_dir(dir.get(), "upper")).get(), name, key.c_str());
    }
};

class Prober {
public:
    Prober(const LayerRoot::Scratch &scratch, const Config &config) : scratch_(scratch), config_(config) {}

    Result<Trial> trial(std::vector<std::string> options, Status (*fill_lower)(int) = nullptr) {
        const std::string name = fmt::format("t{}", count_++);
        Trial out;
        TRY(sys::make_dir(scratch_.dir.get(), name.c_str(), 0700));
        out.dir = TRY(sys::open_dir(scratch_.dir.get(), name.c_str()));
        for (const char *part : {"lower", "lower/d", "upper", "work"})
            TRY(sys::make_dir(out.dir.get(), part, 0755));
        for (const char *part : {"lower/f", "lower/d/f"})
            (void)TRY(sys::open_at(out.dir.get(), part, O_WRONLY | O_CREAT | O_EXCL, 0644));
        if (fill_lower != nullptr) TRY(fill_lower(TRY(sys::open_dir(out.dir.get(), "lower")).get()));
        const std::string path = sys::fd_path(out.dir.get()); // free of characters that need an escape
        options.insert(options.begin(),
                       {"lowerdir=" + path + "/lower", "upperdir=" + path + "/upper", "workdir=" + path + "/work"});
        out.mount = TRY(sys::mount_detached({"overlay", "overlay", std::move(options)}));
        out.root = TRY(sys::open_dir(out.mount.get(), "."));
        return out;
    }
    [[nodiscard]] std::vector<std::string> base() const {
        return config_.userxattr ? std::vector<std::string>{"userxattr"} : std::vector<std::string>{};
    }

    /// Empty text: it works; else the reason why not.
    std::string with(const std::string &option, const std::function<std::string(const Trial &)> &test = {}) {
        auto options = base();
        options.push_back(option);
        const auto made = trial(std::move(options));
        if (!made) return made.error().text();
        return test ? test(*made) : std::string();
    }

    std::string redirect_dir() {
        if (config_.userxattr) return "the kernel takes redirects from root's mounts only, not with userxattr";
        return with("redirect_dir=on", [&](const Trial &made) -> std::string {
            if (const auto done = sys::rename_at(made.root.get(), "d", made.root.get(), "e"); !done)
                return done.error().text();
            const auto mark = made.upper_xattr("e", "trusted.overlay.redirect");
            return mark && *mark ? "" : "renaming a lower directory left no redirect mark";
        });
    }

    std::string metacopy() {
        if (config_.userxattr) return "the kernel takes metacopy from root's mounts only, not with userxattr";
        auto made = trial({"redirect_dir=on", "metacopy=on"});
        if (!made) return made.error().text();
        if (const auto done = sys::chmod_at(made->root.get(), "f", 0600); !done) return done.error().text();
        const auto mark = made->upper_xattr("f", "trusted.overlay.metacopy");
        return mark && *mark ? "" : "chmod of a lower file copied its data up";
    }

    /// With the driver's own options: the upper alone tells the whole change.
    std::string native_diff() {
        auto made = trial(config_.mount_options(true));
        if (!made) return made.error().text();
        const std::string prefix = config_.prefix();
        if (const auto done = sys::rename_at(made->root.get(), "d", made->root.get(), "e"); done) {
            const auto mark = made->upper_xattr("e", prefix + "redirect");
            if (!mark || *mark)
                return "renamed directories leave redirect marks with redirect_dir=" + config_.redirect_dir;
            return {};
        }
        if (const auto done = sys::remove_tree(made->root.get(), "d"); !done) return done.error().text();
        if (const auto done = sys::make_dir(made->root.get(), "d", 0755); !done) return done.error().text();
        const auto mark = made->upper_xattr("d", prefix + "opaque");
        if (!mark || !*mark || **mark != "y") return "a directory made again is not marked opaque in the upper";
        if (config_.metacopy == "on") return "metacopy=on: files in the upper may have no data";
        return {};
    }

    std::string depth(unsigned wanted) {
        if (const auto made = sys::make_dir(scratch_.dir.get(), "depth", 0700); !made) return made.error().text();
        const auto dir = sys::open_dir(scratch_.dir.get(), "depth");
        if (!dir) return dir.error().text();
        const std::string path = sys::fd_path(dir->get());
        std::string lowers = "lowerdir=";
        for (unsigned i = 0; i < wanted; ++i) {
            if (const auto made = sys::make_dir(dir->get(), std::to_string(i).c_str(), 0700); !made)
                return made.error().text();
            lowers += fmt::format("{}{}/{}", i == 0 ? "" : ":", path, i);
        }
        auto options = base();
        options.push_back(std::move(lowers));
        const auto mounted = sys::mount_detached({"overlay", "overlay", std::move(options)});
        return mounted ? "" : mounted.error().text();
    }

    Fact writes() {
        auto made = trial(config_.mount_options(true), make_written_files);
        const Result<UniqueFd> root = made ? Result<UniqueFd>(std::move(made->root)) : std::unexpected(made.error());
        return concurrent_writes(root, "first write into a lower file of 256 KiB, which copies it up");
    }

    /// The highest rung of the ladder in sys/mount.h that this kernel takes, and why not higher.
    std::pair<std::string, std::string> mount_api() {
        const UniqueFd context(static_cast<int>(::syscall(SYS_fsopen, "overlay", FSOPEN_CLOEXEC)));
        if (!context) return {"mount(2)", sys_error(errno, "fsopen").message() + " (Linux 5.2)"};
        const std::string path = sys::fd_path(scratch_.dir.get());
        if (::syscall(SYS_fsconfig, context.get(), FSCONFIG_SET_STRING, "lowerdir+", path.c_str(), 0) == 0)
            return {"lowerdir+", "layers go in one by one: no limit of one page of options"};
        return {"fsconfig", sys_error(errno, "lowerdir+").message() + " (Linux 6.5)"};
    }

    /// MOUNT_ATTR_IDMAP on a detached clone of the scratch directory.
    std::string idmapped() {
        UniqueFd tree(static_cast<int>(
            ::syscall(SYS_open_tree, scratch_.dir.get(), "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)));
        if (!tree) return sys_error(errno, "open_tree").message();
        std::string reason;
        const UniqueFd names = user_namespace(reason);
        if (!names) return reason;
        mount_attr attributes{};
        attributes.attr_set = MOUNT_ATTR_IDMAP;
        attributes.userns_fd = static_cast<uint64_t>(names.get());
        if (::syscall(SYS_mount_setattr, tree.get(), "", AT_EMPTY_PATH, &attributes, sizeof attributes) != 0)
            return sys_error(errno, "mount_setattr MOUNT_ATTR_IDMAP").message();
        return {};
    }

private:
    /// A user name space with ids 0.. mapped to 100000..; the child that made it is gone when this returns.
    static UniqueFd user_namespace(std::string &reason) {
        int pipes[2] = {-1, -1};
        if (::pipe2(pipes, O_CLOEXEC) != 0) {
            reason = sys_error(errno, "pipe2").message();
            return {};
        }
        UniqueFd out(pipes[0]), in(pipes[1]);
        // Raw clone: the child makes system calls only, so a lock another thread holds cannot matter.
        const long child = ::syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, nullptr, nullptr, nullptr, 0);
        if (child == 0) {
            ::close(pipes[1]);
            char byte = 0;
            (void)!::read(pipes[0], &byte, 1); // ends when the parent closes or dies
            ::_exit(0);
        }
        if (child < 0) {
            reason = sys_error(errno, "clone with a user name space").message();
            return {};
        }
        UniqueFd names;
        bool mapped = true;
        for (const char *map : {"uid_map", "gid_map"}) {
            const std::string path = fmt::format("/proc/{}/{}", child, map);
            const UniqueFd file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
            mapped = mapped && file && ::write(file.get(), "0 100000 65536", 14) == 14;
        }
        if (mapped) {
            names.reset(::open(fmt::format("/proc/{}/ns/user", child).c_str(), O_RDONLY | O_CLOEXEC));
        } else {
            reason = sys_error(errno, "ids of a user name space").message();
        }
        in.reset();
        ::waitpid(static_cast<pid_t>(child), nullptr, 0);
        return names;
    }

    const LayerRoot::Scratch &scratch_;
    const Config &config_;
    unsigned count_ = 0;
};

} // namespace

Result<ProbeReport> Overlay2::probe() {
    ProbeReport out;
    auto yes_no = [&](std::string name, const std::string &reason) {
        out.add(std::move(name), reason.empty() ? "yes" : "no", reason);
    };
    const auto scratch = root_.scratch();
    if (!scratch) {
        out.reason = scratch.error().text();
        return out;
    }
    const int dir = scratch->dir.get();
    const std::string backing = sys::file_system_name(TRY(sys::statfs_fd(dir)));
    out.add("backing file system", backing, "statfs");
    const bool typed = TRY(has_d_type(dir));
    out.add("d_type", typed ? "yes" : "no",
            typed ? "" : "directory entries come without a type: make ext4 with -O filetype, XFS with -n ftype=1");
    const auto whiteout = sys::make_node(dir, "whiteout", S_IFCHR, 0);
    yes_no("whiteout device", whiteout ? "" : whiteout.error().text());
    out.add("whiteout form", config_.userxattr ? "user.overlay" : "trusted.overlay",
            config_.userxattr ? "user name space or userxattr=yes" : "");

    Prober prober(*scratch, config_);
    const auto mounted = prober.trial(config_.mount_options(true));
    yes_no("overlay mount", mounted ? "" : mounted.error().text());
    out.usable = mounted.has_value() && typed && whiteout.has_value();
    if (!out.usable) {
        if (!mounted) {
            out.reason = fmt::format("overlay does not mount on {}: {}", backing, mounted.error().text());
        } else if (!typed) {
            out.reason =
                fmt::format("{} gives no d_type here: overlay would show wrong directories. Make it with ftype, or use "
                            "the driver vfs",
                            backing);
        } else {
            out.reason = fmt::format("whiteouts cannot be made: {}", whiteout.error().text());
        }
        return out;
    }
    const auto [api, api_reason] = prober.mount_api();
    out.add("mount api", api, api_reason);
    yes_no("native diff", prober.native_diff());
    yes_no("redirect_dir", prober.redirect_dir());
    yes_no("metacopy", prober.metacopy());
    yes_no("index", prober.with("index=on"));
    yes_no("xino", prober.with("xino=on"));
    yes_no("volatile", prober.with("volatile"));
    {
        const auto user = prober.trial({"userxattr"});
        yes_no("userxattr", user ? "" : user.error().text());
    }
    yes_no("idmapped mounts", prober.idmapped());
    out.facts.push_back(prober.writes());
    out.facts.push_back(quota_fact());
    const std::string depth = prober.depth(max_lowers);
    out.add("max depth", depth.empty() ? std::to_string(max_lowers) : "less than " + std::to_string(max_lowers),
            depth.empty() ? "mounted with as many empty layers" : depth);
    return out;
}

} // namespace shale::drivers::overlay2
