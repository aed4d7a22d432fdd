// SPDX-License-Identifier: Apache-2.0
// overlay, the legacy driver: every sealed layer is a complete tree in which unchanged files are hard links to the
// parent's; a container is an overlay over that one tree. Deprecated (an inode for each directory of each layer, and
// names run out): there to hold, check and mend stores that have it, and to migrate from. Layout in FORMAT.md beside
// this file.
#pragma once

#include <memory>
#include <string>

#include "drivers/tree_driver.h"

namespace shale::drivers::overlay {

/// Beyond this Docker's legacy driver was never used, and each layer more costs its directories again.
inline constexpr unsigned max_layers = 100;

std::span<const OptionInfo> option_infos() noexcept;
Result<std::unique_ptr<Driver>> open(const std::string &root, const DriverOptions &options);

class Overlay final : public TreeDriver {
public:
    Overlay(LayerRoot root, const Quota &default_quota);
    [[nodiscard]] std::string_view name() const noexcept override { return "overlay"; }
    [[nodiscard]] bool links_to_parents() const noexcept override { return true; }
    Status create(LayerId id, Parents parents, const Quota &quota) override;
    Status seal(LayerId id, Parents parents) override;
    Result<bool> is_sealed(LayerId id, Parents parents) override;
    Status reopen(LayerId id, Parents parents) override;
    Status set_owner(LayerId id, uid_t uid, gid_t gid) override;
    Result<std::vector<sys::MountSpec>> mounts(LayerId id, Parents parents, Access access) override;
    Result<Usage> usage(LayerId id, Parents parents) override;
    Result<DiffReport> diff(LayerId id, Parents parents, const archive::Sink &sink) override;
    Status changes(LayerId id, Parents parents, const archive::ChangeSink &sink) override;
    Result<View> open_view(LayerId id, Parents parents) override;
    Status suits_here() override { return has_types(); }
    [[nodiscard]] unsigned max_depth() const noexcept override { return max_layers; }
    Result<ProbeReport> probe() override;
    Result<std::vector<std::string>> check(LayerId id, Parents parents) override;

private:
    Status make_layer(LayerId id, Parents parents) override;
    Result<View> make_tree(LayerId id, Parents parents) override;
    /// True: a container's layer ({upper, work}), not a tree.
    [[nodiscard]] Result<bool> is_container(LayerId id) const;
    [[nodiscard]] std::string part(LayerId id, const char *name) const;

    archive::WhiteoutForm form_;
};

} // namespace shale::drivers::overlay
