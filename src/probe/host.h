// SPDX-License-Identifier: Apache-2.0
// The host that is looked at: this one, or a disk of another that is mounted somewhere (`--host-root /mnt`). Every path
// is the host's own; symlinks are followed as they would be there and never lead out of it (openat2, RESOLVE_IN_ROOT,
// Linux 5.6). Nothing is ever written.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "sys/fs.h"

namespace shale::probe {

class Host {
public:
    /// NotFound, PermissionDenied; InvalidArgument: not a directory.
    static Result<Host> open(const std::string &root = "/");

    /// It is the one that this process runs on: /proc and /sys tell about it.
    [[nodiscard]] bool live() const noexcept { return root_ == "/"; }
    [[nodiscard]] const std::string &root() const noexcept { return root_; }
    /// Where this process finds the host's `path`, links left alone: "/mnt" + "/var/lib/docker".
    [[nodiscard]] std::string here(std::string_view path) const;

    /// O_CLOEXEC|O_NOCTTY|O_NONBLOCK are added: opening a FIFO or a device does not wait.
    Result<UniqueFd> open_path(const std::string &path, int flags) const;
    /// A regular file (InvalidArgument for anything else); more than `limit` bytes is ResourceExhausted.
    Result<std::string> read(const std::string &path, size_t limit = size_t{4} << 20U) const;
    /// As read(); a missing file is nullopt.
    Result<std::optional<std::string>> read_if_there(const std::string &path, size_t limit = size_t{4} << 20U) const;
    /// Sorted by name. More than `limit` entries is ResourceExhausted.
    Result<std::vector<sys::DirEntry>> list(const std::string &path, size_t limit = 1'000'000) const;
    /// As list(); a missing directory is empty.
    Result<std::vector<sys::DirEntry>> list_if_there(const std::string &path, size_t limit = 1'000'000) const;
    /// Links are followed. nullopt: nothing is there.
    Result<std::optional<struct stat>> stat(const std::string &path) const;
    [[nodiscard]] bool is_dir(const std::string &path) const;

private:
    Host() = default;
    std::string root_;
    UniqueFd dir_;
};

} // namespace shale::probe
