// SPDX-License-Identifier: Apache-2.0
// Values of lowerdir, upperdir and workdir are in the kernel's own escaped form (backslash before ',' ':' '\\'):
// mount(2) and the fs context take them as they are, except "lowerdir+", which takes one path without any escaping.
#include "sys/mount.h"

// The kernel's header and raw calls: <sys/mount.h> would find this room's own header of that name.
#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <functional>
#include <optional>
#include <system_error>
#include <thread>

#include <fmt/format.h>

#include "sys/fs.h"
#include "sys/fs_internal.h"

namespace shale::sys {
namespace {

using detail::invoke;

constexpr int umount_nofollow = 8; // UMOUNT_NOFOLLOW of umount2(2)

template <class... Args> int raw(long number, Args... args) {
    return static_cast<int>(::syscall(number, args...));
}

struct Flag {
    std::string_view name;
    unsigned long set, clear;      ///< MS_*
    uint64_t attr_set, attr_clear; ///< MOUNT_ATTR_*
    unsigned long propagation = 0; ///< MS_*
};

constexpr std::array flag_table{
    Flag{"defaults", 0, 0, 0, 0},
    Flag{"ro", MS_RDONLY, 0, MOUNT_ATTR_RDONLY, 0},
    Flag{"ro=vfs", 0, MS_RDONLY, MOUNT_ATTR_RDONLY, 0}, // this mount only: the file system's super block is writable
    Flag{"rw", 0, MS_RDONLY, 0, MOUNT_ATTR_RDONLY},
    Flag{"nosuid", MS_NOSUID, 0, MOUNT_ATTR_NOSUID, 0},
    Flag{"suid", 0, MS_NOSUID, 0, MOUNT_ATTR_NOSUID},
    Flag{"nodev", MS_NODEV, 0, MOUNT_ATTR_NODEV, 0},
    Flag{"dev", 0, MS_NODEV, 0, MOUNT_ATTR_NODEV},
    Flag{"noexec", MS_NOEXEC, 0, MOUNT_ATTR_NOEXEC, 0},
    Flag{"exec", 0, MS_NOEXEC, 0, MOUNT_ATTR_NOEXEC},
    Flag{"noatime", MS_NOATIME, MS_RELATIME | MS_STRICTATIME, MOUNT_ATTR_NOATIME, MOUNT_ATTR__ATIME},
    Flag{"relatime", MS_RELATIME, MS_NOATIME | MS_STRICTATIME, MOUNT_ATTR_RELATIME, MOUNT_ATTR__ATIME},
    Flag{"strictatime", MS_STRICTATIME, MS_NOATIME | MS_RELATIME, MOUNT_ATTR_STRICTATIME, MOUNT_ATTR__ATIME},
    Flag{"nodiratime", MS_NODIRATIME, 0, MOUNT_ATTR_NODIRATIME, 0},
    Flag{"diratime", 0, MS_NODIRATIME, 0, MOUNT_ATTR_NODIRATIME},
    Flag{"bind", MS_BIND, 0, 0, 0},
    Flag{"rbind", MS_BIND | MS_REC, 0, 0, 0},
    Flag{"private", 0, 0, 0, 0, MS_PRIVATE},
    Flag{"rprivate", 0, 0, 0, 0, MS_PRIVATE | MS_REC},
    Flag{"slave", 0, 0, 0, 0, MS_SLAVE},
    Flag{"rslave", 0, 0, 0, 0, MS_SLAVE | MS_REC},
    Flag{"shared", 0, 0, 0, 0, MS_SHARED},
    Flag{"rshared", 0, 0, 0, 0, MS_SHARED | MS_REC},
    Flag{"unbindable", 0, 0, 0, 0, MS_UNBINDABLE},
    Flag{"runbindable", 0, 0, 0, 0, MS_UNBINDABLE | MS_REC},
};

/// A spec taken apart.
struct Plan {
    unsigned long flags = 0;
    uint64_t attr_set = 0, attr_clear = 0;
    unsigned long propagation = 0;
    bool bind = false;
    std::vector<std::string> lowers; ///< escaped
    std::vector<std::pair<std::string, std::optional<std::string>>> data;
};

/// Splits at ':' that no backslash protects.
std::vector<std::string> split_lowers(std::string_view text) {
    std::vector<std::string> out(1);
    for (size_t i = 0; i < text.size(); ++i) {
        if (text[i] == '\\' && i + 1 < text.size()) {
            out.back().append(text.substr(i++, 2));
        } else if (text[i] == ':') {
            out.emplace_back();
        } else {
            out.back().push_back(text[i]);
        }
    }
    return out;
}

std::string unescape(std::string_view text) {
    std::string out;
    for (size_t i = 0; i < text.size(); ++i) {
        if (text[i] == '\\' && i + 1 < text.size()) ++i;
        out.push_back(text[i]);
    }
    return out;
}

Result<Plan> make_plan(const MountSpec &spec) {
    Plan plan;
    plan.bind = spec.type == "bind";
    for (const std::string &option : spec.options) {
        const auto *flag = std::ranges::find(flag_table, option, &Flag::name);
        if (flag != flag_table.end()) {
            plan.flags = (plan.flags & ~flag->clear) | flag->set;
            plan.attr_set = (plan.attr_set & ~flag->attr_clear) | flag->attr_set;
            plan.attr_clear = (plan.attr_clear & ~flag->attr_set) | flag->attr_clear;
            if (flag->propagation != 0) plan.propagation = flag->propagation;
            if ((flag->set & MS_BIND) != 0) plan.bind = true;
            continue;
        }
        const size_t equals = option.find('=');
        if (equals == std::string::npos) {
            plan.data.emplace_back(option, std::nullopt);
        } else if (spec.type == "overlay" && option.starts_with("lowerdir=")) {
            plan.lowers = split_lowers(std::string_view(option).substr(equals + 1));
        } else {
            plan.data.emplace_back(option.substr(0, equals), option.substr(equals + 1));
        }
    }
    if (plan.bind && !plan.data.empty())
        return fail(Errc::InvalidArgument,
                    fmt::format("mount option \"{}\" means nothing to a bind mount", plan.data.front().first));
    return plan;
}

/// What the kernel wrote into the context's log ("e overlay: ..."), one line.
std::string kernel_log(int context) {
    std::string out;
    std::array<char, 1024> line; // NOLINT: filled by the kernel
    for (int i = 0; i < 64; ++i) {
        const ssize_t got = ::read(context, line.data(), line.size());
        if (got <= 0) break; // ENODATA: empty
        std::string_view text(line.data(), static_cast<size_t>(got));
        while (text.ends_with('\n'))
            text.remove_suffix(1);
        if (text.size() > 2 && text[1] == ' ') text.remove_prefix(2);
        out.append(out.empty() ? "" : "; ").append(text);
    }
    return out;
}

/// As fail_errno, with the kernel's own words behind it.
std::unexpected<Error> context_error(int context, int sys_errno, const std::string &what) {
    const std::string log = kernel_log(context);
    const Error plain = sys_error(sys_errno, what);
    if (log.empty()) return std::unexpected(plain);
    return std::unexpected(Error(plain.code(), sys_errno, fmt::format("{} (kernel: {})", plain.message(), log)));
}

int configure(int context, unsigned command, const char *key, const char *value, int aux = 0) {
    return invoke(Op::fsconfig, context, key, [&] { return raw(SYS_fsconfig, context, command, key, value, aux); });
}

/// One directory option. The kernel takes 255 bytes of text; a longer path goes in as a descriptor (Linux 6.13+), and
/// before that as its /proc name.
int configure_path(int context, const char *key, const std::string &value, const std::string &path) {
    if (value.size() < 256) return configure(context, FSCONFIG_SET_STRING, key, value.c_str());
    const UniqueFd fd(
        invoke(Op::open, AT_FDCWD, path.c_str(), [&] { return ::open(path.c_str(), O_PATH | O_CLOEXEC); }));
    if (!fd) return -1;
    if (configure(context, FSCONFIG_SET_FD, key, nullptr, fd.get()) == 0) return 0;
    return configure(context, FSCONFIG_SET_STRING, key, fd_path(fd.get()).c_str());
}

std::string joined_lowers(const Plan &plan) {
    std::string out;
    for (const auto &lower : plan.lowers)
        out.append(out.empty() ? "" : ":").append(lower);
    return out;
}

enum class Lowers : uint8_t { each, joined };

/// fsopen .. fsmount. `again` is set when another rung may do better: the kernel (or the seam) does not know the
/// call or "lowerdir+", or the joined text is too long for fsconfig.
Result<UniqueFd> by_context(const MountSpec &spec, const Plan &plan, Lowers lowers, bool &again) {
    again = false;
    const UniqueFd context(
        invoke(Op::fsopen, -1, spec.type.c_str(), [&] { return raw(SYS_fsopen, spec.type.c_str(), FSOPEN_CLOEXEC); }));
    if (!context) {
        const int error = errno;
        again = error == ENOSYS;
        return fail_errno(error, fmt::format("fsopen {}", spec.type));
    }
    const int fd = context.get();
    if (!spec.source.empty() && configure(fd, FSCONFIG_SET_STRING, "source", spec.source.c_str()) != 0)
        return context_error(fd, errno, fmt::format("mount {}: source \"{}\"", spec.type, spec.source));
    if (lowers == Lowers::each) {
        for (const auto &lower : plan.lowers) {
            const std::string path = unescape(lower);
            if (configure_path(fd, "lowerdir+", path, path) == 0) continue;
            const int error = errno;
            again = error == EINVAL || error == ENOSYS;
            return context_error(fd, error, fmt::format("mount {}: lowerdir+ \"{}\"", spec.type, path));
        }
    } else if (!plan.lowers.empty() &&
               configure(fd, FSCONFIG_SET_STRING, "lowerdir", joined_lowers(plan).c_str()) != 0) {
        const int error = errno;
        again = error == EINVAL || error == ENOSYS;
        return context_error(fd, error, fmt::format("mount {}: lowerdir of {} layers", spec.type, plan.lowers.size()));
    }
    for (const auto &[key, value] : plan.data) {
        int done = 0;
        if (!value) {
            done = configure(fd, FSCONFIG_SET_FLAG, key.c_str(), nullptr);
        } else if (spec.type == "overlay" && (key == "upperdir" || key == "workdir")) {
            done = configure_path(fd, key.c_str(), *value, unescape(*value));
        } else {
            done = configure(fd, FSCONFIG_SET_STRING, key.c_str(), value->c_str());
        }
        if (done != 0) {
            const int error = errno;
            again = error == ENOSYS;
            return context_error(
                fd, error,
                fmt::format("mount {}: option {}{}{}", spec.type, key, value ? "=" : "", value.value_or("")));
        }
    }
    // A read-only super block for disks; on overlay the mount attribute alone decides, as with mount(2).
    if ((plan.flags & MS_RDONLY) != 0 && spec.type != "overlay") (void)configure(fd, FSCONFIG_SET_FLAG, "ro", nullptr);
    if (configure(fd, FSCONFIG_CMD_CREATE, nullptr, nullptr) != 0) {
        const int error = errno;
        // An overlay of before Linux 6.5 hears of its options only now, and does not know "lowerdir+".
        again = lowers == Lowers::each && !plan.lowers.empty() && error == EINVAL;
        return context_error(fd, error, fmt::format("mount {}", spec.type));
    }
    UniqueFd mounted(invoke(Op::fsmount, fd, spec.type.c_str(), [&] {
        return raw(SYS_fsmount, fd, FSMOUNT_CLOEXEC, static_cast<unsigned>(plan.attr_set));
    }));
    if (!mounted) return context_error(fd, errno, fmt::format("fsmount {}", spec.type));
    return mounted;
}

/// A detached clone of `spec.source` with its flags.
Result<UniqueFd> clone_bind(const MountSpec &spec, const Plan &plan, bool &again) {
    again = false;
    const unsigned recursive = (plan.flags & MS_REC) != 0 ? AT_RECURSIVE : 0U;
    UniqueFd tree(invoke(Op::open_tree, AT_FDCWD, spec.source.c_str(), [&] {
        return raw(SYS_open_tree, AT_FDCWD, spec.source.c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | recursive);
    }));
    if (!tree) {
        const int error = errno;
        again = error == ENOSYS;
        return fail_errno(error, fmt::format("bind \"{}\"", spec.source));
    }
    if (plan.attr_set != 0 || plan.attr_clear != 0) {
        mount_attr attr{};
        attr.attr_set = plan.attr_set;
        attr.attr_clr = plan.attr_clear;
        const int done = invoke(Op::mount_setattr, tree.get(), spec.source.c_str(), [&] {
            return raw(SYS_mount_setattr, tree.get(), "", AT_EMPTY_PATH | recursive, &attr, sizeof attr);
        });
        // "rw" on a mount of another user name space's making is refused though nothing is to be changed.
        if (done != 0 && (plan.attr_set != 0 || errno == ENOSYS)) {
            const int error = errno;
            again = error == ENOSYS; // before Linux 5.12
            return fail_errno(error, fmt::format("flags of bind \"{}\"", spec.source));
        }
    }
    return tree;
}

Status set_propagation(const std::string &target, unsigned long propagation) {
    if (propagation == 0) return {};
    const int done = invoke(Op::mount, -1, target.c_str(),
                            [&] { return raw(SYS_mount, nullptr, target.c_str(), nullptr, propagation, nullptr); });
    if (done == 0) return {};
    const int error = errno;
    (void)unmount(target, umount_detach);
    return fail_errno(error, fmt::format("propagation of \"{}\"", target));
}

Status attach(const UniqueFd &tree, const std::string &target, bool &again) {
    const int done = invoke(Op::move_mount, tree.get(), target.c_str(), [&] {
        return raw(SYS_move_mount, tree.get(), "", AT_FDCWD, target.c_str(), MOVE_MOUNT_F_EMPTY_PATH);
    });
    if (done == 0) return {};
    const int error = errno;
    again = error == ENOSYS;
    return fail_errno(error, fmt::format("mount on \"{}\"", target));
}

Result<UniqueFd> detached(const MountSpec &spec, const Plan &plan, bool &again) {
    if (plan.bind) return clone_bind(spec, plan, again);
    auto made = by_context(spec, plan, Lowers::each, again);
    if (made || !again || plan.lowers.empty() || made.error().sys_errno() == ENOSYS) return made;
    // Linux 5.2 - 6.4 has no "lowerdir+". The first error is the better one when this fails as well.
    bool again_joined = false;
    auto joined = by_context(spec, plan, Lowers::joined, again_joined);
    if (joined) return joined;
    again = again_joined;
    return again ? std::move(made) : std::move(joined);
}

/// Runs `body` with the working directory `directory` ("" = as it is), on a thread that shares nothing of that with the
/// process, nor what else `unshared` names.
int in_directory(const std::string &directory, const std::function<int()> &body, int unshared = CLONE_FS) {
    int error = 0;
    try {
        std::thread([&] {
            if (::unshare(unshared) != 0 || (!directory.empty() && ::chdir(directory.c_str()) != 0)) {
                error = errno;
                return;
            }
            error = body();
        }).join();
    } catch (const std::system_error &failure) {
        error = failure.code().value();
    }
    return error;
}

/// The directory all of `paths` lie in; empty when one is not absolute or holds an escape (those stay as they are).
std::string common_parent(const std::vector<std::string> &paths) {
    std::string common;
    for (const auto &path : paths) {
        const size_t slash = path.rfind('/');
        if (!path.starts_with('/') || slash == 0 || path.contains('\\')) return {};
        const std::string parent = path.substr(0, slash);
        if (common.empty()) common = parent;
        while (!common.empty() && parent != common && !parent.starts_with(common + "/"))
            common.resize(common.rfind('/'));
        if (common.empty()) return {};
    }
    return common;
}

std::string legacy_data(const Plan &plan, size_t cut) {
    std::string out;
    auto put = [&](std::string_view text) { out.append(out.empty() ? "" : ",").append(text); };
    if (!plan.lowers.empty()) {
        std::string lowers;
        for (const auto &lower : plan.lowers)
            lowers.append(lowers.empty() ? "" : ":").append(lower.substr(cut));
        put("lowerdir=" + lowers);
    }
    for (const auto &[key, value] : plan.data)
        put(value ? key + "=" + *value : key);
    return out;
}

size_t page_size() {
    return static_cast<size_t>(::sysconf(_SC_PAGESIZE));
}
bool plan_fits(const Plan &plan) {
    return legacy_data(plan, 0).size() < page_size();
}

Status legacy_mount(const MountSpec &spec, const Plan &plan, const std::string &target) {
    const unsigned long flags = plan.flags & ~static_cast<unsigned long>(MS_BIND | MS_REC);
    const size_t page = page_size();
    auto call = [&](const std::string &on, const std::string &data) {
        const int done = invoke(Op::mount, -1, on.c_str(), [&] {
            return raw(SYS_mount, spec.source.c_str(), on.c_str(), spec.type.c_str(), flags, data.c_str());
        });
        return done == 0 ? 0 : errno;
    };
    std::string data = legacy_data(plan, 0);
    int error = 0;
    if (data.size() < page) {
        error = call(target, data);
    } else {
        const std::string parent = common_parent(plan.lowers);
        if (!parent.empty()) data = legacy_data(plan, parent.size() + 1);
        if (data.size() >= page)
            return fail(
                Errc::ResourceExhausted,
                fmt::format("mount {} on \"{}\": {} layers need {} bytes of options, mount(2) takes {}; Linux 6.5 and "
                            "later has no such limit",
                            spec.type, target, plan.lowers.size(), data.size(), page - 1));
        std::string absolute = target;
        if (!target.starts_with('/')) absolute = TRY(path_of_fd(TRY(open_dir(AT_FDCWD, target.c_str())).get()));
        error = in_directory(parent, [&] { return call(absolute, data); });
    }
    if (error != 0) return fail_errno(error, fmt::format("mount {} on \"{}\" (mount(2), {})", spec.type, target, data));
    return {};
}

/// A detached overlay where fsconfig cannot take the layers: mount(2) in a mount name space that ends with its thread,
/// over the first lower, and a clone of that.
Result<UniqueFd> detached_by_mount(const MountSpec &spec, const Plan &plan) {
    Result<UniqueFd> out = UniqueFd();
    const std::string target = unescape(plan.lowers.front());
    const int error = in_directory(
        {},
        [&] {
            if (raw(SYS_mount, nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return errno;
            if (auto done = legacy_mount(spec, plan, target); !done) {
                out = std::unexpected(std::move(done).error());
                return 0;
            }
            UniqueFd tree(invoke(Op::open_tree, AT_FDCWD, target.c_str(), [&] {
                return raw(SYS_open_tree, AT_FDCWD, target.c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
            }));
            if (!tree) return errno;
            out = std::move(tree);
            return 0;
        },
        CLONE_NEWNS);
    if (error != 0) return fail_errno(error, fmt::format("mount {} out of sight", spec.type));
    return out;
}

Status legacy_bind(const MountSpec &spec, const Plan &plan, const std::string &target) {
    auto call = [&](const char *source, unsigned long flags) {
        return invoke(Op::mount, -1, target.c_str(),
                      [&] { return raw(SYS_mount, source, target.c_str(), nullptr, flags, nullptr); });
    };
    if (call(spec.source.c_str(), MS_BIND | (plan.flags & MS_REC)) != 0)
        return fail_errno(errno, fmt::format("bind \"{}\" on \"{}\"", spec.source, target));
    unsigned long wanted = plan.flags & ~static_cast<unsigned long>(MS_BIND | MS_REC);
    if (wanted == 0) return {};
    // A remount states all flags: those the source has already must be said again, or they would be taken away.
    struct statvfs now{};
    if (::statvfs(target.c_str(), &now) == 0)
        wanted |= now.f_flag & (ST_NOSUID | ST_NODEV | ST_NOEXEC | ST_NOATIME | ST_NODIRATIME);
    if (call(nullptr, MS_REMOUNT | MS_BIND | wanted) == 0) return {};
    const int error = errno;
    (void)unmount(target, umount_detach);
    return fail_errno(error, fmt::format("flags of bind \"{}\" on \"{}\"", spec.source, target));
}

} // namespace

Result<UniqueFd> mount_detached(const MountSpec &spec) {
    const Plan plan = TRY(make_plan(spec));
    bool again = false;
    auto made = detached(spec, plan, again);
    if (!made && again && !plan.lowers.empty() && made.error().sys_errno() != ENOSYS) {
        auto other = detached_by_mount(spec, plan);
        return other ? std::move(other) : std::move(made); // the first has the kernel's words
    }
    if (made || made.error().sys_errno() != ENOSYS) return made;
    return std::unexpected(
        Error(Errc::Unimplemented, ENOSYS, made.error().text() + " (detached mounts need Linux 5.2)"));
}

Status mount_at(const MountSpec &spec, const std::string &target, MountApi api) {
    const Plan plan = TRY(make_plan(spec));
    if (api == MountApi::best && !plan.lowers.empty() && plan_fits(plan) && legacy_mount(spec, plan, target))
        return set_propagation(target, plan.propagation);
    if (api != MountApi::legacy) {
        bool again = false;
        auto made = detached(spec, plan, again);
        if (made) {
            const auto done = attach(*made, target, again);
            if (done) return set_propagation(target, plan.propagation);
            if (api == MountApi::fsconfig || !again) return done;
        } else if (api == MountApi::fsconfig || (!again && made.error().sys_errno() != ENOSYS)) {
            return in_context(Status(std::unexpected(std::move(made).error())),
                              [&] { return fmt::format("mount on \"{}\"", target); });
        }
    }
    TRY(plan.bind ? legacy_bind(spec, plan, target) : legacy_mount(spec, plan, target));
    return set_propagation(target, plan.propagation);
}

Status unmount(const std::string &target, int flags) {
    const int done = invoke(Op::umount, -1, target.c_str(),
                            [&] { return raw(SYS_umount2, target.c_str(), flags | umount_nofollow); });
    if (done != 0) return fail_errno(errno, fmt::format("unmount \"{}\"", target));
    return {};
}

Status unmount_all(std::string_view prefix) {
    const auto table = TRY(mount_table());
    for (auto one = table.rbegin(); one != table.rend(); ++one)
        if (one->target.starts_with(prefix)) TRY(unmount(one->target, umount_detach));
    return {};
}

} // namespace shale::sys
