// SPDX-License-Identifier: Apache-2.0
// A host becomes facts: every reader, in the order in which one needs the other's.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "probe/facts.h"
#include "probe/host.h"

namespace shale::doctor {

struct GatherOptions {
    /// Where to look, instead of everywhere that stores are by their configurations and by habit.
    struct Place {
        std::string engine; ///< "docker", "containerd", "podman", "shale"
        std::string root;
    };
    std::vector<Place> only;
    /// Count what the layers and volumes take, compare files with the sizes that their archives had, and look for
    /// broken hard links: every inode of them is looked at.
    bool usage = true;
    unsigned threads = 1;
    /// What is being read, and how many inodes were counted so far. May be empty.
    std::function<void(std::string_view what, uint64_t inodes)> on_progress;
};

/// "docker=/var/lib/docker"; InvalidArgument: not of that form, no such engine, or no absolute path.
Result<GatherOptions::Place> parse_place(std::string_view text);

/// Nothing that cannot be read is an error: it stands in the facts' problems and in the stores' sources.
probe::Facts gather(const probe::Host &host, const GatherOptions &options);

} // namespace shale::doctor
