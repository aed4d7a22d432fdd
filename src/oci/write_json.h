// SPDX-License-Identifier: Apache-2.0
// The documents of an export besides those in image.h; sorted keys, no white space.
#pragma once

#include <string>
#include <vector>

#include "oci/image.h"

namespace shale::oci {

std::string write_index(const std::vector<Descriptor> &manifests);
/// manifest.json of a docker archive with one image.
std::string write_docker_list(const std::string &config_name, const std::vector<std::string> &names,
                              const std::vector<std::string> &layer_names);

} // namespace shale::oci
