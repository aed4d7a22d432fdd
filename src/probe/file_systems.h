// SPDX-License-Identifier: Apache-2.0
// The file systems of a host, each once however often it is mounted: how full, whether its directory entries say what
// they are, its quota. Only types that are known to answer are opened: a network file system whose server is gone, or
// one of a process that hangs, would hang whoever looks at it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "probe/facts.h"
#include "probe/host.h"
#include "sys/mount.h"

namespace shale::probe {

inline constexpr size_t max_file_systems = 4096;

enum class FileSystemKind : uint8_t {
    local,      ///< on disk: always looked at
    memory,     ///< tmpfs and its kin: looked at when it carries "/" or a store
    layered,    ///< overlay: likewise
    remote,     ///< a network, a cluster, the host of a virtual machine: never
    user_space, ///< FUSE: never
    pseudo,     ///< proc and its kin: never
};
/// `device` is "major:minor": a type that is not known here counts as local when it has a block device.
[[nodiscard]] FileSystemKind file_system_kind(std::string_view type, std::string_view device);

/// Those that carry "/", one of `store_roots` (the host's paths, links followed; one that is not there does not count)
/// or lie on disk and are mounted below the host's root in the mount namespace of this process, that with "/" first.
/// Kinds that are not looked at are problems when they are remote, or carry what was asked for.
std::vector<FileSystem> read_file_systems(const Host &host, const std::vector<std::string> &store_roots,
                                          std::vector<Problem> &problems);
/// Index into `systems` of the one that carries the host's `path` (links followed). nullopt: none of them, or there is
/// no such path, or it lies on one that must not be touched.
std::optional<size_t> file_system_of(const Host &host, const std::vector<FileSystem> &systems, const std::string &path);

/// The steps, for any mount table. read_file_systems() of these mounts, in the order of mounting.
std::vector<FileSystem> file_systems_of(const Host &host, const std::vector<sys::MountEntry> &mounts,
                                        const std::vector<std::string> &store_roots, std::vector<Problem> &problems);
/// Mounts at and below `root`, with targets as the host itself sees them; what carries
/// `root`, when that is no mount itself, comes first as "/".
std::vector<sys::MountEntry> mounts_of_host(const std::vector<sys::MountEntry> &table, std::string_view root);
/// The mount that `path` lies on, as far as names tell: the longest target, of equals the last. nullptr: none.
const sys::MountEntry *mount_above(const std::vector<sys::MountEntry> &mounts, std::string_view path);
/// Options of the mount with those of its file system, each once; "ro" of either wins over "rw".
std::string merged_options(std::string_view mount_options, std::string_view super_options);

} // namespace shale::probe
