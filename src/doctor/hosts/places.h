// SPDX-License-Identifier: Apache-2.0
// Where stores may be that no configuration of the system names: below the homes of users who run containers of their
// own. And what else several readers of stores need.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "probe/facts.h"
#include "probe/host.h"

namespace shale::doctor {

/// Where orphans lie that were reclaimed (doctor/trash.h): in no store's directory is it a layer.
inline constexpr std::string_view trash_name = ".shale-trash";

struct Home {
    std::string user, path;
    uint64_t uid = 0;
};
/// Of /etc/passwd, and the directories in /home that it does not name; at most 10,000, each directory once. Those that
/// may not be looked into are left out and told in one problem.
std::vector<Home> homes(const probe::Host &host, std::vector<probe::Problem> &problems);

/// "DEVICE:INODE" of a directory, so that one which has several paths is read once; "" when it is not there.
std::string identity(const probe::Host &host, const std::string &path);

/// Blocks of the files in a directory, in bytes, and of those in its directories down to `depth`. Links are not
/// followed; at most 1,000,000 entries are counted. A missing directory has none.
uint64_t bytes_in(const probe::Host &host, const std::string &path, int depth);

/// The value of `--NAME=VALUE` or `--NAME VALUE`; "" when there is none.
std::string argument(const std::vector<std::string> &arguments, std::string_view name);

} // namespace shale::doctor
