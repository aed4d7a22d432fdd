// SPDX-License-Identifier: Apache-2.0
// Tar as shale reads and writes it: POSIX ustar + PAX, GNU long names and sparse files (all three GNU/PAX forms), V7.
// Own code and not libarchive: see docs/adr/0002-own-tar-reader.md (libarchive normalises names to NFC, cuts
// PAX values at NUL, hides raw bytes that exact regeneration of a blob needs).
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"

namespace shale::archive {

enum class EntryType : uint8_t { file, hard_link, symlink, char_device, block_device, directory, fifo };

struct SparseRange {
    uint64_t offset = 0; ///< in the file
    uint64_t length = 0;
};

/// One tar member, as the archive states it (nothing cleaned, nothing trusted).
struct Entry {
    EntryType type = EntryType::file;
    std::string path;  ///< bytes, no NUL; directories may end in '/'
    std::string link;  ///< target of a hard link or symlink
    uint32_t mode = 0; ///< permission bits incl. 07000; higher bits of the header are dropped
    uint64_t uid = 0, gid = 0;
    uint64_t size = 0;   ///< logical size of a file (sparse: the real size); 0 for all else
    uint64_t stored = 0; ///< bytes of data in the archive
    int64_t mtime_s = 0;
    uint32_t mtime_ns = 0;
    uint32_t dev_major = 0, dev_minor = 0;
    std::vector<std::pair<std::string, std::string>> xattrs; ///< from SCHILY.xattr.*; values may hold NUL
    bool is_sparse = false;
    std::vector<SparseRange> sparse; ///< data ranges in order, when is_sparse
};

/// Bounds on what one archive may ask for.
struct TarLimits {
    uint64_t entries = 10'000'000;
    uint64_t total_bytes = uint64_t{1} << 40U; ///< logical bytes of files, sum (1 TiB)
    uint64_t file_bytes = uint64_t{1} << 40U;  ///< of one file
    size_t header_bytes = size_t{1} << 20U;    ///< one PAX header or GNU long name (1 MiB)
    size_t path_bytes = 4095;                  ///< PATH_MAX - 1; one component: NAME_MAX 255
    size_t sparse_ranges = 65'536;
    /// Extended attributes of one entry; a file system keeps far fewer (ext4: one block), and look-up is linear.
    size_t xattrs = 1024;
};

/// Where the reader gets bytes from: a next block, empty at the end. The block stays valid until the next call.
using BlockSource = std::function<Result<std::span<const std::byte>>()>;

/// Pull parser. After next() returned true, data() gives the entry's stored bytes in pieces (empty = no more);
/// what is not taken is skipped by the following next(). Memory: one header, bounded by TarLimits.
class TarReader {
public:
    TarReader(BlockSource source, const TarLimits &limits);
    /// false: end of archive (two zero blocks, or a clean end of the source). InvalidArgument: malformed, with the
    /// byte offset; ResourceExhausted: over a limit, which is named.
    Result<bool> next(Entry &out);
    Result<std::span<const std::byte>> data();
    /// Reads the source to its end (padding after the last entry counts for the diff id).
    Status drain();
    [[nodiscard]] uint64_t offset() const noexcept { return consumed_; }

private:
    struct Extended; ///< what headers before an entry (PAX, GNU L/K) say about it
    struct Header;

    Result<size_t> fill();
    /// The next `wanted` bytes, contiguous; fewer only at the end of the source.
    Result<std::span<const std::byte>> take(size_t wanted);
    Result<std::string> take_string(uint64_t size, const char *what);
    Status skip(uint64_t bytes);
    Result<bool> read_header(Header &out);
    Status read_extended(const Header &header, Extended &extended);
    Status finish_entry(const Header &header, Extended &extended, Entry &out);
    Status read_old_sparse(const Header &header, Entry &out);
    Status read_sparse_list(std::string_view map, Entry &out);
    Status read_sparse_map(Entry &out);
    Status check_sparse(const Entry &entry);
    [[nodiscard]] std::unexpected<Error> too_many_ranges() const;
    Status check_limits(const Entry &entry);
    [[nodiscard]] std::unexpected<Error> malformed(std::string what) const;

    BlockSource source_;
    TarLimits limits_;
    std::span<const std::byte> block_{};
    std::vector<std::byte> carry_; ///< for a header that straddles two blocks
    uint64_t consumed_ = 0;
    uint64_t entry_left_ = 0; ///< stored bytes of the current entry not yet handed out
    uint64_t padding_ = 0;
    uint64_t entries_ = 0, total_bytes_ = 0;
    uint64_t header_at_ = 0; ///< offset of the header being read, for messages
    bool source_ended_ = false;
    bool at_end_ = false;
    std::optional<uint64_t> global_uid_, global_gid_;
    std::optional<std::pair<int64_t, uint32_t>> global_mtime_;
};

/// Where written archives go.
using Sink = std::function<Status(std::span<const std::byte>)>;

/// Canonical writer: ustar where everything fits, else one PAX header before the entry, keys sorted; no user or
/// group names; nanoseconds and xattrs in PAX; equal entries give equal bytes. End: two zero blocks.
class TarWriter {
public:
    explicit TarWriter(Sink sink);
    Status add(const Entry &entry); ///< header; then exactly entry.size bytes by data()
    Status data(std::span<const std::byte> bytes);
    Status finish();

private:
    Status flush_padding();
    Sink sink_;
    uint64_t left_ = 0, padding_ = 0;
};

} // namespace shale::archive
