// SPDX-License-Identifier: Apache-2.0
// What a layer's archive said of its files, against what lies in its tree: Docker and containers/storage keep the frame
// of each layer's tar (vbatts/tar-split, tar/storage/entry.go), one JSON object a line, gzipped:
//
//   {"type":1,"name":"etc/passwd","size":1234,"payload":CRC64,"position":N}   an entry; name_raw (base64) where no
//   UTF-8
//   {"type":2,"payload":BASE64,"position":N}                                  bytes between the entries
//
// A power cut leaves files of the right name that are empty or short; no record of the engine tells of that.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"
#include "probe/facts.h"
#include "probe/host.h"

namespace shale::doctor {

struct SplitReport {
    uint64_t files = 0;              ///< with contents, that were looked at
    uint64_t damaged = 0;            ///< of them
    std::vector<std::string> damage; ///< "PATH: 0 bytes, the archive has 123"; at most max_split_damage
};
inline constexpr size_t max_split_damage = 10;

/// `archive`: a tar-split.json.gz; `tree`: the directory that holds what the layer itself has. Only sizes are compared:
/// no file's contents are read, and no link leads out of the tree. NotFound: no such archive or tree, or one of them
/// went while there was something to tell; Aborted: the tree changes meanwhile; InvalidArgument: the archive is no
/// regular file; DataLoss: it is cut off or no such document.
Result<SplitReport> compare_with_tar_split(const probe::Host &host, const std::string &archive,
                                           const std::string &tree);

/// All recorded layers of the stores that keep such archives; what is found is added to their damage, what cannot be
/// compared to the problems. Looks at every file with contents once.
void compare_layers_with_archives(const probe::Host &host, probe::Facts &facts);

} // namespace shale::doctor
