// SPDX-License-Identifier: Apache-2.0
// What StoreHands does about containers: slowing and ending them.
#include <algorithm>
#include <thread>
#include <tuple>

#include <fmt/format.h>

#include "base/units.h"
#include "guard/event.h"
#include "guard/evict.h"
#include "guard/store_hands.h"
#include "probe/text.h"
#include "probe/usage.h"
#include "store/refusal.h"
#include "store/snapshots.h"
#include "sys/fs.h"
#include "sys/mount.h"

namespace shale::guard {
namespace {

constexpr std::chrono::milliseconds between_looks{500};
constexpr unsigned memory_percent = 90; ///< of a qgroup's limit: memory is reclaimed before writes fail
constexpr size_t most_problems = 10;

std::string option_of(const sys::MountSpec &spec, std::string_view key) {
    for (const auto &option : spec.options)
        if (option.starts_with(key)) return option.substr(key.size());
    return {};
}

/// It was mounted by that.
bool is_of(const Seat &seat, const std::vector<sys::MountSpec> &specs) {
    return std::ranges::any_of(specs, [&](const sys::MountSpec &spec) {
        if (spec.type == "overlay") return !seat.path.empty() && seat.path == option_of(spec, "upperdir=");
        if (spec.type == "bind" || spec.type == "none") return seat.inside != "/" && spec.source.ends_with(seat.inside);
        return seat.source == spec.source;
    });
}

/// Docker's directory, by the upper directory of one of its containers; else where it is by default.
std::string docker_root(const Workload &workload) {
    constexpr std::string_view mark = "/overlay2/";
    for (const Seat &seat : workload.seats)
        if (const size_t at = seat.path.find(mark); at != std::string::npos) return seat.path.substr(0, at);
    return "/var/lib/docker";
}

/// With cgroup v2 what a container has in the page cache is written back at its limit, and a journal that waits for
/// that data (ext4, data=ordered) has the syncs of all others wait, too: what is there goes out before.
void sync_all(std::span<const Sample> about) {
    for (const Sample &sample : about) {
        const bool has_number = sample.kind == Kind::btrfs_qgroup || sample.kind == Kind::project_quota;
        const std::string target = has_number ? sample.subject.substr(0, sample.subject.rfind(':')) : sample.subject;
        if (!target.starts_with('/')) continue;
        if (const auto dir = sys::open_dir(AT_FDCWD, target.c_str())) (void)sys::syncfs_fd(dir->get());
    }
}

} // namespace

/// Of one store: by the directory, which may be reached by several paths. `make`: unless it is there, nothing is
/// opened.
Status StoreHands::open_journal(bool make) {
    if (throttle_ || stores_.empty()) return {};
    const UniqueFd root = TRY(sys::open_dir(AT_FDCWD, stores_.front()->root().c_str()));
    const struct stat status = TRY(sys::stat_at(root.get(), ""));
    const std::string path = fmt::format("{}/{:x}-{:x}", journals, status.st_dev, status.st_ino);
    if (make) (void)sys::make_dir(AT_FDCWD, "/run/shale", 0755); // sockets are there, too; it may be there already
    auto dir = make ? sys::make_dirs(AT_FDCWD, path) : sys::open_dir(AT_FDCWD, path.c_str());
    if (!dir && !make && !TRY(sys::stat_if_exists(root.get(), store::guard_name))) return {};
    if (!dir) dir = open_guard_dir(root.get());
    if (!dir) return std::unexpected(dir.error());
    throttle_.emplace(TRY(Throttle::open(host_, std::move(*dir))));
    return {};
}

Outcome StoreHands::recover() {
    Outcome out;
    if (const auto opened = open_journal(false); !opened) return {false, {opened.error().text()}};
    if (!throttle_) return out;
    auto undone = throttle_->undo_all();
    out.ok = undone.failed.empty() && throttle_->problems().empty();
    out.evidence = std::move(undone.undone);
    std::ranges::move(undone.failed, std::back_inserter(out.evidence));
    std::ranges::copy(throttle_->problems(), std::back_inserter(out.evidence));
    if (throttle_->active().empty())
        throttle_.reset(); // the first measure makes its place; else each round tries again
    return out;
}

void StoreHands::read_classes(std::vector<Workload> &workloads, std::vector<std::string> &problems) const {
    for (Workload &one : workloads)
        if (const auto docker = one.id.empty() ? std::nullopt : qos_of_docker(host_, docker_root(one), one.id)) {
            one.qos = *docker;
            one.qos_from = "by its label in Docker";
        }
    for (auto *store : stores_) {
        const auto labelled = store::Snapshots::labelled(*store, qos_label);
        if (!labelled) {
            problems.push_back(fmt::format("{}: {}", store->root(), labelled.error().text()));
            continue;
        }
        for (const auto &snapshot : *labelled) {
            const auto qos = qos_named(snapshot.value);
            for (Workload &one : workloads) {
                if (!qos ||
                    std::ranges::none_of(one.seats, [&](const Seat &seat) { return is_of(seat, snapshot.mounts); }))
                    continue;
                one.qos = *qos;
                one.qos_from = "by its label in the store";
            }
        }
    }
}

Result<StoreHands::Look> StoreHands::look_at_workloads() {
    Look out{TRY(Cgroups::read(host_)), {}, {}, {}};
    std::vector<probe::Problem> problems;
    out.workloads = read_workloads(host_, out.cgroups, problems);
    for (const auto &problem : problems)
        if (out.problems.size() < most_problems)
            out.problems.push_back(fmt::format("{}: {}", problem.about, problem.why));
    read_classes(out.workloads, out.problems);
    std::map<std::string, uint64_t> wrote;
    for (const Workload &one : out.workloads) {
        wrote.emplace(one.cgroup, one.written_bytes);
        if (const auto before = wrote_.find(one.cgroup); before != wrote_.end() && before->second <= one.written_bytes)
            out.written_since.emplace(one.cgroup, one.written_bytes - before->second);
    }
    wrote_ = std::move(wrote);
    std::ranges::stable_sort(out.workloads, [&](const Workload &a, const Workload &b) {
        const auto since = [&](const Workload &one) {
            const auto found = out.written_since.find(one.cgroup);
            return found == out.written_since.end() ? 0 : found->second;
        };
        return std::tuple(a.qos, since(b)) < std::tuple(b.qos, since(a));
    });
    return out;
}

std::vector<const Workload *> StoreHands::workloads_on(const Look &look, const Ground &ground) const {
    std::vector<const Workload *> out;
    for (const Workload &one : look.workloads)
        if (std::ranges::any_of(one.seats, [&](const Seat &seat) { return lies_on(host_, ground, seat); }))
            out.push_back(&one);
    return out;
}

void StoreHands::add_limits(const Look &look, const Sample &about, std::vector<Limit> &limits, Slowed &out) const {
    const Ground ground = ground_of(host_, seen_.facts, about);
    if (!ground.why_not.empty()) {
        out.failed.push_back(fmt::format("{}: {}", about.subject, ground.why_not));
        return;
    }
    const auto add = [&](Limit limit, const Workload &who) {
        if (limit.file.empty()) return;
        limit.kind = about.kind;
        limit.subject = about.subject;
        limit.who = text_of(who);
        const auto same = std::ranges::find_if(
            limits, [&](const Limit &one) { return one.file == limit.file && one.key == limit.key; });
        if (same == limits.end())
            limits.push_back(std::move(limit));
        else
            same->value = std::min(same->value, limit.value);
    };
    for (const Workload *one : workloads_on(look, ground)) {
        if (one->qos == Qos::critical) continue;
        for (const Seat &seat : one->seats) {
            if (!lies_on(host_, ground, seat)) continue;
            for (const auto &device : blocks_of(host_, ground, seat))
                for (const auto &group : one->io_groups)
                    add(write_limit(*look.cgroups.io(), group, device, config_.throttle_write_bps), *one);
        }
        if (about.kind == Kind::btrfs_qgroup && look.cgroups.memory() != nullptr && !one->memory_group.empty())
            add(memory_limit(*look.cgroups.memory(), one->memory_group, amount_at(about.total, memory_percent)), *one);
    }
}

Slowed StoreHands::slow(std::span<const Sample> about, Time now) {
    Slowed out;
    if (about.empty() && !throttle_) return out;
    if (const auto opened = open_journal(true); !opened) {
        out.failed.push_back(opened.error().text());
        return out;
    }
    std::vector<Limit> limits;
    bool is_new = false;
    if (!about.empty()) {
        const auto look = look_at_workloads();
        if (!look) {
            out.failed.push_back(look.error().text()); // what is in force stays
            return out;
        }
        for (const Sample &sample : about)
            add_limits(*look, sample, limits, out);
        is_new = look->cgroups.io() != nullptr && look->cgroups.io()->unified &&
                 std::ranges::any_of(limits, [&](const Limit &one) {
                     return std::ranges::none_of(limits_, [&](const Limit &known) { return known.file == one.file; });
                 });
        for (const auto &problem : look->problems)
            out.failed.push_back(problem);
    }
    if (!throttle_) return out;
    if (is_new) sync_all(about);
    limits_ = std::move(limits);
    Slowed done = throttle_->hold(limits_, now);
    done.failed.insert(done.failed.begin(), out.failed.begin(), out.failed.end());
    return done;
}

const Workload *StoreHands::victim(const Look &look, const Sample &about, std::string &why) const {
    const Ground ground = ground_of(host_, seen_.facts, about);
    std::vector<Candidate> candidates;
    size_t critical = 0;
    for (const Workload *one : workloads_on(look, ground)) {
        critical += one->qos == Qos::critical ? 1 : 0;
        const auto since = look.written_since.find(one->cgroup);
        candidates.push_back({one, since == look.written_since.end() ? one->written_bytes : since->second});
    }
    const auto *chosen = choose_victim(candidates, [&](const Workload &one) {
        std::vector<std::string> paths;
        for (const Seat &seat : one.seats)
            if (!seat.path.empty() && lies_on(host_, ground, seat)) paths.push_back(seat.path);
        uint64_t bytes = 0;
        for (const auto &tree : probe::count_trees(host_, paths, {}))
            bytes += tree.usage.bytes;
        return bytes;
    });
    if (chosen == nullptr)
        why = critical == 0
                  ? fmt::format("no container can write to {}", about.subject)
                  : fmt::format("all {} containers that can write to {} are critical", critical, about.subject);
    return chosen;
}

Outcome StoreHands::evict(const Sample &about) {
    auto look = look_at_workloads();
    const bool is_known = look && std::ranges::all_of(look->workloads, [&](const Workload &one) {
                              return look->written_since.contains(one.cgroup);
                          });
    if (look && !is_known) { // who writes now is seen by two looks
        std::this_thread::sleep_for(between_looks);
        look = look_at_workloads();
    }
    if (!look) return {false, {look.error().text()}};
    std::string why;
    const Workload *chosen = victim(*look, about, why);
    if (chosen == nullptr) {
        Outcome out{false, {"nobody was ended: " + why}};
        out.evidence.insert(out.evidence.end(), look->problems.begin(), look->problems.end());
        return out;
    }
    // What waits for its turn at a limit cannot be killed before that.
    if (throttle_ && !limits_.empty()) {
        std::erase_if(limits_, [&](const Limit &one) {
            return std::ranges::any_of(chosen->io_groups,
                                       [&](const auto &group) { return one.file.contains(group + "/"); });
        });
        (void)throttle_->hold(limits_, Time(std::chrono::floor<Duration>(std::chrono::system_clock::now())));
    }
    const auto since = look->written_since.find(chosen->cgroup);
    Outcome out = end(host_, look->cgroups, *chosen, config_.evict_grace);
    out.evidence.insert(
        out.evidence.begin(),
        fmt::format("{}: the lowest class that can write to {}, {} written since the last look", text_of(*chosen),
                    about.subject,
                    format_bytes(since == look->written_since.end() ? chosen->written_bytes : since->second)));
    return out;
}

std::vector<std::string> StoreHands::would(Tier tier, const Sample &about) {
    std::vector<std::string> out;
    if (tier == Tier::extend)
        out.push_back(pool_of(about) == nullptr
                          ? fmt::format("{} is the pool of no store that this guard watches", about.subject)
                          : fmt::format("{} would grow by {} %, to {} at most", about.subject, config_.extend_percent,
                                        format_bytes(config_.extend_max)));
    if (tier != Tier::throttle && tier != Tier::evict) return out;
    const auto look = look_at_workloads();
    if (!look) return {look.error().text()};
    if (tier == Tier::throttle) {
        std::vector<Limit> limits;
        Slowed failed;
        add_limits(*look, about, limits, failed);
        for (const Limit &one : limits)
            out.push_back(fmt::format("{}: {} would be {}{}{}", one.who, one.file, one.key, one.key.empty() ? "" : " ",
                                      one.value));
        out.insert(out.end(), failed.failed.begin(), failed.failed.end());
    } else {
        std::string why;
        const Workload *chosen = victim(*look, about, why);
        out.push_back(chosen == nullptr ? "nobody would be ended: " + why : text_of(*chosen) + " would be ended");
    }
    out.insert(out.end(), look->problems.begin(), look->problems.end());
    return out;
}

} // namespace shale::guard
