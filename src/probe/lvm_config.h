// SPDX-License-Identifier: Apache-2.0
// LVM's files of settings (lvm.conf(5), "SYNTAX"), of which its backups of volume groups are some, too; and the one
// setting that matters here: from which fill on a thin pool is extended by itself.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "probe/facts.h"
#include "probe/host.h"

namespace shale::probe {

/// "activation/thin_pool_autoextend_threshold" -> "80". Strings without their quotes; arrays are left out. The last
/// assignment of several wins.
using LvmConfig = std::map<std::string, std::string, std::less<>>;

/// What cannot be told apart (a string without an end, a brace too few or too many, sections 32 deep) is
/// InvalidArgument and names the line.
Result<LvmConfig> parse_lvm_config(std::string_view text);

struct LvmVolume {
    std::string group, volume;
};
/// "docker-thin--pool-tpool", "LVM-...-tpool" -> "docker", "thin-pool". nullopt: LVM did not make it.
std::optional<LvmVolume> lvm_volume_of(std::string_view dm_name, std::string_view dm_uuid);

/// activation/thin_pool_autoextend_threshold for one pool, 100 when nobody set it. The cascade of lvm.conf(5): the
/// metadata profile of the pool, else of its group (both from LVM's backup, /etc/lvm/backup/GROUP), lvmlocal.conf,
/// lvm.conf. nullopt: it cannot be known; why is in `problems`.
std::optional<int> lvm_autoextend_percent(const Host &host, const LvmVolume &pool, std::vector<Problem> &problems);

} // namespace shale::probe
