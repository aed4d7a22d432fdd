// SPDX-License-Identifier: Apache-2.0
// ZFS for tests: one pool in a sparse file for each process, destroyed when it ends; pools of processes that were
// killed go when the next one begins. No call passes the seam.
#pragma once

#include <string>

#include "base/error.h"

namespace shale::test {

/// Name of this process's pool.
Result<std::string> zfs_pool();
/// A new dataset of the pool, mounted at `path`. Those of before that are mounted no more are destroyed.
Result<bool> mount_zfs_home(const std::string &path);
/// `to` is a copy of the driver's directory `from`: gives it datasets of its own, clones of the others.
void copy_zfs_layers(const std::string &from, const std::string &to);
/// Destroys the datasets of the driver's directory `root`.
void remove_zfs_layers(const std::string &root);
/// A sealed layer, whose directory is `layer`, reads from now on as its `dataset` is now.
void seal_zfs_layer_again(const std::string &layer, const std::string &dataset);

} // namespace shale::test
