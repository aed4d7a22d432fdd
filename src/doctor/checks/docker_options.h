// SPDX-License-Identifier: Apache-2.0
// What dockerd understands: keys of daemon.json and options of its storage drivers, moby 20.10 to 29.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "doctor/check.h"

namespace shale::doctor::checks {

/// What the JSON value of a key has to be; dockerd does not start on another.
enum class JsonKind : uint8_t { boolean, integer, text, texts, text_map, flag_map, list, object };
/// "a list of strings"
std::string_view name_of(JsonKind kind) noexcept;

struct DaemonKey {
    std::string_view name;
    JsonKind kind;
};
struct GoneKey {
    std::string_view name;
    int refused_since; ///< major version that does not start on it; 0: it is passed over
    std::string_view what;
};
/// A name that dockerd takes (a flag is called so) and does nothing with, since the file calls it otherwise.
struct FlagName {
    std::string_view flag, key; ///< key empty: the file has none
};

std::span<const DaemonKey> daemon_keys() noexcept;
const DaemonKey *daemon_key(std::string_view name) noexcept;
const GoneKey *gone_key(std::string_view name) noexcept;
const FlagName *flag_name(std::string_view name) noexcept;

/// What a driver does with a storage option.
enum class OptionUse : uint8_t {
    known,
    refused,  ///< dockerd does not start
    obsolete, ///< passed over, later refused: see `why`
};
struct OptionVerdict {
    OptionUse use = OptionUse::known;
    std::string why;
};
/// Of "overlay2.size=10G" for the driver "overlay2". `major`: of dockerd, 0 when it is not known.
OptionVerdict judge_storage_option(std::string_view option, std::string_view driver, int major);
/// Of "storage-driver".
OptionVerdict judge_driver_name(std::string_view driver, int major);

/// Major version of the dockerd of these stores ("20.10.24+dfsg1" -> 20), 0: not known.
int docker_major(const std::vector<const probe::Store *> &stores);

} // namespace shale::doctor::checks
