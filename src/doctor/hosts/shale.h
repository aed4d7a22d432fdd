// SPDX-License-Identifier: Apache-2.0
// shale's own stores, read from their files as those of others are: the store is not opened, for that would recover it,
// and it may be on a disk that must not change.
//
//   ROOT/shale.db                    records; docs/formats/records.md
//   ROOT/DRIVER/ID, trash/, probe-*  layers; src/drivers/*/FORMAT.md
//   ROOT/blobs/sha256/HEX            manifests, configurations, layers as they came
//   ROOT/lock                        who is at work on what; src/store/locks.h
#pragma once

#include <string>
#include <vector>

#include "probe/facts.h"
#include "probe/host.h"

namespace shale::doctor {

/// Appends a store of engine "shale" for each driver that has layers at `root`: of the driver in the records, and of
/// any other that left something there. Empty `root`: those that /etc/shale/shale.toml names, else /var/lib/shale, and
/// those of users below their homes. Nothing that is broken ends the reading: it is told in `sources` and `problems`.
/// Mounts and the time are taken from `facts`, as far as they are known already.
void read_shale(const probe::Host &host, const std::vector<probe::Process> &processes, const std::string &root,
                probe::Facts &facts);

} // namespace shale::doctor
