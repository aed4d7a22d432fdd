// SPDX-License-Identifier: Apache-2.0
// Writes one EROFS image front to back. A file's full blocks go out as they come; its inode, attributes and the rest of
// its data (if a block holds them) follow when it ends, packed with those of its neighbours. So an image needs no
// second file and no memory for data. Directories, links and devices come last, when all numbers are known.
//
// Order of calls: {begin_file, append.. | begin_sparse, write_at.., end_file}.., end_files; {plan}.., end_plan;
// {directory_block}.., {record}.. (in the order of plan); finish.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/digest.h"
#include "base/error.h"
#include "drivers/erofs/format.h"

struct XXH3_state_s; // xxhash.h

namespace shale::drivers::erofs {

/// XXH3 of 128 bits (xxHash): finds damage at the speed of memory. It proves nothing against an attacker, and need not:
/// who can change the image can change the digest in it, too; what came in was proved by its diff id.
class Checksum {
public:
    using Value = std::array<uint8_t, 16>; ///< canonical: big-endian
    Checksum();
    void update(std::span<const std::byte> data);
    /// Of all so far; begins anew.
    Value finish();

private:
    struct Free {
        void operator()(XXH3_state_s *state) const noexcept;
    };
    std::unique_ptr<XXH3_state_s, Free> state_;
};

/// An image's digest, made while it is written: SHA-256 over the checksums of each MiB of the file, the first one
/// without what lies before the superblock. Only what is written again is read again.
class PieceDigest {
public:
    static constexpr uint64_t piece_bytes = uint64_t{1} << 20U;
    void update(std::span<const std::byte> next); ///< of the file, from its first byte on
    void update_zeros(uint64_t count);
    void rewritten(uint64_t offset, uint64_t size);
    /// `fd`: the file, which has what update() was given, but for what was rewritten.
    Result<Digest> finish(int fd);

private:
    void end_piece();
    Checksum piece_; ///< of the open one
    uint64_t position_ = 0;
    std::vector<Checksum::Value> pieces_;
    std::set<size_t> rewritten_;
};

/// Appends to a file in large writes; zeros in bulk become holes.
class Output {
public:
    /// `fd`: an empty file, open for reading and writing; not owned.
    explicit Output(int fd);
    Status append(std::span<const std::byte> data);
    Status append_zeros(uint64_t count);
    Status align() { return append_zeros((block_size - position_ % block_size) % block_size); }
    /// Bytes before position(), wherever they are by now.
    Status patch(uint64_t offset, std::span<const std::byte> data);
    Status flush();
    [[nodiscard]] uint64_t position() const noexcept { return position_; }
    [[nodiscard]] int fd() const noexcept { return fd_; }
    /// Of all that was flushed.
    Result<Digest> digest() { return digest_.finish(fd_); }

private:
    int fd_;
    PieceDigest digest_;
    std::vector<std::byte> buffer_;
    size_t filled_ = 0;     ///< of the buffer
    uint64_t position_ = 0; ///< of the next byte
    uint64_t flushed_ = 0;  ///< bytes in the file
    uint64_t paced_ = 0;    ///< bytes that write-back was started for
};

/// Places records into blocks: first fit among the blocks of a window, so that no record that fits into a block crosses
/// one. Larger ones get blocks of their own.
class Packer {
public:
    static constexpr size_t window_blocks = 32;
    struct Place {
        uint32_t window = 0;        ///< counted from 0
        uint32_t offset = 0;        ///< in the window; a multiple of slot_size
        uint32_t closed_blocks = 0; ///< not 0: the window before this one is complete, so many blocks long
    };
    Place place(size_t size);
    /// Blocks of the open window, which is closed now; 0: none was open.
    uint32_t close();

private:
    uint32_t window_ = 0; ///< number of the open one, or of the next
    uint32_t blocks_ = 0; ///< in use in the open window; 0: none is open
    bool is_large_ = false;
    size_t first_ = 0; ///< blocks before it are full
    std::array<uint16_t, window_blocks> used_{};
};

/// Attributes of the image: each key and value once in memory, and once on disk from the second inode on.
class XattrPool {
public:
    static constexpr size_t max_bytes = size_t{64} << 20U;
    /// Number of this pair. EOPNOTSUPP: a name space that EROFS does not have; EINVAL, ENOSPC as setxattr(2).
    Result<uint32_t> intern(std::string_view key, std::string_view value);
    struct Item {
        uint8_t prefix = 0;
        std::string_view name; ///< without the prefix
        std::string key, value;
        uint32_t users = 0;
        uint32_t shared_at = no_place; ///< offset in the shared area
    };
    static constexpr uint32_t no_place = 0xffff'ffff;
    [[nodiscard]] const Item &item(uint32_t number) const { return *items_[number]; }
    /// What follows an inode with these attributes; `all_shared`: none of them inline. ENOSPC: too much for an inode.
    Result<std::vector<std::byte>> body(std::span<const uint32_t> numbers, bool all_shared = false);
    [[nodiscard]] const std::vector<std::byte> &shared() const noexcept { return shared_; }

private:
    void share(Item &item);
    std::vector<std::unique_ptr<Item>> items_;
    std::map<std::pair<std::string_view, std::string_view>, uint32_t> known_;
    std::vector<std::byte> shared_;
    size_t bytes_ = 0;
};

/// What an inode says of itself.
struct InodeHead {
    uint16_t mode = 0;
    uint32_t uid = 0, gid = 0;
    uint64_t size = 0;
    int64_t mtime = 0;
    uint32_t mtime_ns = 0;
    uint32_t links = 1;
    uint32_t device = 0; ///< as the kernel's new_encode_dev()
};

/// Where an inode is: known for good once its window is written.
struct InodePlace {
    uint32_t window = 0, slot = 0;
};

class ImageWriter {
public:
    explicit ImageWriter(int fd);

    // Files, one after the other.
    Status begin_file();
    Status append(std::span<const std::byte> data);
    /// A file of `size` bytes with holes: then write_at() in ascending order, instead of append().
    Status begin_sparse(uint64_t size);
    Status write_at(std::span<const std::byte> data, uint64_t offset);
    Result<InodePlace> end_file(const InodeHead &head, std::span<const uint32_t> xattrs);
    /// Of a file that ended.
    Status set_links(InodePlace place, uint32_t links);

    // The end: everything that is left is planned first, in the order in which it is written then.
    Status end_files();
    /// A record to come: `bytes` from record_size().
    InodePlace plan(size_t bytes);
    /// All is planned: `data_blocks` blocks of directories come first, then the records.
    Status end_plan(uint64_t data_blocks);
    [[nodiscard]] uint64_t nid(InodePlace place) const {
        return (uint64_t{windows_[place.window]} << block_bits) / slot_size + place.slot;
    }
    Status directory_block(std::span<const std::byte> block);
    /// An inode that is no file, where it was planned; its last bytes (or none of them) go with it.
    Status record(InodePlace planned, const InodeHead &head, std::span<const std::byte> xattrs, uint32_t block,
                  std::span<const std::byte> inline_tail);
    /// Block 0 with the root directory, and the image's digest in front of it.
    Result<Digest> finish(const InodeHead &root, std::span<const std::byte> xattrs, uint32_t block,
                          std::span<const std::byte> inline_tail, uint64_t inodes);
    /// Of an inode that is no file, without its data.
    static size_t record_size(const InodeHead &head, size_t xattr_bytes);

    static constexpr uint64_t root_nid = (super_offset + sizeof(SuperBlock)) / slot_size;
    /// Room behind the root's inode in block 0.
    static constexpr size_t root_room = block_size - super_offset - sizeof(SuperBlock) - sizeof(ExtendedInode);
    [[nodiscard]] uint32_t next_block() const noexcept { return static_cast<uint32_t>(out_.position() / block_size); }
    [[nodiscard]] XattrPool &xattrs() noexcept { return xattrs_; }

private:
    Status put(Packer::Place place, std::span<const std::byte> record);
    Status close_window(uint32_t blocks);
    Status end_chunk();
    void put_head(const InodeHead &head, bool extended, Layout layout, uint32_t block,
                  std::span<const std::byte> xattrs);
    Status check_size() const;

    Output out_;
    Packer packer_, planner_;
    XattrPool xattrs_;
    std::vector<std::byte> window_; ///< content of the open window
    std::vector<uint32_t> windows_; ///< first block of each written or planned window
    size_t written_windows_ = 0;
    size_t file_windows_ = 0;       ///< windows before the planned ones
    uint32_t planned_blocks_ = 0;   ///< of closed planned windows
    std::vector<std::byte> record_; ///< being put together
    bool has_chunks_ = false;
    uint32_t next_number_ = 1;
    Sha256 identity_; ///< over inodes and directories: becomes the UUID

    // The file that is being written.
    std::vector<std::byte> tail_; ///< less than a block
    uint32_t first_block_ = 0;
    uint64_t file_bytes_ = 0;
    bool sparse_ = false;
    unsigned chunk_bits_ = 0; ///< log2 of blocks a chunk
    std::vector<uint32_t> chunks_;
    uint64_t chunk_end_ = 0; ///< of the open chunk, in the file; 0: none
};

/// What an image says of itself, from its first block: the recorded digest and its size. DataLoss: no image of shale's.
struct ImageInfo {
    Digest digest;
    uint64_t bytes = 0;
};
Result<ImageInfo> read_info(int fd);
/// The digest anew, over all that it covers.
Result<Digest> digest_of_image(int fd);

} // namespace shale::drivers::erofs
