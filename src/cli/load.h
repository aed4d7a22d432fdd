// SPDX-License-Identifier: Apache-2.0
// Reads what there is of configuration: flags, environment, files.
#pragma once

#include <string>
#include <vector>

#include "cli/args.h"
#include "guard/config.h"

namespace shale::cli {

struct Config {
    std::vector<Source> sources; ///< from the strongest to the weakest, for resolve()
    std::string default_root;
    guard::Config guard; ///< [guard] of the file
};
/// `user_store`: the files and the store of a user, not the host's. A file that was asked for and cannot be read is an
/// error.
Result<Config> load_config(const Globals &globals, bool user_store);

} // namespace shale::cli
