// SPDX-License-Identifier: Apache-2.0
#include "drivers/devicemapper/config.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <system_error>

#include <fmt/format.h>

#include "base/units.h"
#include "drivers/directory_driver.h"

namespace shale::drivers::devicemapper {
namespace {

constexpr std::array options{
    OptionInfo{"pool", "loop",
               "loop, device, vg: where the thin pool lies: sparse files of the store (to try it out), a whole block "
               "device, or two logical volumes made in a volume group",
               "loop|device|vg"},
    OptionInfo{"device", "", "pool=device: the block device, e.g. /dev/sdb; it must be empty or this store's"},
    OptionInfo{"vg", "", "pool=vg: name of the LVM2 volume group"},
    OptionInfo{
        "data_size", "",
        "space for data (loop: 100G, sparse; else all there is); may be raised later (device: counts at the next "
        "activation)"},
    OptionInfo{"metadata_size", "",
               "space for the pool's metadata (default: by data_size); may be raised later, but not with pool=device, "
               "where it is fixed"},
    OptionInfo{"block_size", "64K", "what a volume takes from the pool at once: 64K to 1G, a multiple of 64K; fixed"},
    OptionInfo{"base_size", "10G", "size of the file system that every layer starts from; fixed"},
    OptionInfo{"size", "", "default size of a container's file system, at least base_size"},
    OptionInfo{"inodes", "", "a file system in a volume has a size only: refused"},
    OptionInfo{"fs", "ext4", "ext4, xfs: file system of the layers; fixed", "ext4|xfs"},
    OptionInfo{"mkfs", "", "further arguments of mkfs, separated by blanks"},
    OptionInfo{"data_max", "95", "percent of the data space in use above which nothing new is made"},
    OptionInfo{"metadata_max", "95", "percent of the metadata in use above which nothing new is made"},
    OptionInfo{"discard", "on",
               "on, off: give a removed layer's space back to below the pool, where that takes discards", "on|off"},
};

constexpr uint64_t kib = 1024, mib = 1024 * kib, gib = 1024 * mib;

std::unexpected<Error> bad(std::string_view key, std::string_view value, std::string_view why) {
    return fail(Errc::InvalidArgument, fmt::format("driver devicemapper: option {}={}: {}", key, value, why));
}

Result<uint64_t> bytes_of(const DriverOptions &all, std::string_view key) {
    const std::string &text = all.find(key)->second;
    if (text.empty()) return 0;
    const auto bytes = parse_bytes(text);
    if (!bytes) return bad(key, text, bytes.error().message());
    if (*bytes == 0) return bad(key, text, "must be more than 0");
    return *bytes;
}

Result<unsigned> percent_of(const DriverOptions &all, std::string_view key) {
    const std::string &text = all.find(key)->second;
    unsigned out = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
    if (error != std::errc() || end != text.data() + text.size() || out < 1 || out > 99)
        return bad(key, text, "must be a whole number of percent, 1 to 99");
    return out;
}

std::vector<std::string> split(std::string_view text) {
    std::vector<std::string> out;
    while (!text.empty()) {
        const size_t end = std::min(text.find(' '), text.size());
        if (end > 0) out.emplace_back(text.substr(0, end));
        text.remove_prefix(std::min(end + 1, text.size()));
    }
    return out;
}

Status read_backing(const DriverOptions &all, Config &out) {
    const std::string &pool = all.find("pool")->second;
    const std::string &device = all.find("device")->second;
    const std::string &vg = all.find("vg")->second;
    if ((pool == "device") != !device.empty())
        return bad("device", device, "pool=device needs it, and nothing else takes it");
    if ((pool == "vg") != !vg.empty()) return bad("vg", vg, "pool=vg needs it, and nothing else takes it");
    if (!device.empty() && !device.starts_with('/')) return bad("device", device, "must be an absolute path");
    const auto allowed = [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.' ||
               c == '+' || c == '-';
    };
    if (!vg.empty() && (vg[0] == '-' || vg[0] == '.' || !std::ranges::all_of(vg, allowed)))
        return bad("vg", vg, "is no name of a volume group");
    out.backing = pool == "loop" ? Backing::loop : pool == "device" ? Backing::device : Backing::volumes;
    out.device = device + vg;
    return {};
}

} // namespace

std::string_view name_of(Backing backing) noexcept {
    switch (backing) {
    case Backing::loop:
        return "loop";
    case Backing::device:
        return "device";
    case Backing::volumes:
        break;
    }
    return "vg";
}

std::string_view name_of(FileSystem fs) noexcept {
    return fs == FileSystem::ext4 ? "ext4" : "xfs";
}

std::span<const OptionInfo> option_infos() noexcept {
    return options;
}

uint64_t usable_metadata_blocks(uint64_t device_bytes) noexcept {
    // drivers/md/persistent-data/dm-space-map-metadata.h: one block of index, with 255 entries of 2^14 - 64 blocks.
    constexpr uint64_t most = uint64_t{255} * ((1U << 14U) - 64);
    return std::min(device_bytes / metadata_block_bytes, most);
}

uint64_t metadata_size_for(uint64_t data_bytes, uint64_t block_bytes, uint64_t snapshots) noexcept {
    const uint64_t wanted = data_bytes / block_bytes * 64 + snapshots * 8 * metadata_block_bytes;
    const uint64_t rounded = std::max((wanted + 4 * mib - 1) / (4 * mib) * (4 * mib), 8 * mib);
    return usable_metadata_blocks(rounded) * metadata_block_bytes;
}

Result<Config> read_config(const DriverOptions &given) {
    const DriverOptions all = TRY(check_options("devicemapper", options, given));
    Config out;
    TRY(read_backing(all, out));
    out.data_bytes = TRY(bytes_of(all, "data_size"));
    if (out.data_bytes == 0 && out.backing == Backing::loop) out.data_bytes = 100 * gib;
    out.metadata_bytes = TRY(bytes_of(all, "metadata_size"));
    out.block_bytes = TRY(bytes_of(all, "block_size"));
    if (out.block_bytes < 64 * kib || out.block_bytes > gib || out.block_bytes % (64 * kib) != 0)
        return bad("block_size", all.find("block_size")->second, "must be a multiple of 64K, at most 1G");
    out.base_bytes = TRY(bytes_of(all, "base_size"));
    out.fs = all.find("fs")->second == "ext4" ? FileSystem::ext4 : FileSystem::xfs;
    const uint64_t least = out.fs == FileSystem::ext4 ? 8 * mib : 16 * mib; // mkfs.xfs itself wants 300 MiB
    if (out.base_bytes < least || out.base_bytes % (64 * kib) != 0)
        return bad("base_size", all.find("base_size")->second,
                   fmt::format("must be a multiple of 64K, and {} needs {}", name_of(out.fs), format_bytes(least)));
    out.mkfs = split(all.find("mkfs")->second);
    out.data_max_percent = TRY(percent_of(all, "data_max"));
    out.metadata_max_percent = TRY(percent_of(all, "metadata_max"));
    out.discard = all.find("discard")->second == "on" ? Discard::on : Discard::off;
    out.container = TRY(default_quota("devicemapper", all));
    if (out.container.inodes != 0)
        return bad("inodes", all.find("inodes")->second, "a file system in a volume has a size, not a limit of inodes");
    if (out.container.bytes != 0 && out.container.bytes < out.base_bytes)
        return bad("size", all.find("size")->second,
                   fmt::format("a container's file system begins as the base's and cannot be made smaller than "
                               "base_size={}",
                               all.find("base_size")->second));
    return out;
}

} // namespace shale::drivers::devicemapper
