// SPDX-License-Identifier: Apache-2.0
// The inodes of a file system end while it has bytes.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "base/units.h"
#include "lab/findings.h"
#include "lab/scenario.h"

namespace shale::lab {
namespace {

constexpr uint64_t mib = uint64_t{1} << 20U;

std::string said(const Room &room) {
    return fmt::format("{} of {} inodes and {} of {} free", format_count(room.inodes_free), format_count(room.inodes),
                       format_bytes(room.bytes_free), format_bytes(room.bytes));
}

/// Empty files until it fails: how many there were, and why there are no more.
struct Filled {
    uint64_t files = 0;
    int why = 0;
};
Filled fill(const std::string &directory) {
    Filled out;
    for (; out.files < 1'000'000; ++out.files) {
        const UniqueFd file(::open(fmt::format("{}/session-{}", directory, out.files).c_str(),
                                   O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
        if (!file) {
            out.why = errno;
            break;
        }
    }
    return out;
}

/// What EXT4_IOC_RESIZE_FS asks for (fs/ext4/resize.c, ext4_resize_begin).
bool has_sys_resource() {
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    std::array<__user_cap_data_struct, 2> data{};
    return ::syscall(SYS_capget, &header, data.data()) == 0 && (data[0].effective >> CAP_SYS_RESOURCE & 1U) != 0;
}

Status run(World &world, Story &story) {
    story.phase(Phase::build);
    const Disk disk = TRY(world.disk({"disk", "ext4", 128 * mib, {"-b", "4096", "-N", "4096", "-m", "0"}}));
    const StoreCommand store(disk.path + "/store", "overlay2");
    TRY(write_image(world / "image.tar", "app:1", {{{"etc/", {}, 0755}, {"etc/app.conf", "workers 4\n"}}}));
    story.show(TRY(store.must({"image", "import", world / "image.tar"})));
    for (const auto *name : {"idle", "sessions"})
        TRY(store.must({"container", "create", "--name", name, "app:1"}));
    const std::string tree = TRY(store.mount("sessions"));
    story.say("An ext4 of few inodes, two containers: " + said(TRY(room_of(disk.path))));

    story.phase(Phase::reproduce);
    const Filled filled = fill(tree);
    const Room full = TRY(room_of(disk.path));
    story.say(fmt::format("The container \"sessions\" keeps a file for every session: after {} of them it gets \"{}\"",
                          format_count(filled.files), std::strerror(filled.why)),
              {said(full)});
    story.answer(Question::reproduced,
                 filled.why == ENOSPC && full.inodes_free == 0 && full.bytes_free > full.bytes / 2,
                 fmt::format("\"{}\" with {}", std::strerror(filled.why), said(full)));

    story.phase(Phase::detect);
    const Ran refused = TRY(store({"container", "create", "--name", "another", "app:1"}));
    story.show(refused);
    const Ran doctor = TRY(store.doctor({"inodes-low"}));
    const auto finding = find(TRY(findings_of(doctor)), "inodes-low", disk.path);
    if (finding) story.show(*finding);
    const bool named = refused.status != 0 && refused.errors.find("inodes") != std::string::npos;
    story.answer(Question::detected, named && finding && finding->severity == "critical",
                 finding ? fmt::format("create is refused by name, and the doctor says: {}", finding->summary)
                         : std::string("the doctor says nothing"));

    story.phase(Phase::guard);
    story.show(TRY(store({"guard", "--once", "--dry-run"})));

    story.phase(Phase::heal);
    const bool may_grow = has_sys_resource();
    if (may_grow) {
        TRY(World::grow(disk, 512 * mib));
        story.show(TRY(World::must("resize2fs", "e2fsprogs", {disk.device})));
        story.say("ext4 grows while it is mounted, and each new block group brings inodes: " +
                  said(TRY(room_of(disk.path))));
    } else {
        story.say("Growing ext4 while it is mounted asks for CAP_SYS_RESOURCE, which is not given here; so the "
                  "container that is "
                  "named first is made smaller");
        for (uint64_t i = filled.files / 2; i < filled.files; ++i)
            ::unlink(fmt::format("{}/session-{}", tree, i).c_str());
    }
    const Room grown = TRY(room_of(disk.path));

    story.phase(Phase::verify);
    const Ran created = TRY(store({"container", "create", "--name", "another", "app:1"}));
    story.show(created);
    const bool kept =
        TRY(read_whole(tree + "/etc/app.conf")) == "workers 4\n" && ::access((tree + "/session-0").c_str(), F_OK) == 0;
    const Ran check = TRY(store({"check"}));
    story.show(check);
    story.answer(Question::healed,
                 created.status == 0 && kept && check.status == 0 && (!may_grow || grown.inodes > full.inodes),
                 fmt::format("inodes: {} of {} free, {} of {} before, without an unmount; create works, and what is in "
                             "use was not touched",
                             format_count(grown.inodes_free), format_count(grown.inodes),
                             format_count(full.inodes_free), format_count(full.inodes)));
    return {};
}

std::string cannot_run() {
    const std::string ext4 = lacks_file_system("ext4");
    return !ext4.empty() ? ext4 : lacks_tool("resize2fs", "e2fsprogs");
}

} // namespace

extern const Scenario inode_exhaustion;
const Scenario inode_exhaustion{
    .id = "inode-exhaustion",
    .title = "The inodes are gone while there are bytes",
    .about =
        "A container that keeps many small files takes the last inode of the file system that holds the store. "
        "Pulls, builds and starts fail with \"no space left on device\" while df shows free bytes. shale refuses "
        "the next container with the figures and the top holders; what mends it is to remove what holds the inodes, "
        "or to grow the file system while it is in use: ext4 gets inodes with every block group.",
    .cannot_run = cannot_run,
    .run = run,
};

} // namespace shale::lab
