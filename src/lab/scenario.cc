// SPDX-License-Identifier: Apache-2.0
#include "lab/scenario.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>

#include "sys/dm.h"
#include "sys/run.h"

namespace shale::lab {

const Scenario *find_scenario(std::string_view id) {
    const auto all = all_scenarios();
    const auto found = std::ranges::find(all, id, &Scenario::id);
    return found != all.end() ? *found : nullptr;
}

std::string lacks_nothing() {
    return {};
}

std::string lacks_file_system(std::string_view type) {
    const auto known = read_whole("/proc/filesystems");
    if (known && (*known).find(fmt::format("\t{}\n", type)) != std::string::npos) return {};
    if (const auto modprobe = sys::find_tool("modprobe", "kmod"))
        if (const auto loaded = sys::run_tool({*modprobe, "-q", std::string(type)}, std::chrono::seconds(30));
            loaded && loaded->exit_status == 0)
            return {};
    return fmt::format("this kernel has no {}", type);
}

std::string lacks_device_mapper() {
    if (const auto version = sys::dm_version(); !version) return version.error().message();
    if (const auto thin = sys::dm_target_version("thin-pool"); !thin) return thin.error().message();
    return {};
}

std::string lacks_zfs() {
    if (::access("/dev/zfs", R_OK | W_OK) != 0 || ::access("/sys/module/zfs", F_OK) != 0)
        return "this kernel has no ZFS (no /dev/zfs)";
    return lacks_tool("zpool", "zfsutils-linux");
}

std::string lacks_tool(const std::string &name, const std::string &package) {
    const auto found = sys::find_tool(name, package);
    return found ? std::string() : found.error().message();
}

} // namespace shale::lab
