// SPDX-License-Identifier: Apache-2.0
// A scenario: a failure that container hosts know, made to happen for real in a world of its own, seen, and mended. One
// file a scenario in scenarios/, one line in scenarios/all.cc.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "base/error.h"
#include "lab/story.h"
#include "lab/world.h"

namespace shale::lab {

struct Scenario {
    std::string_view id;    ///< "inode-exhaustion"
    std::string_view title; ///< one line
    std::string_view about; ///< what happens, how it shows on a host, and what mends it; whole sentences
    /// Why it cannot run on this host ("" when it can), looked up, not guessed. Root is asked for before.
    std::string (*cannot_run)();
    /// Tells its story and answers every question; an error: the scenario itself could not go on.
    Status (*run)(World &world, Story &story);
};

/// All of them, in the order of their ids.
std::span<const Scenario *const> all_scenarios();
/// nullptr: there is none with that id.
const Scenario *find_scenario(std::string_view id);

/// Reasons for cannot_run(): "" when all is there.
std::string lacks_nothing();
std::string lacks_file_system(std::string_view type);
std::string lacks_device_mapper();
std::string lacks_zfs();
std::string lacks_tool(const std::string &name, const std::string &package);

} // namespace shale::lab
