// SPDX-License-Identifier: Apache-2.0
// bytes-low: a file system is nearly full.
#include <algorithm>

#include <fmt/format.h>

#include "base/units.h"
#include "doctor/checks/common.h"
#include "doctor/checks/holders.h"

namespace shale::doctor::checks {
namespace {

constexpr double info_percent = 90, warning_percent = 95, critical_percent = 98;
constexpr uint64_t gib = uint64_t{1} << 30U;
constexpr uint64_t critical_available_bytes = gib;
constexpr uint64_t smallest_for_available_bytes = 8 * gib; ///< a small file system is judged by percent only

struct Level {
    bool speaks = false;
    Severity severity = Severity::info;
};

bool carries_store(const probe::Facts &facts, const probe::FileSystem &fs) {
    return std::ranges::any_of(facts.stores, [&](const auto &store) {
        return file_system_of_layers(facts, store) == &fs || file_system_of(facts, store) == &fs;
    });
}

bool kubelet_runs(const probe::Facts &facts) {
    return std::ranges::find(facts.processes, "kubelet", &probe::Process::command) != facts.processes.end();
}

Level level_of(const probe::Facts &facts, const probe::FileSystem &fs, double in_use) {
    const bool containers = carries_store(facts, fs);
    const bool nearly_none = (containers || fs.target == "/") && fs.total_bytes >= smallest_for_available_bytes &&
                             fs.available_bytes < critical_available_bytes;
    if (in_use >= critical_percent || nearly_none) return {true, Severity::critical};
    if (in_use >= warning_percent) return {true, Severity::warning};
    if (in_use < info_percent || !containers) return {};
    return {true, kubelet_runs(facts) ? Severity::warning : Severity::info};
}

void add_reserve(const probe::FileSystem &fs, Finding &out) {
    if (!fs.type.starts_with("ext") || fs.free_bytes <= fs.available_bytes) return;
    const uint64_t reserve = fs.free_bytes - fs.available_bytes;
    out.evidence.push_back(fmt::format("{} ({}) are kept for root: containers that run as root can fill them, too",
                                       format_bytes(reserve), percent_text(reserve, fs.total_bytes)));
    if (percent(reserve, fs.total_bytes) < 2) return;
    out.commands.emplace_back("# a file system of data alone does with less kept for root than mke2fs's 5 %:");
    out.commands.push_back(fmt::format("tune2fs -m 1 {}", shell_quote(fs.source)));
}

Outcome run(const probe::Facts &facts) {
    Outcome out;
    for (const auto &fs : facts.file_systems) {
        if (fs.read_only || fs.total_bytes == 0 || fs.free_bytes > fs.total_bytes) continue;
        const uint64_t used = fs.total_bytes - fs.free_bytes;
        const uint64_t usable = used + fs.available_bytes; // as df(1) reckons
        const Level level = level_of(facts, fs, percent(used, usable));
        if (!level.speaks) continue;
        Finding finding;
        finding.severity = level.severity;
        finding.subject = fmt::format("{} ({})", shown(fs.target), shown(fs.type));
        finding.summary = fmt::format("{} of {} are in use ({}), {} are left", format_bytes(used), format_bytes(usable),
                                      percent_text(used, usable), format_bytes(fs.available_bytes));
        Holders holders = holders_on(facts, fs, Measure::bytes, used);
        if (holders.largest != nullptr) finding.commands = prune_commands(*holders.largest);
        add_reserve(fs, finding);
        finding.evidence.insert(finding.evidence.end(), holders.lines.begin(), holders.lines.end());
        finding.evidence = limited(std::move(finding.evidence));
        out.findings.push_back(std::move(finding));
        out.unable.insert(out.unable.end(), holders.not_measured.begin(), holders.not_measured.end());
    }
    return out;
}

} // namespace

extern const Check bytes_low;
const Check bytes_low{
    .id = "bytes-low",
    .title = "A file system is nearly full",
    .why = "Without free bytes pulls and builds fail, containers cannot write, databases in them stop or corrupt "
           "their files, and engines leave half-made layers behind. A kubelet evicts pods before that; a file system "
           "that is nearly full also becomes slow and fragmented.",
    .limits = "As df(1) reckons, without what is kept for root. Critical at 98 % in use, or with less than 1 GiB "
              "left on a file system of 8 GiB or more that carries / or a store (one image layer often has more); "
              "warning at 95 %; at 90 % a note where a store lies, and a warning if a kubelet runs, whose garbage "
              "collection begins at 85 % and whose eviction at nodefs.available<10 % (kubernetes, "
              "pkg/kubelet/apis/config/v1beta1/defaults.go, pkg/kubelet/eviction/defaults_linux.go). Read-only file "
              "systems are passed over.",
    .remedy = "Remove what nothing needs, the largest holders first: see store-orphans, deleted-open-files, "
              "logs-large and several-stores for space that no prune command frees. Then prune, then grow.",
    .risk = "What is pruned has to be pulled or built again. Stopped containers lose what they wrote. Less reserve "
            "for root leaves less to mend a full root file system with.",
    .undo = "Pull or build again; tune2fs -m with the old percentage.",
    .run = run,
};

} // namespace shale::doctor::checks
