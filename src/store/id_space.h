// SPDX-License-Identifier: Apache-2.0
// What this process may do with owners and devices: the whole id space (root), a mapped range (user namespace), or one
// id.
#pragma once

#include "archive/extract.h"

namespace shale::store {

/// Options for unpacking as this process can: owners are kept when at least 65,536 ids are mapped (the range that
/// newuidmap sets up and images use), else all become the caller's and are counted; device nodes need the initial user
/// namespace.
archive::ExtractOptions extract_options(archive::WhiteoutForm whiteouts, const archive::TarLimits &limits);

} // namespace shale::store
