// SPDX-License-Identifier: Apache-2.0
// Are two complete trees the same? For proving a copy.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace shale::archive {

struct CompareOptions {
    /// Of which files the content is read, by path ("etc/passwd"); empty: of none.
    std::function<bool(std::string_view path)> contents;
    /// Of which names it is asked whether they are one file in both trees. Not all: a driver that stacks layers gives a
    /// layer that links to one name of a lower file a copy, and the other lower names stay the lower file's.
    std::function<bool(std::string_view path)> links;
    bool root = true; ///< the roots' own mode, owner, attributes and mtime count
};
struct CompareReport {
    uint64_t entries = 0, bytes_read = 0;
    std::vector<std::string> differences; ///< "/etc/passwd: mode 0644, copy 0600"; at most 20
};

/// Names, types, modes, owners, sizes, mtimes (ns), link targets, devices, attributes that belong into a layer, which
/// names are one file, and the contents that were asked for. What packing leaves out because no layer can state it is
/// passed over: sockets, names that begin with ".wh." (with all that is below), attributes with '=' in their key.
Result<CompareReport> compare_trees(int first_dir, int second_dir, const CompareOptions &options);

} // namespace shale::archive
