// SPDX-License-Identifier: Apache-2.0
// What `shale doctor --json` said.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace shale::lab {

struct Ran; // world.h

struct Finding {
    std::string check, severity, subject, summary;
    std::vector<std::string> evidence, commands;
};

/// All of its findings. InvalidArgument: what came out is no report of the doctor's.
Result<std::vector<Finding>> findings_of(const Ran &doctor);
/// The first of a check whose subject, summary or evidence has `text` in it.
std::optional<Finding> find(const std::vector<Finding> &findings, std::string_view check, std::string_view text = {});

} // namespace shale::lab
