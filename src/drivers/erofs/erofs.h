// SPDX-License-Identifier: Apache-2.0
// erofs: one immutable image a layer, a container's changes in a directory above. Layout in FORMAT.md beside this file.
// States of ROOT/<id>: {image.erofs.tmp} staged; {upper, work} active; {tree[, work][, image.erofs.tmp]} sealed, a
// directory still; {image.erofs[, tree][, work]} settled. With {mnt}: the image is or was mounted there. Invariants: an
// image that has its name is complete, and counts before a tree; what is mounted on ROOT/<id>/mnt is
// ROOT/<id>/image.erofs. Lock order: mounts_mutex_ alone.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>

#include "drivers/directory_driver.h"
#include "drivers/erofs/image_tree.h"
#include "drivers/overlay_stack.h"

namespace shale::drivers::erofs {

/// How the kernel gets at an image: the ladder, newest rung first.
enum class Backing : uint8_t {
    file, ///< straight from the file: Linux 6.12, CONFIG_EROFS_FS_BACKED_BY_FILE
    loop, ///< through a loop device
};

constexpr const char *image_name = "image.erofs", *tree_name = "tree";

struct Config {
    std::optional<Backing> backing; ///< nullopt: the best that works
    bool is_volatile = false;
    Quota default_quota;
    static Result<Config> from(const DriverOptions &given);
};

std::span<const OptionInfo> option_infos() noexcept;
Result<std::unique_ptr<Driver>> open(const std::string &root, const DriverOptions &options);

/// Mounts an image read-only on a directory and tells by which rung; `wanted`: that one only.
Result<Backing> mount_image(const std::string &image, const std::string &target, std::optional<Backing> wanted);

class Erofs final : public DirectoryDriver {
public:
    Erofs(LayerRoot root, const Config &config)
        : DirectoryDriver(std::move(root), config.default_quota), config_(config) {}

    [[nodiscard]] std::string_view name() const noexcept override { return "erofs"; }
    Result<Staging> stage(LayerId id, Parents parents) override;
    Status apply(LayerId id, Parents parents, Staging staged, const archive::ExtractReport &report) override;
    Status create(LayerId id, Parents parents, const Quota &quota) override;
    Status seal(LayerId id, Parents parents) override;
    Result<bool> is_sealed(LayerId id, Parents parents) override;
    Status reopen(LayerId id, Parents parents) override;
    Status set_owner(LayerId id, uid_t uid, gid_t gid) override;
    Result<std::vector<LayerId>> unsettled() override;
    Result<bool> settle(LayerId id, const Permit &permit) override;
    Result<std::vector<sys::MountSpec>> mounts(LayerId id, Parents parents, Driver::Access access) override;
    Status exchange(LayerId fresh, LayerId old) override;
    Status remove(LayerId id) override;
    Result<Usage> usage(LayerId id, Parents parents) override;
    Result<DiffReport> diff(LayerId id, Parents parents, const archive::Sink &sink) override;
    Status changes(LayerId id, Parents parents, const archive::ChangeSink &sink) override;
    Result<View> open_view(LayerId id, Parents parents) override;
    Status suits_here() override { return has_types(); }
    [[nodiscard]] unsigned max_depth() const noexcept override { return max_lowers; }
    Result<ProbeReport> probe() override;
    Result<std::vector<std::string>> check(LayerId id, Parents parents) override;
    Result<std::vector<std::string>> verify(LayerId id) override;

    /// The root of a sealed layer: of its image, mounted for as long as the layer is there, or of its tree.
    Result<UniqueFd> sealed_root(LayerId id);

private:
    [[nodiscard]] std::string path(LayerId id, std::string_view part) const;
    [[nodiscard]] Result<bool> has(LayerId id, const char *part) const;
    /// Where a sealed layer's files are: ROOT/<id>/mnt, with the image mounted on it, or ROOT/<id>/tree.
    Result<std::string> sealed_path(LayerId id);
    Status unmount(LayerId id) const;
    /// The file of a new image of the layer, under its temporary name.
    Result<UniqueFd> new_image(LayerId id) const;
    enum class Synced : uint8_t { later, now };
    /// All of the image is written; with `now` it is on stable storage.
    static Status finish(ImageTree &tree, Synced synced);
    /// The finished image gets its name.
    Status publish(LayerId id) const;
    Status check_image(LayerId id, std::vector<std::string> &out) const;
    /// The layer's own changes, in upper form.
    Result<UniqueFd> own_tree(LayerId id);
    Status check_depth(LayerId id, Parents parents) const;
    /// "lowerdir=..." of these sealed layers; `first` in front when it is not empty.
    Result<std::string> lower_option(const std::string &first, Parents layers);

    Config config_;
    std::atomic<bool> no_file_backing_{false}; ///< found out: the newest rung does not hold
    std::mutex mounts_mutex_;                  ///< one image is mounted by one thread
};

} // namespace shale::drivers::erofs
