// SPDX-License-Identifier: Apache-2.0
// What one snapshotter of containerd has: its records, and the directories, files, datasets or thin devices that it
// made. The records of all are alike (containerd, core/snapshots/storage/bolt.go), the rest is each one's own
// (plugins/snapshots/NAME; containerd/zfs).
//
// A snapshotter may be at work while it is read. What makes the outcome sound:
//  - Directories are listed before the records are read. A snapshot's directory is in place before its record is
//    committed (they make it, or rename "new-*" to it, within the bolt transaction), and it goes after the record is
//    gone (native, blockfile and btrfs move it to "rm-N" within that transaction). So a directory without a record is
//    garbage, being removed, or being made.
//  - The number of a snapshot is the sequence of the bucket "snapshots" (storage.CreateSnapshot, NextSequence), it
//    grows by one within the transaction that makes it, and bolt has one of those at a time. So a directory with a
//    number up to the sequence is not being made, however young; one beyond it, or "new-*", may be: a copy of a large
//    tree or block file takes minutes. These are told apart by their age and by when containerd was started.
//  - A record whose directory is missing, or lacks something, is believed when it is so twice, each time with the disk
//    looked at after the records were read: a removal that is under way has no record the second time.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "probe/facts.h"
#include "probe/host.h"

namespace shale::doctor::containerd {

/// What was changed within these seconds may be under way: a step of containerd takes a commit of bolt.
inline constexpr uint64_t young_s = 60;

/// When, and who may be at work.
struct Moment {
    uint64_t now_s = 0;
    bool processes_seen = false;              ///< that no containerd was found means that none runs
    bool running = false;                     ///< the one of this root
    std::optional<uint64_t> daemon_started_s; ///< since then it runs

    [[nodiscard]] bool young(uint64_t changed_s) const noexcept { return changed_s + young_s >= now_s; }
    /// Something that takes its time (a copy, the removal of a tree) may be at what was last changed then.
    [[nodiscard]] bool being_changed(uint64_t changed_s) const noexcept;
};

struct Snapshotter {
    std::string name, root;
    std::map<std::string, std::string> options; ///< of its table in config.toml
};

struct SnapshotterContents {
    bool there = false; ///< its root is
    std::vector<probe::StoreLayer> layers;
    std::vector<probe::RecordSource> sources;
    std::map<std::string, std::string> settings;
    std::map<std::string, uint64_t> other_bytes;
};

/// Never fails: what cannot be read is told in `sources`. `facts` are asked for mounts and datasets of ZFS.
SnapshotterContents read_snapshotter(const probe::Host &host, const Snapshotter &which, const Moment &moment,
                                     const probe::Facts &facts);

/// `state` "read", or after the error: "missing", "changing", "unreadable".
probe::RecordSource source_of(std::string path, std::string what, uint64_t entries);
probe::RecordSource source_of(std::string path, std::string what, const Error &error);

} // namespace shale::doctor::containerd
