// SPDX-License-Identifier: Apache-2.0
#include "guard/throttle.h"

#include <unistd.h>

#include <algorithm>

#include <fmt/format.h>

#include "base/units.h"
#include "probe/text.h"

namespace shale::guard {
namespace {

bool is_of(const Limit &limit, const Measure &measure) {
    return limit.file == measure.target && limit.key == measure.key;
}

bool is_unified_io(const Limit &limit) {
    return limit.file.ends_with("/io.max");
}

/// As it is written to the file; nullopt: no limit.
std::string command(const Limit &limit, std::optional<uint64_t> value) {
    if (limit.key.empty()) return value ? std::to_string(*value) : "max";
    if (is_unified_io(limit)) return fmt::format("{} wbps={}", limit.key, value ? std::to_string(*value) : "max");
    return fmt::format("{} {}", limit.key, value.value_or(0));
}

std::string shown(std::string_view file) {
    return std::string(file.substr(file.rfind('/') + 1));
}

/// It may have gone meanwhile.
bool has_group(const probe::Host &host, const Cgroups &cgroups, const Limit &limit) {
    const std::string processes = limit.file.substr(0, limit.file.rfind('/')) + "/cgroup.procs";
    return read_setting(host, cgroups, processes).has_value();
}

} // namespace

Limit write_limit(const Hierarchy &io, const std::string &group, const std::string &device, uint64_t bytes_per_second) {
    Limit out;
    out.file = file_of(io, group, io.unified ? "io.max" : "blkio.throttle.write_bps_device");
    out.key = device;
    out.value = bytes_per_second;
    return out;
}

Limit memory_limit(const Hierarchy &memory, const std::string &group, uint64_t bytes) {
    Limit out;
    const auto page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
    out.file = file_of(memory, group, memory.unified ? "memory.high" : "memory.soft_limit_in_bytes");
    out.value = bytes / page * page;
    return out;
}

Result<Throttle> Throttle::open(const probe::Host &host, UniqueFd dir) {
    return Throttle(host, TRY(Measures::load(std::move(dir))));
}

void Throttle::undo_one(const Cgroups &cgroups, const Measure &measure, Slowed &report) {
    const std::string what = fmt::format("{}: {} back to \"{}\"", measure.target.substr(0, measure.target.rfind('/')),
                                         shown(measure.target), measure.old_value);
    auto done = undo(*host_, cgroups, measure);
    if (done) done = measures_.remove(measure.id);
    if (done)
        report.undone.push_back(what);
    else
        report.failed.push_back(fmt::format("{}: {}", what, done.error().text()));
}

Status Throttle::set_one(const Cgroups &cgroups, const Limit &limit, Time now, Slowed &report) {
    const std::string text = TRY(read_setting(*host_, cgroups, limit.file));
    const auto present = limit_in(text, limit.key);
    if (present && *present <= limit.value) return {}; // its own is lower
    Measure measure{.id = 0,
                    .tier = Tier::throttle,
                    .kind = limit.kind,
                    .subject = limit.subject,
                    .target = limit.file,
                    .key = limit.key,
                    // A file with one value gets back what it had, as it is.
                    .old_value = limit.key.empty() ? std::string(probe::trimmed(text)) : command(limit, present),
                    .new_value = command(limit, limit.value),
                    .time = now};
    const uint64_t id = TRY(measures_.add(measure));
    if (const auto set = write_setting(*host_, cgroups, limit.file, measure.new_value); !set) {
        measure.id = id;
        if (undo(*host_, cgroups, measure)) (void)measures_.remove(id); // else the next round or start does
        return set;
    }
    report.set.push_back(fmt::format("{}: {} is \"{}\" now, was \"{}\"", limit.who, shown(limit.file),
                                     measure.new_value, measure.old_value));
    return {};
}

Slowed Throttle::hold(std::span<const Limit> wanted, Time now) {
    Slowed out;
    if (wanted.empty() && active().empty()) return out;
    const auto cgroups = Cgroups::read(*host_);
    if (!cgroups) {
        out.failed.push_back(cgroups.error().text());
        return out;
    }
    const std::vector<Measure> before(active().rbegin(), active().rend());
    for (const Measure &measure : before) {
        const auto limit = std::ranges::find_if(wanted, [&](const Limit &one) { return is_of(one, measure); });
        if (limit == wanted.end() || command(*limit, limit->value) != measure.new_value)
            undo_one(*cgroups, measure, out);
    }
    for (const Limit &limit : wanted) {
        if (limit.file.empty() || std::ranges::any_of(active(), [&](const Measure &one) { return is_of(limit, one); }))
            continue;
        const auto done = set_one(*cgroups, limit, now, out);
        if (done || (done.error().sys_errno() == ENOENT && !has_group(*host_, *cgroups, limit))) continue;
        out.failed.push_back(fmt::format("{}: {}{}", limit.who, done.error().text(),
                                         done.error().sys_errno() == ENOENT
                                             ? "; the controller is not enabled there (cgroup.subtree_control above it)"
                                             : ""));
    }
    return out;
}

} // namespace shale::guard
