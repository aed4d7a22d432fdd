// SPDX-License-Identifier: Apache-2.0
// Who uses what of the file systems of this kernel: every mount of every mount namespace, and every path that a process
// has open, stands in or is mapped to. It is told in whole, or with its gaps: nothing may be called unused beside a
// gap.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <sys/types.h>

#include "probe/facts.h"

namespace shale::doctor {

struct Uses {
    std::vector<probe::MountNamespace> namespaces;
    std::map<std::string, int> open;     ///< a path, as its process sees it -> one of the processes
    std::set<std::string> backing_files; ///< of loop devices
    size_t processes = 0;
    std::vector<std::string> gaps; ///< what could not be searched, and why
};

/// Takes a moment: /proc/PID of all processes and their threads. `alone`: what this process cannot see (a PID namespace
/// of its own, processes that are closed to it) is none of the caller's concern; that makes no gap then.
Uses read_uses(bool alone);

/// A directory, as this process and as its file system name it.
struct Place {
    std::string path;           ///< canonical
    std::string device, inside; ///< of mountinfo: "8:1", and the path from the top of the file system
};
/// By the mount of this process' namespace that holds it. nullopt: there is no such mount.
std::optional<Place> place_of(const Uses &uses, const std::string &canonical_path);

/// Why the directory, or something in it, is in use; empty: nothing uses it. Mounts of it or of a part in any
/// namespace, mounts upon it, overlays that have a part of it for a layer, loop devices, and what processes have open,
/// also by the names that other mounts give it.
std::string use_of(const Uses &uses, const Place &place, const std::set<std::pair<dev_t, ino_t>> &overlay_directories);

/// The directories of all mounted overlays, by device and inode. `bases`: where relative ones may begin.
std::set<std::pair<dev_t, ino_t>> overlay_directories(const Uses &uses, const std::set<std::string> &bases);

/// "lowerdir", "upperdir", "workdir", "lowerdir+" and "datadir+" of an overlay's options as mountinfo shows them.
std::vector<std::string> directories_of_overlay(std::string_view options);

} // namespace shale::doctor
