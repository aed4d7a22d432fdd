// SPDX-License-Identifier: Apache-2.0
// The thresholds of kubelet that have to do with disks: from its configuration file (YAML or JSON) and the command line
// of a running one, which goes before.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "doctor/check.h"

namespace shale::doctor::checks {

struct KubeletConfig {
    std::string origin;                            ///< "/var/lib/kubelet/config.yaml", "process 12 (kubelet)"
    std::string root = "/var/lib/kubelet";         ///< --root-dir
    std::optional<int> high_percent, low_percent;  ///< imageGCHighThresholdPercent, imageGCLowThresholdPercent
    std::map<std::string, std::string> hard, soft; ///< evictionHard: "imagefs.available" -> "15%"
    bool has_hard = false;                         ///< evictionHard is set: what is not in it is off
    bool merges_defaults = false;                  ///< mergeDefaultEvictionSettings
    std::string fault;                             ///< the file could not be read; empty: it could
};

/// nullopt: there is neither a file nor a process of kubelet.
std::optional<KubeletConfig> kubelet_config(const probe::Facts &facts);

/// A quantity of Kubernetes ("10%", "1Gi", "500M", "1e9") of `whole` bytes (or inodes); nullopt: not one.
std::optional<uint64_t> kubelet_quantity(std::string_view text, uint64_t whole);

} // namespace shale::doctor::checks
