// SPDX-License-Identifier: Apache-2.0
// Objects of a file system to entries of a layer: what pack_upper, pack_tree and pack_diff share. Internal to archive/.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>

#include "archive/pack.h"
#include "archive/tree_walk.h"

namespace shale::archive {

/// One object, opened as far as packing needs.
struct Source {
    int dir = -1;
    const char *name = nullptr;
    struct stat st{};
    Xattrs xattrs;
    UniqueFd fd; ///< regular files, directories
};
/// `type` DT_* as listed; a regular file or directory is opened, the rest is not touched.
Result<Source> open_source(int dir, const char *name, unsigned char type);

class Packer {
public:
    Packer(const PackOptions &options, const Sink &sink);
    Packer(const Packer &) = delete;
    Packer &operator=(const Packer &) = delete;

    /// Writes the entry `path` (no slash at either end). The second name of an inode becomes a hard link.
    Status emit(const std::string &path, Source &source);
    /// `directory` = "" or "a/b/".
    Status whiteout(const std::string &directory, const std::string &name);
    Status opaque(const std::string &directory);
    /// True when a name cannot be an entry of a layer (".wh.*"); that is warned of.
    bool refuses(const std::string &directory, const std::string &name);
    void skip_socket() { ++report_.skipped_sockets; }
    void warn(std::string text);
    Result<PackReport> finish();

private:
    Status put(std::span<const std::byte> bytes);
    Status flush();
    Status copy_data(const std::string &path, int fd, uint64_t size);
    Status marker(std::string path);

    static constexpr size_t buffer_size = size_t{256} << 10U;
    const PackOptions &options_;
    const Sink &sink_;
    TarWriter writer_;
    std::unique_ptr<std::byte[]> buffer_, read_buffer_; // NOLINT(*-avoid-c-arrays)
    size_t filled_ = 0;
    std::unordered_map<InodeKey, std::string, InodeHash> links_;
    PackReport report_;
};

} // namespace shale::archive
