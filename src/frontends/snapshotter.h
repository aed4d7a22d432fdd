// SPDX-License-Identifier: Apache-2.0
// containerd.services.snapshots.v1 over store::Snapshots. It translates and bounds; every rule is the engine's.
//
// What it decides itself: keys and names are 1 to 32,768 bytes (bbolt's largest key, which is containerd's bound), a
// label has at most 4,096 bytes (containerd's), and which snapshotter a request names is not asked: the socket decides.
// containerd's name spaces arrive as metadata and are part of the keys already. A message of List is a page of
// Snapshots::walk(): with its last row far below the 16 MiB that clients take (defaults.DefaultMaxRecvMsgSize).
#pragma once

#include <memory>

#include "frontends/calls.h"
#include "frontends/rpc_server.h"
#include "store/snapshots.h"

namespace shale::frontends {

inline constexpr size_t max_key_bytes = 32'768, max_label_bytes = 4'096;

/// A server of the service; `snapshots` outlives it. `observe` is told of every call.
Result<std::unique_ptr<RpcServer>> serve_snapshots(store::Snapshots &snapshots, CallObserver observe);

} // namespace shale::frontends
