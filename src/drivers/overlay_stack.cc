// SPDX-License-Identifier: Apache-2.0
#include "drivers/overlay_stack.h"

#include <cerrno>
#include <string>

#include <fmt/format.h>

#include "sys/fs.h"

namespace shale::drivers {
namespace {

std::string helper(LayerId id, const char *name) {
    return fmt::format("{}/{}", id.value, name);
}

Status make_if_missing(const LayerRoot &root, const std::string &name, mode_t mode) {
    auto made = root.make(name.c_str(), mode);
    return made || made.error().sys_errno() != EEXIST ? made : Status();
}

} // namespace

Status make_helpers(const LayerRoot &root, LayerId id, Parents parents) {
    if (parents.empty()) TRY(make_if_missing(root, helper(id, no_parents), 0755));
    return make_if_missing(root, helper(id, "work"), 0700);
}

Result<bool> has_helpers(const LayerRoot &root, LayerId id, Parents parents) {
    if (parents.empty() && !TRY(sys::stat_if_exists(root.fd(), helper(id, no_parents).c_str()))) return false;
    return TRY(sys::stat_if_exists(root.fd(), helper(id, "work").c_str())).has_value();
}

Status drop_helpers(const LayerRoot &root, LayerId id, Parents parents) {
    if (parents.empty()) TRY(root.to_trash(helper(id, no_parents), id));
    return root.to_trash(helper(id, "work"), id);
}

} // namespace shale::drivers
