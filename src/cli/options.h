// SPDX-License-Identifier: Apache-2.0
// Configuration: where each setting comes from and what it may be. Flags > environment > TOML file > daemon.json >
// defaults. Everything here is pure: texts in, settings or an error out.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "archive/tar.h"
#include "base/error.h"
#include "drivers/driver.h"
#include "store/store.h"

namespace shale::cli {

/// What is known about one storage option as someone wrote it.
enum class Standing : uint8_t {
    known,    ///< an option of a driver that is built
    guard,    ///< shale's own (space guards); dockerd refuses to start on it
    obsolete, ///< once had a meaning; has none now
    unbuilt,  ///< of a driver that this shale does not have
    unknown,  ///< nobody's
};
struct Verdict {
    Standing standing = Standing::unknown;
    std::string driver; ///< of the prefix; empty when none was written
    std::string key;    ///< without prefix
    std::string value;
    std::string message;    ///< for all but `known`: what it is and what to do
    std::string suggestion; ///< nearest known spelling, for `unknown`
};

/// Judges "overlay2.size=10G", "size=10G" (then of `driver`, which may be empty: of any driver that has it).
Verdict judge_option(std::string_view text, std::string_view driver, std::span<const drivers::DriverInfo> built);
/// Nullopt when the driver is built; else what to say about that name.
std::optional<std::string> judge_driver(std::string_view name, std::span<const drivers::DriverInfo> built);

/// One storage option and where it stands.
struct StorageOpt {
    std::string text;        ///< "overlay2.size=10G"
    std::string origin;      ///< "--storage-opt", "/etc/shale/shale.toml:7"
    bool of_section = false; ///< from a [driver.NAME] table: not used, but no error, when another driver is in use
};
/// A [[snapshotter]] table, or the flags that describe one. Unset = the default, or the global setting.
struct SnapshotterTable {
    std::string origin; ///< "/etc/shale/shale.toml:7", "flag"
    std::optional<std::string> name, driver, root, socket;
};
/// What one source sets. Unset = the next source decides.
struct Source {
    std::string name; ///< "flag", "environment", "/etc/shale/shale.toml", "/etc/docker/daemon.json"
    std::optional<std::string> root, driver, durability;
    std::optional<uint64_t> jobs, max_entries, max_layer_bytes;
    std::vector<StorageOpt> storage_opts;
    std::vector<SnapshotterTable> snapshotters;
    std::optional<std::string> metrics, log_format, log_level; ///< of shaled
    std::vector<std::string> notes;                            ///< said at -v: what was passed over
};

/// Keys: root, driver, durability, jobs, [driver.NAME], [limits] entries, layer_bytes, [[snapshotter]] name, driver,
/// root, socket, [shaled] metrics, log_format, log_level. Any other is InvalidArgument that names file:line and the
/// nearest key.
Result<Source> parse_toml(std::string_view text, const std::string &file);
/// Docker's daemon.json: storage-driver and storage-opts are taken, "graph" is refused, other keys are Docker's
/// business.
Result<Source> parse_daemon_json(std::string_view text, const std::string &file);
/// `--cmd`: a JSON array of strings, or a text for /bin/sh -c.
Result<std::vector<std::string>> parse_command(std::string_view text);

/// The effective configuration.
struct Settings {
    std::string root, driver;
    drivers::DriverOptions driver_options;
    std::map<std::string, std::string> guard; ///< "hysteresis" -> "5%"
    store::Durability durability = store::Durability::full;
    unsigned jobs = 0;
    archive::TarLimits limits;
    std::map<std::string, std::string> origin; ///< setting -> name of the source that decided
    std::vector<std::string> notes;
};
/// How the store of these settings is opened.
store::StoreOptions store_options(const Settings &settings);
/// Merges; `sources` from the strongest to the weakest.
Result<Settings> resolve(std::span<const Source> sources, const std::string &default_root,
                         std::span<const drivers::DriverInfo> built);

} // namespace shale::cli
