// SPDX-License-Identifier: Apache-2.0
// What packing, comparing, merging and copying share: walks of any depth with few descriptors, and the reading of
// overlay's marks. Internal to archive/.
#pragma once

#include <sys/stat.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "archive/extract.h"
#include "base/error.h"
#include "base/fd.h"
#include "sys/fs.h"

namespace shale::archive {

/// The directories from a root down to the current one. Only the innermost ones stay open; an outer one is opened
/// again as ".." of its child and believed only when device and inode are those noted before.
class DirStack {
public:
    explicit DirStack(int root) : root_(root) {} ///< not owned
    [[nodiscard]] int top() const noexcept { return levels_.empty() ? root_ : levels_.back().fd.get(); }
    Status push(const char *name);
    Status push(UniqueFd directory);
    Status pop();

private:
    static constexpr size_t kept_open = 64;
    struct Level {
        UniqueFd fd;
        dev_t device = 0;
        ino_t inode = 0;
    };
    int root_;
    std::vector<Level> levels_;
};

struct InodeKey {
    dev_t device = 0;
    ino_t inode = 0;
    bool operator==(const InodeKey &) const = default;
};
inline InodeKey key_of(const struct stat &st) {
    return {st.st_dev, st.st_ino};
}
struct InodeHash {
    size_t operator()(const InodeKey &key) const noexcept {
        return static_cast<size_t>(key.inode * 0x9E3779B97F4A7C15U ^ key.device);
    }
};

/// Sorted by key.
using Xattrs = std::vector<std::pair<std::string, std::string>>;
/// All attributes; name "" = the descriptor itself. One call when there are none.
Result<Xattrs> read_xattrs(int dir, const char *name);
/// Of overlayfs itself.
bool is_overlay_xattr(std::string_view key) noexcept;
/// Those that belong into a layer: not overlay's own, not the host's (security.* but capability, NFS ACLs).
bool is_layer_xattr(std::string_view key) noexcept;

/// What overlay's attributes on one object say.
struct OverlayMarks {
    bool opaque = false;     ///< hides the lower directory
    bool xwhiteouts = false; ///< may hold whiteouts in the form of marked empty files
    bool redirect = false, metacopy = false;
};
OverlayMarks overlay_marks(const Xattrs &xattrs, WhiteoutForm form);

struct UpperItem {
    std::string name;       ///< in the merged view: without ".wh."
    std::string raw;        ///< on disk
    unsigned char type = 0; ///< DT_*
    bool whiteout = false;
};
struct UpperListing {
    bool opaque = false;
    std::string opaque_raw;       ///< the marker file, when a file says so
    std::vector<UpperItem> items; ///< sorted by name, a whiteout before an entry of that name
};
/// Lists a directory of an upper-form tree. `marks`: of the directory.
Result<UpperListing> list_upper(int dir, WhiteoutForm form, const OverlayMarks &marks);
/// Lists a directory of a complete tree in the same shape.
Result<UpperListing> list_plain(int dir);

/// A name or path for messages: control bytes escaped, quoted.
std::string quoted(std::string_view path);

} // namespace shale::archive
