// SPDX-License-Identifier: Apache-2.0
// The small texts that a host is read from. The first byte says which parser gets the rest.
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "doctor/hosts/packages.h"
#include "doctor/hosts/podman_records.h"
#include "doctor/hosts/sqlite_copy.h"
#include "doctor/hosts/times.h"
#include "doctor/toml_json.h"
#include "doctor/uses.h"
#include "probe/kernel.h"
#include "probe/lvm_config.h"
#include "probe/mounts.h"
#include "probe/processes.h"
#include "probe/thin_pools.h"
#include "probe/zfs.h"

#include <nlohmann/json.hpp>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    using namespace shale;
    const std::string_view text(reinterpret_cast<const char *>(data) + 1, size - 1);
    std::vector<probe::Problem> problems;
    switch (data[0] % 15) {
    case 0:
        (void)probe::parse_lvm_config(text);
        break;
    case 1:
        (void)probe::parse_thin_pool_table(text);
        (void)probe::parse_thin_table(text);
        (void)probe::parse_thin_status(text);
        break;
    case 2:
        (void)probe::parse_zpool_list(text);
        (void)probe::parse_zfs_datasets(text);
        break;
    case 3:
        (void)probe::parse_mounts(text, 1'000, "a process", problems);
        break;
    case 4:
        (void)probe::parse_pressure(text);
        (void)probe::parse_vmstat(text);
        (void)probe::parse_memory(text);
        break;
    case 5:
        (void)probe::parse_command_line(text);
        break;
    case 6:
        (void)probe::parse_inotify_line(text);
        (void)probe::parse_cgroup(text);
        break;
    case 7:
        if (const auto document = doctor::parse_toml(text)) {
            (void)doctor::toml_text(*document, {"storage", "driver"});
            (void)doctor::toml_texts(*document, {"storage", "driver"});
        }
        break;
    case 8: // the number of a file, then the header
        if (!text.empty()) (void)doctor::file_in_rpm_header(text.substr(1), static_cast<unsigned char>(text[0]));
        break;
    case 9:
        (void)doctor::directories_of_overlay(text);
        break;
    case 10:
        (void)doctor::podman::for_each_element(text, [](std::string_view) { return Status(); });
        break;
    case 11: { // a database, then its log
        const size_t half = text.size() / 2;
        (void)doctor::apply_log(std::string(text.substr(0, half)), text.substr(half), size_t{16} << 20U);
        break;
    }
    case 12:
        (void)doctor::rfc3339_s(text);
        break;
    case 13:
        (void)doctor::version_in_dpkg_status(text, "docker-ce");
        break;
    default:
        (void)probe::lvm_volume_of(text.substr(0, text.size() / 2), text.substr(text.size() / 2));
    }
    return 0;
}
