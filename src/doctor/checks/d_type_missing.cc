// SPDX-License-Identifier: Apache-2.0
// d-type-missing: an overlay store on a file system whose directories do not say what their entries are.
#include <fmt/format.h>

#include "doctor/checks/common.h"

namespace shale::doctor::checks {
namespace {

Finding finding_of(const probe::Store &store, const probe::FileSystem &fs) {
    Finding out;
    out.severity = Severity::critical;
    out.subject = name_of(store);
    out.summary =
        fmt::format("it lies on {} ({}), whose directory entries have no type", shown(fs.target), shown(fs.type));
    if (fs.type == "xfs")
        out.evidence.emplace_back("XFS was made with ftype=0, mkfs.xfs's default before xfsprogs 3.2.3");
    else if (fs.type.starts_with("ext"))
        out.evidence.push_back(fmt::format("{} was made without the feature filetype", shown(fs.type)));
    out.evidence.push_back(fmt::format("{} has {} and {}", name_of(store), counted(store.layers.size(), "layer"),
                                       counted(store.images.size(), "image")));
    if (fs.type == "xfs") {
        out.commands = {fmt::format("xfs_info {}", shell_quote(fs.target)),
                        "# it cannot be switched on later: make another file system and move the images there"};
        out.commands.push_back("mkfs.xfs -n ftype=1 NEW_DEVICE");
    } else if (fs.type.starts_with("ext")) {
        out.commands = {"# with the file system unmounted:",
                        fmt::format("tune2fs -O filetype {0} && e2fsck -fD {0}", shell_quote(fs.source))};
    } else {
        out.commands = {"# move the store to ext4, or to XFS with ftype=1"};
    }
    return out;
}

Outcome run(const probe::Facts &facts) {
    Outcome out;
    for (const auto &store : facts.stores) {
        const bool kernel_overlay = is_overlay(store) && value_of(store.settings, "mount_program") == nullptr;
        const auto *const fs = kernel_overlay ? file_system_of_layers(facts, store) : nullptr;
        if (fs == nullptr) continue;
        if (fs->d_type && !*fs->d_type) out.findings.push_back(finding_of(store, *fs));
        if (!fs->d_type && fs->type == "xfs")
            out.unable.push_back(
                fmt::format("{}: whether {} has ftype=1 could not be read", name_of(store), shown(fs->target)));
    }
    return out;
}

} // namespace

extern const Check d_type_missing;
const Check d_type_missing{
    .id = "d-type-missing",
    .title = "An overlay store on a file system without d_type",
    .why = "overlayfs tells a whiteout from a file by the type in the directory entry. Where the file system below "
           "gives none, deleted files come back, directories cannot be removed and builds fail at random (kernel, "
           "Documentation/filesystems/overlayfs.rst, \"Upper and Lower\": upper \"must provide valid d_type in "
           "readdir responses\"). Engines of today refuse to start there, often after an update.",
    .limits = "Stores of overlay drivers on a file system that was found to give no types. Nothing is said where it "
              "could not be found out.",
    .remedy = "Move the store to a file system with types: XFS with ftype=1 (default since xfsprogs 3.2.3), ext4 (by "
              "default).",
    .risk = "A new file system means that images are pulled again and containers made again, unless the store is "
            "copied with all extended attributes (rsync -aHAXS) while the engine is stopped. Layers written without "
            "d_type may have lost deletions already: pull them anew.",
    .undo = "Keep the old file system until the new one has proved itself.",
    .run = run,
};

} // namespace shale::doctor::checks
