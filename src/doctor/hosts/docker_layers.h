// SPDX-License-Identifier: Apache-2.0
// layerdb: what dockerd knows of its layers (moby, layer/filestore.go).
//
//   image/DRIVER/layerdb/sha256/CHAIN/   a sealed layer by its chain id
//       cache-id            its tree's name in the graph driver
//       diff, parent, size  diff id; chain id of the one below (none: the lowest); bytes of its content
//       tar-split.json.gz   the headers of its archive, without which no push or save gives the same archive again
//   image/DRIVER/layerdb/sha256/CHAIN-RANDOM-removing/   one whose tree could not be removed (layer_store.go,
//   deleteLayer) image/DRIVER/layerdb/mounts/NAME/    a writable layer by the container's id: mount-id, init-id, parent
//   image/DRIVER/layerdb/tmp/write-set-RANDOM/   records of a layer that is being written, or was when dockerd ended
//
// dockerd passes over a record it cannot read ("Failed to load layer" at debug level): its images are then broken and
// its tree is kept for ever. So what cannot be read here is told, and nothing may be said to be without a record.
#pragma once

#include "doctor/hosts/docker_draft.h"

namespace shale::doctor::docker {

/// Sealed layers.
void read_layer_records(Draft &draft);
/// Writable layers and their init layers.
void read_mount_records(Draft &draft);
/// When all else is read, containers too: says "unreadable" of those of these records that cannot be all. They are
/// missing, though a tree is in no record or a container was made with this driver; or such a container has no record
/// of its writable layer, so that its data would seem to be nobody's.
void tell_lost_records(Draft &draft);
/// What of writing was left over or is under way: a StoreLayer of kind "ingest" each. One that changed at or after
/// `recent_s` (since the epoch) is Draft::being_written.
void read_write_sets(Draft &draft, uint64_t recent_s);

} // namespace shale::doctor::docker
