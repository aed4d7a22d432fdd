// SPDX-License-Identifier: Apache-2.0
// Walks two complete trees side by side. Internal to archive/.
#pragma once

#include <string>

#include "archive/pack_walk.h"

namespace shale::archive {

class DiffVisitor {
public:
    virtual ~DiffVisitor() = default;
    /// Something that is only in the lower tree; `directory` = "" or "a/b/".
    virtual Status deleted(const std::string &directory, const std::string &name) = 0;
    /// Added to or different in the upper tree. Parent directories come first, also when only a child made them differ.
    virtual Status changed(const std::string &path, Source &upper, bool added) = 0;
    /// The same in both, not a directory, more than one link. True: report it as changed nevertheless.
    virtual bool unchanged_link(const std::string &path, const struct stat &upper, const struct stat &lower) = 0;
    /// Upper names to pass over, sockets among them.
    virtual bool skips(const std::string &directory, const UpperItem &item) = 0;
};

/// `snapshot`: as in PackOptions.
Status diff_trees(int lower_dir, int upper_dir, DiffVisitor &visitor, bool snapshot);

} // namespace shale::archive
