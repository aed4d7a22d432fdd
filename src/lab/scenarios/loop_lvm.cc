// SPDX-License-Identifier: Apache-2.0
// A store on a thin pool in files fills, cannot grow, and moves to a pool on a disk.
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "base/units.h"
#include "lab/findings.h"
#include "lab/scenario.h"

namespace shale::lab {
namespace {

constexpr uint64_t mib = uint64_t{1} << 20U;

/// As the driver names its devices: after its directory.
Status keep_devices(const World &world, const std::string &root) {
    struct stat info{};
    if (::stat((root + "/devicemapper").c_str(), &info) != 0) return fail_errno(errno, fmt::format("stat {:?}", root));
    return world.keeper().devices(fmt::format("shale-{:x}-{:x}-", info.st_dev, info.st_ino));
}

Status run(World &world, Story &story) {
    story.phase(Phase::build);
    const Disk disk = TRY(world.disk({"disk", "ext4", 1024 * mib}));
    const StoreCommand loop(disk.path + "/store", "devicemapper",
                            {"--storage-opt", "devicemapper.data_size=192M", "--storage-opt",
                             "devicemapper.metadata_size=2M", "--storage-opt", "devicemapper.base_size=64M"});
    TRY(write_image(world / "image.tar", "app:1", {{{"etc/app.conf", "1\n"}, {"bin/app", noise(1, 4 * mib), 0755}}}));
    // Before the driver makes any device.
    if (std::error_code error; !std::filesystem::create_directories(loop.root() + "/devicemapper", error))
        return fail_errno(error.value(), fmt::format("make {:?}", loop.root()));
    TRY(keep_devices(world, loop.root()));
    story.show(TRY(loop.must({"image", "import", world / "image.tar"})));
    story.say("A store by devicemapper with its defaults: the pool lies in files (loop-lvm), 192 MiB of data, 2 MiB of "
              "metadata");

    story.phase(Phase::reproduce);
    unsigned made = 0;
    Ran refused;
    for (; made < 40; ++made) {
        const std::string name = fmt::format("c{}", made);
        refused = TRY(loop({"container", "create", "--name", name, "app:1"}));
        if (refused.status != 0) break;
        const auto tree = loop.mount(name);
        if (!tree) {
            refused = Ran{"shale container mount " + name, 1, "", tree.error().text()};
            break;
        }
        TRY(write_file(*tree + "/data", noise(made, 16 * mib)));
        TRY(loop.must({"container", "unmount", name}));
    }
    story.say(fmt::format("{} containers that write 16 MiB each; then:", made));
    story.show(refused);
    const bool figures =
        refused.errors.find('%') != std::string::npos && refused.errors.find("data") != std::string::npos;
    story.answer(Question::reproduced, refused.status != 0 && made > 0,
                 fmt::format("the pool is full after {} containers, and its file is all it has", made));

    story.phase(Phase::detect);
    const auto findings = TRY(findings_of(TRY(loop.doctor({"thin-pool-loop", "thin-pool-space"}))));
    const auto finding = find(findings, "thin-pool-loop");
    const auto space = find(findings, "thin-pool-space");
    if (finding) story.show(*finding);
    if (space) story.show(*space);
    story.answer(Question::detected, figures && finding && space,
                 finding ? "refused before anything was lost, with the figures; the doctor: " + finding->summary
                         : std::string("the doctor says nothing"));

    story.phase(Phase::heal);
    const Disk direct = TRY(world.disk({"direct", "", 1024 * mib}));
    const Disk second = TRY(world.disk({"second", "ext4", 256 * mib}));
    const std::string root = second.path + "/store";
    story.show(TRY(loop({"migrate", "--dry-run", "--to", "devicemapper", "--to-root", root, "--to-opt", "pool=device",
                         "--to-opt", "device=" + direct.device, "--to-opt", "base_size=64M"})),
               40);
    const StoreCommand moved(root, "devicemapper",
                             {"--storage-opt", "devicemapper.pool=device", "--storage-opt",
                              "devicemapper.device=" + direct.device, "--storage-opt", "devicemapper.base_size=64M"});
    story.show(TRY(loop.must({"migrate", "--to", "devicemapper", "--to-root", root, "--to-opt", "pool=device",
                              "--to-opt", "device=" + direct.device, "--to-opt", "base_size=64M"})));
    TRY(keep_devices(world, root));
    story.show(TRY(loop.must({"migrate", "--finish"})));

    story.phase(Phase::verify);
    const Ran created = TRY(moved({"container", "create", "--name", "next", "app:1"}));
    story.show(created);
    const std::string tree = TRY(moved.mount("c0"));
    const bool same =
        TRY(read_whole(tree + "/data")) == noise(0, 16 * mib) && TRY(read_whole(tree + "/etc/app.conf")) == "1\n";
    TRY(moved.must({"container", "unmount", "c0"}));
    const Ran check = TRY(moved({"check"}));
    story.show(check);
    const auto left =
        find(TRY(findings_of(TRY(moved.doctor({"thin-pool-space"})))), "thin-pool-space", "nearly used up");
    story.answer(Question::healed, created.status == 0 && same && check.status == 0 && !left,
                 "on a pool that has a disk (direct-lvm): create works, containers have their files");
    return {};
}

std::string cannot_run() {
    const std::string device_mapper = lacks_device_mapper();
    return !device_mapper.empty() ? device_mapper : lacks_tool("thin_check", "thin-provisioning-tools");
}

} // namespace

extern const Scenario loop_lvm;
const Scenario loop_lvm{
    .id = "loop-lvm",
    .title = "A thin pool in files is full, and the store moves to a pool on a disk",
    .about = "Device-mapper stores of old begin with a pool in sparse files: small metadata, no growth, every write "
             "through two file "
             "systems. shale refuses the container that would not fit, with the figures; `shale migrate` moves images "
             "and containers to a "
             "pool on a disk or a volume group, with the table of what changes before.",
    .cannot_run = cannot_run,
    .run = run,
};

} // namespace shale::lab
