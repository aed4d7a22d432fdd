// SPDX-License-Identifier: Apache-2.0
// A thin pool's metadata is full while its data is not.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>

#include "base/units.h"
#include "lab/findings.h"
#include "lab/scenario.h"
#include "lab/thin_pool.h"
#include "sys/fs.h"
#include "sys/mount.h"

namespace shale::lab {
namespace {

constexpr uint64_t mib = uint64_t{1} << 20U;
constexpr uint64_t volume_bytes = 96 * mib;
constexpr const char *word = "written before the pool was full\n";

/// One block of a snapshot, so that it has a mapping of its own.
Status write_block(const std::string &device, uint64_t at) {
    const UniqueFd file = TRY(sys::open_at(AT_FDCWD, device.c_str(), O_WRONLY));
    const std::string bytes = noise(at, 4096);
    TRY(sys::pwrite_all(file.get(), std::as_bytes(std::span(bytes)), at));
    return sys::fsync_fd(file.get());
}

/// Snapshots with a block of their own each, until the kernel takes no more: how many, and why.
struct Filled {
    uint64_t snapshots = 0;
    std::string why;
};
Filled fill(const ThinPool &pool) {
    Filled out;
    const auto attempt = [&](uint64_t volume) -> Status {
        TRY(pool.snapshot(volume, 0));
        const std::string device = TRY(pool.activate(volume, volume_bytes));
        const auto written = write_block(device, volume * 37 % 1000 * ThinPool::block_bytes);
        TRY(pool.deactivate(volume));
        return written;
    };
    for (uint64_t volume = 1; volume < 5000; ++volume, ++out.snapshots) {
        if (const auto done = attempt(volume); !done) {
            out.why = done.error().text();
            break;
        }
    }
    return out;
}

Status run(World &world, Story &story) {
    story.phase(Phase::build);
    ThinPool pool = TRY(ThinPool::make(world, 2 * mib, 512 * mib));
    TRY(pool.create(0));
    const std::string base = TRY(pool.activate(0, volume_bytes));
    TRY(World::must("mkfs.ext4", "e2fsprogs", {"-q", base}));
    const std::string tree = world / "base";
    if (::mkdir(tree.c_str(), 0755) != 0) return fail_errno(errno, "mkdir");
    TRY(sys::mount_at({"ext4", base, {}}, tree));
    TRY(write_file(tree + "/file", word));
    TRY(sys::unmount(tree));
    TRY(pool.deactivate(0));
    story.say("A pool on loop devices with 2 MiB of metadata, as loop-lvm makes them too small; snapshots of one "
              "volume, each with a "
              "block of its own",
              {"status: " + TRY(pool.status_text())});

    story.phase(Phase::reproduce);
    const Filled filled = fill(pool);
    const auto status = TRY(pool.status());
    const std::string text = TRY(pool.status_text());
    const double data = 100.0 * static_cast<double>(status.used_data_blocks) /
                        static_cast<double>(std::max<uint64_t>(status.total_data_blocks, 1));
    story.say(fmt::format("After {} snapshots: {}", filled.snapshots, filled.why),
              {"status: " + text, fmt::format("data in use: {:.0f} %", data)});
    // What is there now must not pass for a mount that worked.
    std::string after = "the volume cannot be activated any more";
    bool accepted = false;
    if (const auto device = pool.activate(0, volume_bytes)) {
        const auto mounted = sys::mount_at({"ext4", *device, {}}, tree);
        if (!mounted) {
            after = "mount fails: " + mounted.error().message();
        } else {
            const auto written = write_file(tree + "/new", noise(5, 8 * mib));
            const UniqueFd file(::open(tree.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
            const auto synced = sys::syncfs_fd(file.get());
            accepted = written.has_value();
            after =
                fmt::format("mount succeeds, 8 MiB are {}, and sync says: {}",
                            accepted ? "taken by write(2)" : "refused", synced ? "nothing" : synced.error().message());
            (void)sys::unmount(tree);
        }
        (void)pool.deactivate(0);
    }
    story.say("A container on the pool as it is now: " + after, {"status: " + TRY(pool.status_text())});
    const auto worse = TRY(pool.status());
    const bool broken = worse.mode != sys::PoolMode::read_write || worse.needs_check;
    story.answer(Question::reproduced, !filled.why.empty() && broken && data < 80,
                 fmt::format("no snapshot more with {:.0f} % of the data in use; {}", data, after));

    story.phase(Phase::detect);
    const auto finding =
        find(TRY(findings_of(TRY(World::shale({"doctor", "--json", "--no-usage", "--check", "thin-pool-space"})))),
             "thin-pool-space", pool.name());
    if (finding) story.show(*finding);
    story.answer(Question::detected, finding && finding->severity == "critical",
                 finding ? finding->summary : std::string("the doctor says nothing"));

    story.phase(Phase::heal);
    TRY(pool.stop());
    story.show(TRY(World::tool("thin_check", "thin-provisioning-tools", {pool.metadata_device()})));
    // More room first, then the mark goes: in this order a pool that is started in between is checked again.
    TRY(pool.grow_metadata(16 * mib));
    story.show(TRY(
        World::must("thin_check", "thin-provisioning-tools", {"--clear-needs-check-flag", pool.metadata_device()})));
    TRY(pool.start());
    story.say("Checked, the metadata device made larger, and active again", {"status: " + TRY(pool.status_text())});

    story.phase(Phase::verify);
    const uint64_t next = filled.snapshots + 10;
    TRY(pool.snapshot(next, 0));
    const std::string device = TRY(pool.activate(next, volume_bytes));
    TRY(sys::mount_at({"ext4", device, {}}, tree));
    const bool kept = TRY(read_whole(tree + "/file")) == word;
    TRY(write_file(tree + "/new", noise(5, mib)));
    TRY(sys::unmount(tree));
    TRY(pool.deactivate(next));
    const auto healed = TRY(pool.status());
    story.answer(
        Question::healed, kept && healed.mode == sys::PoolMode::read_write && !healed.needs_check,
        fmt::format("a new snapshot is mounted, written, and has what was there before; metadata {} of {} blocks",
                    healed.used_metadata_blocks, healed.total_metadata_blocks));
    return {};
}

std::string cannot_run() {
    const std::string device_mapper = lacks_device_mapper();
    return !device_mapper.empty() ? device_mapper : lacks_tool("thin_check", "thin-provisioning-tools");
}

} // namespace

extern const Scenario thin_metadata_overflow;
const Scenario thin_metadata_overflow{
    .id = "thin-metadata-overflow",
    .title = "The metadata of a thin pool is full while its data is not",
    .about = "Each snapshot and each block that it changes takes metadata of a thin pool. When that is full the kernel "
             "makes the pool "
             "read-only or marks it needs_check, while lvs shows free data; mounts may still succeed and what is "
             "written then is "
             "lost. The doctor reads the kernel's status line and names the state; what mends it is to stop the pool, "
             "check its metadata, "
             "and give it more. shale's driver looks at the metadata before each container, and refuses in time.",
    .cannot_run = cannot_run,
    .run = run,
};

} // namespace shale::lab
