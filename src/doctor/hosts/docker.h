// SPDX-License-Identifier: Apache-2.0
// The stores of dockerd (moby 19.03 to 28, the image store of the graph drivers) and of the BuildKit in it and beside
// it, read from their files. dockerd is not asked: it may not run, and may be of a disk.
//
// A root holds a tree of layers for each storage driver that was ever used, and records of them:
//   DRIVER/...                           the trees; docker_graph.h
//   image/DRIVER/layerdb/                which tree is which layer, which container has which; docker_layers.h
//   image/DRIVER/imagedb/, repositories.json   images and their names; docker_images.h
//   containers/, volumes/                docker_containers.h
//   buildkit/                            build cache on the same trees; buildkit.h
#pragma once

#include <string>
#include <vector>

#include "probe/facts.h"
#include "probe/host.h"

namespace shale::doctor {

/// Appends a store for each storage driver that has something at `data_root`, one of engine "buildkit" for each
/// BuildKit, and the daemon's configuration file. Empty `data_root`: that of the running dockerd (its command line or
/// configuration), else of /etc/docker/daemon.json, else /var/lib/docker; and the roots of users' own daemons
/// (rootless mode) below /root and /home. Roots within a root that userns-remap makes ("165536.165536") are read, too.
/// A daemon at work is read up to three times until nothing changed meanwhile; what still changes has the state
/// "changing". Nothing that is broken ends the reading: it is told in `sources` and `problems`.
void read_docker(const probe::Host &host, const std::vector<probe::Process> &processes, const std::string &data_root,
                 probe::Facts &facts);

} // namespace shale::doctor
