// SPDX-License-Identifier: Apache-2.0
// Containers that fill their qgroups, side by side, under a guard that logs, slows and ends by class.
#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <optional>
#include <sstream>

#include <nlohmann/json.hpp>

#include "base/units.h"
#include "lab/actor.h"
#include "lab/findings.h"
#include "lab/scenario.h"
#include "probe/text.h"
#include "sys/fs.h"

namespace shale::lab {
namespace {

using namespace std::chrono_literals;
constexpr uint64_t mib = uint64_t{1} << 20U;
constexpr uint64_t limit_bytes = 64 * mib;
constexpr const char *guard_toml = R"([guard]
interval_s = 1
throttle_write_bps = "1M"
evict_grace_s = 1
[guard.btrfs_qgroup]
back_off_s = 1
cool_down_s = 1
patience_s = 1
tiers = { log = 85, throttle = 92, evict = 98 }
)";

struct Container {
    std::string name, cgroup; ///< the latter as an orchestrator names it: it tells the class
    std::string tree;
    World::Cgroup io, memory;
    uint64_t written = 0; ///< bytes of /data
};

/// A container's process as a runtime starts it: control groups, a mount namespace and a root of its own.
bool enter(const Container &container) {
    const std::string self = std::to_string(::getpid());
    if (!write_file(container.io.path + "/cgroup.procs", self)) return false;
    if (container.memory.path != container.io.path && !write_file(container.memory.path + "/cgroup.procs", self))
        return false;
    if (::unshare(CLONE_NEWNS) != 0 || ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return false;
    if (::mount(container.tree.c_str(), container.tree.c_str(), nullptr, MS_BIND, nullptr) != 0) return false;
    // pivot_root(2), "pivot_root(".", ".")": the old root is below the new one, and goes.
    return ::chdir(container.tree.c_str()) == 0 && ::syscall(SYS_pivot_root, ".", ".") == 0 &&
           ::umount2(".", MNT_DETACH) == 0 && ::chdir("/") == 0;
}

/// Until so much of its limit is in use.
Status fill(Container &container, unsigned percent) {
    const UniqueFd file(::open((container.tree + "/data").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    if (!file) return fail_errno(errno, fmt::format("open the data of {}", container.name));
    const std::string piece = noise(container.written, 256U << 10U);
    for (const uint64_t wanted = limit_bytes / 100 * percent; container.written + piece.size() <= wanted;
         container.written += piece.size())
        TRY(sys::pwrite_all(file.get(), std::as_bytes(std::span(piece)), container.written));
    if (::fsync(file.get()) != 0) return fail_errno(errno, fmt::format("sync the data of {}", container.name));
    return {};
}

struct Event {
    std::string type, tier, subject, what;
    std::vector<std::string> evidence;
};
Result<std::vector<Event>> events_of(const StoreCommand &store) {
    std::vector<Event> out;
    std::istringstream lines(TRY(store.must({"--json", "guard", "events", "-n", "1000"})).out);
    for (std::string line; std::getline(lines, line);) {
        const auto json = nlohmann::json::parse(line, nullptr, false);
        if (json.is_discarded() || json.value("kind", "") != "btrfs_qgroup") continue;
        const auto tier = json.find("tier");
        out.push_back({json.value("type", ""), tier != json.end() && tier->is_string() ? tier->get<std::string>() : "",
                       json.value("subject", ""), json.value("what", ""),
                       json.value("evidence", std::vector<std::string>())});
    }
    return out;
}
size_t count(const StoreCommand &store, std::string_view type, std::string_view tier) {
    const auto events = events_of(store);
    return !events ? 0 : static_cast<size_t>(std::ranges::count_if(*events, [&](const Event &one) {
        return one.type == type && one.tier == tier;
    }));
}

/// Of the container's io group; empty: none.
std::string write_limit(const Container &container) {
    const auto text =
        read_whole(container.io.path + (container.io.v2 ? "/io.max" : "/blkio.throttle.write_bps_device"));
    return text ? std::string(probe::trimmed(*text)) : "";
}
std::string memory_limit(const Container &container) {
    const auto text =
        read_whole(container.memory.path + (container.memory.v2 ? "/memory.high" : "/memory.soft_limit_in_bytes"))
            .value_or("");
    return std::string(probe::trimmed(text));
}

Status run(World &world, Story &story) {
    story.phase(Phase::build);
    const Disk disk = TRY(world.disk({"disk", "btrfs", 1024 * mib}));
    TRY(write_file(world / "guard.toml", guard_toml));
    const StoreCommand store(disk.path + "/store", "btrfs",
                             {"--config", world / "guard.toml", "--storage-opt", "btrfs.quota=full"});
    TRY(write_image(world / "image.tar", "app:1", {{{"etc/app.conf", "1\n"}}}));
    TRY(store.must({"image", "import", world / "image.tar"}));
    std::vector<Container> containers{{"batch", "kubepods/besteffort/pod1/" + std::string(64, '1'), {}, {}, {}, 0},
                                      {"web", "kubepods/burstable/pod2/" + std::string(64, '2'), {}, {}, {}, 0},
                                      {"database", "kubepods/pod3/" + std::string(64, '3'), {}, {}, {}, 0}};
    std::vector<Actor> processes;
    for (auto &container : containers) {
        TRY(store.must({"container", "create", "--name", container.name, "--size", "64M", "app:1"}));
        container.tree = TRY(store.mount(container.name));
        const auto io = world.cgroup("io", container.cgroup);
        container.io = io ? *io : TRY(world.cgroup("blkio", container.cgroup));
        container.memory = TRY(world.cgroup("memory", container.cgroup));
        processes.push_back(TRY(Actor::start([&] { return enter(container); })));
    }
    Container &batch = containers[0], &web = containers[1], &database = containers[2];
    story.say("Three containers with a limit of 64 MiB each, of three classes by their control groups: besteffort, "
              "burstable, guaranteed");
    const std::string memory_before = memory_limit(web);

    story.phase(Phase::reproduce);
    for (auto &container : containers)
        TRY(fill(container, 88));
    const auto finding = find(TRY(findings_of(TRY(store.doctor({"btrfs-qgroups"})))), "btrfs-qgroups");
    const Ran table = TRY(store({"guard", "--once", "--dry-run"}));
    story.show(table, 14);
    story.answer(Question::reproduced,
                 table.out.find("btrfs_qgroup") != std::string::npos &&
                     table.out.find("*log at 85 %") != std::string::npos,
                 "all three fill their qgroups; the kernel will refuse their writes (EDQUOT) at 100 %");

    story.phase(Phase::detect);
    if (finding) story.show(*finding);
    Actor guard =
        TRY(start_shale({"--root", store.root(), "--driver", "btrfs", "--config", world / "guard.toml", "guard"},
                        world / "guard.out", world / "guard.errors"));
    const bool logged = eventually([&] { return count(store, "entered", "log") >= 3; });
    story.answer(Question::detected, logged,
                 fmt::format("85 %: {} qgroups have entered the first mark", count(store, "entered", "log")));

    story.phase(Phase::guard);
    for (auto &container : containers)
        TRY(fill(container, 94));
    const bool slowed = eventually([&] { return !write_limit(batch).empty() && !write_limit(web).empty(); });
    const std::string memory_during = memory_limit(web);
    const bool spared = write_limit(database).empty();
    story.say(
        "92 %: writers that are not critical are slowed",
        {fmt::format("batch: {}", write_limit(batch)), fmt::format("web: {}", write_limit(web)),
         fmt::format("database: {}", write_limit(database).empty() ? "no limit" : write_limit(database)),
         fmt::format("memory of web: {} before, {} now (90 % of its qgroup's limit)", memory_before, memory_during)});
    TRY(fill(batch, 99));
    const bool ended = eventually([&] { return processes[0].ends_within(10ms); });
    TRY(fill(database, 99));
    const bool refused = eventually([&] { return count(store, "failed", "evict") > 0; });
    const bool alive = !processes[2].ends_within(1s) && !processes[1].ends_within(10ms);
    std::vector<std::string> lines;
    for (const auto &event : TRY(events_of(store)))
        if (event.tier == "evict" && (event.type == "acted" || event.type == "failed")) {
            lines.push_back(event.type + ": " + event.what);
            for (const auto &line : event.evidence)
                lines.push_back("  " + line);
        }
    story.say("98 %: the container whose qgroup it is, if its class allows it", lines);

    story.phase(Phase::heal);
    for (auto *container : {&batch, &web, &database}) {
        std::error_code error;
        std::filesystem::remove(container->tree + "/data", error);
        container->written = 0;
    }
    story.say("All three remove what they wrote");

    story.phase(Phase::verify);
    const bool undone = eventually([&] { return write_limit(web).empty() && memory_limit(web) == memory_before; });
    const auto writes = fill(database, 50);
    story.say("The pressure has ended:",
              {fmt::format("web: {}", write_limit(web).empty() ? "no limit" : write_limit(web)),
               fmt::format("memory of web: {}", memory_limit(web)),
               fmt::format("database writes: {}", writes ? "yes" : writes.error().text())});
    story.answer(
        Question::healed, slowed && spared && ended && refused && alive && undone && writes.has_value(),
        fmt::format(
            "slowed: {}, the critical one spared: {}, the batch one ended: {}, the critical one not: {}, undone: {}",
            slowed, spared, ended, refused && alive, undone));
    return {};
}

std::string cannot_run() {
    const std::string btrfs = lacks_file_system("btrfs");
    if (!btrfs.empty()) return btrfs;
    const auto mounts = read_whole("/proc/self/mountinfo").value_or("");
    if (mounts.find(" - cgroup") == std::string::npos) return "no control groups are mounted here";
    return lacks_tool("mkfs.btrfs", "btrfs-progs");
}

} // namespace

extern const Scenario btrfs_qgroup_tiers;
const Scenario btrfs_qgroup_tiers{
    .id = "btrfs-qgroup-tiers",
    .title = "Containers fill their qgroups, and a guard logs, slows and ends them by their class",
    .about = "Dense containers on btrfs, each with a limit of its own. At 85 % of a qgroup the guard logs, at 92 % it "
             "slows writers that are not "
             "critical (io.max or blkio) and has their memory reclaimed earlier (90 % of the qgroup's limit), at 98 % "
             "it ends the container of the "
             "lowest class, before writes fail and the page cache is full of what cannot be written. When the pressure "
             "ends, all of it is undone.",
    .cannot_run = cannot_run,
    .run = run,
};

} // namespace shale::lab
