// SPDX-License-Identifier: Apache-2.0
#include "support/mapped_mount.h"

#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include <fmt/format.h>

#include "sys/fs.h"

namespace shale::test {
namespace {

std::string take(std::vector<std::string> &options, std::string_view prefix) {
    for (auto option = options.begin(); option != options.end(); ++option)
        if (option->starts_with(prefix)) {
            std::string value = option->substr(prefix.size());
            options.erase(option);
            return value;
        }
    return {};
}

/// A user name space with these maps ("0:100000:65536"); the child that made it is gone when this returns.
Result<UniqueFd> user_namespace(const std::string &uids, const std::string &gids) {
    int pipes[2] = {-1, -1};
    if (::pipe2(pipes, O_CLOEXEC) != 0) return fail_errno(errno, "pipe2");
    const UniqueFd out(pipes[0]);
    UniqueFd in(pipes[1]);
    const long child = ::syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, nullptr, nullptr, nullptr, 0);
    if (child == 0) {
        ::close(pipes[1]);
        char byte = 0;
        (void)!::read(pipes[0], &byte, 1);
        ::_exit(0);
    }
    if (child < 0) return fail_errno(errno, "clone");
    const ScopeGuard end([&] {
        in.reset();
        ::waitpid(static_cast<pid_t>(child), nullptr, 0);
    });
    for (const auto &[name, text] : {std::pair("uid_map", uids), std::pair("gid_map", gids)}) {
        std::string map = text;
        for (char &c : map)
            if (c == ':' || c == ',') c = c == ':' ? ' ' : '\n';
        const UniqueFd file = TRY(sys::open_at(AT_FDCWD, fmt::format("/proc/{}/{}", child, name).c_str(), O_WRONLY));
        if (::write(file.get(), map.data(), map.size()) < 0) return fail_errno(errno, name);
    }
    UniqueFd names(::open(fmt::format("/proc/{}/ns/user", child).c_str(), O_RDONLY | O_CLOEXEC));
    if (!names) return fail_errno(errno, "open the user name space");
    return names;
}

Status map_onto(const std::string &source, const std::string &target, int names) {
    const UniqueFd tree(static_cast<int>(
        ::syscall(SYS_open_tree, AT_FDCWD, source.c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE)));
    if (!tree) return fail_errno(errno, "open_tree " + source);
    mount_attr attributes{};
    attributes.attr_set = MOUNT_ATTR_IDMAP;
    attributes.userns_fd = static_cast<uint64_t>(names);
    if (::syscall(SYS_mount_setattr, tree.get(), "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes, sizeof attributes) != 0)
        return fail_errno(errno, "mount_setattr " + source);
    if (::syscall(SYS_move_mount, tree.get(), "", AT_FDCWD, target.c_str(), MOVE_MOUNT_F_EMPTY_PATH) != 0)
        return fail_errno(errno, "move_mount " + target);
    return {};
}

} // namespace

Status mount_mapped(sys::MountSpec spec, const std::string &target) {
    const std::string uids = take(spec.options, "uidmap="), gids = take(spec.options, "gidmap=");
    if (uids.empty() || gids.empty()) return fail(Errc::InvalidArgument, "the mount does not say how ids are mapped");
    const UniqueFd names = TRY(user_namespace(uids, gids));
    if (spec.type != "overlay") {
        TRY(sys::mount_at(spec, target));
        return map_onto(target, target, names.get());
    }
    std::vector<std::string> mapped;
    const ScopeGuard clean([&] {
        for (const std::string &lower : mapped) {
            (void)sys::unmount(lower, sys::umount_detach);
            std::filesystem::remove(lower);
        }
    });
    std::string lowers = take(spec.options, "lowerdir="), option = "lowerdir=";
    for (size_t begin = 0; begin <= lowers.size();) {
        const size_t end = std::min(lowers.find(':', begin), lowers.size());
        mapped.push_back(fmt::format("{}.lower{}", target, mapped.size()));
        std::filesystem::create_directory(mapped.back());
        TRY(map_onto(lowers.substr(begin, end - begin), mapped.back(), names.get()));
        option += (mapped.size() > 1 ? ":" : "") + mapped.back();
        begin = end + 1;
    }
    spec.options.push_back(option);
    return sys::mount_at(spec, target);
}

} // namespace shale::test
