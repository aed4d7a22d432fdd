// SPDX-License-Identifier: Apache-2.0
// The stores of containerd 1.6 to 2.x: what its databases say of images, containers, leases and snapshots, and what
// lies on disk. Sources of the formats are named where they are read (containerd_*.h).
#pragma once

#include <string>
#include <vector>

#include "probe/facts.h"
#include "probe/host.h"

namespace shale::doctor {

/// Appends a Store for each snapshotter of each containerd that is found, with something in it (the first one in any
/// case): engine "containerd", driver = the snapshotter's name; and its configuration files, kind "containerd
/// config.toml". `processes` tells which containerd runs, with which root, and which containers have a process.
/// `root` empty: those that run; the one of /etc/containerd/config.toml, else /var/lib/containerd; the ones that
/// docker, k3s, rke2, k0s and microk8s bring along, and those of users (rootless), where they are. Else only the one at
/// `root`. One that runs in a container has a root of its own, which is not read: a problem tells of it.
///
/// To be called after `facts.mount_namespaces` and `facts.zfs_datasets` were filled: the zfs snapshotter keeps nothing
/// else on disk.
///
/// What the layers' members mean here:
///  - id: the number that the snapshotter gave (its directory); a directory without a record: its name;
///  - name: the key in the snapshotter's own database, "NAMESPACE/N/KEY";
///  - recorded: in the snapshotter's own database;
///  - used_by: "image NAME" for all layers of an image, "container ID", "lease ID", "layer ID", "sandbox ID", "content
///    DIGEST" (pinned by a label, with what it refers to), "label containerd.io/gc.root". None: nothing keeps it from
///    the next garbage collection of its snapshotter;
///  - kind: "" for a directory without a record; "ingest" for what may be in the making or going just now, which is not
///    to be judged; "removing" for the rest of a removal that has ended before its time.
/// Images: one for each manifest that is unpacked, or one that is not. `missing_layers` counts those that are neither
/// unpacked nor in the content store, so that containerd cannot make them again.
/// Containers: "running" and "exited" by their task; "created": they have none; "unknown": no processes can be seen.
void read_containerd(const probe::Host &host, const std::vector<probe::Process> &processes, const std::string &root,
                     probe::Facts &facts);

} // namespace shale::doctor
