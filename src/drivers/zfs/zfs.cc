// SPDX-License-Identifier: Apache-2.0
#include "drivers/zfs/zfs.h"

#include <sys/statfs.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include <fmt/format.h>

#include "base/units.h"
#include "sys/fs.h"

namespace shale::drivers::zfs {
namespace {

constexpr const char *seal_name = "@sealed";
/// Below it nothing new is made. ZFS refuses a write where 24 times its size (spa_asize_inflation) is not available:
/// 3 MiB for 128 KiB.
constexpr uint64_t least_room = 4U << 20U;

constexpr std::array options{
    OptionInfo{"dataset", "",
               "dataset to keep layers in, below a hidden one of shale's own (tank/containers); default: "
               "the one that the store's directory lies on"},
    OptionInfo{"recordsize", "32K", "largest block of a file (128K: big files; 16K: databases); see FORMAT.md"},
    OptionInfo{"compression", "lz4", "lz4, zstd, gzip-6, off, ..., as zfsprops(7) has it"},
    OptionInfo{"acltype", "posixacl", "posixacl, off: access lists of files", "posixacl|off"},
    OptionInfo{"xattr", "sa", "sa, on: where extended attributes lie", "sa|on"},
    OptionInfo{"dnodesize", "auto", "auto, legacy: room for attributes beside a file's record", "auto|legacy"},
    OptionInfo{"atime", "off", "off, on: write the time of each read", "off|on"},
    OptionInfo{"limit", "quota",
               "quota, refquota: what a limit counts. quota: what the container writes; refquota: its whole tree",
               "quota|refquota"},
    OptionInfo{"size", "", "default limit of bytes of a container (10G)"},
    OptionInfo{"inodes", "", "ZFS limits bytes only: refused"},
    OptionInfo{"library", "auto", "auto, off: use libzfs_core where it can be loaded; off: the zfs command for all",
               "auto|off"},
};

constexpr const char *no_inodes = "ZFS counts bytes, it cannot limit inodes";

/// zfsprops(7): a power of two from 512 to 1 MiB (the module's zfs_max_recordsize).
Status check_record_size(const std::string &text) {
    const auto bytes = parse_bytes(text);
    if (bytes && *bytes >= 512 && *bytes <= (1U << 20U) && (*bytes & (*bytes - 1)) == 0) return {};
    return fail(Errc::InvalidArgument,
                fmt::format("driver zfs: option recordsize: \"{}\" is not a power of two from 512 to 1M", text));
}

Status check_word(const char *option, const std::string &text) {
    const auto good = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-'; };
    if (!text.empty() && std::ranges::all_of(text, good)) return {};
    return fail(Errc::InvalidArgument, fmt::format("driver zfs: option {}: \"{}\" is no value of it", option, text));
}

Result<Settings> settings_of(const DriverOptions &all) {
    Settings out;
    out.base = all.find("dataset")->second;
    if (!out.base.empty() && !sys::is_zfs_name(out.base))
        return fail(Errc::InvalidArgument,
                    fmt::format("driver zfs: option dataset: \"{}\" is no dataset's name", out.base));
    TRY(check_record_size(all.find("recordsize")->second));
    TRY(check_word("compression", all.find("compression")->second));
    for (const auto *key : {"recordsize", "compression", "acltype", "xattr", "dnodesize", "atime"})
        out.properties.emplace_back(key, all.find(key)->second);
    out.limit = all.find("limit")->second;
    out.quota = TRY(default_quota("zfs", all));
    if (out.quota.inodes != 0)
        return fail(Errc::InvalidArgument, fmt::format("driver zfs: option inodes: {}", no_inodes));
    return out;
}

} // namespace

std::span<const OptionInfo> option_infos() noexcept {
    return options;
}

Result<std::unique_ptr<Driver>> open(const std::string &root, const DriverOptions &given) {
    const DriverOptions all = TRY(check_options("zfs", options, given));
    Settings settings = TRY(settings_of(all));
    auto zfs =
        TRY(sys::Zfs::open(all.find("library")->second == "off" ? sys::Zfs::Use::command : sys::Zfs::Use::library));
    LayerRoot layers = TRY(LayerRoot::open(root));
    if (settings.base.empty() && !sys::is_zfs(layers.fd()))
        return fail(Errc::FailedPrecondition,
                    fmt::format("driver zfs: {} is on {}, not on ZFS; name a dataset with the option dataset=POOL/NAME",
                                layers.path(), sys::file_system_name(TRY(sys::statfs_fd(layers.fd())))));
    return std::make_unique<Zfs>(std::move(layers), std::move(zfs), std::move(settings));
}

Zfs::Zfs(LayerRoot root, sys::Zfs zfs, Settings settings)
    : MountedTreeDriver(std::move(root), settings.quota), zfs_(std::move(zfs)), settings_(std::move(settings)),
      home_(root_, zfs_, settings_) {
    counter_ = std::make_unique<DatasetLimit>(*this);
    no_quota_reason_.clear();
}

Result<std::string> Zfs::dataset(VolumeId volume) {
    return fmt::format("{}/{}", TRY(home_.name()), volume.value);
}

namespace {

std::string figures_of(const sys::ZfsDataset &one) {
    return fmt::format("dataset {} in pool {} uses {} and has {} left; nothing was kept; free space there or raise the "
                       "quota, then try again",
                       one.name, sys::zfs_pool_of(one.name), format_bytes(one.used), format_bytes(one.available));
}

} // namespace

Status Zfs::with_figures(Status &&done, const std::string &name) const {
    if (done || (done.error().sys_errno() != ENOSPC && done.error().sys_errno() != EDQUOT)) return std::move(done);
    const auto parent = zfs_.get(name.substr(0, name.rfind('/')));
    return std::unexpected(std::move(done).error().add(
        parent ? figures_of(*parent) : fmt::format("pool {} has no room", sys::zfs_pool_of(name))));
}

Status Zfs::check_room(const std::string &home) {
    using Clock = std::chrono::steady_clock;
    {
        const std::lock_guard guard(room_mutex_);
        if (Clock::now() < room_until_) return {};
    }
    const auto now = TRY(zfs_.get(home));
    if (now.available < least_room)
        return fail(Errc::ResourceExhausted,
                    fmt::format("less than {} of room: {}", format_bytes(least_room), figures_of(now)));
    const std::lock_guard guard(room_mutex_);
    room_until_ = Clock::now() + std::chrono::seconds(1);
    return {};
}

Result<uint64_t> Zfs::reserve_volumes(uint64_t count) {
    const auto home = home_.name();
    if (!home && home.error().code() != Errc::NotFound) return std::unexpected(home.error());
    for (;;) {
        const uint64_t first = TRY(MountedTreeDriver::reserve_volumes(count));
        bool taken = false;
        for (uint64_t i = 0; home && !taken && i < count; ++i)
            taken = TRY(zfs_.exists(fmt::format("{}/{}", *home, first + i)));
        if (!taken) return first;
    }
}

Status Zfs::make_volume(VolumeId volume, std::optional<VolumeId> parent) {
    const std::string home = TRY(home_.ready());
    const std::string name = fmt::format("{}/{}", home, volume.value);
    TRY(check_room(home)); // a clone takes none, what is written into it does
    auto done = parent ? zfs_.clone(fmt::format("{}/{}{}", home, parent->value, seal_name), name) : zfs_.create(name);
    return with_figures(std::move(done), name);
}

Result<sys::MountSpec> Zfs::volume_spec(VolumeId volume, Access access) {
    const std::string name = TRY(dataset(volume));
    if (access == Access::read_write) return sys::MountSpec{"zfs", name, {"rw"}};
    // A sealed layer is read from its snapshot: that cannot change, whoever mounts the dataset.
    if (TRY(zfs_.exists(name + seal_name))) return sys::MountSpec{"zfs", name + seal_name, {"ro"}};
    if (TRY(zfs_.exists(name))) return sys::MountSpec{"zfs", name, {"ro"}};
    return fail(Errc::NotFound, fmt::format("there is no dataset {}; is the pool imported?", name));
}

Status Zfs::prove(VolumeId volume, int root) {
    // A dataset is mounted by its name, which no other can have.
    if (sys::is_zfs(root)) return {};
    return fail(Errc::Internal, fmt::format("what is mounted as dataset {} is not ZFS", TRY(dataset(volume))));
}

Status Zfs::freeze_volume(VolumeId volume) {
    const std::string name = TRY(dataset(volume));
    auto done = zfs_.snapshot(name + seal_name);
    if (!done && done.error().sys_errno() == EEXIST) return {};
    forget_rows(); // what it holds is final now, and on disk: it counts
    return with_figures(std::move(done), name);
}

Result<bool> Zfs::is_frozen(VolumeId volume) {
    return zfs_.exists(TRY(dataset(volume)) + seal_name);
}

/// What is written from now on must be in the next one, which could not be made beside this one.
Status Zfs::thaw_volume(VolumeId volume) {
    const std::string name = TRY(dataset(volume));
    auto done = zfs_.destroy_snapshot(name + seal_name, false);
    if (!done && done.error().sys_errno() == ENOENT) return {};
    forget_rows();
    return with_figures(std::move(done), name);
}

Status Zfs::sync(std::span<const LayerId> ids) {
    if (ids.empty()) return {};
    bool open = false;
    for (const LayerId id : ids)
        open = open || !TRY(zfs_.exists(TRY(dataset(TRY(volume_of(id)))) + seal_name));
    if (open) TRY(sync_volumes({})); // what is sealed went to disk with its snapshot
    return sys::syncfs_fd(root_.fd());
}

Status Zfs::sync_volumes(std::span<const VolumeId> /*volumes*/) {
    forget_rows();
    return zfs_.sync_pool(sys::zfs_pool_of(TRY(home_.name())));
}

Status Zfs::destroy_snapshots(const std::string &name) {
    for (const auto &snapshot : TRY(zfs_.snapshots(name)))
        if (auto done = zfs_.destroy_snapshot(snapshot, true); !done && done.error().sys_errno() != ENOENT) return done;
    return {};
}

Status Zfs::destroy_volume(VolumeId volume) {
    const auto home = home_.name();
    if (!home && home.error().code() == Errc::NotFound) return {}; // no dataset was ever made
    const std::string name = TRY(dataset(volume));
    const auto is = [](const Status &status, int error) { return !status && status.error().sys_errno() == error; };
    // Deferred: the snapshot goes at once, or with the last clone of it.
    auto done = zfs_.destroy_snapshot(name + seal_name, true);
    if (done || is(done, ENOENT)) done = zfs_.destroy(name);
    if (is(done, EBUSY) || is(done, EEXIST)) {
        TRY(destroy_snapshots(name)); // others', made by a rotation of snapshots
        done = zfs_.destroy(name);
    }
    if (is(done, ENOENT) && TRY(home_.is_gone(name))) return {};
    if (is(done, EBUSY) || is(done, EEXIST))
        return std::unexpected(Error(Errc::Unavailable, done.error().sys_errno(), done.error().text())
                                   .add("clones of it live, it is mounted (perhaps in another mount name space) or a "
                                        "snapshot is held; it stays in the trash until then"));
    forget_rows();
    return done;
}

Status Zfs::dismantle() {
    TRY(MountedTreeDriver::dismantle());
    const auto home = home_.name();
    if (!home && home.error().code() == Errc::NotFound) return {}; // never made
    const std::string home_name = TRY(Result<std::string>(home));
    auto done = zfs_.destroy(home_name);
    if (!done && done.error().sys_errno() == ENOENT && TRY(home_.is_gone(home_name))) return {};
    return done;
}

Result<sys::ZfsDataset> Zfs::row(VolumeId volume) {
    using Clock = std::chrono::steady_clock;
    const std::string home = TRY(home_.name());
    const std::string name = fmt::format("{}/{}", home, volume.value);
    std::shared_ptr<const Rows> rows;
    uint64_t forgotten = 0;
    bool fresh = false;
    {
        const std::lock_guard guard(rows_mutex_);
        rows = rows_;
        forgotten = rows_forgotten_;
        fresh = Clock::now() < rows_until_ && rows->contains(name);
    }
    if (!fresh) {
        const auto begin = Clock::now();
        auto read = std::make_shared<Rows>();
        for (auto &one : TRY(zfs_.list(home))) {
            std::string key = one.name;
            read->insert_or_assign(std::move(key), std::move(one));
        }
        rows = std::move(read);
        const auto end = Clock::now();
        const std::lock_guard guard(rows_mutex_);
        if (forgotten == rows_forgotten_) {
            rows_ = rows;
            rows_until_ = end + std::max<Clock::duration>(std::chrono::seconds(1), end - begin);
        }
    }
    const auto found = rows->find(name);
    if (found == rows->end()) return fail(Errc::NotFound, fmt::format("there is no dataset {}", name));
    return found->second;
}

void Zfs::forget_rows() {
    const std::lock_guard guard(rows_mutex_);
    rows_until_ = {};
    ++rows_forgotten_;
}

Result<uint64_t> Zfs::files_in(VolumeId volume) {
    const View view = TRY(open_volume(volume, Access::read_only));
    const auto status = TRY(sys::statfs_fd(view.root.get()));
    return static_cast<uint64_t>(status.f_files - status.f_ffree);
}

Result<Usage> Zfs::usage(LayerId id, Parents parents) {
    const VolumeId volume = TRY(volume_of(id));
    Usage out{TRY(row(volume)).own_bytes(), TRY(files_in(volume)), true};
    // An empty file system counts six objects, of which one is its root directory.
    const uint64_t before = parents.empty() ? 5 : TRY(files_in(TRY(volume_of(parents.front()))));
    out.inodes -= std::min(out.inodes, before);
    return out;
}

Result<Driver::TrashUsage> Zfs::trash() {
    auto out = TRY(MountedTreeDriver::trash());
    for (const VolumeId volume : TRY(trashed_volumes()))
        if (const auto found = row(volume)) out.bytes += found->own_bytes();
    return out;
}

Status DatasetLimit::set(LayerId id, const Quota &quota) {
    if (quota.inodes != 0) return fail(Errc::Unimplemented, fmt::format("layer {}: {}", id.value, no_inodes));
    const std::string name = TRY(driver_.dataset(TRY(driver_.volume_of(id))));
    driver_.forget_rows();
    return driver_.with_figures(
        driver_.zfs_.set(name, {{driver_.settings_.limit, quota.bytes == 0 ? "none" : std::to_string(quota.bytes)}}),
        name);
}

Result<Quota> DatasetLimit::get(LayerId id) {
    const auto row = TRY(driver_.zfs_.get(TRY(driver_.dataset(TRY(driver_.volume_of(id))))));
    return Quota{row.quota != 0 ? row.quota : row.refquota, 0};
}

Result<std::optional<Usage>> DatasetLimit::usage(LayerId id) {
    const auto row = TRY(driver_.row(TRY(driver_.volume_of(id))));
    return Usage{row.own_bytes(), 0, true};
}

} // namespace shale::drivers::zfs
