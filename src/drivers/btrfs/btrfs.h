// SPDX-License-Identifier: Apache-2.0
// btrfs: every layer is a subvolume, made as a snapshot of its parent's and read-only once it is complete. Layout in
// FORMAT.md beside this file; what is in a layer, and its states, in tree_driver.h.
#pragma once

#include <memory>
#include <string>

#include "drivers/tree_driver.h"
#include "sys/btrfs.h"

namespace shale::drivers::btrfs {

std::span<const OptionInfo> option_infos() noexcept;
Result<std::unique_ptr<Driver>> open(const std::string &root, const DriverOptions &options);

/// Counts by qgroup, one a subvolume. A limit is of bytes only.
class QgroupCounter final : public LayerCounter {
public:
    /// nullptr where quota is off (`why` says so, and how to turn it on).
    static std::unique_ptr<QgroupCounter> open(const LayerRoot &root, std::string &why);
    [[nodiscard]] std::string_view kind() const noexcept override { return sys::name_of(mode_); }
    Status adopt(LayerId /*id*/) override { return {}; } ///< the kernel counts every subvolume
    Status set(LayerId id, const Quota &quota) override;
    Result<Quota> get(LayerId id) override;
    Result<std::optional<Usage>> usage(LayerId id) override;
    /// Forgets what is left of subvolumes that are gone.
    void forget(uint64_t subvolume) const;

private:
    QgroupCounter(const LayerRoot &root, sys::BtrfsQgroups qgroups, sys::BtrfsQuota mode)
        : root_(root), qgroups_(std::move(qgroups)), mode_(mode) {}
    Result<UniqueFd> layer(LayerId id) const;
    const LayerRoot &root_;
    sys::BtrfsQgroups qgroups_;
    sys::BtrfsQuota mode_;
};

class Btrfs final : public TreeDriver {
public:
    Btrfs(LayerRoot root, const Quota &default_quota);
    [[nodiscard]] std::string_view name() const noexcept override { return "btrfs"; }
    [[nodiscard]] bool stages_alone() const noexcept override { return false; }
    Status seal(LayerId id, Parents parents) override;
    Result<bool> is_sealed(LayerId id, Parents parents) override;
    Status reopen(LayerId id, Parents parents) override;
    Status remove(LayerId id) override;
    Result<uint64_t> reap(const std::atomic<bool> *cancel) override;
    Result<ProbeReport> probe() override;

private:
    Status make_layer(LayerId id, Parents parents) override;
    Result<View> make_tree(LayerId id, Parents parents) override;
    Status make_immutable(LayerId id) override;
    [[nodiscard]] bool trees_are_snapshots() const noexcept override { return true; }
    Result<bool> destroy(int trash, const char *name) const;
};

} // namespace shale::drivers::btrfs
