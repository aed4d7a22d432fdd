// SPDX-License-Identifier: Apache-2.0
// EROFS on disk, as far as shale writes it. Source of every field: the kernel's fs/erofs/erofs_fs.h and
// Documentation/filesystems/erofs.rst; offsets are in bytes, numbers little-endian. What shale does with the freedom
// that the format leaves is in docs/formats/erofs.md.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace shale::drivers::erofs {

static_assert(std::endian::native == std::endian::little, "the structures below are written as they lie in memory");

inline constexpr uint32_t magic = 0xE0F5E1E2; ///< EROFS_SUPER_MAGIC_V1
inline constexpr size_t block_bits = 12;
inline constexpr size_t block_size = size_t{1} << block_bits;
inline constexpr size_t super_offset = 1024; ///< EROFS_SUPER_OFFSET
inline constexpr size_t slot_size = 32;      ///< an inode's number is its offset in units of these
inline constexpr uint64_t max_blocks = 0xffff'fffe;

inline constexpr uint32_t compat_checksum = 0x1, compat_mtime = 0x2; ///< EROFS_FEATURE_COMPAT_SB_CHKSUM, _MTIME
inline constexpr uint32_t incompat_chunked = 0x4; ///< EROFS_FEATURE_INCOMPAT_CHUNKED_FILE, Linux 5.15

struct SuperBlock { ///< struct erofs_super_block
    uint32_t magic_number = magic;
    uint32_t checksum = 0; ///< crc32c (no final inversion) from here to the end of the block, this field 0
    uint32_t feature_compat = 0;
    uint8_t block_size_bits = block_bits;
    uint8_t extra_slots = 0;
    uint16_t root_nid = 0;
    uint64_t inodes = 0;
    uint64_t build_time = 0; ///< the mtime of compact inodes
    uint32_t build_time_ns = 0;
    uint32_t blocks = 0;
    uint32_t meta_block = 0;  ///< where nid 0 would be
    uint32_t xattr_block = 0; ///< start of the shared attributes
    uint8_t uuid[16] = {};
    uint8_t volume_name[16] = {};
    uint32_t feature_incompat = 0;
    uint8_t rest[44] = {}; ///< compression, devices, long prefixes: nothing of it is used
};
static_assert(sizeof(SuperBlock) == 128);

/// i_format: bit 0 = extended, from bit 1 the layout of the data.
enum class Layout : uint16_t { plain = 0, inline_tail = 2, chunks = 4 };
constexpr uint16_t format_of(Layout layout, bool extended) {
    return static_cast<uint16_t>((static_cast<unsigned>(layout) << 1U) | (extended ? 1U : 0U));
}

struct CompactInode { ///< struct erofs_inode_compact; its mtime is the superblock's build time
    uint16_t format = 0;
    uint16_t xattr_count = 0;
    uint16_t mode = 0;
    uint16_t links = 0;
    uint32_t size = 0;
    uint32_t reserved = 0;
    uint32_t block_or_device = 0;
    uint32_t number = 0;
    uint16_t uid = 0, gid = 0;
    uint32_t reserved2 = 0;
};
static_assert(sizeof(CompactInode) == 32);

struct ExtendedInode { ///< struct erofs_inode_extended
    uint16_t format = 0;
    uint16_t xattr_count = 0; ///< 0: none; else 1 + units of 4 bytes after the header
    uint16_t mode = 0;
    uint16_t reserved = 0;
    uint64_t size = 0;
    uint32_t block_or_device = 0; ///< first data block; device number; for Layout::chunks log2(blocks a chunk)
    uint32_t number = 0;          ///< for 32-bit stat only
    uint32_t uid = 0, gid = 0;
    int64_t mtime = 0;
    uint32_t mtime_ns = 0;
    uint32_t links = 0;
    uint8_t reserved2[16] = {};
};
static_assert(sizeof(ExtendedInode) == 64);
inline constexpr size_t links_offset = 44; ///< of ExtendedInode::links

struct XattrHeader { ///< struct erofs_xattr_ibody_header, before an inode's attributes
    uint32_t filter = 0;
    uint8_t shared_count = 0;
    uint8_t reserved[7] = {};
};
static_assert(sizeof(XattrHeader) == 12);

struct XattrEntry { ///< struct erofs_xattr_entry, then name and value, padded to 4
    uint8_t name_length = 0;
    uint8_t prefix = 0; ///< EROFS_XATTR_INDEX_*
    uint16_t value_size = 0;
};
static_assert(sizeof(XattrEntry) == 4);

/// struct erofs_dirent; a block of a directory is all its entries, then all their names; entries are in order of
/// unsigned bytes over the whole directory, "." and ".." among them.
inline constexpr size_t dirent_size = 12; ///< nid 8, offset of the name 2, type 1, reserved 1

inline constexpr uint32_t hole = 0xffff'ffff; ///< EROFS_NULL_ADDR in a map of chunks

} // namespace shale::drivers::erofs
