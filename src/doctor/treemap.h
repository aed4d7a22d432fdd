// SPDX-License-Identifier: Apache-2.0
// Where space is, as rectangles: SVG for a page.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "doctor/space.h"

namespace shale::doctor {

/// An <svg> of its own size ratio, three levels deep; each rectangle has its whole name as a title. What is beyond 200
/// parts of one is one.
std::string treemap_svg(std::vector<SpaceNode> parts, std::string_view label);

} // namespace shale::doctor
