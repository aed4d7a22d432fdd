// SPDX-License-Identifier: Apache-2.0
// vfs: every layer is a complete tree, copied from its parent (by reflink where the file system can). Needs no
// privilege beyond owning what it writes. Layout in FORMAT.md beside this file. States of ROOT/<id>: {stage} being
// extracted; {stage, fs} being applied; {fs} done (active or sealed: the store's records tell).
#pragma once

#include <memory>
#include <string>

#include "drivers/common.h"
#include "drivers/driver.h"

namespace shale::drivers::vfs {

std::span<const OptionInfo> option_infos() noexcept;
Result<std::unique_ptr<Driver>> open(const std::string &root, const DriverOptions &options);

class Vfs final : public Driver {
public:
    Vfs(LayerRoot root, Quota default_quota) : root_(std::move(root)), default_quota_(default_quota) {
        quota_ = ProjectQuota::open(root_, no_quota_reason_);
    }

    [[nodiscard]] std::string_view name() const noexcept override { return "vfs"; }
    Result<Staging> stage(LayerId id) override;
    Status apply(LayerId id, Parents parents, const archive::ExtractReport &report) override;
    Status create(LayerId id, Parents parents, const Quota &quota) override;
    Status seal(LayerId /*id*/, Parents /*parents*/) override { return {}; }
    Status sync(std::span<const LayerId> ids) override;
    Result<std::vector<sys::MountSpec>> mounts(LayerId id, Parents parents, Access access) override;
    Status exchange(LayerId fresh, LayerId old) override { return root_.exchange(fresh, old); }
    Status remove(LayerId id) override { return root_.to_trash(to_string(id), id); }
    Result<uint64_t> reap(const std::atomic<bool> *cancel) override { return root_.reap(cancel); }
    Result<TrashUsage> trash() override { return root_.trash(); }
    Result<std::vector<LayerId>> list() override { return root_.list(); }
    Result<Usage> usage(LayerId id, Parents parents) override;
    Result<DiffReport> diff(LayerId id, Parents parents, const archive::Sink &sink) override;
    Status changes(LayerId id, Parents parents, const archive::ChangeSink &sink) override;
    Result<View> open_view(LayerId id, Parents parents) override;
    [[nodiscard]] unsigned max_depth() const noexcept override { return 100'000; } ///< a layer needs only its own tree
    Result<ProbeReport> probe() override;
    Result<std::vector<std::string>> check(LayerId id, Parents parents) override;
    QuotaControl *quota() noexcept override { return quota_.get(); }

private:
    /// ROOT/<id>/fs as a copy of the nearest parent's (empty without).
    Result<UniqueFd> copy_of_parent(LayerId id, Parents parents);

    LayerRoot root_;
    Quota default_quota_;
    std::string no_quota_reason_;
    std::unique_ptr<ProjectQuota> quota_; ///< refers to root_
};

} // namespace shale::drivers::vfs
