// SPDX-License-Identifier: Apache-2.0
// Resolving a path by hand, to know every directory that it is looked up in: whoever changes what the path shows
// changes one of these.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/fd.h"

namespace shale::sys {

struct WalkStep {
    std::shared_ptr<const UniqueFd> directory; ///< O_PATH
    std::string name;                          ///< looked up there
};
struct WalkedPath {
    std::vector<WalkStep> steps;    ///< in their order; those of links, and of what the links say, too
    UniqueFd file;                  ///< O_PATH, never a link; none: nothing is there
    std::vector<std::string> names; ///< where `file` is, from the root, without links
};

/// Resolves `path` with `root` (a directory, O_PATH will do) as its root, as RESOLVE_IN_ROOT of openat2(2) does: links
/// are followed by their text, absolute ones and ".." do not lead out, whatever is moved meanwhile. Other mounts are
/// entered. What is missing, no directory, or a loop of links ends the walk and is no error: `file` is none, and the
/// last step is the name that was not there. ResourceExhausted: more than 128 directories deep, or 400 steps. Every
/// step keeps a descriptor open.
Result<WalkedPath> walk_path(int root, std::string_view path);

} // namespace shale::sys
