// SPDX-License-Identifier: Apache-2.0
// The world of one scenario: a directory, disks (loop devices over files that have no name), control groups, commands.
// It lies in mount and PID namespaces of its own (sandbox.h), so that all of it ends with the scenario's processes.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "lab/keeper.h"

namespace shale::lab {

/// A command that has ended.
struct Ran {
    std::string line; ///< as one would type it
    int status = 0;
    std::string out, errors;
};

struct DiskPlan {
    std::string name; ///< it is mounted at WORLD/NAME
    std::string type; ///< "ext4", "xfs", "btrfs"; empty: a bare device
    uint64_t bytes = 0;
    std::vector<std::string> mkfs{};    ///< options of mkfs.TYPE
    std::vector<std::string> options{}; ///< of the mount
};

struct Disk {
    std::string path;   ///< where it is mounted; empty: a bare device
    std::string device; ///< "/dev/loop3"
    std::string type;
    std::vector<std::string> options;
    UniqueFd file;   ///< that the device shows
    UniqueFd holder; ///< of the device: it goes when this and its mounts are gone
};

class World {
public:
    /// `files`: an open directory for what disks hold; its file system must know O_TMPFILE.
    World(UniqueFd files, const Keeper &keeper, std::string name)
        : files_(std::move(files)), keeper_(keeper), name_(std::move(name)) {}

    /// A tmpfs of its own.
    static constexpr std::string_view path = "/mnt";
    [[nodiscard]] std::string operator/(std::string_view entry) const {
        return std::string(path) + "/" + std::string(entry);
    }
    /// "shale-lab-1234": what others on the host can see is named so.
    [[nodiscard]] const std::string &name() const noexcept { return name_; }

    Result<Disk> disk(const DiskPlan &plan) const;
    /// The file and the device; the file system is the caller's.
    static Status grow(const Disk &disk, uint64_t bytes);
    static Status mount(const Disk &disk);
    static Status unmount(const Disk &disk);

    /// This very program. Error: it could not be run, or did not end in time; a status other than 0 is none.
    static Result<Ran> shale(std::vector<std::string> arguments, std::chrono::milliseconds deadline = minutes_);
    static Result<Ran> tool(const std::string &name, const std::string &package, std::vector<std::string> arguments,
                            std::chrono::milliseconds deadline = minutes_);
    /// As tool(); a status other than 0 is an error, with its words.
    static Result<Ran> must(const std::string &name, const std::string &package, std::vector<std::string> arguments,
                            std::chrono::milliseconds deadline = minutes_);

    /// The control group WORLD/ENTRY ("a/b": one in the other) with this controller ("memory", "blkio" of v1, or of v2
    /// "memory", "io"): its directory. FailedPrecondition: the host has no such controller mounted.
    struct Cgroup {
        std::string path; ///< its directory
        std::string name; ///< as in /proc/PID/cgroup
        bool v2 = false;
    };
    Result<Cgroup> cgroup(std::string_view controller, std::string_view entry) const;

    [[nodiscard]] const Keeper &keeper() const noexcept { return keeper_; }

private:
    static constexpr std::chrono::milliseconds minutes_{300'000};
    UniqueFd files_;
    const Keeper &keeper_;
    std::string name_;
};

/// `shale` with a store: its root and driver, and what else is given to every command.
class StoreCommand {
public:
    StoreCommand(std::string root, std::string_view driver, std::vector<std::string> more = {});
    Result<Ran> operator()(std::vector<std::string> arguments) const;
    /// As above; a status other than 0 is an error, with its words.
    Result<Ran> must(std::vector<std::string> arguments) const;
    /// Where the container's tree is, mounted.
    [[nodiscard]] Result<std::string> mount(const std::string &container) const;
    /// `shale doctor --json` about this store only; all checks, or these.
    [[nodiscard]] Result<Ran> doctor(const std::vector<std::string> &checks = {}) const;
    [[nodiscard]] const std::string &root() const noexcept { return root_; }

private:
    std::string root_;
    std::vector<std::string> globals_;
};

/// The status of a command must be 0.
Result<Ran> succeeded(Result<Ran> ran);

/// Bytes and inodes of a file system (statvfs(3)).
struct Room {
    uint64_t bytes = 0, bytes_free = 0, inodes = 0, inodes_free = 0;
};
Result<Room> room_of(const std::string &path);

/// Writes a file; the directories above it are made. Not synced.
Status write_file(const std::string &path, std::string_view bytes, unsigned mode = 0644);
Result<std::string> read_whole(const std::string &path);
/// So many bytes that do not compress, the same for the same seed.
std::string noise(uint64_t seed, size_t bytes);

struct ImageFile {
    std::string path, bytes; ///< a path that ends in '/' is a directory
    unsigned mode = 0644;
};
/// A docker-save archive with these layers.
Status write_image(const std::string &path, const std::string &name, const std::vector<std::vector<ImageFile>> &layers);

} // namespace shale::lab
