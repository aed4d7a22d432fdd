// SPDX-License-Identifier: Apache-2.0
// memory-reclaim: tasks wait for memory while the kernel throws out what it will read again.
#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "base/units.h"
#include "doctor/checks/common.h"

namespace shale::doctor::checks {
namespace {

constexpr double some_warning_percent = 10, full_warning_percent = 5, full_critical_percent = 20;
constexpr double slab_percent = 20; ///< of memory, in dentries and inodes

uint64_t count_of(const probe::Facts &facts, std::string_view name) {
    const uint64_t *value = value_of(facts.vmstat, name);
    return value == nullptr ? 0 : *value;
}

uint64_t stalls(const probe::Facts &facts) {
    uint64_t out = 0;
    for (const auto &[name, value] : facts.vmstat)
        if (name.starts_with("allocstall")) out += value;
    return out;
}

/// Counters since the boot: what reclaim has been like on this host.
std::vector<std::string> evidence_of(const probe::Facts &facts) {
    std::vector<std::string> out;
    const uint64_t direct = count_of(facts, "pgscan_direct"), background = count_of(facts, "pgscan_kswapd");
    if (direct + background != 0)
        out.push_back(fmt::format(
            "since the boot {} of the pages that were looked at for reclaim were by tasks that needed memory "
            "at once, the rest by kswapd",
            percent_text(direct, direct + background)));
    if (const uint64_t count = stalls(facts); count != 0)
        out.push_back(fmt::format("allocations that had to reclaim first: {}", format_count(count)));
    if (const uint64_t again = count_of(facts, "workingset_refault_file"); again != 0)
        out.push_back(fmt::format("pages of files that were read again soon after they had been thrown out: {}",
                                  format_count(again)));
    if (const uint64_t killed = count_of(facts, "oom_kill"); killed != 0)
        out.push_back(fmt::format("{} killed for want of memory", counted(killed, "process", "processes")));
    for (const char *name : {"MemAvailable", "Cached", "SReclaimable", "Dirty", "Shmem"})
        if (const uint64_t *bytes = value_of(facts.memory, name))
            out.push_back(fmt::format("{}: {}", name, format_bytes(*bytes)));
    return out;
}

std::vector<std::string> commands_for(const probe::Facts &facts) {
    std::vector<std::string> out{"cat /proc/pressure/memory"};
    if (facts.cgroups.version == 2) {
        out.emplace_back("grep -H full /sys/fs/cgroup/*.slice/*/memory.pressure /sys/fs/cgroup/*/memory.pressure");
        out.emplace_back(
            "# give back the cache of one group, and not of all: echo 512M > /sys/fs/cgroup/GROUP/memory.reclaim "
            "(Linux 5.19)");
    }
    const uint64_t *slab = value_of(facts.memory, "SReclaimable");
    if (slab != nullptr && percent(*slab, facts.kernel.memory_bytes) >= slab_percent)
        out.emplace_back(
            "# names and inodes only, never the files' contents as well: echo 2 > /proc/sys/vm/drop_caches");
    return out;
}

Outcome run(const probe::Facts &facts) {
    Outcome out;
    if (!facts.live) return out;
    const auto *memory = value_of(facts.pressure, "memory");
    if (memory == nullptr) {
        out.unable.emplace_back(
            "the kernel does not tell of pressure (/proc/pressure/memory): it takes Linux 4.20 with "
            "CONFIG_PSI, and psi=1 on its command line where that is off by default");
        return out;
    }
    if (memory->some_300s <= some_warning_percent && memory->full_300s <= full_warning_percent) return out;
    Finding &finding = out.findings.emplace_back();
    finding.severity = memory->full_300s >= full_critical_percent ? Severity::critical : Severity::warning;
    finding.subject = "memory of the host";
    finding.summary =
        fmt::format("some task waited for memory in {:.1f} % of the last five minutes, all of them in {:.1f} %",
                    memory->some_300s, memory->full_300s);
    finding.evidence = limited(evidence_of(facts));
    finding.commands = commands_for(facts);
    return out;
}

} // namespace

extern const Check memory_reclaim;
const Check memory_reclaim{
    .id = "memory-reclaim",
    .title = "Tasks wait for memory",
    .why = "When memory is short, whoever asks for some has to take it from the page cache first, and what was thrown "
           "out is read "
           "again a moment later. Image layers are what is read most: containers get slow together, without any of "
           "them being "
           "at its limit, and in the end the kernel kills one.",
    .limits = "Memory pressure over 300 s (Linux, Documentation/accounting/psi.rst): some above 10 %, or full above 5 "
              "%: warning; "
              "full from 20 % on: critical. The figures are this project's; systemd-oomd acts at 60 % over 30 s "
              "(oomd.conf(5), DefaultMemoryPressureLimit=).",
    .remedy = "Find the group that grows, give it a limit (memory.high), or the host more memory. A driver that caches "
              "layers once "
              "for all containers needs less (see page-cache-duplication).",
    .risk = "memory.high slows the group that it is set on. Dropping all caches (drop_caches=3) makes every container "
            "read its "
            "files again.",
    .undo = "echo max > memory.high of the group.",
    .run = run,
};

} // namespace shale::doctor::checks
