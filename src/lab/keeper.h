// SPDX-License-Identifier: Apache-2.0
// What namespaces do not end: control groups, device-mapper devices, ZFS pools. A process of its own, in a session of
// its own, is told of each before it is made, and removes it when all who could still need it are gone - also when they
// were killed, since then, too, the pipe closes that they hold.
#pragma once

#include <sys/types.h>

#include <string>

#include "base/error.h"
#include "base/fd.h"

namespace shale::lab {

class Keeper {
public:
    /// Forks: to be called while this process has one thread.
    static Result<Keeper> start();
    Keeper(Keeper &&other) noexcept : pipe_(std::move(other.pipe_)), process_(std::exchange(other.process_, 0)) {}
    Keeper &operator=(Keeper &&) = delete;
    /// Waits until it has removed what it was told of (it goes on by itself when this process is killed).
    ~Keeper();

    /// An absolute path below a cgroup mount.
    Status cgroup(const std::string &path) const;
    /// All device-mapper devices whose names begin so.
    Status devices(const std::string &prefix) const;
    Status zfs_pool(const std::string &name) const;

private:
    Keeper(UniqueFd pipe, pid_t process) : pipe_(std::move(pipe)), process_(process) {}
    [[nodiscard]] Status tell(char kind, const std::string &what) const;
    UniqueFd pipe_;
    pid_t process_ = 0;
};

} // namespace shale::lab
