// SPDX-License-Identifier: Apache-2.0
// Mounting. An image is mounted once, on ROOT/<id>/mnt, when it is first wanted, and stays: all containers over it then
// share its cache. Overlay keeps what it mounted over, so that taking ROOT/<id>/mnt away hurts no container. After a
// boot the first use mounts anew.
#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>

#include <fmt/format.h>

#include "drivers/erofs/erofs.h"
#include "sys/fs.h"
#include "sys/loop.h"

namespace shale::drivers::erofs {
namespace {

constexpr size_t source_max = 255; ///< what a file system context takes as text

} // namespace

Result<Backing> mount_image(const std::string &image, const std::string &target, std::optional<Backing> wanted) {
    const UniqueFd file = TRY(sys::open_at(AT_FDCWD, image.c_str(), O_RDONLY));
    if (!wanted || *wanted == Backing::file) {
        const std::string source = image.size() <= source_max ? image : sys::fd_path(file.get());
        auto done = sys::mount_at({"erofs", source, {"ro"}}, target);
        if (done) return Backing::file;
        // ENOTBLK: a kernel that wants a device. Anything else a loop device would not mend.
        if (wanted || done.error().sys_errno() != ENOTBLK) return std::unexpected(std::move(done).error());
    }
    // Detached by the kernel when the mount goes.
    const auto loop = TRY(in_context(sys::attach_loop(file.get(), true), [&] {
        return fmt::format("the kernel does not mount images from files (Linux 6.12), and \"{}\" over a loop device",
                           image);
    }));
    TRY(sys::mount_at({"erofs", loop.path, {"ro"}}, target));
    return Backing::loop;
}

Result<std::string> Erofs::sealed_path(LayerId id) {
    std::string target = path(id, "mnt");
    const std::string layer = to_string(id);
    const std::lock_guard lock(mounts_mutex_);
    const auto home = TRY(sys::stat_if_exists(root_.fd(), layer.c_str()));
    if (!home) return fail(Errc::NotFound, fmt::format("layer {} is not there", id.value));
    auto on = TRY(sys::stat_if_exists(root_.fd(), (layer + "/mnt").c_str()));
    if (on && on->st_dev != home->st_dev) return target;
    if (!TRY(has(id, image_name))) {
        if (TRY(has(id, tree_name))) return path(id, tree_name);
        return fail(Errc::NotFound, fmt::format("layer {} has no image", id.value));
    }
    if (!on) {
        const auto made = sys::make_dir(root_.fd(), (layer + "/mnt").c_str(), 0700);
        if (!made && made.error().sys_errno() != EEXIST) return std::unexpected(made.error());
    }
    auto wanted = config_.backing;
    if (!wanted && no_file_backing_) wanted = Backing::loop;
    const auto by = TRY(in_context(mount_image(path(id, image_name), target, wanted),
                                   [&] { return fmt::format("layer {}", id.value); }));
    if (by == Backing::loop) no_file_backing_ = true;
    return target;
}

Result<UniqueFd> Erofs::sealed_root(LayerId id) {
    return sys::open_dir(AT_FDCWD, TRY(sealed_path(id)).c_str());
}

/// More than once when two processes mounted it at the same time.
Status Erofs::unmount(LayerId id) const {
    const std::string layer = to_string(id);
    for (int attempt = 0; attempt < 64; ++attempt) {
        const auto home = TRY(sys::stat_if_exists(root_.fd(), layer.c_str()));
        const auto on = TRY(sys::stat_if_exists(root_.fd(), (layer + "/mnt").c_str()));
        if (!home || !on || on->st_dev == home->st_dev) return {};
        const auto done = sys::unmount(path(id, "mnt"), sys::umount_detach);
        if (!done && done.error().sys_errno() != EINVAL) return done; // EINVAL: another process was faster
    }
    return fail(Errc::Aborted, fmt::format("layer {} is mounted again and again", id.value));
}

Result<std::string> Erofs::lower_option(const std::string &first, Parents layers) {
    std::string out = "lowerdir=" + first;
    for (const LayerId id : layers) {
        const std::string lower = escape_overlay(TRY(sealed_path(id)));
        out += (out.ends_with('=') ? "" : ":") + lower;
    }
    return out;
}

Result<std::vector<sys::MountSpec>> Erofs::mounts(LayerId id, Parents parents, Driver::Access access) {
    TRY(check_depth(id, parents));
    const bool is_active = TRY(has(id, "upper"));
    const bool writable = access == Driver::Access::read_write && is_active;
    if (!writable && parents.size() >= max_lowers)
        return fail(Errc::ResourceExhausted,
                    fmt::format("layer {} has {} parents: read-only it is one lower more itself, and overlay takes {}",
                                id.value, parents.size(), max_lowers));
    const std::string own = is_active ? path(id, "upper") : TRY(sealed_path(id));
    if (parents.empty() && !(writable && TRY(has(id, no_parents))))
        return std::vector{sys::MountSpec{"bind", own, {writable ? "rw" : "ro", "rbind"}}};
    sys::MountSpec spec{"overlay", "overlay", {}};
    if (writable) {
        spec.options.push_back(TRY(lower_option(parents.empty() ? escape_overlay(path(id, no_parents)) : "", parents)));
        spec.options.push_back("upperdir=" + escape_overlay(own));
        spec.options.push_back("workdir=" + escape_overlay(path(id, "work")));
    } else {
        spec.options.emplace_back("ro");
        spec.options.push_back(TRY(lower_option(escape_overlay(own), parents)));
    }
    // All said, so that parameters of the module on this host change nothing. Images hold no redirects.
    for (const char *option : {"redirect_dir=off", "metacopy=off", "index=off", "xino=auto"})
        spec.options.emplace_back(option);
    if (writable && config_.is_volatile) spec.options.emplace_back("volatile");
    return std::vector{std::move(spec)};
}

Result<Driver::View> Erofs::open_view(LayerId id, Parents parents) {
    if (parents.empty()) return View{TRY(own_tree(id)), nullptr};
    const auto specs = TRY(mounts(id, parents, Driver::Access::read_only));
    auto made =
        TRY(in_context(sys::mount_detached(specs.front()), [&] { return fmt::format("view of layer {}", id.value); }));
    View out;
    out.root = TRY(sys::open_dir(made.get(), "."));
    out.keep = std::make_shared<UniqueFd>(std::move(made));
    return out;
}

} // namespace shale::drivers::erofs
