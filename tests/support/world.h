// SPDX-License-Identifier: Apache-2.0
// What tests that span rooms share: a private place to work in, and small images made on the spot.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "archive/tar.h"
#include "oci/image.h"
#include "store/store.h"

namespace shale::test {

/// A private directory that leaves nothing behind. As root: its own mount namespace (once a process) and a tmpfs, or
/// the file system that the storage driver `driver` lives on, in memory; mounts and files vanish with the process even
/// when it is killed. Else a plain directory (in /dev/shm when that has room), removed at the end.
class World {
public:
    explicit World(std::string_view driver = {});
    ~World();
    World(const World &) = delete;
    World &operator=(const World &) = delete;
    [[nodiscard]] const std::string &path() const noexcept { return path_; }
    [[nodiscard]] std::string operator/(std::string_view name) const { return path_ + "/" + std::string(name); }

    /// Removes a tree below it; a failure fails the test.
    void remove(std::string_view name) const;

private:
    std::string path_;
    bool mounted_ = false;
};

/// Why this process cannot mount an overlay; empty when it can.
std::string cannot_mount();
/// Every driver there is, some in several configurations ("devicemapper_direct_xfs"; with SHALE_TEST_ALL=1 in the
/// environment in all of them): no test program names them.
/// `of`: those of one driver.
std::vector<std::string> driver_names(std::string_view of = {});
/// The driver that such a name means.
std::string driver_of(std::string_view tested);
/// What it is opened with when `root` is the driver's directory.
drivers::DriverOptions options_of(std::string_view tested, const std::string &root);
/// What the driver whose directory is `root` keeps active beyond its files (devices) is put to rest: before the tree is
/// copied or removed.
void put_to_rest(const std::string &root);
/// Why a test of this driver cannot run here; empty when it can.
std::string cannot_test(std::string_view driver);
/// Whether this is the virtual machine of tests/guest, where a processor is emulated.
bool in_guest();
/// As cannot_test(), for tests of many clients at once: on one emulated processor their connections time out before
/// they get a turn, so that what only a guest's kernel has is not for the usual run. Empty in a guest.
std::string cannot_load(std::string_view driver);
/// How many layers to stack in a test of depth: `wanted`, fewer where every layer is a file system of its own (depth
/// means nothing to those, and each costs a second).
unsigned deep(std::string_view driver, unsigned wanted);
/// Mounts a new, empty file system (ext4, xfs, btrfs) in memory; it goes with its mount. `mkfs`: further options of it.
Status mount_new(const std::string &type, uint64_t bytes, const std::string &path,
                 const std::vector<std::string> &options = {}, const std::vector<std::string> &mkfs = {});
/// Makes and mounts at `path` what a driver needs that does not work on any file system (btrfs: a new btrfs in memory).
/// False: it works where it is.
Result<bool> mount_home_of(std::string_view driver, const std::string &path);

/// Short forms of archive entries.
archive::Entry dir(std::string path, uint32_t mode = 0755);
archive::Entry file(std::string path, uint32_t mode = 0644);
archive::Entry symlink(std::string path, std::string target);
archive::Entry hard_link(std::string path, std::string target);
archive::Entry whiteout(std::string path); ///< "etc/gone" -> etc/.wh.gone
archive::Entry opaque(std::string directory);

struct Member {
    archive::Entry entry;
    std::string content;
};
using Layer = std::vector<Member>;

std::string tar_of(const Layer &layer);
/// Writes a docker-save archive with these layers.
void write_docker_archive(const std::string &path, const std::vector<Layer> &layers, std::string_view name);

/// How tests open a store with a driver of driver_names().
store::StoreOptions store_options(const std::string &root, const std::string &driver,
                                  store::Durability durability = store::Durability::full);
/// Opens a store or fails the test with its text.
std::unique_ptr<store::Store> open_store(const std::string &root, const std::string &driver,
                                         store::Durability durability = store::Durability::full);
std::string read_all(const std::string &path);
/// Copies a store: subvolumes become snapshots.
void copy_dir(const std::string &from, const std::string &to);
/// Calls `body` with the path of a sealed layer's tree (or of the directory that holds it), writable for that long.
void in_layer(store::Store &store, LayerId id, const std::function<void(const std::string &)> &body);
/// Takes away every mount below `path`: those that a driver keeps for as long as a layer is there.
void unmount_below(const std::string &path);
/// Lets a test damage a layer that its driver made read-only (and, with false, makes it read-only again).
void thaw(const std::string &layer, bool writable);

} // namespace shale::test
