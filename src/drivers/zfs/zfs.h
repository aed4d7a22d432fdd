// SPDX-License-Identifier: Apache-2.0
// zfs: every layer is a dataset below one hidden parent, a clone of its parent layer's snapshot. Layout and states in
// FORMAT.md beside this file; the stage, the marks and detached mounts in mounted_tree_driver.h.
#pragma once

#include <chrono>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>

#include "drivers/mounted_tree_driver.h"
#include "sys/zfs.h"

namespace shale::drivers::zfs {

std::span<const OptionInfo> option_infos() noexcept;
Result<std::unique_ptr<Driver>> open(const std::string &root, const DriverOptions &options);

struct Settings {
    std::string base;              ///< dataset that the hidden parent is made in
    sys::ZfsProperties properties; ///< of the hidden parent, inherited by every layer
    std::string limit;             ///< property that a container's limit is: "quota" or "refquota"
    Quota quota;                   ///< default limit
};

/// The hidden parent dataset of one store. ROOT/dataset holds its name, and on a second line the properties it was
/// given; written before the dataset is made, so that no crash leaves one that nobody knows. The name has a random
/// part: a store that was deleted by hand, or another on the same dataset, never gets in the way. Its property
/// shale:root is the driver's directory that it belongs to: another's (a copy of this one, a moved one) is refused with
/// FailedPrecondition before anything is changed.
class Home {
public:
    Home(const LayerRoot &root, sys::Zfs zfs, const Settings &settings)
        : root_(root), zfs_(std::move(zfs)), settings_(settings) {}
    /// Its name; nothing is made. NotFound: there is no layer yet.
    Result<std::string> name();
    /// The same; made, or given its properties, when that is still to be done.
    Result<std::string> ready();
    /// The dataset or snapshot is not there, though its pool is. FailedPrecondition: the pool is not imported.
    Result<bool> is_gone(const std::string &name);

private:
    struct Record {
        std::string name, properties;
    };
    Result<std::optional<Record>> read() const;
    Status write(const Record &record) const;
    Result<std::string> make();
    Status check_base(const std::string &name) const;
    /// False: it is not there.
    Result<bool> is_ours(const std::string &name) const;

    const LayerRoot &root_;
    sys::Zfs zfs_;
    const Settings &settings_;
    std::mutex mutex_;
    std::string name_, ready_;
};

class Zfs final : public MountedTreeDriver {
public:
    Zfs(LayerRoot root, sys::Zfs zfs, Settings settings);
    [[nodiscard]] std::string_view name() const noexcept override { return "zfs"; }
    Status sync(std::span<const LayerId> ids) override;
    Result<TrashUsage> trash() override;
    Status dismantle() override; ///< the hidden dataset goes
    /// Bytes from the dataset's counters (at most five seconds behind what a running container writes); inodes from the
    /// file system's, parents' excluded.
    Result<Usage> usage(LayerId id, Parents parents) override;
    Result<ProbeReport> probe() override;

private:
    friend class DatasetLimit;
    /// Skips numbers whose dataset is there: a store whose directory was restored from a copy counts anew.
    Result<uint64_t> reserve_volumes(uint64_t count) override;
    Status make_volume(VolumeId volume, std::optional<VolumeId> parent) override;
    Result<sys::MountSpec> volume_spec(VolumeId volume, Access access) override;
    Status prove(VolumeId volume, int root) override;
    Status freeze_volume(VolumeId volume) override;
    Result<bool> is_frozen(VolumeId volume) override;
    Status thaw_volume(VolumeId volume) override;
    Status sync_volumes(std::span<const VolumeId> volumes) override;
    Status destroy_volume(VolumeId volume) override;

    Result<std::string> dataset(VolumeId volume);
    /// Adds what there is room for, when that was the trouble.
    Status with_figures(Status &&done, const std::string &name) const;
    /// ResourceExhausted with the figures: a quota above, or the pool, has no room for a layer. Looks once a second.
    Status check_room(const std::string &home);
    Status destroy_snapshots(const std::string &name);
    /// One row of `zfs list`: from a table of all layers, read again when it is older than a second.
    Result<sys::ZfsDataset> row(VolumeId volume);
    void forget_rows();
    Result<uint64_t> files_in(VolumeId volume);
    Status probe_datasets(const std::string &base, std::vector<Fact> &facts) const;
    Status sweep_probes(const std::string &base) const;

    sys::Zfs zfs_;
    Settings settings_;
    Home home_;
    std::mutex room_mutex_;                            ///< the one below
    std::chrono::steady_clock::time_point room_until_; ///< there was room a moment ago
    using Rows = std::unordered_map<std::string, sys::ZfsDataset>;
    std::mutex rows_mutex_; ///< the three below; not held while they are read from ZFS
    std::shared_ptr<const Rows> rows_ = std::make_shared<Rows>(); ///< by name
    std::chrono::steady_clock::time_point rows_until_;            ///< valid until then
    uint64_t rows_forgotten_ = 0;                                 ///< how often
};

/// A container's limit is a property of its dataset.
class DatasetLimit final : public LayerCounter {
public:
    explicit DatasetLimit(Zfs &driver) : driver_(driver) {}
    [[nodiscard]] std::string_view kind() const noexcept override { return driver_.settings_.limit; }
    Status adopt(LayerId /*id*/) override { return {}; } ///< ZFS counts every dataset
    Status set(LayerId id, const Quota &quota) override;
    Result<Quota> get(LayerId id) override;
    Result<std::optional<Usage>> usage(LayerId id) override;

private:
    Zfs &driver_;
};

} // namespace shale::drivers::zfs
