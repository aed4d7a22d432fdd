// SPDX-License-Identifier: Apache-2.0
// A driver whose layers are directories below one root (LayerRoot): all of it that does not depend on what is in them.
// Limits and counts go through one LayerCounter, by default project quota.
#pragma once

#include <memory>
#include <string>

#include "drivers/common.h"
#include "drivers/driver.h"

namespace shale::drivers {

class DirectoryDriver : public Driver {
public:
    Status sync(std::span<const LayerId> ids) override;
    Status exchange(LayerId fresh, LayerId old) override { return root_.exchange(fresh, old); }
    Status remove(LayerId id) override { return root_.to_trash(to_string(id), id); }
    Result<uint64_t> reap(const std::atomic<bool> *cancel) override { return root_.reap(cancel); }
    Result<TrashUsage> trash() override { return root_.trash(); }
    Result<uint64_t> trash_layers() override { return root_.trash_layers(); }
    Result<std::vector<LayerId>> list() override { return root_.list(); }
    QuotaControl *quota() noexcept override { return counter_.get(); }

protected:
    DirectoryDriver(LayerRoot root, const Quota &default_quota);
    DirectoryDriver(const DirectoryDriver &) = delete;
    DirectoryDriver &operator=(const DirectoryDriver &) = delete;

    /// What a new container may use: what was asked for, else the driver's default. FailedPrecondition when that is a
    /// limit and nothing counts here.
    Result<Quota> limit_of(LayerId id, const Quota &asked) const;
    /// The fresh, empty layer is counted from now on, where anything counts.
    Status count(LayerId id, const Quota &limit = {});
    /// FailedPrecondition: directory entries have no type here, so that an overlay would show wrong directories.
    Status has_types() const;
    /// From the counter; nullopt: it must be walked.
    Result<std::optional<Usage>> counted(LayerId id);
    /// The facts of every probe in this family: backing file system, d_type.
    Fact quota_fact() const { return {"quota", counter_ ? std::string(counter_->kind()) : "no", no_quota_reason_}; }

    LayerRoot root_;
    Quota default_quota_;
    std::string no_quota_reason_;           ///< why counter_ is null
    std::unique_ptr<LayerCounter> counter_; ///< refers to root_
};

/// The options "size" and "inodes" of drivers that can limit a container.
Result<Quota> default_quota(std::string_view driver, const DriverOptions &options);

} // namespace shale::drivers
