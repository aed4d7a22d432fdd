// SPDX-License-Identifier: Apache-2.0
#include "drivers/mounted_tree_driver.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <system_error>
#include <thread>

#include <fmt/format.h>

#include "sys/fs.h"
#include "sys/random.h"

namespace shale::drivers {
namespace {

constexpr const char *volume_mark = "volume";
/// Reserved at a time, at most: one, two, four, ... so that a process that makes one layer takes one number, and a
/// daemon writes the counter rarely.
constexpr uint64_t most_reserved = 64;

Result<VolumeId> read_volume(int dir, const std::string &layer) {
    const std::string text = TRY(sys::read_link(dir, (layer + "/" + volume_mark).c_str()));
    VolumeId out;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out.value);
    if (error != std::errc() || end != text.data() + text.size())
        return fail(Errc::DataLoss, fmt::format("layer {} names no volume: \"{}\"", layer, text));
    return out;
}

std::string stage_mark(LayerId id) {
    return to_string(id) + "/stage";
}

} // namespace

Result<VolumeId> MountedTreeDriver::next_volume() {
    const std::lock_guard guard(mutex_);
    if (next_ == end_) {
        next_ = TRY(reserve_volumes(reserve_));
        end_ = next_ + reserve_;
        reserve_ = std::min(reserve_ * 2, most_reserved);
    }
    return VolumeId{next_++};
}

Result<uint64_t> MountedTreeDriver::reserve_volumes(uint64_t count) {
    constexpr const char *name = "volumes";
    const UniqueFd lock = TRY(sys::open_at(root_.fd(), "volumes.lock", O_RDWR | O_CREAT, 0600));
    TRY(sys::lock_range(lock.get(), 0, 1, sys::LockMode::exclusive));
    uint64_t first = 1;
    if (TRY(sys::stat_if_exists(root_.fd(), name))) {
        const std::string text = TRY(sys::read_file(root_.fd(), name, 32));
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), first);
        if (error != std::errc() || end != text.data() + text.size() || first == 0)
            return fail(Errc::DataLoss,
                        fmt::format("{}/{} holds no number of a volume: \"{}\"", root_.path(), name, text));
    }
    TRY(sys::write_file_durably(root_.fd(), name, std::to_string(first + count)));
    return first;
}

Result<VolumeId> MountedTreeDriver::volume_of(LayerId id) const {
    return read_volume(root_.fd(), to_string(id));
}

Status MountedTreeDriver::make_layer(LayerId id, Parents parents) {
    std::optional<VolumeId> parent;
    if (!parents.empty()) parent = TRY(volume_of(parents.front()));
    const VolumeId volume = TRY(next_volume());
    TRY(root_.make(to_string(id).c_str(), 0700));
    const UniqueFd layer = TRY(sys::open_dir(root_.fd(), to_string(id).c_str()));
    TRY(sys::make_symlink(std::to_string(volume.value), layer.get(), volume_mark));
    TRY(in_context(plan_volume(volume, parent), [&] { return fmt::format("layer {}", id.value); }));
    TRY(sys::fsync_fd(layer.get()));
    TRY(sys::fsync_fd(root_.fd()));
    auto made = make_volume(volume, parent);
    // The volume is another layer's: this one's undo must not take it away.
    if (!made && made.error().sys_errno() == EEXIST) TRY(sys::unlink_at(layer.get(), volume_mark));
    return in_context(std::move(made), [&] { return fmt::format("layer {}", id.value); });
}

Status MountedTreeDriver::make_immutable(LayerId id) {
    return freeze_volume(TRY(volume_of(id)));
}

Result<bool> MountedTreeDriver::is_sealed(LayerId id, Parents /*parents*/) {
    return is_frozen(TRY(volume_of(id)));
}

Status MountedTreeDriver::reopen(LayerId id, Parents /*parents*/) {
    return thaw_volume(TRY(volume_of(id)));
}

Status MountedTreeDriver::create(LayerId id, Parents parents, const Quota &quota) {
    const Quota limit = TRY(limit_of(id, quota));
    TRY(make_layer(id, parents)); // begins with the parent's tree; nothing needs to be mounted for that
    return count(id, limit);
}

Status MountedTreeDriver::prove_mount(LayerId id, const std::string &target) {
    return prove(TRY(volume_of(id)), TRY(sys::open_dir(AT_FDCWD, target.c_str())).get());
}

Result<UniqueFd> MountedTreeDriver::mount_volume(VolumeId volume, Access access) {
    sys::MountSpec spec = TRY(volume_spec(volume, access));
    auto mounted = sys::mount_detached(spec);
    if (!mounted && access == Access::read_only && mounted.error().sys_errno() == EBUSY) {
        // A running container's: its file system is mounted for writing, this mount of it then is not.
        std::ranges::replace(spec.options, "ro", "ro=vfs");
        mounted = sys::mount_detached(spec);
    }
    return mounted;
}

Result<Driver::View> MountedTreeDriver::open_volume(VolumeId volume, Access access) {
    for (int attempt = 0;; ++attempt) {
        auto root = mount_volume(volume, access);
        if (root) {
            TRY(prove(volume, root->get()));
            View out;
            out.root = TRY(sys::open_dir(root->get(), "."));
            // What is open in a mount outlives its descriptor, but such a mount is in no name space, and the kernel
            // then answers every openat2 of a scoped path with ".." with EAGAIN (fs/namespace.c, mntput_no_expire,
            // moves the sequence that fs/namei.c, handle_dots, looks at).
            out.keep = std::make_shared<UniqueFd>(std::move(*root));
            return out;
        }
        // Its device went with its last user, just now: another process's, another thread's. ZFS lets go of a dataset
        // some time after its last unmount, and says EBUSY until then.
        const int error = root.error().sys_errno();
        const bool busy = error == EBUSY && access == Access::read_only;
        if ((error != ENOENT && error != ENXIO && error != ENODEV && !busy) || attempt == (busy ? 20 : 5))
            return std::unexpected(root.error());
        if (busy) std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
}

Result<Driver::View> MountedTreeDriver::make_tree(LayerId id, Parents /*parents*/) {
    return in_context(open_volume(TRY(volume_of(id)), Access::read_write),
                      [&] { return fmt::format("layer {}", id.value); });
}

Result<Driver::View> MountedTreeDriver::open_tree(LayerId id) {
    return in_context(open_volume(TRY(content_of(TRY(volume_of(id)))), Access::read_only),
                      [&] { return fmt::format("layer {}", id.value); });
}

Result<std::string> MountedTreeDriver::stage_name(LayerId id) const {
    return sys::read_file(root_.fd(), stage_mark(id).c_str(), 64);
}

Result<Driver::View> MountedTreeDriver::make_stage(LayerId id) {
    const std::string name = ".shale-stage-" + TRY(sys::random_hex(16));
    TRY(sys::write_file_durably(root_.fd(), stage_mark(id).c_str(), name));
    View stage = TRY(open_volume(TRY(volume_of(id)), Access::read_write));
    const struct stat root = TRY(sys::stat_at(stage.root.get(), ""));
    TRY(sys::make_dir(stage.root.get(), name.c_str(), 0755));
    TRY(sys::chmod_at(stage.root.get(), name.c_str(), 0755));              // whatever the umask
    TRY(sys::set_times(stage.root.get(), "", root.st_atim, root.st_mtim)); // merge() takes them for the parent's
    stage.root = TRY(sys::open_dir(stage.root.get(), name.c_str()));
    return stage;
}

Result<Driver::View> MountedTreeDriver::open_stage(LayerId id, int tree) {
    const std::string name = TRY(stage_name(id));
    if (tree >= 0) return View{TRY(sys::open_dir(tree, name.c_str())), nullptr};
    View stage = TRY(open_tree(id));
    stage.root = TRY(sys::open_dir(stage.root.get(), name.c_str()));
    return stage;
}

Status MountedTreeDriver::remove_stage(LayerId id, int tree) {
    TRY(sys::remove_tree(tree, TRY(stage_name(id)).c_str()));
    TRY(sys::syncfs_fd(tree)); // before the mark goes
    return sys::unlink_at(root_.fd(), stage_mark(id).c_str());
}

Result<std::vector<sys::MountSpec>> MountedTreeDriver::mounts(LayerId id, Parents /*parents*/, Access access) {
    return std::vector{TRY(volume_spec(TRY(volume_of(id)), access))};
}

Status MountedTreeDriver::sync(std::span<const LayerId> ids) {
    std::vector<VolumeId> volumes;
    volumes.reserve(ids.size());
    for (const LayerId id : ids) {
        volumes.push_back(TRY(volume_of(id)));
        TRY(sys::syncfs_fd(TRY(open_tree(id)).root.get()));
    }
    TRY(sync_volumes(volumes));
    return TreeDriver::sync(ids);
}

Result<uint64_t> MountedTreeDriver::reap(const std::atomic<bool> *cancel) {
    using Destroyed = LayerRoot::Destroyed;
    return root_.reap(cancel, [this](int trash, const char *name) -> Result<Destroyed> {
        const auto volume = read_volume(trash, name);
        if (!volume && volume.error().sys_errno() == ENOENT) return Destroyed::entries_remain; // it never had one
        const auto done = destroy_volume(TRY(Result<VolumeId>(volume)));
        if (!done && done.error().code() == Errc::Unavailable) return Destroyed::in_use; // still mounted somewhere
        TRY(Status(done));
        return Destroyed::entries_remain; // the directory itself is unlinked like any other
    });
}

Result<std::vector<VolumeId>> MountedTreeDriver::trashed_volumes() const {
    std::vector<VolumeId> out;
    const auto trash = sys::open_dir(root_.fd(), "trash");
    if (!trash && trash.error().code() == Errc::NotFound) return out;
    if (!trash) return std::unexpected(trash.error());
    for (const auto &entry : TRY(sys::list_dir(trash->get())))
        if (const auto volume = read_volume(trash->get(), entry.name)) out.push_back(*volume);
    return out;
}

Status MountedTreeDriver::dismantle() {
    const auto left = TRY(trashed_volumes());
    if (left.empty()) return {};
    return fail(Errc::Unavailable, fmt::format("driver {}: {} removed volumes are in use still (mounted, or held); the "
                                               "same command goes on when that has ended",
                                               name(), left.size()));
}

Result<std::vector<std::string>> MountedTreeDriver::check(LayerId id, Parents /*parents*/) {
    std::vector<std::string> out;
    const auto layer = sys::open_dir(root_.fd(), to_string(id).c_str());
    if (!layer) {
        out.push_back(fmt::format("layer {} has no directory below {}", id.value, root_.path()));
        return out;
    }
    for (const auto &entry : TRY(sys::list_dir(layer->get())))
        if (entry.name != volume_mark)
            out.push_back(
                fmt::format("layer {}: \"{}\" is left over (an import that did not end)", id.value, entry.name));
    if (const auto tree = open_tree(id); !tree)
        out.push_back(fmt::format("layer {}: its content cannot be read: {}", id.value, tree.error().text()));
    return out;
}

} // namespace shale::drivers
