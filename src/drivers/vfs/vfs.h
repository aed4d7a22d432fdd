// SPDX-License-Identifier: Apache-2.0
// vfs: every layer is a complete tree, copied from its parent (by reflink where the file system can). Needs no
// privilege beyond owning what it writes. Layout in FORMAT.md beside this file; states in tree_driver.h.
#pragma once

#include <memory>
#include <string>

#include "drivers/tree_driver.h"

namespace shale::drivers::vfs {

std::span<const OptionInfo> option_infos() noexcept;
Result<std::unique_ptr<Driver>> open(const std::string &root, const DriverOptions &options);

class Vfs final : public TreeDriver {
public:
    Vfs(LayerRoot root, const Quota &default_quota) : TreeDriver(std::move(root), default_quota) {}
    [[nodiscard]] std::string_view name() const noexcept override { return "vfs"; }
    Result<ProbeReport> probe() override;

private:
    Status make_layer(LayerId id, Parents parents) override;
    Result<View> make_tree(LayerId id, Parents parents) override;
};

} // namespace shale::drivers::vfs
