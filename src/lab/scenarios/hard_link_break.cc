// SPDX-License-Identifier: Apache-2.0
// The legacy overlay driver shares unchanged files by hard link; a rolling update meets a layer that lost them.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

#include "base/units.h"
#include "lab/findings.h"
#include "lab/scenario.h"
#include "sys/fs.h"

namespace shale::lab {
namespace {

constexpr uint64_t mib = uint64_t{1} << 20U;
constexpr const char *library = "lib/libapp.so", *config = "etc/app.conf";

struct Inode {
    uint64_t number = 0, names = 0;
};
Result<Inode> inode_of(const std::string &path) {
    struct stat info{};
    if (::lstat(path.c_str(), &info) != 0) return fail_errno(errno, fmt::format("stat {:?}", path));
    return Inode{info.st_ino, info.st_nlink};
}

/// What a restore without -H, or an editor, does: the same bytes under the same name, in another inode.
Status break_link(const std::string &path) {
    struct stat info{};
    if (::lstat(path.c_str(), &info) != 0) return fail_errno(errno, fmt::format("stat {:?}", path));
    TRY(write_file(path + ".new", TRY(read_whole(path)), info.st_mode & 07777U));
    TRY(sys::set_times(AT_FDCWD, (path + ".new").c_str(), info.st_atim, info.st_mtim)); // as `rsync -a` does
    std::error_code error;
    std::filesystem::rename(path + ".new", path, error);
    if (error) return fail_errno(error.value(), fmt::format("rename {:?}", path));
    return {};
}

Status run(World &world, Story &story) {
    story.phase(Phase::build);
    const Disk disk = TRY(world.disk({"disk", "ext4", 512 * mib}));
    const StoreCommand store(disk.path + "/store", "overlay");
    const std::vector<ImageFile> base{{library, noise(1, 8 * mib), 0755}, {config, "release 1\n"}};
    TRY(write_image(world / "v1.tar", "app:1", {base}));
    TRY(write_image(world / "v2.tar", "app:2", {base, {{config, "release 2\n"}}}));
    for (const auto *image : {"v1.tar", "v2.tar"})
        TRY(store.must({"image", "import", world / image}));
    std::vector<std::string> trees; // of the layers, the parent first
    for (const auto &entry : std::filesystem::directory_iterator(disk.path + "/store/overlay"))
        if (std::filesystem::exists(entry.path() / "fs" / library)) trees.push_back(entry.path() / "fs");
    std::ranges::sort(trees,
                      [](const auto &a, const auto &b) { return a.size() != b.size() ? a.size() < b.size() : a < b; });
    if (trees.size() != 2) return fail(Errc::Internal, fmt::format("{} layers instead of 2", trees.size()));
    const std::string parent = trees[0] + "/" + library, child = trees[1] + "/" + library;
    const Inode whole = TRY(inode_of(child));
    story.say(fmt::format("Two releases of an application over one base: {} is inode {} in both layers, with {} names",
                          library, whole.number, whole.names));
    for (const auto *release : {"1", "2"}) {
        TRY(store.must(
            {"container", "create", "--name", fmt::format("app-{}", release), fmt::format("app:{}", release)}));
    }
    TRY(store.mount("app-1"));
    const Room before = TRY(room_of(disk.path));

    story.phase(Phase::reproduce);
    TRY(break_link(child));
    const std::string second = TRY(store.mount("app-2"));
    const Inode broken = TRY(inode_of(child)), theirs = TRY(inode_of(parent));
    const Room after = TRY(room_of(disk.path));
    const uint64_t taken = before.bytes_free - std::min(before.bytes_free, after.bytes_free);
    story.say("In the middle of the update, with app-1 in use and app-2 starting, a tool writes the same bytes anew in "
              "the layer "
              "of release 2",
              {fmt::format("{} of release 1: inode {}, of release 2: inode {}", library, theirs.number, broken.number),
               fmt::format("space taken without a change: {}", format_bytes(taken))});
    story.answer(Question::reproduced, broken.number != theirs.number && taken >= 8 * mib,
                 fmt::format("one file became two inodes ({} and {}), {} more in use", theirs.number, broken.number,
                             format_bytes(taken)));

    story.phase(Phase::detect);
    const Ran check = TRY(store({"check", "--level", "full"}));
    story.show(check);
    const auto finding = find(TRY(findings_of(TRY(store.doctor({"hard-link-breaks"})))), "hard-link-breaks", library);
    if (finding) story.show(*finding);
    const bool named = check.out.find("has lost its hard link") != std::string::npos;
    story.answer(
        Question::detected, named && finding,
        fmt::format("check names the file{}", finding ? "; the doctor: " + finding->summary : ", the doctor nothing"));

    story.phase(Phase::heal);
    TRY(store.must({"container", "unmount", "app-2"})); // a repair swaps layers; nothing above may be mounted
    story.show(TRY(store({"check", "--level", "full", "--repair"})));

    story.phase(Phase::verify);
    const std::string again = TRY(store.mount("app-2"));
    const Inode mended = TRY(inode_of(child));
    const bool same = TRY(read_whole(again + "/" + library)) == base[0].bytes &&
                      TRY(read_whole(again + "/" + config)) == "release 2\n";
    const Ran clean = TRY(store({"check", "--level", "full"}));
    story.show(clean);
    story.answer(
        Question::healed, clean.status == 0 && same && mended.number == theirs.number && again == second,
        fmt::format("{} is inode {} in both layers again, with {} names; app-2 is mounted over it with its bytes",
                    library, mended.number, mended.names));
    return {};
}

std::string cannot_run() {
    return lacks_file_system("ext4");
}

} // namespace

extern const Scenario hard_link_break;
const Scenario hard_link_break{
    .id = "hard-link-break",
    .title = "A layer of the legacy overlay driver loses its hard links during a rolling update",
    .about = "The first overlay driver keeps a whole tree for each layer and shares what a layer does not change with "
             "its parent "
             "by hard link. A restore without -H, or a tool that writes a file anew, gives the layer an inode of its "
             "own: the "
             "same bytes take their space and their page cache twice. check --level full and the doctor name the file; "
             "check "
             "--repair unpacks the layer over its parent again, from the blob that was kept.",
    .cannot_run = cannot_run,
    .run = run,
};

} // namespace shale::lab
