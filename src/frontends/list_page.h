// SPDX-License-Identifier: Apache-2.0
// Snapshots as the wire has them, written without making a message of each: most of what a List of ten thousand took
// was making those, and freeing them again.
//
// By the encoding of protobuf (protobuf.dev/programming-guides/encoding) and the numbers in
// proto/containerd/services/snapshots/v1/snapshots.proto; list_page_test.cc has protobuf read what this writes.
#pragma once

#include <string>

#include "store/snapshots.h"

namespace shale::frontends {

/// Appends the field `info` of a ListSnapshotsResponse (StatSnapshotResponse, UpdateSnapshotResponse): `out` is such a
/// message, serialized, before and after.
void append_info(const store::SnapshotRow &row, std::string &out);

} // namespace shale::frontends
