// SPDX-License-Identifier: Apache-2.0
// erofs: one immutable image a layer, a container's changes in a directory above. Layout in FORMAT.md beside this file.
// States of ROOT/<id>: {image.erofs.tmp} staged; {image.erofs} sealed; {upper, work} active; {image.erofs, upper[,
// work]} being sealed. Either way with {mnt}: the image is or was mounted there. Invariants: an image that has its name
// is complete; what is mounted on ROOT/<id>/mnt is ROOT/<id>/image.erofs. Lock order: mounts_mutex_ alone.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>

#include "drivers/directory_driver.h"
#include "drivers/erofs/image_tree.h"

namespace shale::drivers::erofs {

inline constexpr unsigned max_lowers = 500; ///< OVL_MAX_STACK, fs/overlayfs/params.h

/// How the kernel gets at an image: the ladder, newest rung first.
enum class Backing : uint8_t {
    file, ///< straight from the file: Linux 6.12, CONFIG_EROFS_FS_BACKED_BY_FILE
    loop, ///< through a loop device
};

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
    Result<std::vector<sys::MountSpec>> mounts(LayerId id, Parents parents, Driver::Access access) override;
    Status exchange(LayerId fresh, LayerId old) override;
    Status remove(LayerId id) override;
    Result<Usage> usage(LayerId id, Parents parents) override;
    Result<DiffReport> diff(LayerId id, Parents parents, const archive::Sink &sink) override;
    Status changes(LayerId id, Parents parents, const archive::ChangeSink &sink) override;
    Result<View> open_view(LayerId id, Parents parents) override;
    [[nodiscard]] unsigned max_depth() const noexcept override { return max_lowers; }
    Result<ProbeReport> probe() override;
    Result<std::vector<std::string>> check(LayerId id, Parents parents) override;
    Result<std::vector<std::string>> verify(LayerId id) override;

    /// The root of a sealed layer's image, mounted for as long as the layer is there.
    Result<UniqueFd> image_root(LayerId id);

private:
    [[nodiscard]] std::string path(LayerId id, std::string_view part) const;
    [[nodiscard]] Result<bool> has(LayerId id, const char *part) const;
    /// ROOT/<id>/mnt, with the image mounted on it.
    Result<std::string> mounted(LayerId id);
    Status unmount(LayerId id) const;
    /// A new image of the layer, under its temporary name.
    Result<std::unique_ptr<ImageTree>> new_image(LayerId id) const;
    /// The finished image gets its name.
    Status publish(LayerId id, ImageTree &tree) const;
    /// The layer's own changes, in upper form.
    Result<UniqueFd> own_tree(LayerId id);
    Status check_depth(LayerId id, Parents parents) const;
    /// "lowerdir=..." of these layers, mounted; `first` in front when it is not empty.
    Result<std::string> lower_option(const std::string &first, Parents layers);

    Config config_;
    std::atomic<bool> no_file_backing_{false}; ///< found out: the newest rung does not hold
    std::mutex mounts_mutex_;                  ///< one image is mounted by one thread
};

} // namespace shale::drivers::erofs
