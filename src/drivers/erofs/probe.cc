// SPDX-License-Identifier: Apache-2.0
// Every fact by doing the real thing in a scratch directory: an image is written, mounted by each rung of the ladder,
// and a container's overlay is put over it.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <fmt/format.h>

#include "drivers/concurrent_writes.h"
#include "drivers/erofs/erofs.h"
#include "drivers/erofs/host_tree.h"
#include "sys/fs.h"

namespace shale::drivers::erofs {
namespace {

/// {kept, d/old}; the upper one deletes `kept` and hides what is in `d`.
Status write_image(int dir, const char *name, bool upper) {
    ImageTree tree(TRY(sys::open_at(dir, name, O_RDWR | O_CREAT | O_EXCL, 0600)));
    TRY(tree.make_dir(tree.root(), "d", 0755));
    const auto inner = TRY(tree.open_dir(tree.root(), "d"));
    if (upper) {
        TRY(tree.make_node(tree.root(), "kept", S_IFCHR, makedev(0, 0)));
        TRY(tree.set_xattr(inner.get(), "", "trusted.overlay.opaque", "y"));
    } else {
        (void)TRY(tree.create_file(tree.root(), "kept", 0644));
        (void)TRY(tree.create_file(inner.get(), "old", 0644));
    }
    (void)TRY(tree.finish());
    return {};
}

class Prober {
public:
    explicit Prober(const LayerRoot::Scratch &scratch) : scratch_(scratch) {}
    [[nodiscard]] std::string path(std::string_view part) const { return fmt::format("{}/{}", scratch_.path, part); }

    Status prepare() {
        const int dir = scratch_.dir.get();
        for (const char *name : {"lower", "upper", "changes", "work"})
            TRY(sys::make_dir(dir, name, 0755));
        TRY(write_image(dir, "lower.erofs", false));
        return write_image(dir, "upper.erofs", true);
    }
    /// Empty text: it works; else the reason why not.
    std::string mounts(Backing backing) {
        auto done = mount_image(path("lower.erofs"), path("lower"), backing);
        if (!done) return done.error().text();
        (void)sys::unmount(path("lower"), sys::umount_detach);
        return {};
    }
    /// As a container's writes: the first one into a file of an image copies it up.
    Fact writes(Backing backing) {
        return concurrent_writes(written(backing), "first write into a file of an image, 256 KiB, which copies it up");
    }
    std::string overlay(Backing backing) {
        for (const std::string layer : {"lower", "upper"})
            if (auto done = mount_image(path(layer + ".erofs"), path(layer), backing); !done)
                return done.error().text();
        const std::string base = sys::fd_path(scratch_.dir.get()); // free of characters that need an escape
        auto made =
            sys::mount_detached({"overlay",
                                 "overlay",
                                 {fmt::format("lowerdir={0}/upper:{0}/lower", base), "upperdir=" + base + "/changes",
                                  "workdir=" + base + "/work", "redirect_dir=off", "metacopy=off"}});
        if (!made) return made.error().text();
        const auto root = sys::open_dir(made->get(), ".");
        if (!root) return root.error().text();
        const auto kept = sys::stat_if_exists(root->get(), "kept");
        const auto old = sys::stat_if_exists(root->get(), "d/old");
        if (!kept || *kept) return "overlay does not take the deletions of an image";
        if (!old || *old) return "overlay does not take the opaque directories of an image";
        const auto file = sys::open_at(root->get(), "d/new", O_WRONLY | O_CREAT | O_EXCL, 0644);
        return file ? "" : file.error().text();
    }

private:
    Result<UniqueFd> written(Backing backing) {
        const int dir = scratch_.dir.get();
        for (const char *name : {"source", "files", "changes2", "work2"})
            TRY(sys::make_dir(dir, name, 0755));
        const UniqueFd source = TRY(sys::open_dir(dir, "source"));
        TRY(make_written_files(source.get()));
        ImageTree tree(TRY(sys::open_at(dir, "files.erofs", O_RDWR | O_CREAT | O_EXCL, 0600)));
        TRY(copy_upper(tree, source.get()));
        TRY(tree.finish());
        TRY(mount_image(path("files.erofs"), path("files"), backing));
        const std::string base = sys::fd_path(dir);
        const auto made = TRY(sys::mount_detached(
            {"overlay",
             "overlay",
             {"lowerdir=" + base + "/files", "upperdir=" + base + "/changes2", "workdir=" + base + "/work2"}}));
        return sys::open_dir(made.get(), ".");
    }
    const LayerRoot::Scratch &scratch_;
};

} // namespace

Result<ProbeReport> Erofs::probe() {
    ProbeReport out;
    const auto yes_no = [&](std::string name, const std::string &reason) {
        out.facts.push_back({std::move(name), reason.empty() ? "yes" : "no", reason});
    };
    const auto scratch = root_.scratch();
    if (!scratch) {
        out.reason = scratch.error().text();
        return out;
    }
    out.facts.push_back(
        {"backing file system", sys::file_system_name(TRY(sys::statfs_fd(scratch->dir.get()))), "statfs"});
    const bool typed = TRY(has_d_type(scratch->dir.get()));
    yes_no("d_type", typed ? "" : "directory entries come without a type, which a container's upper needs");
    if (in_user_namespace()) {
        out.reason = "the kernel mounts EROFS images for the host's root only, and this is a user name space; use the "
                     "driver overlay2";
        return out;
    }
    Prober prober(*scratch);
    if (const auto prepared = prober.prepare(); !prepared) {
        out.reason = prepared.error().text();
        return out;
    }
    const std::string by_file = prober.mounts(Backing::file), by_loop = prober.mounts(Backing::loop);
    yes_no("mount from a file", by_file);
    yes_no("mount over a loop device", by_loop);
    const Backing backing = config_.backing.value_or(by_file.empty() ? Backing::file : Backing::loop);
    const std::string &mounting = backing == Backing::file ? by_file : by_loop;
    out.facts.push_back({"backing", backing == Backing::file ? "file" : "loop", config_.backing ? "option" : "probed"});
    const std::string overlay = mounting.empty() ? prober.overlay(backing) : "no image can be mounted";
    yes_no("overlay over images", overlay);
    yes_no("native diff", overlay);
    if (overlay.empty()) out.facts.push_back(prober.writes(backing));
    out.facts.push_back(quota_fact());
    out.usable = typed && overlay.empty();
    if (!out.usable)
        out.reason = !typed ? "the file system gives no d_type" : mounting.empty() ? overlay : "EROFS: " + mounting;
    return out;
}

} // namespace shale::drivers::erofs
