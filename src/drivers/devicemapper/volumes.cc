// SPDX-License-Identifier: Apache-2.0
// The pool's volumes: made, activated, deactivated, deleted.
#include <fcntl.h>
#include <sys/stat.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <ctime>
#include <system_error>
#include <thread>

#include <fmt/format.h>

#include "drivers/devicemapper/pool.h"
#include "sys/block.h"
#include "sys/dm.h"
#include "sys/fs.h"

namespace shale::drivers::devicemapper {
namespace {

/// A device stays open for a moment after its last close (udev, the end of an unmount).
constexpr std::array waits_ms{1, 2, 5, 10, 20, 50, 100, 200, 400, 800};

} // namespace

std::string Pool::device_name(VolumeId volume) const {
    return fmt::format("{}-{}", prefix_, volume.value);
}

std::string Pool::size_mark(VolumeId volume) const {
    return fmt::format("size-{}", volume.value);
}

Result<uint64_t> Pool::size_of(VolumeId volume) const {
    if (!TRY(sys::stat_if_exists(directory_.get(), size_mark(volume).c_str()))) return config_.base_bytes;
    const std::string text = TRY(sys::read_link(directory_.get(), size_mark(volume).c_str()));
    uint64_t bytes = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), bytes);
    if (error != std::errc() || end != text.data() + text.size() || bytes < config_.base_bytes)
        return fail(Errc::DataLoss, fmt::format("volume {}: its size is recorded as \"{}\"", volume.value, text));
    return bytes;
}

std::string Pool::planned_mark(VolumeId volume) const {
    return fmt::format("planned-{}", volume.value);
}
std::string Pool::making_mark(VolumeId volume) const {
    return fmt::format("making-{}", volume.value);
}

Result<std::optional<VolumeId>> Pool::origin_in(const std::string &mark) const {
    const auto text = sys::read_link(directory_.get(), mark.c_str());
    if (!text && text.error().sys_errno() == ENOENT) return std::nullopt;
    const std::string number = TRY(Result<std::string>(text));
    VolumeId from;
    const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), from.value);
    if (error != std::errc() || end != number.data() + number.size())
        return fail(Errc::DataLoss, fmt::format("ROOT/pool/{} is damaged: {:?}", mark, number));
    return from;
}

Status Pool::plan(VolumeId volume, VolumeId from) {
    const auto now = TRY(status());
    TRY(usable(now, config_, name()));
    TRY(has_room(now, config_, name()));
    if (const uint64_t bytes = TRY(size_of(from)); bytes != config_.base_bytes)
        TRY(sys::make_symlink(std::to_string(bytes), directory_.get(), size_mark(volume).c_str()));
    return sys::make_symlink(std::to_string(from.value), directory_.get(), planned_mark(volume).c_str());
}

Status Pool::sync_plans() {
    TRY(ready());
    return sys::fsync_fd(directory_.get());
}

Result<VolumeId> Pool::content_of(VolumeId volume) {
    TRY(ready());
    return TRY(origin_in(planned_mark(volume))).value_or(volume);
}

Status Pool::make(VolumeId volume) {
    TRY(ready());
    const UniqueFd held = TRY(lock(1 + volume.value));
    return make_locked(volume);
}

Status Pool::make_locked(VolumeId volume) {
    const auto planned = TRY(origin_in(planned_mark(volume)));
    const auto begun = planned ? std::nullopt : TRY(origin_in(making_mark(volume)));
    if (!planned && !begun) return {};
    const auto now = TRY(status_now(Figures::of_last_commit));
    TRY(usable(now, config_, name()));
    TRY(has_room(now, config_, name()));
    const auto rename = [&](const std::string &from, const std::string &to) {
        return sys::rename_at(directory_.get(), from.c_str(), directory_.get(), to.c_str());
    };
    if (planned) {
        TRY(rename(planned_mark(volume), making_mark(volume)));
        TRY(sys::fsync_fd(directory_.get()));
    }
    const auto done = create_snapshot(volume, planned ? *planned : *begun);
    const bool exists = !done && done.error().sys_errno() == EEXIST;
    if (exists && planned) {
        TRY(rename(making_mark(volume), planned_mark(volume))); // nothing of this store's is in the pool
        return std::unexpected(
            Error(Errc::DataLoss, EEXIST,
                  fmt::format("thin pool {} has a volume {} already, though the store never gave that number out: the "
                              "pool is not the one of these records",
                              name(), volume.value)));
    }
    if (!exists) TRY(Status(done));
    return forget_mark(making_mark(volume));
}

Status Pool::create_snapshot(VolumeId volume, VolumeId from) {
    // An origin that is in use must be quiet for that moment (thin-provisioning.rst, "Using an existing pool device").
    // Its file system is frozen only when somebody may have written to it: else others may be about to mount it.
    const UniqueFd held = TRY(lock(1 + from.value));
    const auto origin = TRY(sys::dm_find(device_name(from)));
    bool busy = origin && origin->has_table && origin->openers > 0;
    // A device that goes with its last user may go at any moment.
    const auto unless_gone = [](const Status &status) { return status || status.error().sys_errno() == ENXIO; };
    if (busy) {
        const auto how = is_written_to(from) ? sys::DmSuspend::frozen : sys::DmSuspend::as_it_is;
        const auto quiet = sys::dm_suspend(device_name(from), how);
        if (!unless_gone(quiet)) return quiet;
        busy = quiet.has_value();
    }
    Status done = sys::dm_message(name(), fmt::format("create_snap {} {}", volume.value, from.value));
    if (busy)
        if (const auto resumed = sys::dm_resume(device_name(from)); !unless_gone(resumed)) return resumed;
    if (!done && done.error().sys_errno() == ENODATA)
        return fail(Errc::DataLoss, fmt::format("thin pool {} has no volume {}, which a layer of this store is; run "
                                                "'shale check' to see what else is missing",
                                                name(), from.value));
    return done;
}

/// A file system that is mounted for writing refuses to be mounted read-only beside that.
bool Pool::is_written_to(VolumeId volume) const {
    const auto node = sys::dm_node(device_name(volume));
    const auto mounted = node ? sys::mount_detached(mount_spec(*node, true)) : std::unexpected(node.error());
    return !mounted && mounted.error().sys_errno() == EBUSY;
}

std::string Pool::held_mark(VolumeId volume) const {
    return fmt::format("held-{}", volume.value);
}

Status Pool::forget_mark(const std::string &mark) const {
    const auto done = sys::unlink_at(directory_.get(), mark.c_str());
    if (!done && done.error().sys_errno() != ENOENT) return done;
    return {};
}

Result<std::string> Pool::activate_locked(VolumeId volume) {
    TRY(make_locked(volume));
    return activate_made(volume);
}

Result<std::string> Pool::activate_made(VolumeId volume) {
    const std::string device = device_name(volume);
    for (const int wait : waits_ms) {
        const auto info = TRY(sys::dm_find(device));
        if (info && info->has_table) {
            // A removal that waits for the last user may win: then the device is made again.
            if (!info->goes_when_unused || sys::dm_keep(device)) {
                if (info->suspended) TRY(sys::dm_resume(device)); // whoever suspended it is dead: this lock is ours
                return sys::dm_node(device);
            }
            std::this_thread::sleep_for(std::chrono::milliseconds(wait));
            continue;
        }
        if (info) TRY(remove_device(device)); // its maker died before it had a table
        const auto made = sys::dm_create(
            device, "SHALE-" + device,
            {{0, TRY(size_of(volume)) / sys::sector_bytes, "thin", fmt::format("{} {}", pool_number_, volume.value)}});
        if (!made && made.error().sys_errno() == EBUSY) {
            std::this_thread::sleep_for(std::chrono::milliseconds(wait));
            continue;
        }
        if (!made && made.error().sys_errno() == ENODATA)
            return fail(Errc::NotFound, fmt::format("thin pool {} has no volume {}", name(), volume.value));
        TRY(Status(made));
        return sys::dm_node(device);
    }
    return fail(Errc::Unavailable, fmt::format("device {} comes and goes; try again", device));
}

Result<std::string> Pool::activate(VolumeId volume) {
    TRY(ready());
    const UniqueFd held = TRY(lock(1 + volume.value));
    return activate_locked(volume);
}

Result<std::string> Pool::hand_out(VolumeId volume) {
    TRY(ready());
    const UniqueFd held = TRY(lock(1 + volume.value));
    TRY(forget_mark(held_mark(volume))); // its age counts
    (void)TRY(sys::open_at(directory_.get(), held_mark(volume).c_str(), O_WRONLY | O_CREAT, 0600));
    return activate_locked(volume);
}

Status Pool::remove_device(const std::string &device) const {
    for (const int wait : waits_ms) {
        const auto info = TRY(sys::dm_find(device));
        if (!info) return {};
        if (info->suspended && info->has_table) TRY(sys::dm_resume(device));
        const auto done = sys::dm_remove(device, sys::DmRemove::now);
        if (done) return {};
        const int error = done.error().sys_errno();
        if (error == ENXIO) return {}; // went by itself
        if (error != EBUSY) return done;
        std::this_thread::sleep_for(std::chrono::milliseconds(wait));
    }
    return fail(Errc::Unavailable, fmt::format("device {} is still in use (mounted, or open by a program)", device));
}

Status Pool::remove_when_unused(VolumeId volume) const {
    const auto done = sys::dm_remove(device_name(volume), sys::DmRemove::when_unused);
    if (!done && done.error().sys_errno() != ENXIO) return done;
    return {};
}

Status Pool::release(VolumeId volume) {
    TRY(ready());
    const UniqueFd held = TRY(lock(1 + volume.value));
    if (TRY(sys::stat_if_exists(directory_.get(), held_mark(volume).c_str()))) return {};
    return remove_when_unused(volume);
}

Status Pool::deactivate(VolumeId volume) {
    TRY(ready());
    const UniqueFd held = TRY(lock(1 + volume.value));
    TRY(forget_mark(held_mark(volume)));
    return remove_when_unused(volume);
}

Result<std::string> Pool::number_of(VolumeId volume) const {
    const auto info = TRY(sys::dm_find(device_name(volume)));
    if (!info) return fail(Errc::NotFound, fmt::format("volume {} is not active", volume.value));
    return fmt::format("{}:{}", info->major, info->minor);
}

Status Pool::enlarge(VolumeId volume, uint64_t bytes) {
    TRY(ready());
    const UniqueFd held = TRY(lock(1 + volume.value));
    const std::string fresh = size_mark(volume) + ".new";
    (void)sys::unlink_at(directory_.get(), fresh.c_str());
    TRY(sys::make_symlink(std::to_string(bytes), directory_.get(), fresh.c_str()));
    TRY(sys::rename_at(directory_.get(), fresh.c_str(), directory_.get(), size_mark(volume).c_str()));
    TRY(sys::fsync_fd(directory_.get()));
    const std::string device = device_name(volume);
    if (!TRY(sys::dm_find(device))) return {};
    TRY(sys::dm_reload(device,
                       {{0, bytes / sys::sector_bytes, "thin", fmt::format("{} {}", pool_number_, volume.value)}}));
    TRY(sys::dm_suspend(device, sys::DmSuspend::as_it_is));
    return sys::dm_resume(device);
}

/// Every block that only this volume has goes back to what is below the pool.
Status Pool::discard_all(VolumeId volume) {
    const std::string path = TRY(activate_made(volume)); // one that was not made has nothing to give back
    {
        const UniqueFd fd = TRY(sys::open_block_device(path, O_RDWR));
        TRY(sys::discard_blocks(fd.get(), TRY(size_of(volume))));
    }
    return remove_device(device_name(volume));
}

/// A plan needs its origin. Their locks come before the origin's, as in make_locked().
Status Pool::make_children_of(VolumeId volume) {
    for (const auto &entry : TRY(sys::list_dir(directory_.get()))) {
        VolumeId child;
        const std::string_view name = entry.name;
        const size_t dash = name.find('-');
        if (!name.starts_with("planned-") && !name.starts_with("making-")) continue;
        const auto [end, error] = std::from_chars(name.data() + dash + 1, name.data() + name.size(), child.value);
        if (error != std::errc() || end != name.data() + name.size()) continue;
        if (TRY(origin_in(entry.name)) == volume) TRY(make(child));
    }
    return {};
}

Status Pool::destroy(VolumeId volume) {
    TRY(ready());
    TRY(make_children_of(volume));
    const UniqueFd held = TRY(lock(1 + volume.value));
    if (TRY(origin_in(planned_mark(volume)))) {
        TRY(forget_mark(held_mark(volume)));
        TRY(forget_mark(size_mark(volume)));
        return forget_mark(planned_mark(volume));
    }
    const auto now = TRY(status());
    TRY(usable(now, config_, name())); // a read-only pool takes no message
    TRY(remove_device(device_name(volume)));
    // The status says whether what is below takes discards. When metadata is full, deleting needs what is left of it.
    if (config_.discard == Discard::on && now.discard == sys::ThinPoolStatus::Discard::passed_down &&
        now.used_metadata_blocks < now.total_metadata_blocks)
        if (const auto done = discard_all(volume); !done && done.error().code() != Errc::NotFound) return done;
    const auto gone = [&]() -> Status {
        for (const int wait : waits_ms) { // a device that went by itself lets go of its volume some time after its name
            const auto done = sys::dm_message(name(), fmt::format("delete {}", volume.value));
            if (done || done.error().sys_errno() == ENODATA) return {};
            if (done.error().sys_errno() != EBUSY) return done;
            std::this_thread::sleep_for(std::chrono::milliseconds(wait));
        }
        return fail(Errc::Unavailable, fmt::format("volume {} is in use under another name", volume.value));
    };
    TRY(gone());
    TRY(forget_mark(held_mark(volume)));
    TRY(forget_mark(making_mark(volume)));
    return forget_mark(size_mark(volume));
}

namespace {

/// Number of a volume in a device's name.
std::optional<VolumeId> volume_in(std::string_view device, std::string_view prefix) {
    if (!device.starts_with(prefix) || device.size() < prefix.size() + 2 || device[prefix.size()] != '-')
        return std::nullopt;
    device.remove_prefix(prefix.size() + 1);
    VolumeId out;
    const auto [end, error] = std::from_chars(device.data(), device.data() + device.size(), out.value);
    if (error != std::errc() || end != device.data() + device.size()) return std::nullopt;
    return out;
}

} // namespace

Status Pool::deactivate_idle(std::chrono::seconds age) {
    if (!sys::dm_version()) return {};
    if (const auto active = TRY(sys::dm_find(name())); !active || !active->has_table) return {};
    TRY(ready());
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME, &now);
    for (const auto &device : TRY(sys::dm_names())) {
        const auto volume = volume_in(device, prefix_);
        if (!volume) continue;
        const UniqueFd held = TRY(lock(1 + volume->value));
        const auto is_old = [&](const auto &file) {
            return !file || !*file || (*file)->st_mtim.tv_sec + age.count() <= now.tv_sec;
        };
        // The node is as old as the activation.
        if (!is_old(sys::stat_if_exists(AT_FDCWD, ("/dev/mapper/" + device).c_str())) ||
            !is_old(sys::stat_if_exists(directory_.get(), held_mark(*volume).c_str())))
            continue;
        const auto info = TRY(sys::dm_find(device));
        if (!info || info->openers != 0) continue;
        TRY(forget_mark(held_mark(*volume)));
        (void)sys::dm_remove(device, sys::DmRemove::now);
    }
    return {};
}

Result<uint64_t> Pool::deactivate_all() {
    if (!sys::dm_version()) return 0;
    const std::lock_guard guard(mutex_);
    ready_ = false;
    uint64_t left = 0;
    // At once or not at all: a removal that is left to the kernel has no end that one could wait for.
    const auto remove = [&](const std::string &device) -> Status {
        const auto done = remove_device(device);
        if (done) return {};
        if (done.error().code() != Errc::Unavailable) return done;
        ++left;
        return {};
    };
    for (const auto &device : TRY(sys::dm_names()))
        if (volume_in(device, prefix_)) TRY(remove(device));
    for (const auto *part : {"-pool", "-meta", "-data"})
        if (left == 0) TRY(remove(prefix_ + part));
    return left;
}

} // namespace shale::drivers::devicemapper
