// SPDX-License-Identifier: Apache-2.0
// What the running kernel says of itself: its version, the settings that container storage feels, memory, pressure and
// control groups. Of a disk that is only examined there is little to know: its hostname.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "probe/facts.h"
#include "probe/host.h"
#include "sys/mount.h"

namespace shale::probe {

/// Of a host that is not live: the hostname of /etc/hostname, the rest empty. What cannot be read goes to `problems`;
/// a file that this kernel has not is none.
Kernel read_kernel(const Host &host, std::vector<Problem> &problems);
/// Empty unless the host is live, like the following.
Cgroups read_cgroups(const Host &host, std::vector<Problem> &problems);
/// /proc/pressure (Linux 4.20; empty where it is off).
std::map<std::string, Pressure> read_pressure(const Host &host, std::vector<Problem> &problems);
std::map<std::string, uint64_t> read_vmstat(const Host &host, std::vector<Problem> &problems);
std::map<std::string, uint64_t> read_memory(const Host &host, std::vector<Problem> &problems);

/// The parts of the above that are the same for any root: what /sys/module and /proc/sys below it say.
std::map<std::string, std::string> read_module_parameters(const Host &host, std::vector<Problem> &problems);
std::map<std::string, std::string> read_sysctls(const Host &host, std::vector<Problem> &problems);
/// First word of /etc/hostname (hostname(5): lines that begin with '#' do not count).
std::string read_hostname_file(const Host &host, std::vector<Problem> &problems);

/// The texts. A line that is not understood is left out.
std::vector<std::string> parse_file_systems(std::string_view text);
/// Double quotes hold blanks together and are taken away (kernel, lib/cmdline.c, next_arg); of a word that is there
/// twice the last counts; what follows "--" is for init and left out.
std::map<std::string, std::string> parse_command_line(std::string_view text);
std::map<std::string, uint64_t> parse_vmstat(std::string_view text);
/// Lines with "kB" in bytes; those without (HugePages_*) are counts.
std::map<std::string, uint64_t> parse_memory(std::string_view text);
/// nullopt: there is no line "some". CPU has no line "full" before Linux 5.13: zero.
std::optional<Pressure> parse_pressure(std::string_view text);
/// Seconds of /proc/uptime.
std::optional<uint64_t> parse_uptime(std::string_view text);
/// What is in charge: the hierarchies that `mounts` shows; `table` is the text of /proc/cgroups, `unified` that of the
/// cgroup.controllers of the v2 hierarchy. A v1 hierarchy without controllers ("name=systemd") beside v2 does not make
/// the host a v1 host.
Cgroups cgroups_of(const std::vector<sys::MountEntry> &mounts, std::string_view table, std::string_view unified);

} // namespace shale::probe
