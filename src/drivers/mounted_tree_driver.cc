// SPDX-License-Identifier: Apache-2.0
#include "drivers/mounted_tree_driver.h"

#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <system_error>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "sys/fs.h"

namespace shale::drivers {
namespace {

constexpr const char *volume_mark = "volume";
constexpr uint64_t numbers_reserved = 64; ///< at a time: a process that ends leaves the rest unused

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

Result<std::string> random_name() {
    std::array<unsigned char, 16> bytes{};
    if (::getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size()))
        return fail_errno(errno, "getrandom");
    return fmt::format(".shale-stage-{:02x}", fmt::join(bytes, ""));
}

} // namespace

Result<VolumeId> MountedTreeDriver::next_volume() {
    const std::lock_guard guard(mutex_);
    if (next_ < end_) return VolumeId{next_++};
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
    TRY(sys::write_file_durably(root_.fd(), name, std::to_string(first + numbers_reserved)));
    next_ = first;
    end_ = first + numbers_reserved;
    return VolumeId{next_++};
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
    TRY(sys::fsync_fd(layer.get()));
    TRY(sys::fsync_fd(root_.fd()));
    return in_context(make_volume(volume, parent), [&] { return fmt::format("layer {}", id.value); });
}

Status MountedTreeDriver::make_immutable(LayerId id) {
    return freeze_volume(TRY(volume_of(id)));
}

Result<UniqueFd> MountedTreeDriver::open_volume(VolumeId volume, Access access) {
    const UniqueFd root = TRY(sys::mount_detached(TRY(volume_spec(volume, access))));
    TRY(prove(volume, root.get()));
    return sys::open_dir(root.get(), ".");
}

Result<UniqueFd> MountedTreeDriver::make_tree(LayerId id, Parents /*parents*/) {
    return in_context(open_volume(TRY(volume_of(id)), Access::read_write),
                      [&] { return fmt::format("layer {}", id.value); });
}

Result<UniqueFd> MountedTreeDriver::open_tree(LayerId id) {
    return in_context(open_volume(TRY(volume_of(id)), Access::read_only),
                      [&] { return fmt::format("layer {}", id.value); });
}

Result<std::string> MountedTreeDriver::stage_name(LayerId id) const {
    return sys::read_file(root_.fd(), stage_mark(id).c_str(), 64);
}

Result<UniqueFd> MountedTreeDriver::make_stage(LayerId id) {
    const std::string name = TRY(random_name());
    TRY(sys::write_file_durably(root_.fd(), stage_mark(id).c_str(), name));
    const UniqueFd tree = TRY(open_volume(TRY(volume_of(id)), Access::read_write));
    TRY(sys::make_dir(tree.get(), name.c_str(), 0755));
    TRY(sys::chmod_at(tree.get(), name.c_str(), 0755)); // whatever the umask
    return sys::open_dir(tree.get(), name.c_str());
}

Result<UniqueFd> MountedTreeDriver::open_stage(LayerId id, int tree) {
    const std::string name = TRY(stage_name(id));
    if (tree >= 0) return sys::open_dir(tree, name.c_str());
    return sys::open_dir(TRY(open_tree(id)).get(), name.c_str());
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
        TRY(sys::syncfs_fd(TRY(open_tree(id)).get()));
    }
    TRY(sync_volumes(volumes));
    return TreeDriver::sync(ids);
}

Result<uint64_t> MountedTreeDriver::reap(const std::atomic<bool> *cancel) {
    return root_.reap(cancel, [this](int trash, const char *name) -> Result<bool> {
        const auto volume = read_volume(trash, name);
        if (volume)
            TRY(destroy_volume(*volume));
        else if (volume.error().code() != Errc::NotFound)
            return std::unexpected(volume.error());
        return false; // the directory itself is unlinked like any other
    });
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
