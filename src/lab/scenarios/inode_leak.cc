// SPDX-License-Identifier: Apache-2.0
// Inodes that no directory shows, held by a process.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>

#include "base/units.h"
#include "lab/actor.h"
#include "lab/findings.h"
#include "lab/scenario.h"

namespace shale::lab {
namespace {

constexpr uint64_t mib = uint64_t{1} << 20U;
constexpr unsigned held_files = 3000;

/// In the process that leaks: true when it holds all of them.
bool leak(const std::string &directory) {
    const rlimit many{held_files + 100, held_files + 100};
    if (::setrlimit(RLIMIT_NOFILE, &many) != 0) return false;
    for (unsigned i = 0; i < held_files; ++i) {
        const std::string name = fmt::format("{}/spool-{}", directory, i);
        if (::open(name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600) < 0 || ::unlink(name.c_str()) != 0)
            return false;
    }
    return true;
}

uint64_t names_in(const std::string &tree) {
    uint64_t out = 0;
    for (const auto &entry : std::filesystem::recursive_directory_iterator(tree)) {
        (void)entry;
        ++out;
    }
    return out;
}

Status run(World &world, Story &story) {
    story.phase(Phase::build);
    const Disk disk = TRY(world.disk({"disk", "ext4", 128 * mib, {"-N", "4096", "-m", "0"}}));
    const StoreCommand store(disk.path + "/store", "overlay2");
    TRY(write_image(world / "image.tar", "app:1", {{{"etc/", {}, 0755}, {"etc/app.conf", "spool on\n"}}}));
    TRY(store.must({"image", "import", world / "image.tar"}));
    TRY(store.must({"container", "create", "--name", "spooler", "app:1"}));
    const std::string tree = TRY(store.mount("spooler"));
    const Room before = TRY(room_of(disk.path));

    story.phase(Phase::reproduce);
    Actor actor = TRY(Actor::start([&] { return leak(tree); }));
    const Room leaking = TRY(room_of(disk.path));
    const uint64_t taken = before.inodes_free - leaking.inodes_free, names = names_in(tree);
    story.say(
        fmt::format("The container's process {} makes spool files, deletes them, and keeps them open", actor.pid()),
        {fmt::format("inodes in use: {} more than before", format_count(taken)),
         fmt::format("names in the container's tree: {}", format_count(names)),
         fmt::format("inodes free: {} of {}", format_count(leaking.inodes_free), format_count(leaking.inodes))});
    story.answer(Question::reproduced, taken >= held_files && names < 10,
                 fmt::format("{} inodes are in use that {} names account for", format_count(taken), names));

    story.phase(Phase::detect);
    const auto finding = find(TRY(findings_of(TRY(store.doctor({"deleted-open-files"})))), "deleted-open-files",
                              std::to_string(actor.pid()));
    if (finding) story.show(*finding);
    story.answer(Question::detected, finding.has_value(),
                 finding ? finding->summary + "; " + (finding->evidence.empty() ? "" : finding->evidence.front())
                         : std::string("the doctor says nothing"));

    story.phase(Phase::guard);
    story.show(TRY(store({"guard", "--once", "--dry-run"})));

    story.phase(Phase::heal);
    story.say(fmt::format("The process that the doctor names is restarted: {} ends", actor.pid()));
    TRY(actor.end());

    story.phase(Phase::verify);
    const Room after = TRY(room_of(disk.path));
    const auto still = find(TRY(findings_of(TRY(store.doctor({"deleted-open-files"})))), "deleted-open-files");
    const Ran created = TRY(store({"container", "create", "--name", "next", "app:1"}));
    story.show(created);
    story.answer(
        Question::healed, after.inodes_free == before.inodes_free && !still && created.status == 0,
        fmt::format("inodes free: {}, as before the leak; the finding is gone", format_count(after.inodes_free)));
    return {};
}

std::string cannot_run() {
    return lacks_file_system("ext4");
}

} // namespace

extern const Scenario inode_leak;
const Scenario inode_leak{
    .id = "inode-leak",
    .title = "Inodes are in use and no directory shows them",
    .about =
        "A process makes files, deletes them and keeps them open. They have no name any more, so du and find do not "
        "see them, while their inodes and blocks stay in use until the last descriptor is closed. The doctor counts "
        "them through /proc/*/fd and names the process; restarting it gives all of them back.",
    .cannot_run = cannot_run,
    .run = run,
};

} // namespace shale::lab
