// SPDX-License-Identifier: Apache-2.0
// pressure-io: the whole host waits for its disks.
#include <algorithm>

#include <fmt/format.h>

#include "base/units.h"
#include "doctor/checks/common.h"

namespace shale::doctor::checks {
namespace {

constexpr double warning_percent = 10, critical_percent = 40; ///< of the last five minutes, all tasks at once

std::vector<std::string> suspects(const probe::Facts &facts) {
    std::vector<std::string> out;
    for (const auto &pool : facts.thin_pools) {
        if (pool.mode == "out_of_data_space")
            out.push_back(fmt::format("thin pool {} is out of data space: writes to it wait", shown(pool.name)));
        if (pool.on_loop) out.push_back(fmt::format("thin pool {} lies on loop devices", shown(pool.name)));
    }
    for (const auto &pool : facts.zfs_pools)
        if (pool.capacity_percent >= 90 || pool.health == "SUSPENDED" || pool.health == "DEGRADED")
            out.push_back(fmt::format("ZFS pool {}: {}, {} % in use", shown(pool.name), shown(pool.health),
                                      pool.capacity_percent));
    for (const auto &fs : facts.file_systems)
        if (fs.btrfs && fs.btrfs->quota == "full")
            out.push_back(fmt::format("{} (btrfs) has full quota accounting", shown(fs.target)));
    for (const auto &device : facts.devices)
        if (device.rotational && device.kind == "disk")
            out.push_back(
                fmt::format("{} is a rotating disk{}", shown(device.name),
                            device.mounted.empty() ? "" : fmt::format(", mounted at {}", listed(device.mounted))));
    return out;
}

Outcome run(const probe::Facts &facts) {
    Outcome out;
    if (!facts.live) return out;
    const auto *io = value_of(facts.pressure, "io");
    if (io == nullptr) {
        out.unable.emplace_back(
            "the kernel does not tell of pressure (/proc/pressure/io): it takes Linux 4.20 with CONFIG_PSI, "
            "and psi=1 on its command line where that is off by default");
        return out;
    }
    if (io->full_300s <= warning_percent) return out;
    Finding &finding = out.findings.emplace_back();
    finding.severity = io->full_300s >= critical_percent ? Severity::critical : Severity::warning;
    finding.subject = "disks of the host";
    finding.summary =
        fmt::format("for {:.1f} % of the last five minutes nothing went on, because all that could run waited for "
                    "disks",
                    io->full_300s);
    finding.evidence = {fmt::format("all waited: {:.1f} % of 10 s, {:.1f} % of 60 s, {:.1f} % of 300 s", io->full_10s,
                                    io->full_60s, io->full_300s),
                        fmt::format("some waited: {:.1f} % of 10 s, {:.1f} % of 60 s, {:.1f} % of 300 s", io->some_10s,
                                    io->some_60s, io->some_300s)};
    if (const auto *memory = value_of(facts.pressure, "memory"); memory != nullptr && memory->some_300s > 1)
        finding.evidence.push_back(
            fmt::format("memory is short, too: some waited for it {:.1f} % of 300 s", memory->some_300s));
    std::ranges::move(suspects(facts), std::back_inserter(finding.evidence));
    finding.evidence = limited(std::move(finding.evidence));
    finding.commands = {"cat /proc/pressure/io", "iostat -x 1 5"};
    if (facts.cgroups.version == 2)
        finding.commands.emplace_back("grep -H full /sys/fs/cgroup/*.slice/*/io.pressure /sys/fs/cgroup/*/io.pressure");
    finding.commands.emplace_back("# processes that wait: ps -eo pid,stat,wchan:30,comm | awk '$2 ~ /^D/'");
    return out;
}

} // namespace

extern const Check pressure_io;
const Check pressure_io{
    .id = "pressure-io",
    .title = "The host stands still because of its disks",
    .why = "\"full\" pressure is the part of time in which no task made progress since all waited for I/O: containers "
           "miss their "
           "probes and deadlines, removal and pulls pile up, and more of them are started meanwhile.",
    .limits = "Full I/O pressure over 300 s (Linux, Documentation/accounting/psi.rst) above 10 %: warning; from 40 % "
              "on: critical. "
              "Both are figures of this project: a host that is idle but for a backup is below 5 %.",
    .remedy = "Find who writes (the control groups' io.pressure), limit or move it; put stores that wait on another "
              "device; mend "
              "a full or degraded pool first.",
    .risk = "A limit (io.max) on the wrong group stalls what others wait for.",
    .undo = "Take the limit away.",
    .run = run,
};

} // namespace shale::doctor::checks
