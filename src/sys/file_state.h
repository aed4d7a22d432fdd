// SPDX-License-Identifier: Apache-2.0
// What a name shows, and what has become of it between two looks.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "base/error.h"

namespace shale::sys {

/// The strongest first.
enum class ChangeKind : uint8_t { replaced, created, deleted, moved, modified, attributes };
[[nodiscard]] std::string_view change_name(ChangeKind kind) noexcept;

struct FileState {
    bool is_there = false;
    uint64_t device = 0, inode = 0;
    int64_t born_ns = 0; ///< 0: the file system does not say
    int64_t modified_ns = 0, changed_ns = 0;
    uint64_t size = 0;
    uint32_t mode = 0, uid = 0, gid = 0;

    [[nodiscard]] bool is_directory() const noexcept;
    [[nodiscard]] bool is_inode_of(const FileState &other) const noexcept {
        return is_there && other.is_there && device == other.device && inode == other.inode;
    }
    bool operator==(const FileState &) const = default;
};

/// By statx(2), a link not followed; name "" = the descriptor itself. A missing name is no error.
Result<FileState> file_state(int dir, const char *name);

/// Events say what to look at; what is found says what happened.
struct Noticed {
    uint32_t what = 0;      ///< event::*
    int64_t time_ns = 0;    ///< of the last of them, unix
    bool is_unsure = false; ///< some events may be missing
};
/// nullopt: nothing that is told. A directory is not modified by what happens to its entries.
std::optional<ChangeKind> compare(const FileState &before, const FileState &after, const Noticed &noticed) noexcept;

} // namespace shale::sys
