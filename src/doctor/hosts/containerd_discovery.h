// SPDX-License-Identifier: Apache-2.0
// Which containerds there are on a host: those that run, and those whose root lies where distributions put it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "doctor/hosts/containerd_config.h"
#include "doctor/hosts/containerd_snapshots.h"
#include "probe/facts.h"
#include "probe/host.h"

namespace shale::doctor::containerd {

struct Instance {
    std::string root, state; ///< directories: what it keeps, what ends with the boot
    std::string config_path;
    Config config;
    int pid = 0;
    std::string version; ///< of that process, or of the system's containerd which would serve it; "": not known
    Moment moment;
};

/// As read_containerd() describes it. Each root once, under the name that was found first.
std::vector<Instance> find_instances(const probe::Host &host, const std::vector<probe::Process> &processes,
                                     const std::string &root, probe::Facts &facts);

/// The word behind this one on a command line: "-c" -> "FILE"; empty: it is not there.
std::string word_after(const probe::Process &process, std::string_view option);

} // namespace shale::doctor::containerd
