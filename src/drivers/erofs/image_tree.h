// SPDX-License-Identifier: Apache-2.0
// The tree of one layer in memory, on its way to an image: names, attributes and directories are kept (about 100 bytes
// an entry), files' data goes to the image at once. The rules of archives are the extractor's; this only has the
// semantics of a file system.
//
// States: building -> finish() -> spent. One file can be written at a time, the one that was made last. A file's inode
// is written when the next file is made or the tree is finished: until then its attributes can be set.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "archive/tree.h"
#include "base/siphash.h"
#include "drivers/erofs/image.h"

namespace shale::drivers::erofs {

class ImageTree final : public archive::Tree {
public:
    /// `image`: an empty file, open for reading and writing.
    explicit ImageTree(UniqueFd image);

    /// Writes what is left; returns the recorded digest. Not synced.
    Result<Digest> finish();
    [[nodiscard]] int image() const noexcept { return image_.get(); }
    /// Inodes in the tree, with the root.
    [[nodiscard]] uint64_t inodes() const noexcept { return live_inodes_; }

    [[nodiscard]] int root() const noexcept override { return 0; }
    Result<struct stat> stat(int dir, const char *name) override;
    Result<std::optional<struct stat>> stat_if_exists(int dir, const char *name) override;
    Result<archive::Ref> open_dir(int dir, const char *name) override;
    Result<archive::Ref> open_path(int dir, const char *name) override;
    Result<std::optional<archive::Ref>> resolve_dir(const std::string &path) override;
    Result<std::string> read_link(int dir, const char *name) override;
    Result<std::vector<sys::DirEntry>> list_dir(int dir) override;

    Result<archive::Ref> create_file(int dir, const char *name, mode_t mode) override;
    Status write(int file, std::span<const std::byte> data) override;
    Status write_at(int file, std::span<const std::byte> data, uint64_t offset) override;
    /// Before any data: the file has holes, and data comes by write_at() in ascending order.
    Status truncate(int file, uint64_t size) override;

    Status make_dir(int dir, const char *name, mode_t mode) override;
    Status make_symlink(std::string_view target, int dir, const char *name) override;
    Status make_node(int dir, const char *name, mode_t mode, dev_t device) override;
    Status make_link(int from_dir, const char *from, int to_dir, const char *to) override;
    Status unlink(int dir, const char *name) override;
    Status rename(int from_dir, const char *from, int to_dir, const char *to) override;
    Status remove_tree(int dir, const char *name, const std::function<void()> &on_entry = {}) override;

    Status chown(int dir, const char *name, uid_t uid, gid_t gid) override;
    Status chmod(int dir, const char *name, mode_t mode) override;
    Status set_times(int dir, const char *name, const timespec &atime, const timespec &mtime) override;
    Status set_xattr(int dir, const char *name, const char *key, std::string_view value) override;
    Result<std::optional<std::string>> get_xattr(int dir, const char *name, const char *key) override;
    Result<std::vector<std::string>> list_xattrs(int dir, const char *name) override;

private:
    static constexpr uint32_t none = 0xffff'ffff;
    static constexpr uint64_t max_nodes = uint64_t{1} << 31U; ///< numbers are ints
    static constexpr size_t max_text = size_t{1} << 31U;

    struct Node {          ///< an inode
        uint64_t size = 0; ///< of a symlink: length of the target
        int64_t mtime = 0;
        uint32_t mtime_ns = 0;
        uint32_t uid = 0, gid = 0;
        uint32_t links = 0;     ///< names
        uint32_t extra = none;  ///< directory: number in dirs_; symlink: target in text_; device: its number
        uint32_t xattrs = none; ///< number in xattr_sets_
        InodePlace place;
        uint16_t mode = 0;
        bool placed = false;  ///< it has its place in the image
        bool recount = false; ///< file: it was written with another number of names than one
    };
    struct Directory {
        uint32_t first_name = none;
        uint32_t parent = 0; ///< node
    };
    struct Name {
        uint32_t dir = 0, node = 0; ///< nodes; dir == none: the name is gone
        uint32_t next = none;       ///< in the directory
        uint32_t text = 0;          ///< in text_
        uint8_t length = 0;
    };
    struct Finish; // image_finish.cc

    [[nodiscard]] std::string_view text_of(const Name &name) const {
        return std::string_view(text_).substr(name.text, name.length);
    }
    [[nodiscard]] bool is_dir(uint32_t node) const { return S_ISDIR(nodes_[node].mode); }
    [[nodiscard]] Directory &dir_of(uint32_t node) { return dirs_[nodes_[node].extra]; }
    [[nodiscard]] uint64_t hash_of(uint32_t dir, std::string_view name) const;
    /// Index in table_: of the name, or of the free place for it.
    [[nodiscard]] size_t slot_of(uint32_t dir, std::string_view name) const;
    [[nodiscard]] uint32_t find(uint32_t dir, std::string_view name) const; ///< number in names_, or none
    void grow_table();
    Result<uint32_t> add_text(std::string_view text);
    Result<uint32_t> add_node(mode_t mode);
    Status add_name(uint32_t dir, std::string_view name, uint32_t node);
    void drop_name(uint32_t name);
    /// True: that was the object's last name.
    bool drop_link(uint32_t node);
    Result<uint32_t> look(int dir, const char *name) const; ///< node
    Result<uint32_t> new_entry(int dir, const char *name, mode_t mode);
    /// As look(), of what can still be changed.
    Result<Node *> change(int dir, const char *name);
    [[nodiscard]] struct stat stat_of(uint32_t node) const;
    Status end_file();
    [[nodiscard]] InodeHead head_of(const Node &node) const;
    [[nodiscard]] std::span<const uint32_t> xattrs_of(const Node &node) const;

    UniqueFd image_;
    ImageWriter writer_;
    uid_t uid_;
    gid_t gid_;
    std::deque<Node> nodes_;
    std::deque<Name> names_;
    std::deque<Directory> dirs_;
    std::vector<std::vector<uint32_t>> xattr_sets_; ///< emptied when a file is written
    std::string text_;
    std::vector<uint32_t> table_; ///< open addressing: number in names_ + 1; 0 free; none: deleted
    size_t table_used_ = 0;       ///< deleted ones too
    SipKey key_{};                ///< of the table: names come from strangers
    uint64_t live_inodes_ = 1;
    uint32_t open_file_ = none;
    size_t xattr_references_ = 0;
};

} // namespace shale::drivers::erofs
