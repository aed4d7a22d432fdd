// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "oci/members.h"

namespace shale::oci {

/// Documents of one image, verified against the descriptor that named the manifest; layers located.
Result<SourceImage> load_image(const Layout &layout, const Descriptor &manifest);
/// Images of an OCI layout. `stem` names images that have only a tag. NotFound when options.reference fits none.
Result<std::vector<SourceImage>> read_layout(const Layout &layout, const std::string &stem,
                                             const SourceOptions &options);
/// Images of a `docker save` archive.
Result<std::vector<SourceImage>> read_docker_archive(const TarIndex &members, const SourceOptions &options);
/// config digest -> names, from manifest.json; for OCI archives whose index has no names. Only Config names that are
/// digests count; what is malformed is an error.
Result<std::map<Digest, std::vector<std::string>>> docker_names(const TarIndex &members);
/// A stated name, normalised; empty when it does not fit the grammar; InvalidArgument when it is hostile.
Result<std::string> stated_name(std::string_view text);
/// Does any name, or a bare tag, match what the user asked for?
bool wanted(const std::vector<std::string> &names, const std::string &reference);

} // namespace shale::oci
