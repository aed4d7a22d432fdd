// SPDX-License-Identifier: Apache-2.0
// A process whose files are watched: its root, and where the host has what is mounted in there. A file that is bound
// alone into a container is the old one there for ever once the host replaces it; its name lives on the host.
#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "sys/mount.h"
#include "sys/path_walk.h"

namespace shale::cli {

struct ProcessView {
    pid_t pid = 0;
    UniqueFd process;                     ///< pidfd
    std::shared_ptr<const UniqueFd> root; ///< O_PATH
    std::vector<sys::MountEntry> mounts;  ///< as it sees them
};
/// NotFound: it has ended. PermissionDenied: it is another user's.
Result<ProcessView> open_process_view(pid_t pid);

/// The first process of the container whose root is the directory `mounted_at`: number 1 of its PID namespace, else the
/// one with the smallest number. NotFound: none has that root.
Result<pid_t> find_container_process(const std::string &mounted_at);

struct BindSource {
    std::string path;         ///< of this process's mount namespace
    bool is_replaced = false; ///< what is mounted has no name there any more
};
/// Where the mounts `ours` show what `mount` shows at `path` ("/etc/conf", below its target), by device and root; the
/// best first, none when `mount` is a whole file system. What is at these paths is not looked at.
struct SourceCandidate {
    uint64_t mount_id = 0; ///< of ours
    std::string path;
};
std::vector<SourceCandidate> source_candidates(const sys::MountEntry &mount, std::string_view path,
                                               const std::vector<sys::MountEntry> &ours);

/// The source of what a process sees by `walked`. nullopt: nothing is mounted there from elsewhere, or it cannot be
/// reached from here. A directory that Kubernetes made ("..2024_05_01_...") is named by the link that leads to it, or
/// to its successor ("..data").
Result<std::optional<BindSource>> find_bind_source(const ProcessView &process, const sys::WalkedPath &walked);

} // namespace shale::cli
