// SPDX-License-Identifier: Apache-2.0
// Control groups: where their hierarchies are mounted, which group a process is in, and what a file of a group is set
// to. cgroup v1 and v2 (Linux, Documentation/admin-guide/cgroup-v1/blkio-controller.rst, .../cgroup-v2.rst); where both
// are mounted, each controller is where it is.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "guard/measures.h"
#include "probe/host.h"

namespace shale::guard {

struct Hierarchy {
    std::string mount; ///< "/sys/fs/cgroup/blkio"
    std::string root;  ///< the group that is mounted there: "/", or that of a container
    bool unified = false;
};

class Cgroups {
public:
    /// From /proc/self/mountinfo. A host without any has none, which is no error.
    static Result<Cgroups> read(const probe::Host &host);

    /// Of the controller that slows writers (v1: blkio, v2: io), and of memory; nullptr: there is none.
    [[nodiscard]] const Hierarchy *io() const noexcept { return pointer(io_); }
    [[nodiscard]] const Hierarchy *memory() const noexcept { return pointer(memory_); }
    [[nodiscard]] const Hierarchy *unified() const noexcept { return pointer(unified_); }
    /// The one that holds `path`, by where it is mounted; nullptr: none does.
    [[nodiscard]] const Hierarchy *of_path(std::string_view path) const noexcept;

    /// The group of a process, by the text of its /proc/PID/cgroup: "/docker/1234"; empty: it is in none of that
    /// hierarchy.
    [[nodiscard]] std::string io_group(std::string_view text) const;
    [[nodiscard]] std::string memory_group(std::string_view text) const;
    [[nodiscard]] static std::string unified_group(std::string_view text);

private:
    static const Hierarchy *pointer(const std::optional<Hierarchy> &one) noexcept { return one ? &*one : nullptr; }

    std::optional<Hierarchy> io_, memory_, unified_;
    std::vector<Hierarchy> all_;
};

/// The file of a group, as this host has it: "/sys/fs/cgroup/blkio" + "/docker/1234" + "/" + "cgroup.procs". Empty: the
/// group lies outside of what is mounted.
std::string file_of(const Hierarchy &hierarchy, std::string_view group, std::string_view file);

/// Opens a file beneath the hierarchy that it belongs to; no link is followed (openat2(2), RESOLVE_BENEATH).
/// FailedPrecondition: it belongs to none.
Result<UniqueFd> open_beneath(const probe::Host &host, const Cgroups &cgroups, const std::string &path, int flags);
Result<std::string> read_setting(const probe::Host &host, const Cgroups &cgroups, const std::string &path);
/// One write, as the kernel wants it.
Status write_setting(const probe::Host &host, const Cgroups &cgroups, const std::string &path, std::string_view value);

/// What the text of a file says of a measure's line: of "8:0 rbps=max wbps=1048576", or of "8:0 1048576", 1048576;
/// without a key, all of it. nullopt: no limit.
std::optional<uint64_t> limit_in(std::string_view text, std::string_view key);

/// Writes the old value back, if what stands there is what the measure has set: what others have set since stays. Ok
/// also where it was not taken yet, or is undone already, and where the group or the device is gone.
Status undo(const probe::Host &host, const Cgroups &cgroups, const Measure &measure);

} // namespace shale::guard
