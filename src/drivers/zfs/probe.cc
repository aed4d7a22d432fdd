// SPDX-License-Identifier: Apache-2.0
// What ZFS can do here, tried on datasets of the probe's own: BASE/shale-probe-PID-N and its two children.
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>

#include <fmt/format.h>

#include "base/units.h"
#include "drivers/concurrent_writes.h"
#include "drivers/zfs/zfs.h"
#include "sys/fs.h"

namespace shale::drivers::zfs {
namespace {

constexpr std::string_view probe_prefix = "shale-probe-";

void destroy_probe(const sys::Zfs &zfs, const std::string &name) {
    (void)zfs.destroy(name + "/child");
    (void)zfs.destroy_snapshot(name + "/parent@s", false);
    (void)zfs.destroy(name + "/parent");
    (void)zfs.destroy(name);
}

Result<UniqueFd> mounted(const std::string &name) {
    const UniqueFd root = TRY(sys::mount_detached({"zfs", name, {"rw"}}));
    return sys::open_dir(root.get(), ".");
}

} // namespace

Status Zfs::sweep_probes(const std::string &base) const {
    for (const auto &row : TRY(zfs_.list(base))) {
        std::string_view name = std::string_view(row.name).substr(std::min(row.name.size(), base.size() + 1));
        if (!name.starts_with(probe_prefix)) continue;
        name.remove_prefix(probe_prefix.size());
        const auto pid = parse_id(name);
        if (pid && ::kill(static_cast<pid_t>(pid->value), 0) != 0 && errno == ESRCH) destroy_probe(zfs_, row.name);
    }
    return {};
}

Status Zfs::probe_datasets(const std::string &base, std::vector<Fact> &facts) const {
    static std::atomic<unsigned> counter;
    const std::string name = fmt::format("{}/{}{}-{}", base, probe_prefix, ::getpid(), counter.fetch_add(1));
    const auto fact = [&](std::string what, const auto &done) -> Status {
        facts.push_back({std::move(what), done ? "yes" : "no", done ? "" : done.error().text()});
        if (!done) return std::unexpected(done.error());
        return {};
    };
    sys::ZfsProperties all{{"mountpoint", "legacy"}, {"com.sun:auto-snapshot", "false"}};
    all.insert(all.end(), settings_.properties.begin(), settings_.properties.end());
    const ScopeGuard clean([&] { destroy_probe(zfs_, name); });
    TRY(fact("datasets", zfs_.create_with(name, all)));
    TRY(zfs_.create(name + "/parent"));
    {
        const auto parent = mounted(name + "/parent");
        TRY(fact("detached mounts", parent));
        TRY(make_written_files(parent->get()));
        facts.push_back({"d_type", TRY(has_d_type(parent->get())) ? "yes" : "no", "getdents64 of a fresh directory"});
    }
    TRY(fact("snapshots", zfs_.snapshot(name + "/parent@s")));
    TRY(fact("clones", zfs_.clone(name + "/parent@s", name + "/child")));
    facts.push_back(
        concurrent_writes(mounted(name + "/child"), "first write into a file of 256 KiB that a clone shares"));
    TRY(fact("deferred destroy", zfs_.destroy_snapshot(name + "/parent@s", true)));
    return {};
}

Result<ProbeReport> Zfs::probe() {
    ProbeReport out;
    const std::string base = settings_.base.empty() ? TRY(sys::zfs_dataset_of(root_.fd())) : settings_.base;
    const auto version = sys::read_file(AT_FDCWD, "/sys/module/zfs/version", 256);
    out.facts.push_back({"zfs version", version ? version->substr(0, version->find('\n')) : "unknown",
                         version ? "/sys/module/zfs/version" : version.error().text()});
    out.facts.push_back({"zfs through", std::string(zfs_.way()), zfs_.why()});
    const auto found = zfs_.get(base);
    out.facts.push_back({"dataset", base, found ? "" : found.error().text()});
    if (!found) {
        out.reason = found.error().text();
        return out;
    }
    out.facts.push_back({"available", format_bytes(found->available), "zfs list"});
    TRY(sweep_probes(base));
    const auto done = probe_datasets(base, out.facts);
    out.facts.push_back(quota_fact());
    out.facts.push_back({"max depth", std::to_string(max_depth()), "a layer needs only its own tree"});
    out.usable = done.has_value();
    if (!done) out.reason = done.error().text();
    return out;
}

} // namespace shale::drivers::zfs
