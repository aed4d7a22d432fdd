// SPDX-License-Identifier: Apache-2.0
#include "probe/devices.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <map>
#include <optional>

#include <fmt/format.h>

#include "probe/text.h"
#include "sys/fs.h"
#include "sys/mount.h"

namespace shale::probe {
namespace {

const std::string class_dir = "/sys/class/block";
constexpr size_t max_devices = 100'000;
constexpr size_t max_below = 1000;       // of one device
constexpr size_t max_targets = 10'000;   // of one device
constexpr size_t attribute_limit = 8192; // sysfs gives a page at most
constexpr size_t mounts_limit = size_t{256} << 20U;
constexpr uint64_t sector_bytes = 512;                  // of "size", whatever the device's own are
constexpr std::string_view deleted_mark = " (deleted)"; // d_path of the kernel, fs/d_path.c

/// "major:minor" -> targets.
using Targets = std::map<std::string, std::vector<std::string>, std::less<>>;

bool is_gone(const Error &error) {
    return error.sys_errno() == ENOENT || error.sys_errno() == ENODEV || error.sys_errno() == ENXIO;
}

/// The attributes of one device.
class Attributes {
public:
    Attributes(const Host &host, std::string_view name, std::vector<Problem> &problems)
        : host_(host), dir_(fmt::format("{}/{}", class_dir, name)), problems_(problems) {}

    /// Without the line's end. nullopt: there is none, or the device is gone.
    std::optional<std::string> text(std::string_view name) {
        const std::string path = fmt::format("{}/{}", dir_, name);
        auto out = host_.read(path, attribute_limit);
        if (!out) {
            if (!is_gone(out.error())) problems_.push_back({path, out.error().text()});
            return std::nullopt;
        }
        if (out->ends_with('\n')) out->pop_back();
        return std::move(*out);
    }
    /// 0: there is none. Anything but a number is a problem.
    uint64_t number(std::string_view name) {
        const auto found = text(name);
        if (!found || found->empty()) return 0;
        if (const auto value = to_number(*found)) return *value;
        problems_.push_back({fmt::format("{}/{}", dir_, name), fmt::format("not a number: {:.100?}", *found)});
        return 0;
    }
    std::vector<std::string> names(std::string_view name) {
        const std::string path = fmt::format("{}/{}", dir_, name);
        const auto entries = host_.list_if_there(path, max_below);
        if (!entries) {
            if (!is_gone(entries.error())) problems_.push_back({path, entries.error().text()});
            return {};
        }
        std::vector<std::string> out;
        for (const auto &entry : *entries)
            out.push_back(entry.name);
        return out;
    }

private:
    const Host &host_;
    std::string dir_;
    std::vector<Problem> &problems_;
};

/// Of a file system that has a device number of its own: those of the devices that its source names ("/dev/sda1";
/// bcachefs: "/dev/sda:/dev/sdb").
std::vector<std::string> devices_of_source(const Host &host, std::string_view source) {
    std::vector<std::string> out;
    while (!source.empty()) {
        const std::string_view one = next_part(source, ':');
        if (!one.starts_with("/dev/")) continue;
        const auto status = host.stat(std::string(one));
        if (status && *status && S_ISBLK((*status)->st_mode))
            out.push_back(fmt::format("{}:{}", major((*status)->st_rdev), minor((*status)->st_rdev)));
    }
    return out;
}

Targets read_targets(const Host &host, std::vector<Problem> &problems) {
    const std::string path = "/proc/self/mountinfo";
    const auto text = host.read(path, mounts_limit);
    const auto entries = text ? sys::parse_mountinfo(*text) : std::unexpected(text.error());
    if (!entries) {
        problems.push_back({path, entries.error().text()});
        return {};
    }
    Targets out;
    std::map<std::string, std::vector<std::string>> sources; // a pool of btrfs is mounted once a subvolume
    for (const auto &entry : *entries) {
        if (entry.type != "btrfs" && entry.type != "bcachefs") {
            if (!entry.device.starts_with("0:")) out[entry.device].push_back(entry.target);
            continue;
        }
        auto [known, is_new] = sources.try_emplace(entry.source);
        if (is_new) known->second = devices_of_source(host, entry.source);
        for (const auto &number : known->second)
            out[number].push_back(entry.target);
    }
    for (auto &[number, targets] : out) {
        if (targets.size() <= max_targets) continue;
        problems.push_back({fmt::format("mounts of device {}", number),
                            fmt::format("{} of {} are kept", max_targets, targets.size())});
        targets.resize(max_targets);
    }
    return out;
}

/// "../../devices/pci0000:00/.../block/sda/sda1" -> "sda".
std::string parent_in(std::string_view link) {
    const size_t last = link.rfind('/');
    if (last == std::string_view::npos) return {};
    link = link.substr(0, last);
    return std::string(link.substr(link.rfind('/') + 1));
}

void read_queue(Attributes &attributes, BlockDevice &out) {
    // A partition has the queue of its disk.
    const std::string queue = out.kind == "partition" ? "../queue/" : "queue/";
    out.rotational = attributes.number(queue + "rotational") != 0;
    out.discard = attributes.number(queue + "discard_max_bytes") != 0;
}

void read_backing_file(const Host &host, Attributes &attributes, BlockDevice &out) {
    out.file = attributes.text("loop/backing_file").value_or("");
    if (!out.file.ends_with(deleted_mark)) return;
    // A file may have such a name; then it is there.
    if (const auto there = host.stat(out.file); there && *there) return;
    out.file.resize(out.file.size() - deleted_mark.size());
    out.file_deleted = true;
}

/// nullopt: it is gone, or one that can only be used through another (a path of NVMe multipath has no number).
std::optional<BlockDevice> read_device(const Host &host, int dir, const std::string &name,
                                       std::vector<Problem> &problems) {
    Attributes attributes(host, name, problems);
    BlockDevice out;
    out.name = name;
    auto number = attributes.text("dev");
    if (!number) return std::nullopt;
    out.number = std::move(*number);
    const uint64_t sectors = attributes.number("size");
    out.bytes = sectors > UINT64_MAX / sector_bytes ? UINT64_MAX : sectors * sector_bytes;
    out.read_only = attributes.number("ro") != 0;
    out.kind = attributes.text("partition") ? "partition" : std::string(block_device_kind(name));
    read_queue(attributes, out);
    if (out.kind == "loop") read_backing_file(host, attributes, out);
    if (out.kind == "dm") {
        out.dm_name = attributes.text("dm/name").value_or("");
        out.dm_uuid = attributes.text("dm/uuid").value_or("");
    }
    if (out.kind == "md") out.level = attributes.text("md/level").value_or("");
    if (out.kind != "partition") {
        out.below = attributes.names("slaves");
    } else if (const auto link = sys::read_link(dir, name.c_str()); link) {
        if (std::string disk = parent_in(*link); !disk.empty()) out.below.push_back(std::move(disk));
    }
    return out;
}

} // namespace

std::string_view block_device_kind(std::string_view name) noexcept {
    struct Prefix {
        std::string_view text, kind;
    };
    // Documentation/admin-guide/devices.txt, and the drivers' own (zd: OpenZFS, module/os/linux/zfs/zvol_os.c).
    static constexpr std::array known{
        Prefix{"loop", "loop"},     Prefix{"dm-", "dm"},     Prefix{"md", "md"},   Prefix{"zram", "zram"},
        Prefix{"ram", "ram"},       Prefix{"nbd", "nbd"},    Prefix{"rbd", "rbd"}, Prefix{"drbd", "drbd"},
        Prefix{"bcache", "bcache"}, Prefix{"ublkb", "ublk"}, Prefix{"zd", "zvol"}, Prefix{"sr", "cdrom"},
        Prefix{"fd", "floppy"},
    };
    const auto fits = [&](const Prefix &prefix) {
        if (!name.starts_with(prefix.text) || name.size() == prefix.text.size()) return false;
        const char next = name[prefix.text.size()];
        return (next >= '0' && next <= '9') || (prefix.kind == "md" && next == '_'); // md_d0, md_home (mdadm(8))
    };
    const auto *found = std::ranges::find_if(known, fits);
    return found == known.end() ? "disk" : found->kind;
}

std::vector<BlockDevice> read_block_devices(const Host &host, std::vector<Problem> &problems) {
    auto entries = host.list(class_dir);
    const auto dir = host.open_path(class_dir, O_RDONLY | O_DIRECTORY);
    if (!entries || !dir) {
        problems.push_back({class_dir, (entries ? dir.error() : entries.error()).text()});
        return {};
    }
    if (entries->size() > max_devices) {
        problems.push_back({class_dir, fmt::format("{} of {} devices are kept", max_devices, entries->size())});
        entries->resize(max_devices);
    }
    const Targets targets = read_targets(host, problems);
    std::vector<BlockDevice> out;
    for (const auto &entry : *entries) {
        auto device = read_device(host, dir->get(), entry.name, problems);
        if (!device) continue;
        if (const auto found = targets.find(device->number); found != targets.end()) device->mounted = found->second;
        out.push_back(std::move(*device));
    }
    return out;
}

} // namespace shale::probe
