// SPDX-License-Identifier: Apache-2.0
// Copying containers: a new writable layer over the copied parents takes the old driver's diff, which is merged into
// its tree through the mount that the container itself would get; so what is written is what the driver itself writes.
// Then both trees are compared.
#include <fmt/format.h>

#include <chrono>
#include <set>

#include "archive/compare.h"
#include "archive/pack.h"
#include "drivers/common.h"
#include "drivers/writable.h"
#include "store/id_space.h"
#include "store/locks.h"
#include "store/migration.h"
#include "store/records.h"
#include "sys/fs.h"

namespace shale::store {
namespace {

constexpr auto record_interval = std::chrono::seconds(5);
constexpr const char *stage_prefix = ".shale-migrate-";

std::string item_of(const ContainerInfo &info) {
    return fmt::format("container:{}", info.id.value);
}

/// A name that the tree does not have: below it lies what is to be merged.
Result<std::string> make_stage(int root) {
    for (unsigned n = 0;; ++n) {
        std::string name = fmt::format("{}{}", stage_prefix, n);
        auto made = sys::make_dir(root, name.c_str(), 0700);
        if (made) return name;
        if (made.error().sys_errno() != EEXIST || n == 1000) return std::unexpected(std::move(made).error());
    }
}

} // namespace

Status Migration::copy_containers(bool alone) {
    report_.pending.clear(); // what a look before this one passed over
    std::vector<Done> done;
    std::vector<LayerId> layers;
    auto recorded = std::chrono::steady_clock::now();
    auto write_down = [&]() -> Status {
        if (!done.empty()) TRY(record(done, layers));
        done.clear();
        layers.clear();
        recorded = std::chrono::steady_clock::now();
        return {};
    };
    for (const auto &listed : TRY(store_.list_containers())) {
        if (canceled()) {
            TRY(write_down());
            return fail(Errc::Canceled, "canceled; the same command goes on where this one stopped");
        }
        if (!alone && is_done(item_of(listed))) continue;
        auto locks = TRY(store_.locks_->hold());
        auto info = store_.hold_container(locks, std::to_string(listed.id.value));
        if (!info && info.error().code() == Errc::NotFound) continue; // removed meanwhile
        if (!info) return std::unexpected(std::move(info).error());
        if (alone && !info->mounted_at.empty()) {
            report_.pending.push_back(
                fmt::format("container {} is mounted at {}; stop it and unmount it", info->name, info->mounted_at));
            continue;
        }
        const uint64_t before = report_.bytes;
        auto copied = copy_container(*info);
        if (!copied && copied.error().code() == Errc::Aborted) {
            report_.pending.push_back(copied.error().text());
            continue;
        }
        if (!copied) {
            TRY(write_down());
            return std::unexpected(std::move(copied).error().add("container " + info->name));
        }
        if (copied->item.empty()) continue; // as it was
        done.push_back(std::move(*copied));
        layers.push_back(info->id);
        ++report_.containers;
        report(ProgressEvent::Kind::layer_done, "container " + info->name, report_.bytes - before,
               report_.bytes - before);
        if (std::chrono::steady_clock::now() - recorded >= record_interval) TRY(write_down());
    }
    return write_down();
}

/// Empty item: the copy that is there is still right.
Result<Migration::Done> Migration::copy_container(const ContainerInfo &info) {
    const std::string item = item_of(info);
    if (const auto old = done_.find(item); old != done_.end()) {
        Sha256 now;
        (void)TRY(store_.stable_diff(info, [&](std::span<const std::byte> bytes) -> Status {
            now.update(bytes);
            return {};
        }));
        // The root directory itself has no entry in a diff.
        if (now.finish() == old->second && prove_container(info)) {
            return Done{};
        }
        TRY(forget(item));
    }
    report(ProgressEvent::Kind::layer_begin, "container " + info.name, 0, 0);
    Done out{item, {}};
    ScopeGuard undo([&] { (void)side_->driver().remove(info.id); });
    TRY(make_container(info));
    TRY(fill_container(info, out.digest));
    TRY(prove_container(info));
    undo.release();
    return out;
}

/// With the quota that it had, as far as the new driver can.
Status Migration::make_container(const ContainerInfo &info) {
    auto &driver = side_->driver();
    TRY(driver.remove(info.id));
    drivers::Quota quota = info.quota;
    for (;;) {
        auto made = driver.create(info.id, info.parents, quota);
        if (made) break;
        const auto code = made.error().code();
        const bool refused = code == Errc::Unimplemented || code == Errc::FailedPrecondition;
        if (!refused || (quota.bytes == 0 && quota.inodes == 0)) return made;
        report_.notes.push_back(fmt::format("container {}: its limit of {} is not kept: {}", info.name,
                                            quota.inodes != 0 ? "inodes" : "bytes", made.error().text()));
        if (quota.inodes != 0)
            quota.inodes = 0;
        else
            quota.bytes = 0;
        TRY(driver.remove(info.id));
    }
    return {};
}

Status Migration::fill_container(const ContainerInfo &info, Digest &digest) {
    auto &driver = side_->driver();
    const auto target = TRY(drivers::open_writable(driver, info.id, info.parents));
    const int root = target.root.get();
    const std::string stage = TRY(make_stage(root));
    const UniqueFd staged = TRY(sys::open_dir(root, stage.c_str()));
    const auto form = archive::WhiteoutForm::oci_names;
    DiffStream stream([&](const archive::Sink &sink) { return store_.stable_diff(info, sink); });
    archive::DirectoryTree staged_tree(staged.get());
    const auto extracted =
        TRY(stream.extract_to(staged_tree, extract_options(form, store_.options_.tar_limits), cancel_));
    digest = stream.diff_id();
    report_.bytes += extracted.bytes;
    if (stream.pack().skipped_sockets > 0)
        report_.notes.push_back(
            fmt::format("container {}: {} sockets left out", info.name, stream.pack().skipped_sockets));
    for (const auto &warning : stream.pack().warnings)
        report_.notes.push_back(fmt::format("container {}: {}", info.name, warning));

    // As TreeDriver::apply: without root's rights, directories may lock out their owner.
    const auto staged_modes = TRY(drivers::open_up(staged.get()));
    auto modes = TRY(drivers::open_up(root));
    for (const auto &[path, mode] : staged_modes)
        if (!path.empty()) modes.insert_or_assign(path, mode);
    TRY(archive::merge_upper(staged.get(), form, root));
    TRY(sys::remove_tree(root, stage.c_str()));
    TRY(drivers::lock_again(root, modes));
    const auto view = TRY(open_old(info));
    return drivers::copy_metadata(view.root.get(), root); // the root has no entry in a diff
}

/// A mounted one is read through its mount: a second overlay over the same upper would be undefined.
Result<drivers::Driver::View> Migration::open_old(const ContainerInfo &info) {
    if (info.mounted_at.empty()) return store_.driver_->open_view(info.id, info.parents);
    return drivers::Driver::View{TRY(sys::open_dir(AT_FDCWD, info.mounted_at.c_str())), nullptr};
}

/// The whole merged tree; contents of what the container changed (of all with verify_data).
Status Migration::prove_container(const ContainerInfo &info) {
    std::set<std::string, std::less<>> changed;
    TRY(store_.driver_->changes(info.id, info.parents, [&](const archive::Change &change) -> Status {
        if (change.kind != archive::ChangeKind::deleted) changed.insert(change.path.substr(1));
        return {};
    }));
    archive::CompareOptions options;
    options.links = [&](std::string_view path) { return changed.contains(path); };
    options.contents = [&](std::string_view path) { return verify_data_ || changed.contains(path); };
    auto view = TRY(open_old(info));
    return compare(view, info.id, info.parents, options, "container " + info.name);
}

} // namespace shale::store
