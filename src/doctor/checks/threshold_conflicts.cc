// SPDX-License-Identifier: Apache-2.0
// threshold-conflicts: the marks of all that watch a disk, in the order in which they act as it fills.
#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "base/units.h"
#include "doctor/checks/common.h"
#include "doctor/checks/thresholds.h"

namespace shale::doctor::checks {
namespace {

bool does_harm(const Mark &mark) {
    return mark.act == Act::evict || mark.act == Act::refuse;
}

/// In whole percent, rounded up; at most 100.
int percent_up(uint64_t part, uint64_t whole) {
    if (whole == 0) return 0;
    return part >= whole ? 100 : static_cast<int>(std::ceil(percent(part, whole)));
}

struct Verdict {
    Severity severity = Severity::info;
    std::vector<std::string> texts; ///< the worst first
};

void say(Verdict &out, Severity severity, std::string text) {
    if (severity > out.severity) {
        out.severity = severity;
        out.texts.insert(out.texts.begin(), std::move(text));
    } else {
        out.texts.push_back(std::move(text));
    }
}

/// `marks`: the first to act first.
Verdict judge(const Disk &disk) {
    Verdict out;
    for (const std::string &text : disk.contradictions)
        say(out, Severity::warning, text);
    const auto harm = std::ranges::find_if(disk.marks, does_harm);
    if (harm == disk.marks.end()) return out;
    const bool relieved = harm != disk.marks.begin();
    for (auto late = harm; late != disk.marks.end(); ++late) {
        if (does_harm(*late)) continue;
        const auto refusal = std::find_if(harm, late, [](const Mark &mark) { return mark.act == Act::refuse; });
        const auto &before = refusal != late ? *refusal : *harm;
        if (refusal != late)
            say(out, Severity::warning,
                fmt::format("{}'s mark of {} free is never reached: {} refuses at {} free", late->who,
                            format_bytes(late->free_bytes), before.who, format_bytes(before.free_bytes)));
        else if (!relieved)
            say(out, Severity::warning,
                fmt::format("{} evicts at {} free, before {} makes room at {} free", before.who,
                            format_bytes(before.free_bytes), late->who, format_bytes(late->free_bytes)));
        else
            say(out, Severity::info,
                fmt::format("{} makes room at {} free only, after {} has begun to evict at {} free", late->who,
                            format_bytes(late->free_bytes), before.who, format_bytes(before.free_bytes)));
    }
    const bool helped = std::ranges::any_of(disk.marks, [](const Mark &mark) { return !does_harm(mark); });
    const bool off = std::ranges::any_of(
        disk.remarks, [](const std::string &text) { return text.starts_with("kubelet collects no"); });
    if (!helped && off)
        say(out, Severity::warning,
            fmt::format("{} {} at {} free, and nothing makes room before", harm->who,
                        harm->act == Act::evict ? "evicts" : "refuses", format_bytes(harm->free_bytes)));
    return out;
}

/// What happens from now to a full disk, in order.
std::vector<std::string> story(const Disk &disk) {
    std::vector<std::string> out;
    const std::string now =
        fmt::format("now: {} of {} free", format_bytes(disk.free_bytes), format_bytes(disk.total_bytes));
    bool said = false;
    for (const Mark &mark : disk.marks) {
        const bool past = disk.free_bytes < mark.free_bytes;
        if (!past && !said) {
            out.push_back(now);
            said = true;
        }
        out.push_back(fmt::format("{}below {} free ({}): {}", past ? "already past: " : "",
                                  format_bytes(mark.free_bytes), percent_text(mark.free_bytes, disk.total_bytes),
                                  mark.text));
    }
    if (!said) out.push_back(now);
    out.insert(out.end(), disk.remarks.begin(), disk.remarks.end());
    return out;
}

std::vector<std::string> commands_for(const Disk &disk) {
    std::vector<std::string> out;
    const auto harm = std::ranges::find_if(disk.marks, does_harm);
    if (harm == disk.marks.end())
        return {"# nobody acts before the end here: let BuildKit keep less than the disk has, LVM make a pool larger "
                "in time (see thin-pool-autoextend)"};
    const int used = 100 - percent_up(harm->free_bytes, disk.total_bytes);
    const int high = std::max(used - 5, 2);
    const auto has = [&](std::string_view who) {
        return std::ranges::any_of(disk.marks, [&](const Mark &mark) { return mark.who == who; }) ||
               std::ranges::any_of(disk.remarks, [&](const std::string &text) { return text.starts_with(who); });
    };
    if (has("kubelet")) {
        out.push_back(fmt::format("# kubelet's configuration: imageGCHighThresholdPercent: {} and "
                                  "imageGCLowThresholdPercent: {}, then:",
                                  high, std::max(high - 5, 1)));
        out.emplace_back("systemctl restart kubelet");
    }
    if (has("LVM"))
        out.push_back(fmt::format("# /etc/lvm/lvm.conf, activation: thin_pool_autoextend_threshold = {}",
                                  std::max(used - 10, 50)));
    if (has("BuildKit"))
        out.push_back(fmt::format("# BuildKit: a minFreeSpace of more than {}", format_bytes(harm->free_bytes)));
    return out;
}

Outcome run(const probe::Facts &facts) {
    Outcome out;
    for (const Disk &disk : read_marks(facts, out.unable)) {
        Verdict verdict = judge(disk);
        if (verdict.texts.empty()) continue;
        Finding &finding = out.findings.emplace_back();
        finding.severity = verdict.severity;
        finding.subject = disk.name;
        finding.summary = verdict.texts[0];
        finding.evidence.assign(verdict.texts.begin() + 1, verdict.texts.end());
        std::ranges::move(story(disk), std::back_inserter(finding.evidence));
        finding.evidence = limited(std::move(finding.evidence));
        finding.commands = commands_for(disk);
    }
    return out;
}

} // namespace

extern const Check threshold_conflicts;
const Check threshold_conflicts{
    .id = "threshold-conflicts",
    .title = "Programs that watch the same disk have marks that contradict each other",
    .why =
        "kubelet, dockerd, LVM's dmeventd, BuildKit and shale each act at a mark of their own and know nothing of the "
        "others'. When one refuses or evicts before another deletes what nobody needs, pods die on a disk that is full "
        "of old images, or pulls fail for ever because the collection that would help is never reached: kubelet's old "
        "default of 90 % and Docker's dm.min_free_space of 10 % were such a pair (kubernetes #40432).",
    .limits =
        "The disk is filled from where it is to its end in thought. Warning: something evicts before anything makes "
        "room; a mark that makes room lies behind one that refuses; kubelet's low mark is not below its high one; "
        "BuildKit may keep more than the disk has; containerd's layers are in a thin pool that kubelet does not "
        "look at. Information: something makes room only after the first eviction. Defaults where nothing is set: "
        "kubelet 85/80 %, imagefs.available<15%, nodefs.available<10% (kubernetes, pkg/kubelet), dm.min_free_space "
        "10 % (moby, daemon/graphdriver/devmapper), data_max 95 % (shale). kubelet's image collection is exact to a "
        "whole percent, so 85 means less than 16 % available.",
    .remedy = "Order the marks: first what deletes or grows, then what evicts, last what refuses, some percent apart.",
    .risk = "A lower mark deletes images earlier; they are pulled again when they are needed.",
    .undo = "Set the old marks again.",
    .run = run,
};

} // namespace shale::doctor::checks
