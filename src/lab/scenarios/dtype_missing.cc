// SPDX-License-Identifier: Apache-2.0
// A file system whose directory entries have no type.
#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "lab/findings.h"
#include "lab/scenario.h"
#include "sys/mount.h"

namespace shale::lab {
namespace {

constexpr uint64_t mib = uint64_t{1} << 20U;

struct Listed {
    unsigned entries = 0, without_type = 0;
    bool has(const std::string &name) const { return names.find("/" + name + "/") != std::string::npos; }
    std::string names = "/";
};
Result<Listed> list(const std::string &path) {
    DIR *directory = ::opendir(path.c_str());
    if (directory == nullptr) return fail_errno(errno, fmt::format("open {:?}", path));
    Listed out;
    while (const dirent *entry = ::readdir(directory)) {
        if (std::strcmp(entry->d_name, ".") == 0 || std::strcmp(entry->d_name, "..") == 0) continue;
        ++out.entries;
        if (entry->d_type == DT_UNKNOWN) ++out.without_type;
        out.names += std::string(entry->d_name) + "/";
    }
    ::closedir(directory);
    return out;
}

Status run(World &world, Story &story) {
    story.phase(Phase::build);
    const Disk disk = TRY(world.disk({"disk", "ext4", 256 * mib, {"-O", "^filetype"}}));
    story.say("An ext4 made without the feature filetype, as old installers made them");

    story.phase(Phase::reproduce);
    for (const auto *directory : {"/lower", "/upper", "/work", "/merged"})
        if (::mkdir((disk.path + directory).c_str(), 0755) != 0) return fail_errno(errno, "mkdir");
    for (const auto *name : {"kept", "deleted"})
        TRY(write_file(disk.path + "/lower/" + name, "of the image\n"));
    const Listed lower = TRY(list(disk.path + "/lower"));
    const auto mounted = sys::mount_at(
        {"overlay",
         "overlay",
         {"lowerdir=" + disk.path + "/lower", "upperdir=" + disk.path + "/upper", "workdir=" + disk.path + "/work"}},
        disk.path + "/merged");
    std::vector<std::string> seen{
        fmt::format("readdir of the layer: {} of {} entries have no type", lower.without_type, lower.entries)};
    bool wrong = false;
    if (!mounted) {
        seen.push_back("the kernel refuses the mount: " + mounted.error().message());
        wrong = true;
    } else {
        if (::unlink((disk.path + "/merged/deleted").c_str()) != 0) return fail_errno(errno, "unlink in the overlay");
        const Listed merged = TRY(list(disk.path + "/merged"));
        struct stat info{};
        const bool opens = ::lstat((disk.path + "/merged/deleted").c_str(), &info) == 0;
        seen.push_back("the kernel mounts an overlay over it, with a warning in its log");
        seen.push_back(
            fmt::format("after a deletion in the container, the directory {} the deleted name, and stat says {}",
                        merged.has("deleted") ? "still lists" : "does not list",
                        opens ? "that it is there" : std::strerror(ENOENT)));
        wrong = merged.has("deleted");
        if (::rmdir((disk.path + "/merged").c_str()) != 0 && errno != EBUSY) return fail_errno(errno, "rmdir");
        TRY(sys::unmount(disk.path + "/merged"));
    }
    story.say("An overlay there:", seen);
    story.answer(Question::reproduced, lower.without_type == lower.entries && lower.entries > 0 && wrong,
                 fmt::format("{}; {}", seen.front(), seen.back()));

    story.phase(Phase::detect);
    const std::string root = disk.path + "/store";
    TRY(write_image(world / "image.tar", "app:1",
                    {{{"etc/app.conf", "1\n"}, {"etc/old.conf", "0\n"}}, {{"etc/.wh.old.conf", {}}}}));
    const Ran refused = TRY(StoreCommand(root, "overlay2")({"image", "import", world / "image.tar"}));
    story.show(refused);
    // A store that an engine of old left there.
    const std::string docker = disk.path + "/host/var/lib/docker";
    TRY(write_file(docker + "/image/overlay2/repositories.json", R"({"Repositories":{}})"));
    TRY(write_file(docker + "/overlay2/l/.keep", ""));
    const Ran report =
        TRY(World::shale({"doctor", "--json", "--check", "d-type-missing", "--store", "docker=" + docker}));
    const auto finding = find(TRY(findings_of(report)), "d-type-missing");
    if (finding) story.show(*finding);
    const bool named = refused.status != 0 && refused.errors.find("d_type") != std::string::npos;
    story.answer(Question::detected, named && finding,
                 fmt::format("overlay2 is refused before anything is written{}",
                             finding ? "; the doctor: " + finding->summary : "; the doctor says nothing"));

    story.phase(Phase::heal);
    const StoreCommand store(root, "vfs");
    story.say("The ladder: a driver that needs no types here; or types, with the file system unmounted");
    story.show(TRY(store.must({"image", "import", world / "image.tar"})));
    TRY(store.must({"container", "create", "--name", "app", "app:1"}));
    const Listed tree = TRY(list(TRY(store.mount("app")) + "/etc"));
    TRY(store.must({"container", "unmount", "app"}));
    TRY(World::unmount(disk));
    story.show(TRY(World::must("tune2fs", "e2fsprogs", {"-O", "filetype", disk.device})));
    story.show(
        TRY(World::tool("e2fsck", "e2fsprogs", {"-f", "-D", "-y", disk.device}))); // 1: it mended something, as asked
    TRY(World::mount(disk));

    story.phase(Phase::verify);
    const Listed typed = TRY(list(disk.path + "/lower"));
    const StoreCommand fast(disk.path + "/store2", "overlay2");
    const Ran imported = TRY(fast({"image", "import", world / "image.tar"}));
    story.show(imported);
    story.say(
        fmt::format("After tune2fs and e2fsck: {} of {} entries have no type", typed.without_type, typed.entries));
    story.answer(
        Question::healed,
        tree.has("app.conf") && !tree.has("old.conf") && typed.without_type == 0 && imported.status == 0,
        "vfs shows the deletion right at once; with the feature on, entries have types and overlay2 is accepted");
    return {};
}

std::string cannot_run() {
    const std::string overlay = lacks_file_system("overlay");
    return !overlay.empty() ? overlay : lacks_tool("tune2fs", "e2fsprogs");
}

} // namespace

extern const Scenario dtype_missing;
const Scenario dtype_missing{
    .id = "d-type-missing",
    .title = "A file system whose directory entries have no type",
    .about = "overlayfs tells a whiteout from a file by the type in the directory entry. On ext4 without filetype (and "
             "XFS with "
             "ftype=0) entries have none: what a container deletes stays in its listings, and cannot be opened. shale "
             "finds out by "
             "reading real entries, refuses overlay drivers there, and offers a driver that needs no types.",
    .cannot_run = cannot_run,
    .run = run,
};

} // namespace shale::lab
