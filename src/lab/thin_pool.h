// SPDX-License-Identifier: Apache-2.0
// A thin pool of a scenario's own, on two loop devices, made by the bare ioctls: without the care that shale's driver
// takes. Source of tables and messages: kernel, Documentation/admin-guide/device-mapper/thin-provisioning.rst.
#pragma once

#include <cstdint>
#include <string>

#include "lab/world.h"
#include "sys/dm_status.h"

namespace shale::lab {

class ThinPool {
public:
    static constexpr uint64_t block_bytes = 64U << 10U;

    /// An empty pool, active. Its devices go with the world.
    static Result<ThinPool> make(const World &world, uint64_t metadata_bytes, uint64_t data_bytes);

    [[nodiscard]] const std::string &name() const noexcept { return name_; }
    [[nodiscard]] Result<sys::ThinPoolStatus> status() const;
    /// The status line, as the kernel writes it.
    [[nodiscard]] Result<std::string> status_text() const;
    /// create_thin, create_snap; a refusal of the kernel's is the error.
    [[nodiscard]] Status create(uint64_t volume) const;
    [[nodiscard]] Status snapshot(uint64_t volume, uint64_t origin) const;
    /// The volume as a block device: its path.
    [[nodiscard]] Result<std::string> activate(uint64_t volume, uint64_t bytes) const;
    [[nodiscard]] Status deactivate(uint64_t volume) const;
    /// A volume that is active and about to be taken a snapshot of: nothing may be on its way.
    [[nodiscard]] Status suspend(uint64_t volume) const;
    [[nodiscard]] Status resume(uint64_t volume) const;

    /// The pool itself, with no volume active.
    [[nodiscard]] Status stop() const;
    [[nodiscard]] Status start() const;
    /// The data device is larger from now on; the pool may be in use.
    [[nodiscard]] Status grow_data(uint64_t bytes);
    /// While it is stopped.
    [[nodiscard]] Status grow_metadata(uint64_t bytes);
    [[nodiscard]] const std::string &metadata_device() const noexcept { return metadata_.device; }

private:
    ThinPool(std::string name, Disk metadata, Disk data, uint64_t data_bytes)
        : name_(std::move(name)), metadata_(std::move(metadata)), data_(std::move(data)), data_bytes_(data_bytes) {}
    [[nodiscard]] std::string volume_name(uint64_t volume) const;
    [[nodiscard]] std::string parameters() const;

    std::string name_;
    Disk metadata_, data_;
    uint64_t data_bytes_;
};

} // namespace shale::lab
