// SPDX-License-Identifier: Apache-2.0
#include "drivers/devicemapper/backing.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>

#include <fmt/format.h>

#include "base/units.h"
#include "sys/dm.h"
#include "sys/fs.h"
#include "sys/loop.h"
#include "sys/run.h"

namespace shale::drivers::devicemapper {
namespace {

constexpr uint64_t mib = uint64_t{1} << 20U;
constexpr uint64_t unit = uint64_t{64} << 10U; ///< of the metadata's size on a device
constexpr auto lvm_deadline = std::chrono::seconds(60);

Status all_zero(const BlockDevice &device, uint64_t bytes) {
    const UniqueFd fd = TRY(sys::open_block_device(device.path, O_RDONLY));
    std::vector<std::byte> buffer(64U << 10U);
    for (uint64_t at = 0; at < std::min(bytes, device.bytes);) {
        const size_t got = TRY(sys::pread_some(fd.get(), buffer, at));
        if (got == 0) break;
        if (!std::all_of(buffer.begin(), buffer.begin() + static_cast<ptrdiff_t>(got),
                         [](std::byte b) { return b == std::byte{0}; }))
            return fail(Errc::FailedPrecondition,
                        fmt::format("{} is not empty: it holds data of somebody else. Nothing was written. If that is "
                                    "to go: wipefs -a {} and blkdiscard -z or dd the first MiB",
                                    device.path, device.path));
        at += got;
    }
    return {};
}

/// Sparse files in the store. A file that exists keeps its size.
class LoopBacking final : public PoolBacking {
public:
    LoopBacking(int directory, const Config &config) : directory_(directory), config_(config) {}

    Status make() override {
        TRY(make_file("metadata", metadata_bytes()));
        TRY(make_file("data", config_.data_bytes));
        return sys::fsync_fd(directory_);
    }
    Result<Attached> attach() override {
        Attached out;
        out.metadata = TRY(attach_file("metadata", out.keep));
        out.data = TRY(attach_file("data", out.keep));
        return out;
    }
    Result<Attached> attached(const std::string &metadata, const std::string &data) override {
        Attached out;
        out.metadata = TRY(is_ours("metadata", metadata));
        out.data = TRY(is_ours("data", data));
        return out;
    }
    Status grow(const Attached *active) override {
        TRY(grow_file("metadata", config_.metadata_bytes, active != nullptr ? active->metadata.path : ""));
        return grow_file("data", config_.data_bytes, active != nullptr ? active->data.path : "");
    }
    Status detach() override { return {}; } // the kernel does it when the pool closes them

private:
    [[nodiscard]] uint64_t metadata_bytes() const {
        return config_.metadata_bytes != 0 ? config_.metadata_bytes
                                           : metadata_size_for(config_.data_bytes, config_.block_bytes);
    }
    Status make_file(const char *name, uint64_t bytes) const {
        const UniqueFd file = TRY(sys::open_at(directory_, name, O_RDWR | O_CREAT, 0600));
        // Emptied first: a pool that was begun and not finished is begun again.
        TRY(sys::truncate_fd(file.get(), 0));
        TRY(sys::truncate_fd(file.get(), bytes));
        return sys::fsync_fd(file.get());
    }
    Result<BlockDevice> attach_file(const char *name, std::vector<UniqueFd> &keep) const {
        const UniqueFd file = TRY(sys::open_at(directory_, name, O_RDWR));
        auto loop = TRY(sys::attach_loop(file.get(), false));
        keep.push_back(std::move(loop.fd));
        return sys::look_at_block_device(loop.path);
    }
    Result<BlockDevice> is_ours(const char *name, const std::string &number) const {
        const std::string link = TRY(sys::read_link(AT_FDCWD, ("/sys/dev/block/" + number).c_str()));
        const std::string path = "/dev" + link.substr(link.rfind('/'));
        const struct stat file = TRY(sys::stat_at(directory_, name));
        const auto behind = sys::loop_file(path);
        if (!behind || behind->inode != file.st_ino)
            return fail(Errc::FailedPrecondition,
                        fmt::format("the active pool's {} device {} is not this store's file \"{}\": another store's "
                                    "pool is active under this name; deactivate that one (dmsetup remove), then try "
                                    "again",
                                    name, path, name));
        return sys::look_at_block_device(path);
    }
    Status grow_file(const char *name, uint64_t bytes, const std::string &loop) const {
        const UniqueFd file = TRY(sys::open_at(directory_, name, O_RDWR));
        const struct stat status = TRY(sys::stat_at(file.get(), ""));
        if (static_cast<uint64_t>(status.st_size) < bytes) TRY(sys::truncate_fd(file.get(), bytes));
        if (!loop.empty() &&
            TRY(sys::look_at_block_device(loop)).bytes < std::max(bytes, static_cast<uint64_t>(status.st_size)))
            TRY(sys::grow_loop(loop));
        return {};
    }

    int directory_;
    const Config &config_;
};

/// One device, all of it. Its first MiB says whose it is, and where the metadata ends.
class DeviceBacking final : public PoolBacking {
public:
    DeviceBacking(PoolName name, const Config &config) : name_(std::move(name)), config_(config) {}

    Status make() override {
        const BlockDevice device = TRY(sys::look_at_block_device(config_.device));
        const uint64_t metadata =
            config_.metadata_bytes != 0 ? config_.metadata_bytes : metadata_size_for(device.bytes, config_.block_bytes);
        if (device.bytes < 2 * mib + metadata + config_.block_bytes)
            return fail(Errc::FailedPrecondition,
                        fmt::format("{} has {}: the pool's metadata alone needs {}", device.path,
                                    format_bytes(device.bytes), format_bytes(metadata)));
        if (const auto known = read_label(); !known) {
            if (known.error().code() != Errc::NotFound) return std::unexpected(known.error());
            TRY(all_zero(device, mib));
        }
        const UniqueFd fd = TRY(sys::open_block_device(device.path, O_RDWR | O_EXCL));
        std::string label =
            fmt::format("{}store={}\nmetadata={}\n", magic, name_.store, (metadata + unit - 1) / unit * unit);
        label.resize(4096, '\0');
        TRY(sys::pwrite_all(fd.get(), std::as_bytes(std::span(label)), 0));
        // A fresh pool is one whose metadata begins with a block of zeros.
        const std::string zeros(4096, '\0');
        TRY(sys::pwrite_all(fd.get(), std::as_bytes(std::span(zeros)), mib));
        return sys::fsync_fd(fd.get());
    }
    Result<Attached> attach() override {
        const BlockDevice device = TRY(sys::look_at_block_device(config_.device));
        const uint64_t metadata = TRY(read_label());
        const uint64_t room = device.bytes - mib - metadata;
        const uint64_t data = config_.data_bytes != 0 ? std::min(config_.data_bytes, room) : room;
        TRY(make_part("meta", device, mib, metadata));
        TRY(make_part("data", device, mib + metadata, data / config_.block_bytes * config_.block_bytes));
        return parts();
    }
    Result<Attached> attached(const std::string &metadata, const std::string &data) override {
        auto out = TRY(parts());
        if (out.metadata.number != metadata || out.data.number != data)
            return fail(Errc::FailedPrecondition, fmt::format("the active pool lies on devices {} and {}, not on {}",
                                                              metadata, data, config_.device));
        return out;
    }
    Status grow(const Attached * /*active*/) override { return {}; } // with the device, at the next activation
    Status detach() override {
        for (const auto *part : {"meta", "data"})
            if (TRY(sys::dm_find(name(part)))) TRY(sys::dm_remove(name(part), sys::DmRemove::when_unused));
        return {};
    }

private:
    static constexpr std::string_view magic = "shale thin pool 1\n";

    [[nodiscard]] std::string name(const char *part) const { return fmt::format("{}-{}", name_.prefix, part); }

    /// Bytes of metadata. NotFound: no label.
    Result<uint64_t> read_label() const {
        const UniqueFd fd = TRY(sys::open_block_device(config_.device, O_RDONLY));
        std::string text(4096, '\0');
        text.resize(TRY(sys::pread_some(fd.get(), std::as_writable_bytes(std::span(text)), 0)));
        if (!text.starts_with(magic))
            return fail(Errc::NotFound, fmt::format("{} is not a pool of shale's", config_.device));
        const std::string head = fmt::format("{}store={}\n", magic, name_.store);
        constexpr std::string_view key = "metadata=";
        const size_t at = head.size();
        if (!text.starts_with(head) || text.substr(at, key.size()) != key)
            return fail(Errc::FailedPrecondition,
                        fmt::format("{} is the pool of another store of shale's (its first lines say which). If that "
                                    "is gone for good: blkdiscard -z {}, or dd zeros over its first MiB",
                                    config_.device, config_.device));
        const auto bytes = parse_bytes(text.substr(at + key.size(), text.find('\n', at) - at - key.size()));
        if (!bytes || *bytes == 0 || *bytes > (uint64_t{16} << 30U))
            return fail(Errc::DataLoss, fmt::format("the label of {} is damaged", config_.device));
        return *bytes;
    }
    Status make_part(const char *part, const BlockDevice &device, uint64_t offset, uint64_t bytes) const {
        if (const auto there = TRY(sys::dm_find(name(part)))) {
            if (there->has_table) return {};
            TRY(sys::dm_remove(name(part), sys::DmRemove::now)); // its maker died before it had one
        }
        return sys::dm_create(name(part), "SHALE-" + name(part),
                              {{0, bytes / sys::sector_bytes, "linear",
                                fmt::format("{} {}", device.number, offset / sys::sector_bytes)}});
    }
    Result<Attached> parts() const {
        Attached out;
        out.metadata = TRY(sys::look_at_block_device(TRY(sys::dm_node(name("meta")))));
        out.data = TRY(sys::look_at_block_device(TRY(sys::dm_node(name("data")))));
        return out;
    }

    PoolName name_;
    const Config &config_;
};

/// Two logical volumes in a group of LVM2's. The thin pool itself is not LVM's: a transaction id has one master.
class VolumeBacking final : public PoolBacking {
public:
    VolumeBacking(PoolName name, const Config &config) : name_(std::move(name)), config_(config) {}

    Status make() override {
        const uint64_t free_bytes = TRY(vg_free());
        const uint64_t metadata =
            config_.metadata_bytes != 0
                ? config_.metadata_bytes
                : metadata_size_for(config_.data_bytes != 0 ? config_.data_bytes : free_bytes, config_.block_bytes);
        for (const auto *part : {"meta", "data"})
            if (TRY(exists(part))) TRY(lvm({"lvremove", "-f", full_name(part)})); // begun and not finished
        TRY(create("meta", {"-L", fmt::format("{}b", metadata)}));
        if (config_.data_bytes != 0) return create("data", {"-L", fmt::format("{}b", config_.data_bytes)});
        return create("data", {"-l", "100%FREE"});
    }
    Result<Attached> attach() override {
        Attached out;
        for (const auto *part : {"meta", "data"})
            TRY(lvm({"lvchange", "-ay", full_name(part)}));
        out.metadata = TRY(sys::look_at_block_device(path("meta")));
        out.data = TRY(sys::look_at_block_device(path("data")));
        return out;
    }
    Result<Attached> attached(const std::string &metadata, const std::string &data) override {
        Attached out;
        out.metadata = TRY(sys::look_at_block_device(path("meta")));
        out.data = TRY(sys::look_at_block_device(path("data")));
        if (out.metadata.number != metadata || out.data.number != data)
            return fail(Errc::FailedPrecondition, fmt::format("the active pool lies on devices {} and {}, not on {} "
                                                              "and {}",
                                                              metadata, data, out.metadata.path, out.data.path));
        return out;
    }
    Status grow(const Attached *active) override {
        if (active == nullptr) return {};
        if (config_.metadata_bytes > active->metadata.bytes)
            TRY(lvm({"lvextend", "-L", fmt::format("{}b", config_.metadata_bytes), full_name("meta")}));
        if (config_.data_bytes > active->data.bytes)
            TRY(lvm({"lvextend", "-L", fmt::format("{}b", config_.data_bytes), full_name("data")}));
        return {};
    }
    Status detach() override {
        for (const auto *part : {"meta", "data"})
            if (TRY(exists(part))) TRY(lvm({"lvchange", "-an", full_name(part)}));
        return {};
    }

private:
    static Result<std::string> lvm(std::vector<std::string> arguments) {
        // --yes: no question can be answered here.
        arguments.insert(arguments.begin(), TRY(sys::find_tool("lvm", "lvm2")));
        arguments.insert(arguments.begin() + 2, {"--yes", "--quiet", "--config",
                                                 "activation{udev_sync=0 udev_rules=0} backup{backup=0 archive=0}"});
        return sys::run_tool_or_fail(arguments, lvm_deadline);
    }
    [[nodiscard]] std::string full_name(const char *part) const {
        return fmt::format("{}/shale_{}_{}", config_.device, name_.store, part);
    }
    [[nodiscard]] std::string path(const char *part) const { return "/dev/" + full_name(part); }
    Result<bool> exists(const char *part) const {
        const std::string wanted = full_name(part);
        const std::string list = TRY(lvm({"lvs", "--noheadings", "-o", "lv_full_name", config_.device}));
        return fmt::format("{} ", list).find(wanted + "\n") != std::string::npos;
    }
    Status create(const char *part, const std::vector<std::string> &size) const {
        const std::string name = full_name(part);
        std::vector<std::string> arguments{"lvcreate", "-Zn", "-Wn", "-an", "-n", name.substr(name.find('/') + 1)};
        arguments.insert(arguments.end(), size.begin(), size.end());
        arguments.push_back(config_.device);
        TRY(lvm(std::move(arguments)));
        if (std::string_view(part) != "meta") return {};
        TRY(lvm({"lvchange", "-ay", name}));
        const UniqueFd fd = TRY(sys::open_block_device("/dev/" + name, O_RDWR));
        const std::string zeros(4096, '\0');
        TRY(sys::pwrite_all(fd.get(), std::as_bytes(std::span(zeros)), 0));
        return sys::fsync_fd(fd.get());
    }
    Result<uint64_t> vg_free() const {
        std::string text =
            TRY(lvm({"vgs", "--noheadings", "--nosuffix", "--units", "b", "-o", "vg_free", config_.device}));
        std::erase_if(text, [](char c) { return c < '0' || c > '9'; });
        return parse_bytes(text);
    }

    PoolName name_;
    const Config &config_;
};

} // namespace

std::unique_ptr<PoolBacking> open_backing(int directory, PoolName name, const Config &config) {
    switch (config.backing) {
    case Backing::device:
        return std::make_unique<DeviceBacking>(std::move(name), config);
    case Backing::volumes:
        return std::make_unique<VolumeBacking>(std::move(name), config);
    case Backing::loop:
        break;
    }
    return std::make_unique<LoopBacking>(directory, config);
}

} // namespace shale::drivers::devicemapper
