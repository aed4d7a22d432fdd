// SPDX-License-Identifier: Apache-2.0
#include "drivers/devicemapper/backing.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <chrono>

#include <fmt/format.h>
#include <fmt/ranges.h>

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

std::unexpected<Error> in_use(const BlockDevice &device, const std::vector<std::string> &holders) {
    return fail(Errc::FailedPrecondition,
                fmt::format("{} is in use by {}: two pools on one device destroy each other, so nothing was "
                            "changed. If that is the pool of a store of which this one is a copy or which was "
                            "moved here, unmount what is on it and deactivate it (dmsetup remove), then try again",
                            device.path,
                            holders.empty() ? "a mount, or a program that has it for itself alone"
                                            : fmt::format("{}", fmt::join(holders, ", "))));
}

/// Metadata on a device, or in its label, is in whole units.
uint64_t in_units(uint64_t bytes) {
    return (bytes + unit - 1) / unit * unit;
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
        TRY(grow_file("metadata", config_.metadata_bytes));
        TRY(grow_file("data", config_.data_bytes));
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
    Status grow(const Attached &active) override {
        TRY(grow_loop("metadata", config_.metadata_bytes, active.metadata));
        return grow_loop("data", config_.data_bytes, active.data);
    }
    /// All that the file may come to take, not only what it grows by: it is sparse, and a pool that its file system has
    /// no block for loses what is written to it.
    Result<std::string> room_for(SpacePool::Part part, uint64_t bytes) override {
        const char *name = part == SpacePool::Part::data ? "data" : "metadata";
        const struct stat file = TRY(sys::stat_at(directory_, name));
        const auto fs = TRY(sys::statfs_fd(directory_));
        const uint64_t taken = static_cast<uint64_t>(file.st_blocks) * sys::sector_bytes;
        const uint64_t wanted = bytes - std::min(bytes, taken);
        const uint64_t room = fs.f_bavail * static_cast<uint64_t>(fs.f_bsize);
        if (wanted > room)
            return fail(
                Errc::ResourceExhausted,
                fmt::format("the file system below pool/{} has no room for it: with {} the file may take {} more "
                            "than the {} that it has, and {} are free. Nothing was changed",
                            name, format_bytes(bytes), format_bytes(wanted), format_bytes(taken), format_bytes(room)));
        return fmt::format("pool/{}", name);
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
        if (!behind || behind->inode != file.st_ino || behind->device != file.st_dev)
            return fail(Errc::FailedPrecondition,
                        fmt::format("the active pool's {} device {} is not this store's file \"{}\": another store's "
                                    "pool is active under this name; deactivate that one (dmsetup remove), then try "
                                    "again",
                                    name, path, name));
        return sys::look_at_block_device(path);
    }
    /// Size of the file now.
    Result<uint64_t> grow_file(const char *name, uint64_t bytes) const {
        const UniqueFd file = TRY(sys::open_at(directory_, name, O_RDWR));
        const auto now = static_cast<uint64_t>(TRY(sys::stat_at(file.get(), "")).st_size);
        if (now < bytes) TRY(sys::truncate_fd(file.get(), bytes));
        return std::max(now, bytes);
    }
    Status grow_loop(const char *name, uint64_t bytes, const BlockDevice &loop) const {
        if (TRY(grow_file(name, bytes)) > loop.bytes) return sys::grow_loop(loop.path);
        return {};
    }

    int directory_;
    const Config &config_;
};

/// One device, all of it. Its first MiB says whose it is, and where the metadata ends, for good: data begins there.
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
        const UniqueFd fd = TRY(claim(device));
        if (const auto known = read_label(fd.get()); !known) {
            if (known.error().code() != Errc::NotFound) return std::unexpected(known.error());
            TRY(all_zero(device, mib));
        }
        std::string label = fmt::format("{}store={}\nmetadata={}\n", magic, name_.store, in_units(metadata));
        label.resize(4096, '\0');
        TRY(sys::pwrite_all(fd.get(), std::as_bytes(std::span(label)), 0));
        // A fresh pool is one whose metadata begins with a block of zeros.
        const std::string zeros(4096, '\0');
        TRY(sys::pwrite_all(fd.get(), std::as_bytes(std::span(zeros)), mib));
        return sys::fsync_fd(fd.get());
    }
    Result<Attached> attach() override {
        TRY(detach()); // what a process left that died before it had the pool
        const BlockDevice device = TRY(sys::look_at_block_device(config_.device));
        const uint64_t metadata = TRY(read_label(TRY(claim(device)).get()));
        TRY(same_metadata(config_, metadata));
        const uint64_t room = device.bytes - mib - metadata;
        const uint64_t data = config_.data_bytes != 0 ? std::min(config_.data_bytes, room) : room;
        TRY(make_part("meta", device, mib, metadata));
        TRY(make_part("data", device, mib + metadata, data / config_.block_bytes * config_.block_bytes));
        // All of device-mapper's own share one claim, so that somebody else's may have come in between.
        if (const auto others = TRY(others_on(device)); !others.empty()) {
            TRY(detach());
            return in_use(device, others);
        }
        return parts();
    }
    Result<Attached> attached(const std::string &metadata, const std::string &data) override {
        auto out = TRY(parts());
        const BlockDevice device = TRY(sys::look_at_block_device(config_.device));
        const UniqueFd fd = TRY(sys::open_block_device(config_.device, O_RDONLY));
        const uint64_t bytes = TRY(read_label(fd.get()));
        const bool same = out.metadata.number == metadata && out.data.number == data &&
                          TRY(lies_at("meta", device, mib)) && TRY(lies_at("data", device, mib + bytes));
        if (same) {
            TRY(same_metadata(config_, bytes));
            return out;
        }
        return fail(Errc::FailedPrecondition,
                    fmt::format("the active pool lies on devices {} and {}, which are not this store's parts of {}",
                                metadata, data, config_.device));
    }
    Status grow(const Attached & /*active*/) override { return {}; } // data only, at the next activation
    Result<std::string> room_for(SpacePool::Part part, uint64_t /*bytes*/) override {
        return fail(
            Errc::FailedPrecondition,
            part == SpacePool::Part::data
                ? fmt::format("the pool has all of {} that it may have; enlarge the device, and data_size where "
                              "it is set: that counts at the pool's next activation",
                              config_.device)
                : fmt::format("on {} data begins where the metadata ends, so that it cannot grow", config_.device));
    }
    Status detach() override {
        for (const auto *part : {"meta", "data"})
            if (TRY(sys::dm_find(name(part)))) TRY(sys::dm_remove(name(part), sys::DmRemove::when_unused));
        return {};
    }

private:
    static constexpr std::string_view magic = "shale thin pool 1\n";

    [[nodiscard]] std::string name(const char *part) const { return fmt::format("{}-{}", name_.prefix, part); }

    /// Nobody else uses the device, or can begin to while this is open.
    static Result<UniqueFd> claim(const BlockDevice &device) {
        auto fd = sys::open_block_device(device.path, O_RDWR | O_EXCL);
        if (!fd && fd.error().sys_errno() == EBUSY) return in_use(device, TRY(sys::holders_of(device.number)));
        return fd;
    }
    Result<std::vector<std::string>> others_on(const BlockDevice &device) const {
        auto out = TRY(sys::holders_of(device.number));
        std::erase_if(out, [&](const std::string &holder) { return holder == name("meta") || holder == name("data"); });
        return out;
    }
    Result<bool> lies_at(const char *part, const BlockDevice &device, uint64_t offset) const {
        const auto table = TRY(sys::dm_table(name(part)));
        return table.size() == 1 && table[0].type == "linear" && table[0].parameters == place(device, offset);
    }
    static std::string place(const BlockDevice &device, uint64_t offset) {
        return fmt::format("{} {}", device.number, offset / sys::sector_bytes);
    }

    /// Bytes of metadata. NotFound: no label.
    Result<uint64_t> read_label(int device) const {
        std::string text(4096, '\0');
        text.resize(TRY(sys::pread_some(device, std::as_writable_bytes(std::span(text)), 0)));
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
        return sys::dm_create(name(part), "SHALE-" + name(part),
                              {{0, bytes / sys::sector_bytes, "linear", place(device, offset)}});
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
        for (const auto *part : {"meta", "data"})
            TRY(lvm({"lvchange", "-ay", full_name(part)}));
        const Attached now = TRY(parts());
        for (const auto &part : {now.metadata, now.data})
            if (const auto holders = TRY(sys::holders_of(part.number)); !holders.empty()) return in_use(part, holders);
        TRY(grow(now));
        return parts();
    }
    Result<Attached> attached(const std::string &metadata, const std::string &data) override {
        auto out = TRY(parts());
        if (out.metadata.number != metadata || out.data.number != data)
            return fail(Errc::FailedPrecondition, fmt::format("the active pool lies on devices {} and {}, not on {} "
                                                              "and {}",
                                                              metadata, data, out.metadata.path, out.data.path));
        return out;
    }
    Status grow(const Attached &active) override {
        if (config_.metadata_bytes > active.metadata.bytes)
            TRY(lvm({"lvextend", "-L", fmt::format("{}b", config_.metadata_bytes), full_name("meta")}));
        if (config_.data_bytes > active.data.bytes)
            TRY(lvm({"lvextend", "-L", fmt::format("{}b", config_.data_bytes), full_name("data")}));
        return {};
    }
    Result<std::string> room_for(SpacePool::Part part, uint64_t bytes) override {
        const char *name = part == SpacePool::Part::data ? "data" : "meta";
        const uint64_t now = TRY(sys::look_at_block_device(path(name))).bytes, room = TRY(vg_free());
        if (bytes > now + room)
            return fail(
                Errc::ResourceExhausted,
                fmt::format("the volume group {} has {} free: {} cannot grow from {} to {}. Nothing was changed",
                            config_.device, format_bytes(room), full_name(name), format_bytes(now),
                            format_bytes(bytes)));
        return full_name(name);
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
    Result<Attached> parts() const {
        Attached out;
        out.metadata = TRY(sys::look_at_block_device(path("meta")));
        out.data = TRY(sys::look_at_block_device(path("data")));
        return out;
    }
    Result<bool> exists(const char *part) const {
        return lists_volume(TRY(lvm({"lvs", "--noheadings", "-o", "lv_full_name", config_.device})), full_name(part));
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

Status same_metadata(const Config &config, uint64_t labelled_bytes) {
    if (config.metadata_bytes == 0 || in_units(config.metadata_bytes) == labelled_bytes) return {};
    return fail(
        Errc::FailedPrecondition,
        fmt::format("this store's pool on {} was made with metadata_size={}, and the options say {}: on a device "
                    "data begins where the metadata ends, so that cannot change while the pool lives. Nothing "
                    "was changed. Go on with metadata_size={} or without the option, or move the store to a "
                    "pool that has more (shale migrate --to devicemapper --to-root, with another device)",
                    config.device, labelled_bytes, config.metadata_bytes, labelled_bytes));
}

bool lists_volume(std::string_view listing, std::string_view full_name) {
    constexpr std::string_view blank = " \t\r";
    while (!listing.empty()) {
        const size_t end = std::min(listing.find('\n'), listing.size());
        std::string_view line = listing.substr(0, end);
        listing.remove_prefix(std::min(end + 1, listing.size()));
        line.remove_prefix(std::min(line.find_first_not_of(blank), line.size()));
        line = line.substr(0, line.find_last_not_of(blank) + 1);
        if (line == full_name) return true;
    }
    return false;
}

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
