// SPDX-License-Identifier: Apache-2.0
// The power goes while an image is unpacked, and just after.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "base/units.h"
#include "lab/findings.h"
#include "lab/scenario.h"
#include "sys/fs.h"

namespace shale::lab {
namespace {

constexpr uint64_t mib = uint64_t{1} << 20U;
constexpr unsigned files = 200;

/// What a power cut leaves: from here on nothing reaches the device, neither data nor journal (EXT4_IOC_SHUTDOWN,
/// XFS_IOC_GOINGDOWN: one number, linux/fs.h FS_IOC_SHUTDOWN; 2: without flushing the log).
Status cut_power(const Disk &disk) {
    {
        const UniqueFd root = TRY(sys::open_dir(AT_FDCWD, disk.path.c_str()));
        uint32_t no_log_flush = 2;
        if (::ioctl(root.get(), _IOR('X', 125, uint32_t), &no_log_flush) != 0)
            return fail_errno(errno, fmt::format("stop the file system of {}", disk.path));
    }
    TRY(World::unmount(disk));
    return World::mount(disk); // it recovers its journal
}

std::vector<ImageFile> layer_of(uint64_t seed) {
    std::vector<ImageFile> out;
    for (unsigned i = 0; i < files; ++i)
        out.push_back({fmt::format("usr/lib/module-{}.so", i), noise(seed * 1000 + i, 20'000), 0755});
    return out;
}

/// As engines do that sync their records and not what they unpack.
Status sync_all_but_layers(const std::string &root) {
    for (const auto &entry : std::filesystem::recursive_directory_iterator(root)) {
        const auto name = entry.path().lexically_relative(root).string();
        if (!entry.is_regular_file() || name.starts_with("overlay2/")) continue;
        const UniqueFd file = TRY(sys::open_at(AT_FDCWD, entry.path().c_str(), O_RDONLY));
        TRY(sys::fsync_fd(file.get()));
    }
    const UniqueFd directory = TRY(sys::open_dir(AT_FDCWD, root.c_str()));
    return sys::fsync_fd(directory.get());
}

struct Damage {
    uint64_t files = 0, empty = 0;
};
Damage look(const std::string &root) {
    Damage out;
    std::error_code error;
    for (const auto &entry : std::filesystem::recursive_directory_iterator(root + "/overlay2", error)) {
        if (entry.path().string().find("/trash/") != std::string::npos) continue; // what a repair took out
        if (!entry.is_regular_file() || entry.path().filename().string().find("module-") == std::string::npos) continue;
        ++out.files;
        if (entry.file_size(error) == 0) ++out.empty;
    }
    return out;
}

Status run(World &world, Story &story) {
    story.phase(Phase::build);
    const Disk disk = TRY(world.disk({"disk", "ext4", 512 * mib}));
    const StoreCommand fast(disk.path + "/fast", "overlay2", {"--durability", "none"});
    const StoreCommand safe(disk.path + "/safe", "overlay2");
    TRY(write_image(world / "image.tar", "app:1", {layer_of(1)}));
    story.say(fmt::format(
        "An image of {} files; a store that syncs its records and blobs but not its layers, as containerd does by "
        "default (sync_fs = false)",
        files));

    story.phase(Phase::reproduce);
    story.show(TRY(fast.must({"image", "import", world / "image.tar"})));
    TRY(sync_all_but_layers(fast.root()));
    TRY(cut_power(disk));
    const Damage damage = look(fast.root());
    const Ran listed = TRY(fast({"image", "ls"}));
    story.show(listed);
    story.say("The power is cut, the file system recovers, the image is listed as before:",
              {fmt::format("{} files of the layer are there, {} of them empty", damage.files, damage.empty)});
    story.answer(
        Question::reproduced, damage.empty > 0 && listed.out.find("app") != std::string::npos,
        fmt::format("the record says that the layer is whole; {} of {} files are empty", damage.empty, damage.files));

    story.phase(Phase::detect);
    const Ran check = TRY(fast({"check", "--level", "full"}));
    story.show(check, 6);
    story.answer(Question::detected, check.status != 0 && check.out.find("module-") != std::string::npos,
                 "check --level full names the layer and its files");

    story.phase(Phase::heal);
    story.show(TRY(fast({"check", "--level", "full", "--repair"})), 4);
    const Ran mended = TRY(fast({"check", "--level", "data"}));
    story.show(mended, 4);
    const Damage left = look(fast.root());

    story.phase(Phase::verify);
    story.say("The same with shale's default, cut the moment that the import has answered:");
    story.show(TRY(safe.must({"image", "import", world / "image.tar"})));
    TRY(cut_power(disk));
    const Ran whole = TRY(safe({"check", "--level", "data"}));
    story.show(whole);
    const Damage none = look(safe.root());
    story.answer(Question::healed,
                 mended.status == 0 && left.empty == 0 && whole.status == 0 && none.files == files && none.empty == 0,
                 fmt::format("repaired in place from the blob; and a durable import lost nothing: {} files, {} empty",
                             none.files, none.empty));
    return {};
}

std::string cannot_run() {
    const std::string overlay = lacks_file_system("overlay");
    return !overlay.empty() ? overlay : lacks_file_system("ext4");
}

} // namespace

extern const Scenario power_cut;
const Scenario power_cut{
    .id = "power-cut",
    .title = "The power goes just after an image was unpacked",
    .about = "An engine that syncs its records and not the files that it unpacks leaves, after a power cut, layers "
             "that count as whole and "
             "have empty files; pulling again does not mend it, because the layer is there. shale syncs data, "
             "directories and "
             "record in that order before a layer counts; check finds such layers, and mends them from the blob that "
             "was kept.",
    .cannot_run = cannot_run,
    .run = run,
};

} // namespace shale::lab
