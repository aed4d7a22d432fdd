// SPDX-License-Identifier: Apache-2.0
// Any archive as an EROFS image: the writer never fails on what the extractor took, and the image keeps the format's
// rules, which are checked here by reading it back: inode numbers inside, names in order, data inside, records inside
// their blocks, as many inodes as the superblock says.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "archive/extract.h"
#include "drivers/erofs/image_tree.h"
#include "mend.h"
#include "sys/fs.h"

namespace {

using namespace shale;
using namespace shale::drivers::erofs;

void require(bool good) {
    if (!good) std::abort();
}

class Image {
public:
    explicit Image(int fd) {
        struct stat status{};
        require(::fstat(fd, &status) == 0 && status.st_size >= static_cast<off_t>(block_size));
        bytes_.resize(static_cast<size_t>(status.st_size));
        for (size_t at = 0; at < bytes_.size();) {
            const auto got = sys::pread_some(fd, std::as_writable_bytes(std::span(bytes_)).subspan(at), at);
            require(got && *got > 0);
            at += *got;
        }
        super_ = get<SuperBlock>(super_offset);
        require(super_.magic_number == magic && uint64_t{super_.blocks} * block_size == bytes_.size());
    }
    void check() {
        std::vector<std::pair<uint64_t, uint64_t>> todo{{super_.root_nid, super_.root_nid}}; // directory, parent
        while (!todo.empty()) {
            const auto [nid, parent] = todo.back();
            todo.pop_back();
            require(seen_.insert(nid).second); // a directory has one name
            for (const auto &[name, child, type] : entries(nid)) {
                if (name == ".") require(child == nid);
                if (name == "..") require(child == parent);
                if (name == "." || name == "..") continue;
                if (type == 2)
                    todo.emplace_back(child, nid);
                else if (seen_.insert(child).second)
                    (void)data(child);
            }
        }
        require(seen_.size() == super_.inodes);
    }

private:
    struct Entry {
        std::string name;
        uint64_t nid;
        uint8_t type;
    };
    template <class T> T get(uint64_t at) const {
        require(at + sizeof(T) <= bytes_.size());
        T out;
        std::memcpy(&out, bytes_.data() + at, sizeof out);
        return out;
    }
    std::string slice(uint64_t at, uint64_t size) const {
        require(at + size <= bytes_.size() && at + size >= at);
        return bytes_.substr(at, size);
    }
    void check_xattrs(uint64_t at, uint64_t size) const {
        if (size == 0) return;
        const auto header = get<XattrHeader>(at);
        uint64_t begin = at + sizeof header + header.shared_count * 4ULL;
        for (unsigned i = 0; i < header.shared_count; ++i)
            (void)check_xattr(super_.xattr_block * uint64_t{block_size} +
                              get<uint32_t>(at + sizeof header + i * 4ULL) * 4ULL);
        while (begin < at + size)
            begin += check_xattr(begin);
        require(begin == at + size);
    }
    uint64_t check_xattr(uint64_t at) const {
        const auto entry = get<XattrEntry>(at);
        require(entry.prefix >= 1 && entry.prefix <= 6);
        const uint64_t size = sizeof entry + entry.name_length + entry.value_size;
        (void)slice(at, size);
        return (size + 3) / 4 * 4;
    }
    /// All data of an inode, but not of chunk-based ones.
    std::string data(uint64_t nid) const {
        const uint64_t at = nid * slot_size;
        const auto format = get<uint16_t>(at);
        const bool extended = (format & 1U) != 0;
        const unsigned layout = format >> 1U;
        const auto inode = get<ExtendedInode>(at); // compact ones share the first fields
        const uint64_t size = extended ? inode.size : get<CompactInode>(at).size;
        const uint64_t head = extended ? sizeof(ExtendedInode) : sizeof(CompactInode);
        const uint64_t xattrs = inode.xattr_count == 0 ? 0 : sizeof(XattrHeader) + (inode.xattr_count - 1) * 4ULL;
        check_xattrs(at + head, xattrs);
        const uint32_t block = extended ? inode.block_or_device : get<CompactInode>(at).block_or_device;
        const unsigned type = inode.mode & S_IFMT;
        if (type != S_IFREG && type != S_IFDIR && type != S_IFLNK) return {};
        const uint64_t behind = at + head + xattrs;
        if (layout == 4) {
            const uint64_t chunk = uint64_t{block_size} << block;
            for (uint64_t i = 0; i * chunk < size; ++i) {
                const auto first = get<uint32_t>(behind + i * 4);
                if (first != hole) (void)slice(uint64_t{first} * block_size, std::min(chunk, size - i * chunk));
            }
            return {};
        }
        require(layout == 0 || layout == 2);
        const uint64_t tail = layout == 2 ? size % block_size : 0;
        require(layout == 0 || (tail > 0 && behind / block_size == (behind + tail - 1) / block_size));
        std::string out = slice(size > tail ? uint64_t{block} * block_size : 0, size - tail);
        return out + slice(behind, tail);
    }
    std::vector<Entry> entries(uint64_t nid) const {
        const std::string all = data(nid);
        std::vector<Entry> out;
        for (size_t begin = 0; begin < all.size(); begin += block_size) {
            const std::string block = all.substr(begin, block_size);
            uint16_t first = 0;
            require(block.size() >= dirent_size);
            std::memcpy(&first, block.data() + 8, sizeof first);
            require(first >= dirent_size && first % dirent_size == 0 && first <= block.size());
            for (size_t i = 0; i < first / dirent_size; ++i) {
                Entry one;
                uint16_t from = 0, to = static_cast<uint16_t>(block.size());
                std::memcpy(&one.nid, block.data() + i * dirent_size, sizeof one.nid);
                std::memcpy(&from, block.data() + i * dirent_size + 8, sizeof from);
                one.type = static_cast<uint8_t>(block[i * dirent_size + 10]);
                if ((i + 1) * dirent_size < first)
                    std::memcpy(&to, block.data() + (i + 1) * dirent_size + 8, sizeof to);
                require(from < to && to <= block.size());
                one.name = block.substr(from, to - from);
                one.name = one.name.substr(0, one.name.find('\0'));
                require(!one.name.empty() && one.name.size() <= 255 && (out.empty() || out.back().name < one.name));
                out.push_back(std::move(one));
            }
        }
        return out;
    }

    std::string bytes_;
    SuperBlock super_;
    std::set<uint64_t> seen_;
};

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    const std::vector<uint8_t> data = fuzz::with_checksums(bytes, size);
    const int fd = ::memfd_create("shale-fuzz", MFD_CLOEXEC);
    require(fd >= 0);
    ImageTree tree{UniqueFd(fd)};
    archive::ExtractOptions options;
    options.limits.file_bytes = 1U << 20U;
    options.limits.entries = 500;
    archive::TarReader reader(
        [&, done = false]() mutable -> Result<std::span<const std::byte>> {
            if (std::exchange(done, true)) return std::span<const std::byte>{};
            return std::as_bytes(std::span(data));
        },
        options.limits);
    if (!archive::extract_tar(reader, tree, options)) return 0;
    const auto digest = tree.finish();
    if (!digest) {
        // Only for want of room in an inode.
        require(digest.error().code() == Errc::ResourceExhausted);
        return 0;
    }
    const auto info = read_info(fd);
    require(info && info->digest == *digest);
    Image(fd).check();
    return 0;
}
