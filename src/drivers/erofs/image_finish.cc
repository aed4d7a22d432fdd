// SPDX-License-Identifier: Apache-2.0
// The end of an image. Directories are walked depth first, each in order of its names, twice: once to find out how much
// room everything needs, so that all inode numbers are known, once to write. Layout behind the files: blocks of
// directories, inodes of all that is no file, shared attributes.
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "drivers/erofs/image_tree.h"

namespace shale::drivers::erofs {
namespace {

/// File types of directory entries (include/linux/fs_types.h, FT_*).
uint8_t type_of(uint16_t mode) {
    switch (mode & S_IFMT) {
    case S_IFREG:
        return 1;
    case S_IFDIR:
        return 2;
    case S_IFCHR:
        return 3;
    case S_IFBLK:
        return 4;
    case S_IFIFO:
        return 5;
    case S_IFSOCK:
        return 6;
    default:
        return 7;
    }
}

} // namespace

struct ImageTree::Finish {
    struct Entry {
        std::string_view name;
        uint32_t node;
    };
    struct Planned { ///< what is written for a node that is no file
        uint32_t node = 0;
        uint32_t blocks = 0; ///< of data, not inline
        bool tail_inline = false;
        std::vector<std::byte> xattrs;
    };

    ImageTree &tree;
    std::vector<Planned> planned = {};  ///< in the order of writing; the root first
    std::vector<Entry> entries = {};    ///< of one directory, sorted
    std::vector<std::byte> blocks = {}; ///< of one directory
    uint64_t data_blocks = 0;

    Result<Digest> run();
    void read_entries(uint32_t dir);
    uint64_t measure() const;
    void fill();
    Status plan(uint32_t node);
    Status plan_tree();
    Status write_directories();
    Status write_inodes();
    uint64_t nid(uint32_t node) const {
        return node == 0 ? ImageWriter::root_nid : tree.writer_.nid(tree.nodes_[node].place);
    }
};

void ImageTree::Finish::read_entries(uint32_t dir) {
    entries.clear();
    Directory &directory = tree.dir_of(dir);
    for (uint32_t at = directory.first_name; at != none; at = tree.names_[at].next)
        if (const Name &name = tree.names_[at]; name.dir == dir) entries.push_back({tree.text_of(name), name.node});
    entries.push_back({".", dir});
    entries.push_back({"..", directory.parent});
    // char_traits<char> compares as unsigned bytes.
    std::ranges::sort(entries, {}, &Entry::name);
}

/// Bytes of the directory's data.
uint64_t ImageTree::Finish::measure() const {
    uint64_t full = 0, used = 0;
    for (const auto &entry : entries) {
        const size_t size = dirent_size + entry.name.size();
        if (used + size > block_size) {
            full += block_size;
            used = 0;
        }
        used += size;
    }
    return full + used;
}

/// The directory's data: full blocks, the last one as long as it is.
void ImageTree::Finish::fill() {
    blocks.assign(static_cast<size_t>(measure()), std::byte{});
    size_t begin = 0;
    for (size_t first = 0; first < entries.size(); begin += block_size) {
        size_t last = first, used = 0;
        while (last < entries.size() && used + dirent_size + entries[last].name.size() <= block_size)
            used += dirent_size + entries[last++].name.size();
        size_t name_at = (last - first) * dirent_size;
        for (size_t i = first; i < last; ++i) {
            const uint64_t number = nid(entries[i].node);
            std::byte *at = blocks.data() + begin + (i - first) * dirent_size;
            const auto offset = static_cast<uint16_t>(name_at);
            std::memcpy(at, &number, sizeof number);
            std::memcpy(at + 8, &offset, sizeof offset);
            at[10] = static_cast<std::byte>(type_of(tree.nodes_[entries[i].node].mode));
            std::memcpy(blocks.data() + begin + name_at, entries[i].name.data(), entries[i].name.size());
            name_at += entries[i].name.size();
        }
        first = last;
    }
}

Status ImageTree::Finish::plan(uint32_t number) {
    Node &node = tree.nodes_[number];
    Planned one;
    one.node = number;
    one.xattrs = TRY(tree.writer_.xattrs().body(tree.xattrs_of(node), number == 0));
    const bool has_data = S_ISDIR(node.mode) || S_ISLNK(node.mode);
    const auto tail = has_data ? static_cast<size_t>(node.size % block_size) : 0;
    const size_t head = ImageWriter::record_size(tree.head_of(node), one.xattrs.size());
    one.tail_inline =
        tail > 0 && (number == 0 ? one.xattrs.size() + tail <= ImageWriter::root_room : head + tail <= block_size);
    if (number != 0) node.place = tree.writer_.plan(head + (one.tail_inline ? tail : 0));
    node.placed = true;
    one.blocks = has_data ? static_cast<uint32_t>(node.size / block_size + (tail > 0 && !one.tail_inline ? 1 : 0)) : 0;
    data_blocks += one.blocks;
    planned.push_back(std::move(one));
    return {};
}

Status ImageTree::Finish::plan_tree() {
    std::vector<uint32_t> todo{0};
    while (!todo.empty()) {
        const uint32_t dir = todo.back();
        todo.pop_back();
        read_entries(dir);
        Node &node = tree.nodes_[dir];
        node.size = measure();
        uint32_t subdirectories = 0;
        for (const auto &entry : entries)
            if (entry.name != "." && entry.name != ".." && tree.is_dir(entry.node)) ++subdirectories;
        node.links = 2 + subdirectories;
        TRY(plan(dir));
        for (const auto &entry : entries)
            if (!tree.nodes_[entry.node].placed && !tree.is_dir(entry.node)) TRY(plan(entry.node));
        for (auto entry = entries.rbegin(); entry != entries.rend(); ++entry) // the first name is next
            if (entry->name != "." && entry->name != ".." && tree.is_dir(entry->node)) todo.push_back(entry->node);
    }
    return {};
}

Status ImageTree::Finish::write_directories() {
    for (const auto &one : planned) {
        const Node &node = tree.nodes_[one.node];
        if (one.blocks == 0) continue;
        if (S_ISLNK(node.mode)) { // a target of nearly a block
            TRY(tree.writer_.directory_block(
                std::as_bytes(std::span(tree.text_).subspan(node.extra, static_cast<size_t>(node.size)))));
        } else {
            read_entries(one.node);
            fill();
            auto left = std::span<const std::byte>(blocks);
            while (left.size() >= block_size || (!left.empty() && !one.tail_inline)) {
                const auto now = left.first(std::min(left.size(), block_size));
                TRY(tree.writer_.directory_block(now));
                left = left.subspan(now.size());
            }
        }
    }
    return {};
}

Status ImageTree::Finish::write_inodes() {
    const uint32_t end = tree.writer_.next_block();
    auto block = end - static_cast<uint32_t>(data_blocks);
    Planned root;
    for (auto &one : planned) {
        const Node &node = tree.nodes_[one.node];
        std::span<const std::byte> tail;
        if (one.tail_inline && S_ISDIR(node.mode)) {
            read_entries(one.node);
            fill();
            tail = std::span<const std::byte>(blocks).last(static_cast<size_t>(node.size % block_size));
        } else if (one.tail_inline) {
            tail = std::as_bytes(std::span(tree.text_).subspan(node.extra, static_cast<size_t>(node.size)));
        }
        const uint32_t first = one.blocks > 0 ? block : 0;
        block += one.blocks;
        if (one.node == 0) {
            root = std::move(one);
            continue; // written last, in block 0
        }
        TRY(tree.writer_.record(node.place, tree.head_of(node), one.xattrs, first, tail));
        one.xattrs = {};
    }
    planned.front() = std::move(root);
    return {};
}

Result<Digest> ImageTree::Finish::run() {
    TRY(tree.end_file());
    TRY(tree.writer_.end_files());
    TRY(plan_tree());
    TRY(tree.writer_.end_plan(data_blocks));
    const uint32_t first_block = tree.writer_.next_block();
    TRY(write_directories());
    TRY(write_inodes());
    // An inode is written before it is known how many names its file gets.
    for (const Node &node : tree.nodes_)
        if (S_ISREG(node.mode) && node.links > 0 && (node.links > 1 || node.recount))
            TRY(tree.writer_.set_links(node.place, node.links));
    const Planned &root = planned.front();
    const Node &node = tree.nodes_[0];
    read_entries(0);
    fill();
    auto tail = std::span<const std::byte>(blocks);
    tail = tail.last(root.tail_inline ? static_cast<size_t>(node.size % block_size) : 0);
    const uint32_t data = root.blocks > 0 ? first_block : 0;
    return tree.writer_.finish(tree.head_of(node), root.xattrs, data, tail, tree.live_inodes_);
}

Result<Digest> ImageTree::finish() {
    return Finish{*this}.run();
}

} // namespace shale::drivers::erofs
