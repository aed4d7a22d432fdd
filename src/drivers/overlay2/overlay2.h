// SPDX-License-Identifier: Apache-2.0
// overlay2: one directory a layer, merged by the kernel's overlay. Layout in FORMAT.md beside this file.
// States of ROOT/<id>: {diff} staged or sealed (the store's records tell which); {diff, work} active.
// Invariants: what is in diff is in upper form and is all of the layer; work holds nothing of worth. A layer that was
// mounted while redirect_dir or metacopy were on carries the marker file "redirects": its diff may not tell the truth
// alone.
#pragma once

#include <memory>
#include <string>

#include "drivers/directory_driver.h"
#include "drivers/overlay_stack.h"

namespace shale::drivers::overlay2 {

/// Options, taken apart.
struct Config {
    std::string redirect_dir, metacopy, index, xino;
    bool is_volatile = false;
    bool userxattr = false;
    Quota default_quota;

    static Result<Config> from(const DriverOptions &given);
    /// The upper may hold redirects: on a rename of a directory or a change of metadata.
    [[nodiscard]] bool can_redirect() const noexcept { return redirect_dir == "on" || metacopy == "on"; }
    [[nodiscard]] archive::WhiteoutForm form() const noexcept {
        return userxattr ? archive::WhiteoutForm::overlay_user : archive::WhiteoutForm::overlay_trusted;
    }
    [[nodiscard]] const char *prefix() const noexcept { return userxattr ? "user.overlay." : "trusted.overlay."; }
    /// Mount options that follow lowerdir, upperdir and workdir.
    [[nodiscard]] std::vector<std::string> mount_options(bool writable) const;
};

std::span<const OptionInfo> option_infos() noexcept;
Result<std::unique_ptr<Driver>> open(const std::string &root, const DriverOptions &options);

class Overlay2 final : public DirectoryDriver {
public:
    Overlay2(LayerRoot root, Config config)
        : DirectoryDriver(std::move(root), config.default_quota), config_(std::move(config)) {}

    [[nodiscard]] std::string_view name() const noexcept override { return "overlay2"; }
    Result<Staging> stage(LayerId id, Parents parents) override;
    Status apply(LayerId id, Parents parents, Staging staged, const archive::ExtractReport &report) override;
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
    [[nodiscard]] unsigned max_depth() const noexcept override { return max_lowers; }
    Result<ProbeReport> probe() override;
    Result<std::vector<std::string>> check(LayerId id, Parents parents) override;

private:
    [[nodiscard]] std::string diff_path(LayerId id) const;
    [[nodiscard]] std::string lower_option(LayerId first, Parents rest) const;
    Status check_depth(LayerId id, Parents parents) const;
    /// First redirect or metacopy mark in the layer's tree; empty: none.
    Result<std::string> find_redirect(LayerId id, int diff) const;

    Config config_;
};

} // namespace shale::drivers::overlay2
