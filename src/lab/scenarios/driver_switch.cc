// SPDX-License-Identifier: Apache-2.0
// Another storage driver is configured, and the images seem to be gone.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "lab/docker_root.h"
#include "lab/findings.h"
#include "lab/scenario.h"

namespace shale::lab {
namespace {

constexpr uint64_t mib = uint64_t{1} << 20U;

/// What dockerd leaves behind when daemon.json names another driver: the image's records, by the driver that was.
Status write_docker(const std::string &root) {
    const std::string cache(64, '1');
    TRY(write_file(root + "/overlay2/" + cache + "/diff/bin/app", noise(1, mib), 0755));
    TRY(write_docker_image(root, "app:1", cache));
    std::error_code error;
    for (const auto *empty : {"/image/vfs/layerdb/sha256", "/vfs/dir"})
        std::filesystem::create_directories(root + empty, error);
    return write_file(root + "/image/vfs/repositories.json", R"({"Repositories":{}})");
}

Status run(World &world, Story &story) {
    story.phase(Phase::build);
    const Disk disk = TRY(world.disk({"disk", "ext4", 256 * mib}));
    const std::string root = disk.path + "/store";
    const StoreCommand before(root, "overlay2"), after(root, "vfs");
    TRY(write_image(world / "image.tar", "app:1",
                    {{{"etc/app.conf", "release 1\n"}, {"bin/app", noise(1, mib), 0755}}}));
    TRY(before.must({"image", "import", world / "image.tar"}));
    TRY(before.must({"container", "create", "--name", "app", "app:1"}));
    TRY(write_file(TRY(before.mount("app")) + "/var/state", "of the container\n"));
    TRY(before.must({"container", "unmount", "app"}));
    story.show(TRY(before({"image", "ls"})));
    const std::string docker = world / "host/var/lib/docker", daemon = world / "host/etc/docker/daemon.json";
    TRY(write_docker(docker));

    story.phase(Phase::reproduce);
    TRY(write_file(daemon, R"({"storage-driver": "vfs"})"));
    const std::string shown = TRY(read_whole(docker + "/image/vfs/repositories.json"));
    const std::string hidden = TRY(read_whole(docker + "/image/overlay2/repositories.json"));
    story.say("Docker keeps a list of images for each driver. daemon.json names another one, and `docker image ls` "
              "reads this list",
              {"image/vfs/repositories.json: " + shown, "image/overlay2/repositories.json: " + hidden});
    story.answer(Question::reproduced,
                 shown.find("app:1") == std::string::npos && hidden.find("app:1") != std::string::npos,
                 "app:1 is on the disk and in no list that the engine reads");

    story.phase(Phase::detect);
    const auto report =
        TRY(World::shale({"doctor", "--json", "--host-root", world / "host", "--check", "driver-switch"}));
    const auto finding = find(TRY(findings_of(report)), "driver-switch", "app:1");
    if (finding) story.show(*finding);
    const Ran refused = TRY(after({"image", "ls"}));
    story.say("A store of shale does not let it come that far:");
    story.show(refused);
    const bool named = refused.status != 0 && refused.errors.find("overlay2") != std::string::npos &&
                       refused.errors.find("migrate") != std::string::npos;
    story.answer(Question::detected, finding && named,
                 fmt::format("{}; shale refuses the other driver, says what is there, and names migrate",
                             finding ? "the doctor: " + finding->summary : std::string("the doctor says nothing")));

    story.phase(Phase::heal);
    story.show(TRY(before({"migrate", "--to", "vfs"})));
    story.show(TRY(after({"migrate", "--finish"})));

    story.phase(Phase::verify);
    const Ran listed = TRY(after({"image", "ls"}));
    story.show(listed);
    const std::string tree = TRY(after.mount("app"));
    const bool same = TRY(read_whole(tree + "/etc/app.conf")) == "release 1\n" &&
                      TRY(read_whole(tree + "/bin/app")) == noise(1, mib) &&
                      TRY(read_whole(tree + "/var/state")) == "of the container\n";
    const Ran check = TRY(after({"check"}));
    story.answer(Question::healed, listed.out.find("app") != std::string::npos && same && check.status == 0,
                 "by vfs now: the image is listed, and its container has the image's files and its own");
    return {};
}

std::string cannot_run() {
    return lacks_file_system("overlay");
}

} // namespace

extern const Scenario driver_switch;
const Scenario driver_switch{
    .id = "driver-switch",
    .title = "Another storage driver is configured, and the images seem to be gone",
    .about = "Engines keep their images by driver. After a new storage-driver in daemon.json, or an upgrade that picks "
             "another one, "
             "image ls is empty while the old images hold their space and no prune reaches them. A store of shale "
             "refuses another "
             "driver by name, and `shale migrate` moves images and containers; the doctor finds Docker's and Podman's.",
    .cannot_run = cannot_run,
    .run = run,
};

} // namespace shale::lab
