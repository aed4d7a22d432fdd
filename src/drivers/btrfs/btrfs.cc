// SPDX-License-Identifier: Apache-2.0
#include "drivers/btrfs/btrfs.h"

#include <fcntl.h>

#include <array>
#include <cerrno>

#include <fmt/format.h>

#include "archive/tree_walk.h"
#include "drivers/concurrent_writes.h"
#include "sys/fs.h"

namespace shale::drivers::btrfs {
namespace {

constexpr std::array options{
    OptionInfo{"quota", "auto",
               "auto, simple, full: count and limit containers. auto uses what the file system has on; simple (Linux "
               "6.7) and full (qgroups, slower with many snapshots) turn it on for the whole file system",
               "auto|simple|full"},
    OptionInfo{"size", "", "default limit of bytes that a container may write (10G); needs quota"},
    OptionInfo{"inodes", "", "btrfs limits bytes only: refused"},
};

constexpr const char *no_inodes = "btrfs counts bytes, it cannot limit inodes";

Status turn_on(const LayerRoot &root, const std::string &wanted) {
    if (wanted == "auto") return {};
    const auto mode = wanted == "simple" ? sys::BtrfsQuota::simple : sys::BtrfsQuota::full;
    const auto now = TRY(sys::BtrfsQgroups::open(root.fd())).mode();
    if (now == mode) return {};
    if (now != sys::BtrfsQuota::off)
        return fail(Errc::FailedPrecondition,
                    fmt::format("driver btrfs: quota={}: this file system has {} on already; use quota=auto, or turn "
                                "them off first (`btrfs quota disable`)",
                                wanted, sys::name_of(now)));
    return in_context(sys::BtrfsQgroups::enable(root.fd(), mode), [&] {
        return fmt::format("driver btrfs: quota={}{}", wanted, wanted == "simple" ? " (needs Linux 6.7)" : "");
    });
}

/// Those of a probe. A frozen one could not be unlinked entry by entry; one that may not be deleted can, afterwards.
Status remove_subvolumes(int dir) {
    for (const auto &entry : TRY(sys::list_dir(dir))) {
        const auto opened = sys::open_dir(dir, entry.name.c_str());
        if (!opened || !TRY(sys::is_subvolume(opened->get()))) continue;
        TRY(sys::set_read_only(opened->get(), false));
        (void)sys::delete_subvolume(dir, entry.name.c_str());
    }
    return {};
}

} // namespace

std::span<const OptionInfo> option_infos() noexcept {
    return options;
}

Result<std::unique_ptr<Driver>> open(const std::string &root, const DriverOptions &given) {
    const DriverOptions all = TRY(check_options("btrfs", options, given));
    const Quota quota = TRY(default_quota("btrfs", all));
    if (quota.inodes != 0)
        return fail(Errc::InvalidArgument, fmt::format("driver btrfs: option inodes: {}", no_inodes));
    LayerRoot layers = TRY(LayerRoot::open(root));
    if (!sys::is_btrfs(layers.fd()))
        return fail(Errc::FailedPrecondition, fmt::format("driver btrfs: {} is on {}, not on btrfs", layers.path(),
                                                          sys::file_system_name(TRY(sys::statfs_fd(layers.fd())))));
    TRY(turn_on(layers, all.find("quota")->second));
    return std::make_unique<Btrfs>(std::move(layers), quota);
}

std::unique_ptr<QgroupCounter> QgroupCounter::open(const LayerRoot &root, std::string &why) {
    auto qgroups = sys::BtrfsQgroups::open(root.fd());
    if (!qgroups) {
        why = qgroups.error().text();
        return nullptr;
    }
    const auto mode = qgroups->mode();
    if (mode == sys::BtrfsQuota::off) {
        why = "quota is off on this file system; the option quota=simple (Linux 6.7) or quota=full turns it on";
        return nullptr;
    }
    why.clear();
    return std::unique_ptr<QgroupCounter>(new QgroupCounter(root, std::move(*qgroups), mode));
}

Result<UniqueFd> QgroupCounter::layer(LayerId id) const {
    return sys::open_dir(root_.fd(), to_string(id).c_str());
}

Status QgroupCounter::set(LayerId id, const Quota &quota) {
    if (quota.inodes != 0) return fail(Errc::Unimplemented, fmt::format("layer {}: {}", id.value, no_inodes));
    return qgroups_.set_limit(TRY(layer(id)).get(), quota.bytes);
}

Result<Quota> QgroupCounter::get(LayerId id) {
    const UniqueFd dir = TRY(layer(id));
    const auto count = qgroups_.count(TRY(sys::subvolume_of(dir.get())));
    return Quota{count ? count->limit : 0, 0};
}

Result<std::optional<Usage>> QgroupCounter::usage(LayerId id) {
    const UniqueFd dir = TRY(layer(id));
    const auto count = qgroups_.count(TRY(sys::subvolume_of(dir.get())));
    if (!count) return std::nullopt;
    return Usage{count->exclusive, 0, true};
}

void QgroupCounter::forget(uint64_t subvolume) const {
    // The kernel does it by itself for simple quotas (Linux 6.7), and refuses while it still clears the subvolume.
    (void)qgroups_.forget(root_.fd(), subvolume);
}

Btrfs::Btrfs(LayerRoot root, const Quota &default_quota) : TreeDriver(std::move(root), default_quota) {
    counter_ = QgroupCounter::open(root_, no_quota_reason_);
}

Status Btrfs::make_layer(LayerId id, Parents parents) {
    const std::string name = to_string(id);
    if (parents.empty()) {
        TRY(sys::make_subvolume(root_.fd(), name.c_str()));
        return sys::chmod_at(root_.fd(), name.c_str(), 0700);
    }
    const auto parent = sys::open_dir(root_.fd(), to_string(parents.front()).c_str());
    if (!parent)
        return fail(Errc::NotFound, fmt::format("layer {}: parent {} is not there", id.value, parents.front().value));
    return sys::snapshot(parent->get(), root_.fd(), name.c_str());
}

Result<Driver::View> Btrfs::make_tree(LayerId id, Parents parents) {
    if (parents.empty()) TRY(root_.make((to_string(id) + "/fs").c_str(), 0755));
    return View{TRY(root_.open_part(id, "fs")), nullptr};
}

Status Btrfs::make_immutable(LayerId id) {
    return sys::set_read_only(TRY(sys::open_dir(root_.fd(), to_string(id).c_str())).get(), true);
}

/// Snapshots leave nested subvolumes out: children would see an empty directory, and their diffs would delete what it
/// held.
Status Btrfs::seal(LayerId id, Parents /*parents*/) {
    const UniqueFd layer = TRY(sys::open_dir(root_.fd(), to_string(id).c_str()));
    if (TRY(sys::is_read_only(layer.get()))) return {};
    const auto nested = sys::nested_subvolume(layer.get());
    if (!nested) {
        const int error = nested.error().sys_errno();
        // Before Linux 4.18, or not allowed to look: sealed as it is.
        if (error != ENOTTY && error != EPERM && error != EACCES) return std::unexpected(nested.error());
    } else if (*nested) {
        const std::string path =
            (*nested)->path.empty() ? fmt::format("with the number {}", (*nested)->id)
                                    : archive::quoted(fmt::format("{}/{}/{}", root_.path(), id.value, (*nested)->path));
        return fail(Errc::FailedPrecondition,
                    fmt::format("layer {} holds the subvolume {}, whose content a snapshot of the layer would not "
                                "have; nothing was changed. Delete it (`btrfs subvolume delete`), or copy it into a "
                                "plain directory first, then try again",
                                id.value, path));
    }
    return make_immutable(id);
}

Result<bool> Btrfs::is_sealed(LayerId id, Parents /*parents*/) {
    return sys::is_read_only(TRY(sys::open_dir(root_.fd(), to_string(id).c_str())).get());
}

Status Btrfs::reopen(LayerId id, Parents /*parents*/) {
    return sys::set_read_only(TRY(sys::open_dir(root_.fd(), to_string(id).c_str())).get(), false);
}

Status Btrfs::remove(LayerId id) {
    // A read-only subvolume cannot move to another directory. A layer that is to go may be thawed first: nothing names
    // it any more.
    if (const auto layer = sys::open_dir(root_.fd(), to_string(id).c_str());
        layer && TRY(sys::is_subvolume(layer->get())))
        TRY(sys::set_read_only(layer->get(), false));
    const auto moved = DirectoryDriver::remove(id);
    if (moved || moved.error().code() != Errc::ResourceExhausted) return moved;
    // Where there is no room for metadata, a rename is refused; a deletion draws on what the kernel sets aside for it.
    return TRY(destroy(root_.fd(), to_string(id).c_str())) ? Status() : moved;
}

/// False: not a subvolume, or not allowed to delete one: to be unlinked entry by entry.
Result<bool> Btrfs::destroy(int trash, const char *name) const {
    uint64_t subvolume = 0;
    {
        const auto opened = sys::open_dir(trash, name);
        if (!opened || !TRY(sys::is_subvolume(opened->get()))) return false;
        subvolume = TRY(sys::subvolume_of(opened->get()));
    }
    if (const auto done = sys::delete_subvolume(trash, name); !done) {
        const int error = done.error().sys_errno();
        if (error == ENOENT) return true; // another reaper
        if (error == EPERM || error == EACCES) return false;
        return std::unexpected(done.error());
    }
    if (const auto *counter = dynamic_cast<const QgroupCounter *>(counter_.get())) counter->forget(subvolume);
    return true;
}

Result<uint64_t> Btrfs::reap(const std::atomic<bool> *cancel) {
    return root_.reap(cancel, [this](int trash, const char *name) -> Result<LayerRoot::Destroyed> {
        return TRY(destroy(trash, name)) ? LayerRoot::Destroyed::whole : LayerRoot::Destroyed::entries_remain;
    });
}

Result<ProbeReport> Btrfs::probe() {
    ProbeReport out;
    const auto scratch = root_.scratch(remove_subvolumes);
    if (!scratch) {
        out.reason = scratch.error().text();
        return out;
    }
    const int dir = scratch->dir.get();
    out.add("backing file system", sys::file_system_name(TRY(sys::statfs_fd(dir))), "statfs");
    out.add("d_type", TRY(has_d_type(dir)) ? "yes" : "no", "getdents64 of a fresh directory");
    const auto made = sys::make_subvolume(dir, "parent");
    out.add("subvolumes", made ? "yes" : "no", made ? "" : made.error().text());
    if (!made) {
        out.reason = made.error().text();
        return out;
    }
    const UniqueFd parent = TRY(sys::open_dir(dir, "parent"));
    const auto filled = make_written_files(parent.get());
    const auto taken = sys::snapshot(parent.get(), dir, "child");
    out.add("snapshots", taken ? "yes" : "no", taken ? "" : taken.error().text());
    out.facts.push_back(concurrent_writes(filled && taken ? sys::open_dir(dir, "child")
                                                          : std::unexpected(filled ? taken.error() : filled.error()),
                                          "first write into a file of 256 KiB that a snapshot shares"));
    const auto frozen = sys::set_read_only(parent.get(), true);
    out.add("read-only layers", frozen ? "yes" : "no", frozen ? "" : frozen.error().text());
    if (taken) {
        const auto gone = sys::delete_subvolume(dir, "child");
        out.add("subvolume delete", gone ? "yes" : "no",
                gone ? ""
                     : gone.error().text() +
                           "; without it layers are unlinked file by file (mount option user_subvol_rm_allowed)");
    }
    TRY(remove_subvolumes(dir));
    out.facts.push_back(quota_fact());
    out.add("max depth", std::to_string(max_depth()), "a layer needs only its own tree");
    out.usable = taken.has_value() && frozen.has_value();
    if (!out.usable) out.reason = taken ? frozen.error().text() : taken.error().text();
    return out;
}

} // namespace shale::drivers::btrfs
