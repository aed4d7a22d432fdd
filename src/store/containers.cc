// SPDX-License-Identifier: Apache-2.0
// Containers: a writable layer with a name.
// create: driver.create -> row. remove: row deleted -> driver.remove (rename to trash). One transaction each; a crash
// between the two steps leaves a directory that no row names, which gc takes (an id is never given again, so nothing
// else can come to own it). While a container is made its byte in ROOT/lock is held: that tells a directory still
// without a row from a left one.
#include <fmt/format.h>
#include <sys/mount.h>

#include <algorithm>
#include <charconv>

#include "archive/unpack.h"
#include "base/units.h"
#include "store/locks.h"
#include "store/records.h"
#include "store/store.h"

namespace shale::store {
namespace {

constexpr std::string_view select_container =
    "SELECT id, name, parent, image, image_name, target, quota_bytes, quota_inodes, created_ns FROM containers";

/// Docker's rule for container names: [a-zA-Z0-9][a-zA-Z0-9_.-]*; bounded here to 128 bytes.
Status check_name(std::string_view name) {
    auto plain = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'); };
    const bool good = !name.empty() && name.size() <= 128 && plain(name[0]) &&
                      std::ranges::all_of(name, [&](char c) { return plain(c) || c == '_' || c == '.' || c == '-'; });
    if (good) return {};
    return fail(
        Errc::InvalidArgument,
        fmt::format("container name \"{}\" must be 1 to 128 of letters, digits, '_', '.', '-', a letter or digit first",
                    name.substr(0, 150)));
}

} // namespace

/// A row of `containers` as it stands there.
struct Store::Row {
    ContainerInfo info;
    std::optional<LayerId> parent;
    std::string target; ///< where it was last mounted by hand; says nothing about now
};

Store::Row Store::read_container(const Statement &row) {
    Row out;
    out.info.id = row.id(0);
    out.info.name = row.text(1);
    if (!row.is_null(2)) out.parent = row.id(2);
    if (!row.is_null(3)) out.info.image = row.digest(3);
    out.info.image_name = row.text(4);
    out.target = row.text(5);
    out.info.quota = {row.count(6), row.count(7)};
    out.info.created_ns = row.integer(8);
    return out;
}

std::string Store::mount_point(LayerId id) const {
    return fmt::format("{}/mnt/{}", options_.root, id.value);
}

Result<ContainerInfo> Store::create_container(std::string_view image, std::string_view name,
                                              const drivers::Quota &quota) {
    if (!name.empty()) TRY(check_name(name));
    if ((quota.bytes != 0 || quota.inodes != 0) && driver_->quota() == nullptr)
        return fail(
            Errc::Unimplemented,
            fmt::format("driver {} cannot limit a container here; `shale drivers` says why (overlay2 needs ext4 or xfs "
                        "mounted with prjquota)",
                        driver_->name()));
    TRY(begin_new());
    auto locks = TRY(locks_->hold());
    TRY(locks.add(Locks::gc_offset, sys::LockMode::shared));

    ContainerInfo info;
    if (!image.empty()) { // an empty reference: a container with nothing below it
        info.image = TRY(resolve_image(image));
        info.image_name = image;
        auto layers = TRY(records_->prepare("SELECT layer FROM image_layers WHERE image = ? ORDER BY position DESC"));
        layers.bind(*info.image);
        while (TRY(layers.step()))
            info.parents.push_back(layers.id(0));
    }
    if (info.parents.size() + 1 > driver_->max_depth())
        return fail(Errc::ResourceExhausted,
                    fmt::format("image {} has {} layers; driver {} can stack {} with a container's own", image,
                                info.parents.size(), driver_->name(), driver_->max_depth()));
    info.quota = quota;
    info.created_ns = now_ns();
    info.id = TRY(records_->new_id());
    info.name = name.empty() ? fmt::format("c{}", info.id.value) : std::string(name);
    TRY(locks.add(Locks::container_offset(info.id), sys::LockMode::exclusive));
    ScopeGuard undo([&] { (void)driver_->remove(info.id); });
    TRY(in_context(driver_->create(info.id, info.parents, quota), [&] { return "create container " + info.name; }));

    auto tx = TRY(records_->begin(Sync::relaxed));
    auto insert = TRY(
        tx.prepare("INSERT INTO containers(id, name, parent, image, image_name, quota_bytes, quota_inodes, created_ns) "
                   "VALUES (?, ?, ?, ?, ?, ?, ?, ?)"));
    insert.bind(info.id).bind(std::string_view(info.name));
    insert.bind(info.parents.empty() ? std::nullopt : std::optional(info.parents.front()));
    if (info.image)
        insert.bind(*info.image);
    else
        insert.bind_null();
    insert.bind(std::string_view(info.image_name)).bind(quota.bytes).bind(quota.inodes).bind(info.created_ns);
    if (auto done = insert.run(); !done) {
        if (done.error().code() == Errc::AlreadyExists)
            return fail(Errc::AlreadyExists, fmt::format("a container named \"{}\" exists", info.name));
        return std::unexpected(std::move(done).error());
    }
    TRY(tx.commit());
    undo.release();
    return info;
}

Status Store::undo_container(LayerId id) {
    const std::string at = mount_point(id);
    if (sys::is_mount_point(at).value_or(false)) TRY(sys::unmount(at, MNT_DETACH));
    if (auto gone = sys::unlink_at(root_fd_.get(), fmt::format("mnt/{}", id.value).c_str(), AT_REMOVEDIR);
        !gone && gone.error().sys_errno() != ENOENT)
        return gone;
    TRY(driver_->remove(id));
    auto tx = TRY(records_->begin(Sync::relaxed));
    auto drop = TRY(tx.prepare("DELETE FROM containers WHERE id = ?"));
    TRY(drop.bind(id).run());
    return tx.commit();
}

Result<LayerId> Store::container_id(std::string_view reference) {
    auto by_name = TRY(records_->prepare("SELECT id FROM containers WHERE name = ?"));
    if (TRY(by_name.bind(reference).step())) return by_name.id(0);
    LayerId id;
    const auto [end, bad] = std::from_chars(reference.data(), reference.data() + reference.size(), id.value);
    if (bad == std::errc{} && end == reference.data() + reference.size() && reference.size() < 19) {
        auto by_id = TRY(records_->prepare("SELECT 1 FROM containers WHERE id = ?"));
        if (TRY(by_id.bind(id).step())) return id;
    }
    return fail(Errc::NotFound, fmt::format("no container \"{}\"; `shale container ls` lists them", reference));
}

/// A layer below a container cannot go, and its chain never changes: asked once a process.
Result<std::vector<LayerId>> Store::container_chain(std::optional<LayerId> parent) {
    if (!parent) return std::vector<LayerId>();
    const std::lock_guard lock(chains_mutex_);
    constexpr size_t enough = 10'000; // other processes remove layers, too
    auto known = chains_.find(*parent);
    if (known == chains_.end() && chains_.size() >= enough) chains_.clear();
    if (known == chains_.end()) known = chains_.emplace(*parent, TRY(chain_of(parent))).first;
    return known->second;
}

void Store::forget_chain(LayerId id) {
    const std::lock_guard lock(chains_mutex_);
    chains_.erase(id);
}

Result<ContainerInfo> Store::complete(Row &&row) {
    row.info.parents = TRY(container_chain(row.parent));
    row.info.mounted_at = TRY(mounted_at(row.info, row.target));
    return std::move(row.info);
}

/// At its own place, which nobody else mounts on, or where it was put by hand: there only if what is mounted is this
/// container.
Result<std::string> Store::mounted_at(const ContainerInfo &info, const std::string &target) {
    std::string own = mount_point(info.id);
    if (sys::is_mount_point(own).value_or(false)) return own;
    if (target.empty() || !sys::is_mount_point(target).value_or(false)) return std::string();
    const auto specs = TRY(container_mounts(info));
    return TRY(sys::is_mounted(specs.back(), target)) ? target : std::string();
}

Result<ContainerInfo> Store::find_container(std::string_view reference) {
    const LayerId id = TRY(container_id(reference));
    auto row = TRY(records_->prepare(std::string(select_container) + " WHERE id = ?"));
    if (!TRY(row.bind(id).step()))
        return fail(Errc::NotFound, fmt::format("container \"{}\" was removed just now", reference));
    return complete(read_container(row));
}

Result<ContainerInfo> Store::hold_container(LockHold &locks, std::string_view reference) {
    const LayerId id = TRY(container_id(reference));
    TRY(locks.add(Locks::container_offset(id), sys::LockMode::exclusive));
    // What was read before the lock may be old: another process mounted, unmounted or removed it meanwhile.
    auto info = TRY(find_container(reference));
    if (info.id != id)
        return fail(Errc::Aborted,
                    fmt::format("container {} was replaced by another of that name just now; try again", reference));
    return info;
}

Result<std::vector<ContainerInfo>> Store::list_containers() {
    std::vector<Row> rows;
    auto select = TRY(records_->prepare(std::string(select_container) + " ORDER BY id"));
    while (TRY(select.step()))
        rows.push_back(read_container(select));
    std::vector<ContainerInfo> containers;
    containers.reserve(rows.size());
    for (auto &row : rows)
        containers.push_back(TRY(complete(std::move(row))));
    return containers;
}

Result<std::vector<sys::MountSpec>> Store::container_mounts(const ContainerInfo &container) {
    return driver_->mounts(container.id, container.parents, drivers::Driver::Access::read_write);
}

Result<std::string> Store::mount_container(std::string_view reference, const std::string &target) {
    auto locks = TRY(locks_->hold());
    TRY(locks.add(Locks::gc_offset,
                  sys::LockMode::shared)); // a repair swaps layers while no container above is mounted
    const auto info = TRY(hold_container(locks, reference));
    auto specs = TRY(container_mounts(info));
    // A driver whose layer is a plain directory needs no mount to be used.
    if (target.empty() && specs.size() == 1 && specs[0].type == "bind") return specs[0].source;

    std::string at = target.empty() ? mount_point(info.id) : target;
    if (target.empty()) {
        const std::string name = fmt::format("mnt/{}", info.id.value);
        if (auto made = sys::make_dir(root_fd_.get(), name.c_str(), 0711); !made && made.error().sys_errno() != EEXIST)
            return std::unexpected(std::move(made).error());
    } else {
        const UniqueFd opened = TRY(sys::open_dir(AT_FDCWD, target.c_str()));
        at = TRY(sys::path_of_fd(opened.get()));
    }
    if (TRY(sys::is_mount_point(at))) {
        if (info.mounted_at == at) return at;
        return fail(Errc::FailedPrecondition, fmt::format("{} is a mount point already", at));
    }
    if (!info.mounted_at.empty())
        return fail(Errc::FailedPrecondition,
                    fmt::format("container {} is mounted at {}; unmount it there first", info.name, info.mounted_at));
    if (!target.empty()) {
        auto tx = TRY(records_->begin(Sync::relaxed));
        auto put = TRY(tx.prepare("UPDATE containers SET target = ? WHERE id = ?"));
        TRY(put.bind(std::string_view(at)).bind(info.id).run());
        TRY(tx.commit());
    }
    for (const auto &spec : specs)
        if (auto done = sys::mount_at(spec, at); !done) {
            if (target.empty())
                (void)sys::unlink_at(root_fd_.get(), fmt::format("mnt/{}", info.id.value).c_str(), AT_REMOVEDIR);
            return std::unexpected(std::move(done).error().add("mount container " + info.name));
        }
    if (auto proved = driver_->prove_mount(info.id, at); !proved) {
        (void)sys::unmount(at, MNT_DETACH);
        return std::unexpected(std::move(proved).error().add("mount container " + info.name));
    }
    return at;
}

Status Store::unmount_container(std::string_view reference) {
    auto locks = TRY(locks_->hold());
    const auto info = TRY(hold_container(locks, reference));
    const std::string own = mount_point(info.id);
    if (!info.mounted_at.empty()) {
        TRY(in_context(sys::unmount(info.mounted_at), [&] { return "unmount container " + info.name; }));
        if (info.mounted_at != own) {
            auto tx = TRY(records_->begin(Sync::relaxed));
            auto put = TRY(tx.prepare("UPDATE containers SET target = '' WHERE id = ?"));
            TRY(put.bind(info.id).run());
            TRY(tx.commit());
        }
    }
    return {}; // the empty mount point stays for the next mount and goes with the container
}

Status Store::container_changes(std::string_view reference, const archive::ChangeSink &sink) {
    auto locks = TRY(locks_->hold());
    const auto info = TRY(hold_container(locks, reference));
    return driver_->changes(info.id, info.parents, sink);
}

/// A mounted container may be written to while it is read. Two equal readings prove that there was a moment, the end of
/// the first, at which it was just so.
Result<drivers::Driver::DiffReport> Store::stable_diff(const ContainerInfo &info, const archive::Sink &sink) {
    if (info.mounted_at.empty()) return driver_->diff(info.id, info.parents, sink);
    Sha256 first, second;
    auto report = TRY(driver_->diff(info.id, info.parents, [&](std::span<const std::byte> bytes) {
        first.update(bytes);
        return sink(bytes);
    }));
    TRY(driver_->diff(info.id, info.parents, [&](std::span<const std::byte> bytes) -> Status {
        second.update(bytes);
        return {};
    }));
    if (first.finish() != second.finish())
        return fail(Errc::Aborted,
                    fmt::format("container {} changed while it was read; stop what writes to it (it is mounted at {}) "
                                "and try again",
                                info.name, info.mounted_at));
    return report;
}

Result<drivers::Driver::DiffReport> Store::container_diff(std::string_view reference, const archive::Sink &sink) {
    auto locks = TRY(locks_->hold());
    const auto info = TRY(hold_container(locks, reference));
    return stable_diff(info, sink);
}

Result<archive::PackReport> Store::export_container(std::string_view reference, const archive::Sink &sink) {
    auto locks = TRY(locks_->hold());
    const auto info = TRY(hold_container(locks, reference));
    // A mounted one is read through its mount: a second overlay over the same upper would be undefined.
    if (!info.mounted_at.empty())
        return archive::pack_tree(TRY(sys::open_dir(AT_FDCWD, info.mounted_at.c_str())).get(), {}, sink);
    auto view = TRY(driver_->open_view(info.id, info.parents));
    return archive::pack_tree(view.root.get(), {}, sink);
}

Status Store::remove_container(std::string_view reference, bool force) {
    auto locks = TRY(locks_->hold());
    const auto info = TRY(hold_container(locks, reference));
    if (!info.mounted_at.empty()) {
        if (!force)
            return fail(Errc::FailedPrecondition,
                        fmt::format("container {} is mounted at {}; unmount it first, or use --force", info.name,
                                    info.mounted_at));
        if (auto done = sys::unmount(info.mounted_at); !done) TRY(sys::unmount(info.mounted_at, MNT_DETACH));
    }
    if (auto gone = sys::unlink_at(root_fd_.get(), fmt::format("mnt/{}", info.id.value).c_str(), AT_REMOVEDIR);
        !gone && gone.error().sys_errno() != ENOENT)
        return gone;
    TRY(making_room([&]() -> Status {
        auto tx = TRY(records_->begin(Sync::relaxed));
        auto drop = TRY(tx.prepare("DELETE FROM containers WHERE id = ?"));
        TRY(drop.bind(info.id).run());
        return tx.commit();
    }));
    return making_room([&] { return driver_->remove(info.id); });
}

Result<drivers::Usage> Store::container_usage(const ContainerInfo &container) {
    return driver_->usage(container.id, container.parents);
}

} // namespace shale::store
