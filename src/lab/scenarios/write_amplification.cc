// SPDX-License-Identifier: Apache-2.0
// Bytes that reach the device over bytes that containers write, and how that goes on, on each driver with one
// trace.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <optional>
#include <random>
#include <sstream>

#include "base/units.h"
#include "lab/findings.h"
#include "lab/scenario.h"
#include "sys/fs.h"

namespace shale::lab {
namespace {

using Clock = std::chrono::steady_clock;
constexpr uint64_t mib = uint64_t{1} << 20U;
constexpr size_t database_bytes = 48 * mib, page_bytes = 8192;
constexpr unsigned rounds = 4, writes_a_round = 400, writes_a_sync = 20;

/// Bytes written to a block device since it is there (sectors of 512, Documentation/block/stat.rst, the seventh word).
Result<uint64_t> written(const std::string &device) {
    const std::string name = device.substr(device.rfind('/') + 1);
    std::istringstream words(TRY(read_whole("/sys/block/" + name + "/stat")));
    uint64_t value = 0;
    for (int i = 0; i < 7; ++i)
        if (!(words >> value)) return fail(Errc::Internal, fmt::format("/sys/block/{}/stat is no table", name));
    return value * 512;
}

/// What a database in a container does: pages of 8 KiB at random places of a file of the image, synced every few.
struct Measured {
    double amplification = 0;            ///< over all rounds
    std::vector<double> writes_a_second; ///< of each round
    std::optional<Finding> finding{};    ///< of the doctor, about the recordsize
};
Result<Measured> trace(const std::string &tree, const std::string &device) {
    std::mt19937_64 random(7);
    std::string page = noise(3, page_bytes);
    Measured out;
    ::sync(); // what the import and the mount have left to write
    const uint64_t before = TRY(written(device));
    const UniqueFd file = TRY(sys::open_at(AT_FDCWD, (tree + "/var/db").c_str(), O_RDWR)); // overlay copies it up here
    for (unsigned round = 0; round < rounds; ++round) {
        const auto begin = Clock::now();
        for (unsigned i = 0; i < writes_a_round; ++i) {
            const uint64_t at = random() % (database_bytes / page_bytes) * page_bytes;
            page[random() % page_bytes] = static_cast<char>(random());
            TRY(sys::pwrite_all(file.get(), std::as_bytes(std::span(page)), at));
            if ((i + 1) % writes_a_sync == 0 && ::fdatasync(file.get()) != 0) return fail_errno(errno, "fdatasync");
        }
        out.writes_a_second.push_back(writes_a_round / std::chrono::duration<double>(Clock::now() - begin).count());
    }
    TRY(sys::syncfs_fd(file.get()));
    const uint64_t after = TRY(written(device));
    out.amplification = static_cast<double>(after - before) / (double{rounds} * writes_a_round * page_bytes);
    return out;
}

struct Setup {
    std::string name, type, driver;
    std::vector<std::string> options; ///< --storage-opt
};

/// One row; an empty one: this host has not got it, with the reason.
Result<std::vector<std::string>> measure(const World &world, const Setup &setup, Measured &result) {
    std::vector<std::string> globals;
    for (const auto &option : setup.options)
        globals.insert(globals.end(), {"--storage-opt", option});
    std::string device, root;
    const std::string place = fmt::format("disk-{}", setup.name);
    Disk disk;
    if (setup.type == "zfs") {
        const std::string pool = world.name() + "-amplification";
        disk = TRY(world.disk({place, "", 1024 * mib}));
        TRY(world.keeper().zfs_pool(pool));
        TRY(World::must("zpool", "zfsutils-linux", {"create", "-f", "-m", world / place, pool, disk.device}));
        disk.path = world / place;
    } else {
        disk = TRY(world.disk({place, setup.type, 1024 * mib}));
    }
    const StoreCommand store(disk.path + "/store", setup.driver, globals);
    TRY(store.must({"image", "import", world / "image.tar"}));
    TRY(store.must({"container", "create", "--name", "db", "db:1"}));
    result = TRY(trace(TRY(store.mount("db")), disk.device));
    result.finding = find(TRY(findings_of(TRY(store.doctor({"zfs-recordsize"})))), "zfs-recordsize");
    TRY(store.must({"container", "unmount", "db"}));
    if (setup.type == "zfs")
        TRY(World::must("zpool", "zfsutils-linux", {"destroy", "-f", world.name() + "-amplification"}));
    std::vector<std::string> row{setup.name, fmt::format("{:.2f}", result.amplification)};
    for (const double rate : result.writes_a_second)
        row.push_back(fmt::format("{:.0f}", rate));
    return row;
}

Status run(World &world, Story &story) {
    story.phase(Phase::build);
    TRY(write_image(world / "image.tar", "db:1", {{{"var/db", noise(1, database_bytes), 0644}}}));
    const bool zfs = lacks_zfs().empty();
    std::vector<Setup> setups{{"overlay2-ext4", "ext4", "overlay2", {}}};
    if (lacks_file_system("xfs").empty() && lacks_tool("mkfs.xfs", "xfsprogs").empty())
        setups.push_back({"overlay2-xfs", "xfs", "overlay2", {}});
    if (lacks_file_system("btrfs").empty() && lacks_tool("mkfs.btrfs", "btrfs-progs").empty())
        setups.push_back({"btrfs", "btrfs", "btrfs", {}});
    setups.push_back({"vfs-ext4", "ext4", "vfs", {}});
    if (zfs) {
        setups.push_back({"zfs-128K", "zfs", "zfs", {"zfs.recordsize=128K", "zfs.compression=off"}});
        setups.push_back({"zfs-16K", "zfs", "zfs", {"zfs.recordsize=16K", "zfs.compression=off"}});
    }
    story.say(fmt::format(
        "One trace for all: {} writes of {} at random places of a file of {} that the image brought, synced every {}",
        rounds * writes_a_round, format_bytes(page_bytes), format_bytes(database_bytes), writes_a_sync));

    story.phase(Phase::reproduce);
    std::vector<std::vector<std::string>> rows{{"driver", "written / asked"}};
    for (unsigned round = 1; round <= rounds; ++round)
        rows.front().push_back(fmt::format("writes/s, round {}", round));
    std::vector<std::pair<std::string, Measured>> results;
    for (const auto &setup : setups) {
        Measured result;
        rows.push_back(TRY(in_context(measure(world, setup, result), [&] { return setup.name; })));
        results.emplace_back(setup.name, result);
    }
    story.table("Bytes that reached the device over bytes written, and writes a second", rows);
    const auto of = [&](std::string_view name) {
        const auto found = std::ranges::find(results, name, &std::pair<std::string, Measured>::first);
        return found != results.end() ? found->second.amplification : 0.0;
    };
    // With ZFS: a record of 128K is written whole for 8 KiB. Without: the copy-up of the whole file, and what btrfs's
    // tree costs.
    const std::string bad = zfs ? "zfs-128K" : "overlay2-ext4", good = zfs ? "zfs-16K" : "btrfs";
    story.answer(
        Question::reproduced, of(bad) > 1.5,
        zfs ? fmt::format("recordsize 128K writes {:.1f} bytes for each that was asked for", of(bad))
            : fmt::format("overlay2 on ext4 writes {:.1f} bytes for each: the first write copies the whole file up",
                          of(bad)));

    story.phase(Phase::detect);
    const auto worst =
        std::ranges::max_element(results, {}, [](const auto &result) { return result.second.amplification; });
    const auto best =
        std::ranges::min_element(results, {}, [](const auto &result) { return result.second.amplification; });
    const std::string figures =
        fmt::format("by the device's sector counters {} writes {:.2f} bytes for each, {} {:.2f}", worst->first,
                    worst->second.amplification, best->first, best->second.amplification);
    if (worst->second.finding) story.show(*worst->second.finding);
    // Of a file that will be copied up the doctor cannot know: that it is written shows when it is.
    story.answer(Question::detected, worst->first == bad && (!zfs || worst->second.finding),
                 worst->second.finding ? worst->second.finding->summary + "; " + figures : figures);

    story.phase(Phase::heal);
    story.say(zfs ? std::string("The records are as large as the pages that are written: recordsize=16K")
                  : std::string("The driver that shares blocks, not files, copies only what is written"));

    story.phase(Phase::verify);
    story.answer(Question::healed, of(good) > 0 && of(good) < of(bad),
                 fmt::format("{}: {:.2f} instead of {:.2f}", good, of(good), of(bad)));
    return {};
}

std::string cannot_run() {
    const std::string overlay = lacks_file_system("overlay");
    return !overlay.empty() ? overlay : lacks_file_system("ext4");
}

} // namespace

extern const Scenario write_amplification;
const Scenario write_amplification{
    .id = "write-amplification",
    .title = "How many bytes reach the disk for each that a container writes",
    .about = "A database in a container writes small pages at random places. overlay copies the whole file up at the "
             "first of them, ZFS "
             "writes a whole record for each, btrfs and ZFS copy their trees. The same trace runs on every driver that "
             "the host has "
             "(ZFS with recordsize 128K and 16K), and the device's counters tell what it cost and how the rate holds.",
    .cannot_run = cannot_run,
    .run = run,
};

} // namespace shale::lab
