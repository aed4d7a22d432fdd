// SPDX-License-Identifier: Apache-2.0
#include "probe/thin_pools.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <set>

#include <fmt/format.h>

#include "probe/lvm_config.h"
#include "probe/text.h"
#include "sys/dm_status.h"

namespace shale::probe {
namespace {

constexpr size_t max_devices = 100'000;

bool number(std::string_view text, uint64_t &out) {
    const auto value = to_number(text);
    out = value.value_or(out);
    return value.has_value();
}

bool is_device_number(std::string_view text) {
    const size_t colon = text.find(':');
    uint64_t part = 0;
    return colon != std::string_view::npos && number(text.substr(0, colon), part) &&
           number(text.substr(colon + 1), part);
}

std::unexpected<Error> not_one(std::string_view what, std::string_view text) {
    return fail(Errc::InvalidArgument, fmt::format("not {}: {:.200?}", what, text));
}

/// As the kernel says it (facts.h).
std::string_view mode_name(sys::PoolMode mode) {
    switch (mode) {
    case sys::PoolMode::read_write:
        return "rw";
    case sys::PoolMode::read_only:
        return "ro";
    case sys::PoolMode::out_of_data_space:
        return "out_of_data_space";
    case sys::PoolMode::failed:
        return "Fail";
    case sys::PoolMode::error:
        return "Error";
    }
    return "Error";
}

void set_table(const ThinPoolTable &table, ThinPool &out) {
    out.metadata_device = table.metadata_device;
    out.data_device = table.data_device;
    out.data_block_bytes = table.block_sectors * sys::sector_bytes;
    // What was asked for; the status says what is.
    out.error_if_no_space = table.error_if_no_space;
    out.discard_passdown = !table.ignore_discard && !table.no_discard_passdown;
}

void set_status(const sys::ThinPoolStatus &status, ThinPool &out) {
    out.mode = mode_name(status.mode);
    if (status.mode == sys::PoolMode::failed || status.mode == sys::PoolMode::error) return;
    out.transaction = status.transaction;
    out.used_metadata_blocks = status.used_metadata_blocks;
    out.total_metadata_blocks = status.total_metadata_blocks;
    out.used_data_blocks = status.used_data_blocks;
    out.total_data_blocks = status.total_data_blocks;
    out.needs_check = status.needs_check;
    out.error_if_no_space = status.error_if_no_space;
    out.discard_passdown = status.discard == sys::ThinPoolStatus::Discard::passed_down;
    out.held_metadata = status.held_root.has_value();
}

/// nullopt: it is no pool, or its table is not understood.
std::optional<ThinPool> pool_of(const DmDevice &from, std::span<const BlockDevice> devices,
                                std::vector<Problem> &problems) {
    if (from.table.type != "thin-pool") return std::nullopt;
    const auto table = parse_thin_pool_table(from.table.parameters);
    if (!table) {
        problems.push_back({fmt::format("thin pool {}", from.name), table.error().text()});
        return std::nullopt;
    }
    ThinPool out;
    out.name = from.name;
    set_table(*table, out);
    if (const auto status = sys::parse_thin_pool_status(from.status); status) {
        set_status(*status, out);
    } else if (!from.status.empty()) {
        problems.push_back({fmt::format("thin pool {}", from.name), status.error().text()});
    }
    out.lvm = from.uuid.starts_with("LVM-");
    out.on_loop = stands_on_loop(out.metadata_device, devices) || stands_on_loop(out.data_device, devices);
    return out;
}

struct ThinOfPool {
    std::string pool;
    ThinPool::Thin thin;
};
Result<ThinOfPool> thin_of(const DmDevice &from) {
    const auto table = TRY(parse_thin_table(from.table.parameters));
    ThinOfPool out{table.pool, {}};
    out.thin.name = from.name;
    out.thin.device_id = table.device_id;
    out.thin.bytes = from.table.length_sectors * sys::sector_bytes;
    out.thin.open = from.openers != 0;
    if (!from.status.empty()) out.thin.mapped_bytes = TRY(parse_thin_status(from.status)).value_or(0);
    return out;
}

/// nullopt: it is gone, or has other targets.
Result<std::optional<DmDevice>> look_at(const std::string &name, std::vector<Problem> &problems) {
    auto table = TRY(sys::dm_table(name));
    // LVM and dmsetup make such a device of one target; one of several has none that the pool itself would show.
    if (table.size() != 1 || (table[0].type != "thin-pool" && table[0].type != "thin")) return std::nullopt;
    const auto info = TRY(sys::dm_find(name));
    if (!info) return std::nullopt;
    DmDevice out;
    out.name = name;
    out.number = fmt::format("{}:{}", info->major, info->minor);
    out.uuid = info->uuid;
    out.openers = info->openers;
    out.table = std::move(table[0]);
    auto status = sys::dm_status(name, sys::DmStatus::as_it_is);
    if (!status) {
        if (status.error().sys_errno() == ENXIO) return std::nullopt;
        problems.push_back({fmt::format("status of {}", name), status.error().text()});
    } else if (status->size() == 1) {
        out.status = std::move((*status)[0].parameters);
    }
    return out;
}

std::vector<DmDevice> look_at_all(std::vector<Problem> &problems) {
    auto names = sys::dm_names();
    if (!names) {
        problems.push_back({"devices of device-mapper", names.error().text()});
        return {};
    }
    if (names->size() > max_devices) {
        problems.push_back(
            {"devices of device-mapper", fmt::format("{} of {} are looked at", max_devices, names->size())});
        names->resize(max_devices);
    }
    std::vector<DmDevice> out;
    for (const auto &name : *names) {
        auto device = look_at(name, problems);
        if (device && *device) {
            out.push_back(std::move(**device));
        } else if (!device && device.error().sys_errno() != ENXIO) { // ENXIO: gone meanwhile
            problems.push_back({fmt::format("device {}", name), device.error().text()});
        }
    }
    return out;
}

/// Minor number of device-mapper's control among the miscellaneous devices (major 10); nullopt: the kernel has none.
std::optional<uint64_t> control_minor(const Host &host, std::vector<Problem> &problems) {
    const std::string path = "/proc/misc";
    const auto text = host.read_if_there(path, size_t{64} << 10U);
    if (!text) problems.push_back({path, text.error().text()});
    if (!text || !*text) return std::nullopt;
    for (std::string_view rest = **text; !rest.empty();) {
        const auto words = words_of(next_part(rest, '\n'));
        uint64_t minor = 0;
        if (words.size() == 2 && words[1] == "device-mapper" && number(words[0], minor)) return minor;
    }
    return std::nullopt;
}

/// libdevmapper makes or replaces a node that is not right, so it is only called when this one is.
bool may_ask(const Host &host, std::span<const BlockDevice> devices, std::vector<Problem> &problems) {
    constexpr unsigned misc_major = 10; // linux/major.h
    const std::string path = "/dev/mapper/control";
    const auto minor_number = control_minor(host, problems);
    if (!minor_number) return false;
    const auto node = host.stat(path);
    if (node && *node && S_ISCHR((*node)->st_mode) && major((*node)->st_rdev) == misc_major &&
        minor((*node)->st_rdev) == *minor_number)
        return true;
    if (node && *node) {
        problems.push_back({path, fmt::format("not the control of device-mapper ({}:{})", misc_major, *minor_number)});
    } else if (!node) {
        problems.push_back({path, node.error().text()});
    } else if (std::ranges::any_of(devices, [](const BlockDevice &device) { return device.kind == "dm"; })) {
        problems.push_back({path, "missing, though there are devices of device-mapper: its thin pools are not known"});
    }
    return false;
}

} // namespace

Result<ThinPoolTable> parse_thin_pool_table(std::string_view parameters) {
    const auto words = words_of(parameters);
    ThinPoolTable out;
    uint64_t features = 0;
    if (words.size() < 4 || !is_device_number(words[0]) || !is_device_number(words[1]) ||
        !number(words[2], out.block_sectors) || !number(words[3], out.low_water_blocks) ||
        out.block_sectors > UINT32_MAX || (words.size() > 4 && !number(words[4], features)) ||
        features != words.size() - std::min<size_t>(words.size(), 5))
        return not_one("a table of a thin pool", parameters);
    out.metadata_device = words[0];
    out.data_device = words[1];
    for (size_t i = 5; i < words.size(); ++i) {
        if (words[i] == "ignore_discard") out.ignore_discard = true;
        if (words[i] == "no_discard_passdown") out.no_discard_passdown = true;
        if (words[i] == "error_if_no_space") out.error_if_no_space = true;
    }
    return out;
}

Result<ThinTable> parse_thin_table(std::string_view parameters) {
    const auto words = words_of(parameters);
    ThinTable out;
    if (words.size() < 2 || words.size() > 3 || !is_device_number(words[0]) || !number(words[1], out.device_id))
        return not_one("a table of a thin device", parameters);
    out.pool = words[0];
    return out;
}

Result<std::optional<uint64_t>> parse_thin_status(std::string_view text) {
    // "<mapped sectors> <highest mapped sector>|-"; drivers/md/dm-thin.c, thin_status.
    const auto words = words_of(text);
    if (words.size() == 1 && (words[0] == "-" || words[0] == "Fail" || words[0] == "Error")) return std::nullopt;
    uint64_t sectors = 0, highest = 0;
    if (words.size() != 2 || !number(words[0], sectors) || sectors > UINT64_MAX / sys::sector_bytes ||
        (words[1] != "-" && !number(words[1], highest)))
        return not_one("a status of a thin device", text);
    return sectors * sys::sector_bytes;
}

bool stands_on_loop(std::string_view number, std::span<const BlockDevice> devices) {
    std::vector<const BlockDevice *> todo;
    std::set<std::string_view> seen; // each device once: the text may go round in circles
    const auto push = [&](auto member, std::string_view value) {
        const auto found = std::ranges::find(devices, value, member);
        if (found != devices.end() && seen.insert(found->name).second) todo.push_back(&*found);
    };
    push(&BlockDevice::number, number);
    while (!todo.empty()) {
        const BlockDevice &device = *todo.back();
        todo.pop_back();
        if (device.kind == "loop") return true;
        for (const auto &name : device.below)
            push(&BlockDevice::name, name);
    }
    return false;
}

std::vector<ThinPool> assemble_thin_pools(std::span<const DmDevice> thin, std::span<const BlockDevice> devices,
                                          std::vector<Problem> &problems) {
    std::vector<ThinPool> out;
    std::map<std::string_view, size_t> by_number;
    for (const auto &one : thin) {
        if (auto pool = pool_of(one, devices, problems)) {
            by_number[one.number] = out.size();
            out.push_back(std::move(*pool));
        }
    }
    for (const auto &one : thin) {
        if (one.table.type != "thin") continue;
        auto device = thin_of(one);
        const std::string about = fmt::format("thin device {}", one.name);
        if (!device) {
            problems.push_back({about, device.error().text()});
        } else if (const auto pool = by_number.find(device->pool); pool != by_number.end()) {
            out[pool->second].devices.push_back(std::move(device->thin));
        } else {
            problems.push_back({about, fmt::format("its pool {} was not found", device->pool)});
        }
    }
    for (auto &pool : out)
        std::ranges::sort(pool.devices, {}, &ThinPool::Thin::device_id);
    std::ranges::sort(out, {}, &ThinPool::name);
    return out;
}

bool is_named(const ThinPool &pool, std::string_view name) {
    return pool.name == name ||
           (pool.name.starts_with(name) && std::string_view(pool.name).substr(name.size()) == "-tpool");
}

std::vector<ThinPool> read_thin_pools(const Host &host, std::span<const BlockDevice> devices,
                                      std::span<const Process> processes, std::vector<Problem> &problems) {
    if (!may_ask(host, devices, problems) || !host.live()) return {};
    const auto thin = look_at_all(problems);
    auto out = assemble_thin_pools(thin, devices, problems);
    const bool monitored =
        std::ranges::any_of(processes, [](const Process &process) { return process.command == "dmeventd"; });
    for (auto &pool : out) {
        pool.monitored = monitored;
        if (!pool.lvm) continue;
        const auto device = std::ranges::find(thin, pool.name, &DmDevice::name);
        if (const auto volume = lvm_volume_of(device->name, device->uuid))
            pool.autoextend_percent = lvm_autoextend_percent(host, *volume, problems);
    }
    return out;
}

} // namespace shale::probe
