// SPDX-License-Identifier: Apache-2.0
#include "drivers/erofs/image.h"

#include <sys/stat.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstring>
#include <new>

#include <fmt/format.h>
#include <xxhash.h>

#include "sys/fs.h"

namespace shale::drivers::erofs {
namespace {

constexpr size_t buffer_bytes = size_t{1} << 20U;
/// Zeros from here on are left out of the file: a small archive with a large sparse file must not write gigabytes of
/// them, since a chunk of such a file is up to megabytes for one byte of data.
constexpr uint64_t hole_bytes = 4 * block_size;
constexpr uint64_t pace_bytes = uint64_t{8} << 20U;
constexpr std::string_view header_name = "shale erofs layer ", header_line = "shale erofs layer 3\n";
/// From here on data is not gathered in the buffer first.
constexpr size_t direct_bytes = size_t{64} << 10U;
/// Entries in the map of a sparse file, at most (1 MiB): larger files get larger chunks.
constexpr uint64_t max_chunks = uint64_t{1} << 18U;

constexpr uint64_t round_up(uint64_t value, uint64_t unit) {
    return (value + unit - 1) / unit * unit;
}

template <class T> std::span<const std::byte> bytes_of(const T &object) {
    return std::as_bytes(std::span(&object, 1));
}

void add(std::vector<std::byte> &out, std::span<const std::byte> data) {
    // Not insert(): GCC 12 sees it write out of bounds.
    const size_t at = out.size();
    out.resize(at + data.size());
    if (!data.empty()) std::memcpy(out.data() + at, data.data(), data.size());
}

/// CRC-32C, reflected, polynomial 0x82f63b78, from ~0 and without the inversion at the end, as the kernel's crc32c().
uint32_t crc32c(std::span<const std::byte> data) {
    uint32_t crc = ~0U;
    for (const std::byte byte : data) {
        crc ^= static_cast<uint32_t>(byte);
        for (int bit = 0; bit < 8; ++bit)
            crc = (crc >> 1U) ^ ((crc & 1U) != 0 ? 0x82f63b78U : 0U);
    }
    return crc;
}

/// Nullopt: the file ends before this piece.
Result<std::optional<Checksum::Value>> checksum_of_piece(int fd, uint64_t number, std::vector<std::byte> &buffer) {
    buffer.resize(PieceDigest::piece_bytes);
    const uint64_t begin = number * PieceDigest::piece_bytes;
    size_t filled = 0;
    while (filled < buffer.size()) {
        const size_t got = TRY(sys::pread_some(fd, std::span(buffer).subspan(filled), begin + filled));
        if (got == 0) break;
        filled += got;
    }
    const size_t skipped = number == 0 ? std::min(filled, super_offset) : 0;
    if (filled == skipped) return std::nullopt;
    Checksum sum;
    sum.update(std::span<const std::byte>(buffer).subspan(skipped, filled - skipped));
    return sum.finish();
}

} // namespace

Checksum::Checksum() : state_(XXH3_createState()) {
    if (!state_) throw std::bad_alloc();
    (void)XXH3_128bits_reset(state_.get());
}

void Checksum::Free::operator()(XXH3_state_s *state) const noexcept {
    (void)XXH3_freeState(state);
}

void Checksum::update(std::span<const std::byte> data) {
    (void)XXH3_128bits_update(state_.get(), data.data(), data.size());
}

Checksum::Value Checksum::finish() {
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state_.get()));
    (void)XXH3_128bits_reset(state_.get());
    Value out;
    std::ranges::copy(canonical.digest, out.begin());
    return out;
}

void PieceDigest::update(std::span<const std::byte> next) {
    while (!next.empty()) {
        const auto now =
            next.first(static_cast<size_t>(std::min<uint64_t>(next.size(), piece_bytes - position_ % piece_bytes)));
        piece_.update(now);
        next = next.subspan(now.size());
        position_ += now.size();
        if (position_ % piece_bytes == 0) end_piece();
    }
}

void PieceDigest::update_zeros(uint64_t count) {
    static constexpr std::array<std::byte, size_t{64} << 10U> zeros{};
    for (; count > zeros.size(); count -= zeros.size())
        update(zeros);
    update(std::span(zeros).first(static_cast<size_t>(count)));
}

void PieceDigest::rewritten(uint64_t offset, uint64_t size) {
    for (uint64_t piece = offset / piece_bytes; piece <= (offset + size - 1) / piece_bytes; ++piece)
        rewritten_.insert(static_cast<size_t>(piece));
}

void PieceDigest::end_piece() {
    pieces_.push_back(piece_.finish());
}

Result<Digest> PieceDigest::finish(int fd) {
    if (position_ % piece_bytes != 0) end_piece();
    std::vector<std::byte> buffer;
    for (const size_t piece : rewritten_)
        if (const auto now = TRY(checksum_of_piece(fd, piece, buffer))) pieces_.at(piece) = *now;
    return Digest::of(std::as_bytes(std::span(pieces_)));
}

Output::Output(int fd) : fd_(fd) {
    buffer_.resize(buffer_bytes);
}

Status Output::append(std::span<const std::byte> data) {
    position_ += data.size();
    while (!data.empty()) {
        if (data.size() >= direct_bytes) {
            TRY(flush());
            TRY(sys::pwrite_all(fd_, data, flushed_));
            digest_.update(data);
            flushed_ += data.size();
            break;
        }
        const auto now = data.first(std::min(data.size(), buffer_bytes - filled_));
        std::memcpy(buffer_.data() + filled_, now.data(), now.size());
        filled_ += now.size();
        data = data.subspan(now.size());
        if (filled_ == buffer_bytes) TRY(flush());
    }
    return {};
}

Status Output::append_zeros(uint64_t count) {
    if (count < hole_bytes) {
        static constexpr std::array<std::byte, block_size> zeros{};
        for (uint64_t left = count; left > 0;) {
            const auto now = std::min<uint64_t>(left, zeros.size());
            TRY(append(std::span(zeros).first(static_cast<size_t>(now))));
            left -= now;
        }
        return {};
    }
    TRY(flush());
    digest_.update_zeros(count);
    position_ += count;
    flushed_ += count;
    return {};
}

Status Output::flush() {
    const auto data = std::span<const std::byte>(buffer_).first(filled_);
    if (filled_ > 0) TRY(sys::pwrite_all(fd_, data, flushed_));
    digest_.update(data);
    flushed_ += std::exchange(filled_, 0);
    // The image goes to disk while the rest is made, not all in the sync at the end.
    if (flushed_ - paced_ >= pace_bytes) {
        sys::start_writeback(fd_, paced_, flushed_ - paced_);
        paced_ = flushed_;
    }
    return {};
}

Status Output::patch(uint64_t offset, std::span<const std::byte> data) {
    if (offset + data.size() > flushed_) TRY(flush());
    digest_.rewritten(offset, data.size());
    return sys::pwrite_all(fd_, data, offset);
}

Packer::Place Packer::place(size_t size) {
    Place out;
    if (blocks_ > 0 && !is_large_ && size <= block_size) {
        for (size_t i = first_; i < window_blocks; ++i) {
            if (block_size - used_[i] < size) continue;
            out.window = window_;
            out.offset = static_cast<uint32_t>(i * block_size + used_[i]);
            used_[i] = static_cast<uint16_t>(round_up(used_[i] + size, slot_size));
            blocks_ = std::max(blocks_, static_cast<uint32_t>(i + 1));
            while (first_ < window_blocks && block_size - used_[first_] < sizeof(CompactInode))
                ++first_;
            return out;
        }
    }
    out.closed_blocks = close();
    out.window = window_;
    is_large_ = size > block_size;
    blocks_ = static_cast<uint32_t>(round_up(size, block_size) / block_size);
    used_.fill(0);
    first_ = 0;
    if (!is_large_) used_[0] = static_cast<uint16_t>(round_up(size, slot_size));
    return out;
}

uint32_t Packer::close() {
    if (blocks_ > 0) ++window_;
    return std::exchange(blocks_, 0);
}

ImageWriter::ImageWriter(int fd) : out_(fd) {
    tail_.reserve(block_size);
    (void)out_.append_zeros(block_size); // block 0 is written at the end; this only fills the buffer
}

Status ImageWriter::check_size() const {
    if (out_.position() / block_size <= max_blocks) return {};
    return fail(Errc::ResourceExhausted,
                fmt::format("the layer needs more than {} blocks of {} bytes, which is the most that EROFS counts",
                            max_blocks, block_size));
}

Status ImageWriter::begin_file() {
    tail_.clear();
    file_bytes_ = 0;
    sparse_ = false;
    first_block_ = next_block();
    return check_size();
}

Status ImageWriter::append(std::span<const std::byte> data) {
    file_bytes_ += data.size();
    if (!tail_.empty()) {
        const auto now = data.first(std::min(data.size(), block_size - tail_.size()));
        add(tail_, now);
        data = data.subspan(now.size());
        if (tail_.size() < block_size) return {};
        TRY(out_.append(tail_));
        tail_.clear();
    }
    const size_t full = data.size() / block_size * block_size;
    TRY(out_.append(data.first(full)));
    add(tail_, data.subspan(full));
    return full > 0 ? check_size() : Status{};
}

Status ImageWriter::begin_sparse(uint64_t size) {
    const uint64_t blocks = round_up(size, block_size) / block_size;
    chunk_bits_ = 0;
    while ((blocks >> chunk_bits_) >= max_chunks)
        ++chunk_bits_;
    const uint64_t chunk_blocks = uint64_t{1} << chunk_bits_;
    chunks_.assign(static_cast<size_t>(round_up(blocks, chunk_blocks) / chunk_blocks), hole);
    sparse_ = true;
    file_bytes_ = size;
    chunk_end_ = 0;
    return {};
}

/// The rest of the open chunk, which ends with the file at the latest, is zeros.
Status ImageWriter::end_chunk() {
    if (chunk_end_ == 0) return {};
    const uint64_t chunk = uint64_t{block_size} << chunk_bits_;
    const uint64_t begin = (chunk_end_ - 1) / chunk * chunk;
    const uint64_t written = out_.position() - uint64_t{chunks_[static_cast<size_t>(begin / chunk)]} * block_size;
    TRY(out_.append_zeros(round_up(chunk_end_ - begin, block_size) - written));
    chunk_end_ = 0;
    return check_size();
}

Status ImageWriter::write_at(std::span<const std::byte> data, uint64_t offset) {
    if (!sparse_ || offset + data.size() > file_bytes_) return fail(Errc::Internal, "data outside of a sparse file");
    const uint64_t chunk = uint64_t{block_size} << chunk_bits_;
    while (!data.empty()) {
        if (chunk_end_ != 0 && offset >= chunk_end_) TRY(end_chunk());
        const auto index = static_cast<size_t>(offset / chunk);
        const uint64_t begin = index * chunk;
        if (chunk_end_ == 0) {
            if (chunks_[index] != hole) return fail(Errc::Internal, "data of a sparse file out of order");
            chunks_[index] = next_block();
            chunk_end_ = std::min(begin + chunk, file_bytes_);
        }
        const uint64_t at = out_.position() - uint64_t{chunks_[index]} * block_size; // in the chunk
        if (offset < begin + at) return fail(Errc::Internal, "data of a sparse file out of order");
        TRY(out_.append_zeros(offset - begin - at));
        const auto now = data.first(static_cast<size_t>(std::min<uint64_t>(data.size(), chunk_end_ - offset)));
        TRY(out_.append(now));
        data = data.subspan(now.size());
        offset += now.size();
    }
    return {};
}

void ImageWriter::put_head(const InodeHead &head, bool extended, Layout layout, uint32_t block,
                           std::span<const std::byte> xattrs) {
    const auto units = xattrs.empty() ? 0 : (xattrs.size() - sizeof(XattrHeader)) / 4 + 1;
    const auto fill = [&](auto &inode) {
        inode.format = format_of(layout, extended);
        inode.xattr_count = static_cast<uint16_t>(units);
        inode.mode = head.mode;
        const bool is_device = S_ISCHR(head.mode) || S_ISBLK(head.mode);
        inode.block_or_device = is_device ? head.device : block;
        inode.number = next_number_++;
    };
    record_.clear();
    if (extended) {
        ExtendedInode inode;
        fill(inode);
        inode.size = head.size;
        inode.uid = head.uid;
        inode.gid = head.gid;
        inode.mtime = head.mtime;
        inode.mtime_ns = head.mtime_ns;
        inode.links = head.links;
        add(record_, bytes_of(inode));
    } else {
        CompactInode inode;
        fill(inode);
        inode.size = static_cast<uint32_t>(head.size);
        inode.uid = static_cast<uint16_t>(head.uid);
        inode.gid = static_cast<uint16_t>(head.gid);
        inode.links = static_cast<uint16_t>(head.links);
        add(record_, bytes_of(inode));
    }
    add(record_, xattrs);
    identity_.update(record_);
}

Result<InodePlace> ImageWriter::end_file(const InodeHead &head, std::span<const uint32_t> xattrs) {
    const auto body = TRY(xattrs_.body(xattrs));
    const size_t plain = sizeof(ExtendedInode) + body.size();
    InodeHead final = head;
    final.size = file_bytes_;
    if (sparse_) {
        TRY(end_chunk());
        TRY(out_.align());
        has_chunks_ = true;
        put_head(final, true, Layout::chunks, chunk_bits_, body);
        add(record_, std::as_bytes(std::span(chunks_)));
        chunks_ = {};
    } else if (!tail_.empty() && plain + tail_.size() <= block_size) {
        put_head(final, true, Layout::inline_tail, file_bytes_ > tail_.size() ? first_block_ : 0, body);
        add(record_, tail_);
    } else {
        TRY(out_.append(tail_));
        TRY(out_.align());
        put_head(final, true, Layout::plain, file_bytes_ > 0 ? first_block_ : 0, body);
    }
    tail_.clear();
    const auto place = packer_.place(record_.size());
    TRY(put(place, record_));
    return InodePlace{place.window, static_cast<uint32_t>(place.offset / slot_size)};
}

Status ImageWriter::put(Packer::Place place, std::span<const std::byte> record) {
    if (place.closed_blocks > 0) TRY(close_window(place.closed_blocks));
    if (window_.size() < place.offset + record.size())
        window_.resize(static_cast<size_t>(round_up(place.offset + record.size(), block_size)));
    std::ranges::copy(record, window_.begin() + place.offset);
    return {};
}

Status ImageWriter::close_window(uint32_t blocks) {
    TRY(check_size());
    if (written_windows_ == windows_.size()) {
        windows_.push_back(next_block());
    } else if (windows_[written_windows_] != next_block()) {
        return fail(Errc::Internal, fmt::format("window {} of the image is at block {}, planned was {}",
                                                written_windows_, next_block(), windows_[written_windows_]));
    }
    ++written_windows_;
    window_.resize(size_t{blocks} * block_size);
    TRY(out_.append(window_));
    window_.clear();
    return {};
}

Status ImageWriter::end_files() {
    if (const uint32_t blocks = packer_.close(); blocks > 0) TRY(close_window(blocks));
    planner_ = packer_;
    file_windows_ = windows_.size();
    return out_.align();
}

Status ImageWriter::set_links(InodePlace place, uint32_t links) {
    return out_.patch(nid(place) * slot_size + links_offset, bytes_of(links));
}

namespace {
bool fits_compact(const InodeHead &head) {
    return !S_ISREG(head.mode) && head.mtime == 0 && head.mtime_ns == 0 && head.uid <= 0xffff && head.gid <= 0xffff &&
           head.links <= 0xffff && head.size <= 0xffff'ffff;
}
} // namespace

size_t ImageWriter::record_size(const InodeHead &head, size_t xattr_bytes) {
    return (fits_compact(head) ? sizeof(CompactInode) : sizeof(ExtendedInode)) + xattr_bytes;
}

InodePlace ImageWriter::plan(size_t bytes) {
    const auto place = planner_.place(bytes);
    if (place.window >= windows_.size()) {
        planned_blocks_ += place.closed_blocks;
        windows_.push_back(planned_blocks_); // relative, until end_plan()
    }
    return {place.window, static_cast<uint32_t>(place.offset / slot_size)};
}

Status ImageWriter::end_plan(uint64_t data_blocks) {
    const uint64_t base = next_block() + data_blocks;
    if (base + planned_blocks_ + planner_.close() > max_blocks) {
        TRY(out_.append_zeros(max_blocks * block_size));
        return check_size();
    }
    for (size_t i = file_windows_; i < windows_.size(); ++i)
        windows_[i] += static_cast<uint32_t>(base);
    return {};
}

Status ImageWriter::directory_block(std::span<const std::byte> block) {
    identity_.update(block);
    TRY(out_.append(block));
    return out_.align();
}

Status ImageWriter::record(InodePlace planned, const InodeHead &head, std::span<const std::byte> xattrs, uint32_t block,
                           std::span<const std::byte> inline_tail) {
    put_head(head, !fits_compact(head), inline_tail.empty() ? Layout::plain : Layout::inline_tail, block, xattrs);
    identity_.update(inline_tail);
    add(record_, inline_tail);
    const auto place = packer_.place(record_.size());
    if (place.window != planned.window || place.offset / slot_size != planned.slot)
        return fail(Errc::Internal, "an inode of the image is not where it was planned");
    return put(place, record_);
}

Result<Digest> ImageWriter::finish(const InodeHead &root, std::span<const std::byte> xattrs, uint32_t block,
                                   std::span<const std::byte> inline_tail, uint64_t inodes) {
    if (const uint32_t blocks = packer_.close(); blocks > 0) TRY(close_window(blocks));
    SuperBlock super;
    if (!xattrs_.shared().empty()) {
        super.xattr_block = next_block();
        TRY(out_.append(xattrs_.shared()));
        TRY(out_.align());
    }
    TRY(check_size());
    put_head(root, true, inline_tail.empty() ? Layout::plain : Layout::inline_tail, block, xattrs);
    identity_.update(inline_tail);
    add(record_, inline_tail);
    if (record_.size() > sizeof(ExtendedInode) + root_room)
        return fail(Errc::ResourceExhausted, "the root directory has more attributes than EROFS has room for");
    super.feature_compat = compat_checksum | compat_mtime;
    super.feature_incompat = has_chunks_ ? incompat_chunked : 0;
    super.root_nid = static_cast<uint16_t>(root_nid);
    super.inodes = inodes;
    super.blocks = next_block();
    const auto identity = identity_.finish().bytes();
    std::copy_n(identity.begin(), sizeof super.uuid, std::begin(super.uuid));
    super.uuid[6] = static_cast<uint8_t>((super.uuid[6] & 0x0fU) | 0x80U); // RFC 9562: version 8, a vendor's own
    super.uuid[8] = static_cast<uint8_t>((super.uuid[8] & 0x3fU) | 0x80U);
    std::vector<std::byte> first(block_size);
    const auto put_super = [&] { std::ranges::copy(bytes_of(super), first.begin() + super_offset); };
    put_super();
    std::ranges::copy(record_, first.begin() + static_cast<ptrdiff_t>(root_nid * slot_size));
    super.checksum = crc32c(std::span(first).subspan(super_offset));
    put_super();
    TRY(out_.flush());
    TRY(sys::truncate_fd(out_.fd(), out_.position())); // it may end in a hole
    TRY(out_.patch(super_offset, std::span(first).subspan(super_offset)));
    const Digest digest = TRY(out_.digest());
    const std::string header = fmt::format("{}{}\n{}\n", header_line, digest.text(), out_.position());
    TRY(out_.patch(0, std::as_bytes(std::span(header))));
    return digest;
}

Result<ImageInfo> read_info(int fd) {
    std::vector<std::byte> first(block_size);
    size_t filled = 0;
    while (filled < first.size()) {
        const size_t got = TRY(sys::pread_some(fd, std::span(first).subspan(filled), filled));
        if (got == 0) return fail(Errc::DataLoss, fmt::format("the image ends after {} bytes", filled));
        filled += got;
    }
    const auto damaged = [] { return fail(Errc::DataLoss, "the first block of the image is damaged"); };
    SuperBlock super;
    std::memcpy(&super, first.data() + super_offset, sizeof super);
    std::string_view text(reinterpret_cast<const char *>(first.data()), super_offset);
    if (super.magic_number != magic || !text.starts_with(header_name)) return damaged();
    if (!text.starts_with(header_line))
        return fail(Errc::FailedPrecondition,
                    fmt::format("the image is of another version of shale ({:?}): its digest is not known here",
                                text.substr(0, std::min(text.find('\n'), size_t{64}))));
    text.remove_prefix(header_line.size());
    const size_t end = text.find('\n');
    if (end == std::string_view::npos) return damaged();
    const auto digest = Digest::parse(text.substr(0, end));
    ImageInfo out;
    const char *number = text.data() + end + 1;
    const auto [rest, error] = std::from_chars(number, text.data() + text.size(), out.bytes);
    if (!digest || error != std::errc{} || *rest != '\n' || out.bytes != uint64_t{super.blocks} * block_size)
        return damaged();
    out.digest = *digest;
    const auto checksum = super.checksum;
    super.checksum = 0;
    std::memcpy(first.data() + super_offset, &super, sizeof super);
    if (crc32c(std::span(first).subspan(super_offset)) != checksum) return damaged();
    return out;
}

Result<Digest> digest_of_image(int fd) {
    Sha256 all;
    std::vector<std::byte> buffer;
    for (uint64_t number = 0;; ++number) {
        const auto piece = TRY(checksum_of_piece(fd, number, buffer));
        if (!piece) return all.finish();
        all.update(std::as_bytes(std::span(*piece)));
    }
}

} // namespace shale::drivers::erofs
