// SPDX-License-Identifier: Apache-2.0
#include "probe/btrfs_space.h"

#include <endian.h>
#include <linux/btrfs.h>
#include <linux/btrfs_tree.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <utility>

#include <fmt/format.h>

#include "probe/text.h"
#include "sys/seam.h"

namespace shale::probe {
namespace {

constexpr uint64_t simple_mode = 1U << 3U; ///< BTRFS_QGROUP_STATUS_FLAG_SIMPLE_MODE of linux/btrfs_tree.h since 6.7
constexpr uint64_t max_device_ids = 4096;  ///< that are tried; numbers of removed devices are not used again
constexpr size_t max_items = 8'000'000;    ///< of a tree that are looked at
constexpr size_t number_limit = 4096;      ///< of a file in sysfs

Status ask(int fd, unsigned long request, const char *name, void *arguments) {
    if (const int injected = sys::enter(sys::Op::ioctl, fd, name); injected != 0) return fail_errno(injected, name);
    for (;;) {
        if (::ioctl(fd, request, arguments) == 0) return {};
        if (errno != EINTR) return fail_errno(errno, name);
    }
}

/// An item of a b-tree of the file system (btrfs' on-disk format, "Basic structures").
struct Item {
    uint64_t objectid = 0;
    uint64_t offset = 0;
    uint32_t type = 0;
    std::span<const std::byte> data;
};

struct Search {
    btrfs_ioctl_search_key key;
    uint64_t size;
    std::array<std::byte, size_t{64} << 10U> found; ///< the largest leaf has 64 KiB, an item is smaller
};
static_assert(offsetof(Search, found) == sizeof(btrfs_ioctl_search_args_v2));

/// Sets the lower end of the range behind a key; false: there is no key behind it.
bool begin_after(btrfs_ioctl_search_key &key, const Item &last) {
    key.min_objectid = last.objectid;
    key.min_type = last.type;
    key.min_offset = last.offset + 1;
    if (key.min_offset != 0) return true;
    key.min_type = last.type + 1;
    if (key.min_type <= 255) return true;
    key.min_type = 0;
    return ++key.min_objectid != 0;
}

/// Gives `on_item` each item that one search found; moves the lower end of the range behind the last of them. false:
/// there is nothing behind it.
bool take_items(Search &search, const std::function<void(const Item &)> &on_item) {
    std::span<const std::byte> rest(search.found);
    Item item;
    for (uint32_t i = 0; i < search.key.nr_items; ++i) {
        btrfs_ioctl_search_header header{};
        if (rest.size() < sizeof header) break;
        std::memcpy(&header, rest.data(), sizeof header);
        rest = rest.subspan(sizeof header);
        if (rest.size() < header.len) break;
        item = {header.objectid, header.offset, header.type, rest.first(header.len)};
        rest = rest.subspan(header.len);
        on_item(item);
    }
    return begin_after(search.key, item);
}

/// Each item of `tree` whose key lies between (first, type) and (last, type). Others that lie between come too.
Status for_each_item(int fd, uint64_t tree, uint64_t first, uint64_t last, uint32_t type,
                     const std::function<void(const Item &)> &on_item) {
    const auto search = std::make_unique<Search>();
    search->key.tree_id = tree;
    search->key.min_objectid = first;
    search->key.max_objectid = last;
    search->key.max_offset = ~uint64_t{0};
    search->key.max_transid = ~uint64_t{0};
    search->key.min_type = type;
    search->key.max_type = type;
    for (size_t seen = 0;; seen += search->key.nr_items) {
        if (seen > max_items) return fail(Errc::ResourceExhausted, fmt::format("more than {} items", max_items));
        search->key.nr_items = ~uint32_t{0};
        search->size = search->found.size();
        TRY(ask(fd, BTRFS_IOC_TREE_SEARCH_V2, "BTRFS_IOC_TREE_SEARCH_V2", search.get()));
        if (search->key.nr_items == 0 || !take_items(*search, on_item)) return {};
    }
}

/// A little-endian number at `offset` of an item; 0 when the item is shorter.
template <class T> T number_at(std::span<const std::byte> data, size_t offset) {
    T raw = 0;
    if (data.size() < offset + sizeof raw) return 0;
    std::memcpy(&raw, data.data() + offset, sizeof raw);
    if constexpr (sizeof raw == 8)
        return le64toh(raw);
    else
        return le32toh(raw);
}

struct Subvolumes {
    std::vector<uint64_t> ids; ///< ascending; with those that are being removed
    uint64_t alive = 0;        ///< of them, without the top one
};

Result<Subvolumes> read_subvolumes(int fd) {
    Subvolumes out;
    bool cut = false;
    TRY(for_each_item(fd, BTRFS_ROOT_TREE_OBJECTID, BTRFS_FIRST_FREE_OBJECTID, BTRFS_LAST_FREE_OBJECTID,
                      BTRFS_ROOT_ITEM_KEY, [&](const Item &item) {
                          if (item.type != BTRFS_ROOT_ITEM_KEY) return;
                          if (!out.ids.empty() && out.ids.back() >= item.objectid) return;
                          cut = cut || out.ids.size() == max_subvolumes;
                          if (cut) return;
                          out.ids.push_back(item.objectid);
                          // No references: removed, its space is being cleaned up in the background.
                          if (number_at<uint32_t>(item.data, offsetof(btrfs_root_item, refs)) != 0) ++out.alive;
                      }));
    if (cut) return fail(Errc::ResourceExhausted, fmt::format("more than {} subvolumes", max_subvolumes));
    return out;
}

/// Flags of the quota tree's status item; 0: there is no such tree.
Result<uint64_t> quota_flags(int fd) {
    uint64_t flags = 0;
    const auto done =
        for_each_item(fd, BTRFS_QUOTA_TREE_OBJECTID, 0, 0, BTRFS_QGROUP_STATUS_KEY, [&](const Item &item) {
            // btrfs_qgroup_status_item: version, generation, flags
            if (item.type == BTRFS_QGROUP_STATUS_KEY) flags = number_at<uint64_t>(item.data, 16);
        });
    if (!done && done.error().sys_errno() != ENOENT) return std::unexpected(done.error());
    return flags;
}

Status read_block_groups(int fd, BtrfsSpace &out) {
    struct {
        uint64_t slots = 0, found = 0; // btrfs_ioctl_space_args; a kind has at most one entry a profile
        std::array<btrfs_ioctl_space_info, 128> spaces{};
    } arguments;
    static_assert(offsetof(decltype(arguments), spaces) == sizeof(btrfs_ioctl_space_args));
    arguments.slots = arguments.spaces.size();
    TRY(ask(fd, BTRFS_IOC_SPACE_INFO, "BTRFS_IOC_SPACE_INFO", &arguments));
    for (const auto &space : std::span(arguments.spaces).first(std::min(arguments.found, arguments.slots))) {
        if ((space.flags & BTRFS_SPACE_INFO_GLOBAL_RSV) != 0)
            out.global_reserve_bytes = space.total_bytes;
        else
            out.groups.push_back(block_group(space.flags, space.total_bytes, space.used_bytes));
    }
    return {};
}

Status read_devices(int fd, const btrfs_ioctl_fs_info_args &info, BtrfsSpace &out) {
    uint64_t found = 0;
    const uint64_t last = std::min<uint64_t>(info.max_id, max_device_ids);
    for (uint64_t id = 1; id <= last && found < info.num_devices; ++id) {
        btrfs_ioctl_dev_info_args device{};
        device.devid = id;
        const auto done = ask(fd, BTRFS_IOC_DEV_INFO, "BTRFS_IOC_DEV_INFO", &device);
        if (!done && done.error().sys_errno() == ENODEV) continue; // removed
        TRY(done);
        ++found;
        out.device_bytes += device.total_bytes;
        out.unallocated_bytes += device.total_bytes - std::min(device.bytes_used, device.total_bytes);
    }
    if (found < info.num_devices)
        return fail(Errc::NotFound, fmt::format("{} of its {} devices were found", found, info.num_devices));
    return {};
}

std::string text_of_uuid(std::span<const __u8, BTRFS_FSID_SIZE> uuid) {
    std::string out;
    for (size_t i = 0; i < uuid.size(); ++i)
        out += fmt::format("{}{:02x}", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", uuid[i]);
    return out;
}

/// A number in a file of sysfs; what is not there or is none is 0 and becomes a problem.
uint64_t number_in(const Host &kernel, const std::string &path, std::vector<Problem> &problems) {
    const auto text = kernel.read(path, number_limit);
    if (!text) {
        problems.push_back({path, text.error().text()});
        return 0;
    }
    const auto value = to_number(trimmed(*text));
    if (!value) problems.push_back({path, "not a number"});
    return value.value_or(0);
}

/// Fills in the figures of a group; false: it has been removed meanwhile.
bool read_qgroup(const Host &kernel, const std::string &dir, BtrfsSpace::Qgroup &out, std::vector<Problem> &problems) {
    std::vector<Problem> own;
    out.referenced_bytes = number_in(kernel, dir + "/referenced", own);
    out.exclusive_bytes = number_in(kernel, dir + "/exclusive", own);
    const uint64_t limits = number_in(kernel, dir + "/limit_flags", own);
    if ((limits & uint64_t{BTRFS_QGROUP_LIMIT_MAX_RFER}) != 0)
        out.limit_referenced_bytes = number_in(kernel, dir + "/max_referenced", own);
    if ((limits & uint64_t{BTRFS_QGROUP_LIMIT_MAX_EXCL}) != 0)
        out.limit_exclusive_bytes = number_in(kernel, dir + "/max_exclusive", own);
    if (own.empty()) return true;
    if (!kernel.is_dir(dir)) return false;
    problems.push_back(std::move(own.front()));
    return true;
}

/// Where sysfs shows no qgroups: quota is off, or the kernel is older than 5.9; the quota tree knows.
void read_quota_without_sysfs(int fd, const std::string &target, BtrfsSpace &out, std::vector<Problem> &problems) {
    out.quota = "off";
    const auto flags = quota_flags(fd);
    if (!flags) {
        problems.push_back({fmt::format("whether btrfs quota is on, {}", target), flags.error().text()});
        return;
    }
    if ((*flags & BTRFS_QGROUP_STATUS_FLAG_ON) == 0) return;
    out.quota = (*flags & simple_mode) != 0 ? "simple" : "full";
    out.quota_inconsistent = (*flags & BTRFS_QGROUP_STATUS_FLAG_INCONSISTENT) != 0;
    problems.push_back({fmt::format("qgroups of {}", target), "the kernel does not show them (needs Linux 5.9)"});
}

} // namespace

BtrfsSpace::Group block_group(uint64_t flags, uint64_t total_bytes, uint64_t used_bytes) {
    constexpr std::array<std::pair<uint64_t, const char *>, 4> kinds{
        {{BTRFS_BLOCK_GROUP_DATA | BTRFS_BLOCK_GROUP_METADATA, "mixed"},
         {BTRFS_BLOCK_GROUP_DATA, "data"},
         {BTRFS_BLOCK_GROUP_METADATA, "metadata"},
         {BTRFS_BLOCK_GROUP_SYSTEM, "system"}}};
    constexpr std::array<std::pair<uint64_t, const char *>, 8> profiles{{{BTRFS_BLOCK_GROUP_RAID0, "raid0"},
                                                                         {BTRFS_BLOCK_GROUP_RAID1, "raid1"},
                                                                         {BTRFS_BLOCK_GROUP_DUP, "dup"},
                                                                         {BTRFS_BLOCK_GROUP_RAID10, "raid10"},
                                                                         {BTRFS_BLOCK_GROUP_RAID5, "raid5"},
                                                                         {BTRFS_BLOCK_GROUP_RAID6, "raid6"},
                                                                         {BTRFS_BLOCK_GROUP_RAID1C3, "raid1c3"},
                                                                         {BTRFS_BLOCK_GROUP_RAID1C4, "raid1c4"}}};
    const auto name = [flags](const auto &table, uint64_t mask, std::string_view otherwise) {
        for (const auto &[bits, text] : table)
            if ((flags & mask) == bits) return std::string(text);
        return std::string(otherwise);
    };
    const uint64_t kind = BTRFS_BLOCK_GROUP_TYPE_MASK;
    const uint64_t profile = BTRFS_BLOCK_GROUP_PROFILE_MASK;
    return {.kind = name(kinds, kind, fmt::format("{:#x}", flags & kind)),
            .profile =
                (flags & profile) == 0 ? "single" : name(profiles, profile, fmt::format("{:#x}", flags & profile)),
            .total_bytes = total_bytes,
            .used_bytes = used_bytes};
}

std::optional<BtrfsSpace::Qgroup> qgroup_of_name(std::string_view name) {
    const auto level = to_number(next_part(name, '_'));
    const auto id = to_number(name);
    if (!level || !id || *level > 0xffff) return std::nullopt; // 16 bits of level, 48 of id
    BtrfsSpace::Qgroup out;
    out.level = *level;
    out.id = *id;
    return out;
}

void read_qgroups(const Host &kernel, const std::string &dir, BtrfsSpace &out, std::vector<Problem> &problems) {
    // Linux 6.7: "qgroup" or "squota"; before, all were full.
    const auto mode = kernel.read_if_there(dir + "/mode", number_limit);
    const bool simple = mode && *mode && trimmed(**mode) == "squota";
    const bool enabled = number_in(kernel, dir + "/enabled", problems) != 0;
    out.quota = enabled ? (simple ? "simple" : "full") : "off";
    out.quota_inconsistent = number_in(kernel, dir + "/inconsistent", problems) != 0;
    const auto entries = kernel.list(dir);
    if (!entries) {
        problems.push_back({dir, entries.error().text()});
        return;
    }
    for (const auto &entry : *entries) {
        auto group = qgroup_of_name(entry.name);
        if (!group) continue;
        if (out.qgroups.size() == max_qgroups) {
            problems.push_back({dir, fmt::format("more than {} qgroups; the others were left out", max_qgroups)});
            return;
        }
        if (read_qgroup(kernel, fmt::format("{}/{}", dir, entry.name), *group, problems)) out.qgroups.push_back(*group);
    }
}

void mark_left_over_qgroups(const std::vector<uint64_t> &subvolumes, BtrfsSpace &out) {
    for (auto &group : out.qgroups) // 5: the top subvolume (BTRFS_FS_TREE_OBJECTID), which is always there
        if (group.level == 0 && group.id >= BTRFS_FIRST_FREE_OBJECTID)
            group.has_subvolume = std::ranges::binary_search(subvolumes, group.id);
}

BtrfsSpace read_btrfs_space(int fd, const Host &kernel, const std::string &target, std::vector<Problem> &problems) {
    BtrfsSpace out;
    const auto note = [&](std::string_view what, const Error &why) {
        problems.push_back({fmt::format("{} of {}", what, target), why.text()});
    };
    if (const auto done = read_block_groups(fd, out); !done) note("btrfs block groups", done.error());
    btrfs_ioctl_fs_info_args info{};
    if (const auto done = ask(fd, BTRFS_IOC_FS_INFO, "BTRFS_IOC_FS_INFO", &info); !done) {
        note("btrfs devices and quota", done.error());
        return out;
    }
    if (const auto done = read_devices(fd, info, out); !done) note("btrfs devices", done.error());
    const std::string dir = fmt::format("/sys/fs/btrfs/{}/qgroups", text_of_uuid(info.fsid));
    if (kernel.is_dir(dir))
        read_qgroups(kernel, dir, out, problems);
    else
        read_quota_without_sysfs(fd, target, out, problems);
    const auto subvolumes = read_subvolumes(fd);
    if (!subvolumes) {
        note("btrfs subvolumes", subvolumes.error());
        return out;
    }
    out.subvolumes = subvolumes->alive;
    mark_left_over_qgroups(subvolumes->ids, out);
    return out;
}

} // namespace shale::probe
