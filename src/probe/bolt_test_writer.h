// SPDX-License-Identifier: Apache-2.0
// Writes bbolt databases for tests, from the description of the format (docs/formats/bolt.md): whole ones from a tree
// of buckets, or their pieces, so that a test can put them together wrongly.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace shale::probe::bolt_writer {

inline constexpr uint16_t branch_page = 0x01, leaf_page = 0x02, meta_page = 0x04, freelist_page = 0x10;

template <class T> void put(std::string &out, T value) {
    out.append(reinterpret_cast<const char *>(&value), sizeof value);
}
template <class T> void poke(std::string &bytes, size_t offset, T value) {
    std::memcpy(bytes.data() + offset, &value, sizeof value);
}

struct Item {
    std::string key, value;
    bool is_bucket = false;
};
struct Child {
    std::string key;
    uint64_t page = 0;
};

inline std::string page_header(uint64_t id, uint16_t flags, size_t count, size_t overflow = 0) {
    std::string out;
    put<uint64_t>(out, id);
    put<uint16_t>(out, flags);
    put<uint16_t>(out, static_cast<uint16_t>(count));
    put<uint32_t>(out, static_cast<uint32_t>(overflow));
    return out;
}

/// Not padded, overflow 0.
inline std::string leaf(uint64_t id, const std::vector<Item> &items) {
    std::string out = page_header(id, leaf_page, items.size()), data;
    for (size_t i = 0; i < items.size(); ++i) {
        put<uint32_t>(out, items[i].is_bucket ? 1 : 0);
        put<uint32_t>(out, static_cast<uint32_t>((items.size() - i) * 16 + data.size()));
        put<uint32_t>(out, static_cast<uint32_t>(items[i].key.size()));
        put<uint32_t>(out, static_cast<uint32_t>(items[i].value.size()));
        data += items[i].key + items[i].value;
    }
    return out + data;
}
inline std::string branch(uint64_t id, const std::vector<Child> &children) {
    std::string out = page_header(id, branch_page, children.size()), data;
    for (size_t i = 0; i < children.size(); ++i) {
        put<uint32_t>(out, static_cast<uint32_t>((children.size() - i) * 16 + data.size()));
        put<uint32_t>(out, static_cast<uint32_t>(children[i].key.size()));
        put<uint64_t>(out, children[i].page);
        data += children[i].key;
    }
    return out + data;
}
inline std::string bucket_header(uint64_t root, uint64_t sequence = 0) {
    std::string out;
    put(out, root);
    put(out, sequence);
    return out;
}
inline std::string inline_bucket(const std::vector<Item> &items, uint64_t sequence = 0) {
    return bucket_header(0, sequence) + leaf(0, items);
}

/// Makes the checksum of the meta page that begins at `page` right.
inline void seal_meta(std::string &file, size_t page) {
    uint64_t sum = 14695981039346656037U;
    for (size_t i = 0; i < 56; ++i)
        sum = (sum ^ static_cast<uint8_t>(file[page + 16 + i])) * 1099511628211U;
    poke(file, page + 16 + 56, sum);
}

struct Meta {
    uint64_t root = 3, pages = 4, transaction = 0, sequence = 0;
    uint32_t page_bytes = 4096, magic = 0xED0CDAED, version = 2;
};
inline std::string meta(uint64_t id, const Meta &what) {
    std::string out = page_header(id, meta_page, 0);
    put(out, what.magic);
    put(out, what.version);
    put(out, what.page_bytes);
    put<uint32_t>(out, 0);
    put(out, what.root);
    put(out, what.sequence);
    put<uint64_t>(out, 2); // freelist
    put(out, what.pages);
    put(out, what.transaction);
    put<uint64_t>(out, 0);
    seal_meta(out, 0);
    return out;
}

struct Bucket {
    std::map<std::string, std::string> values;
    std::map<std::string, Bucket> buckets;
    uint64_t sequence = 0;
};

/// A file under construction: pages 0 and 1 are meta pages, 2 an empty list of free pages.
class File {
public:
    explicit File(uint32_t page_bytes = 4096) : page_bytes_(page_bytes), bytes_(size_t{page_bytes} * 2, '\0') {
        add(page_header(2, freelist_page, 0));
    }
    [[nodiscard]] uint64_t next() const { return bytes_.size() / page_bytes_; }
    /// At the end, padded, its overflow set.
    uint64_t add(std::string page) {
        const uint64_t id = next();
        const size_t pages = (page.size() + page_bytes_ - 1) / page_bytes_;
        poke(page, 12, static_cast<uint32_t>(pages - 1));
        page.resize(pages * page_bytes_);
        bytes_ += page;
        return id;
    }
    /// A bucket; those in it that have no buckets themselves and are small are inline, as bbolt does it. Leaves have at
    /// most `keys` keys, branches as many children.
    uint64_t add(const Bucket &bucket, size_t keys = 50) {
        std::vector<Item> items;
        for (const auto &[key, value] : bucket.values)
            items.push_back({key, value});
        for (const auto &[name, nested] : bucket.buckets)
            items.push_back({name, value_of(nested, keys), true});
        std::ranges::sort(items, {}, &Item::key);
        std::vector<Child> level;
        for (size_t begin = 0; begin < items.size() || level.empty(); begin += keys) {
            const auto from = items.begin() + static_cast<ptrdiff_t>(begin);
            const std::vector<Item> part(from, from + static_cast<ptrdiff_t>(std::min(keys, items.size() - begin)));
            level.push_back({part.empty() ? "" : part.front().key, add(leaf(next(), part))});
        }
        while (level.size() > 1) {
            std::vector<Child> above;
            for (size_t begin = 0; begin < level.size(); begin += keys) {
                const auto from = level.begin() + static_cast<ptrdiff_t>(begin);
                const std::vector<Child> part(from,
                                              from + static_cast<ptrdiff_t>(std::min(keys, level.size() - begin)));
                above.push_back({part.front().key, add(branch(next(), part))});
            }
            level = std::move(above);
        }
        return level.front().page;
    }
    /// The database, of this transaction and an empty-handed one before it.
    [[nodiscard]] std::string done(uint64_t root, uint64_t transaction = 1, uint64_t sequence = 0) const {
        std::string out = bytes_;
        for (const uint64_t id : {transaction, transaction - 1}) {
            const std::string page = meta(id % 2, {root, next(), id, sequence, page_bytes_});
            out.replace(id % 2 * page_bytes_, page.size(), page);
        }
        return out;
    }

private:
    std::string value_of(const Bucket &bucket, size_t keys) {
        std::vector<Item> items;
        for (const auto &[key, value] : bucket.values)
            items.push_back({key, value});
        std::string out = inline_bucket(items, bucket.sequence);
        if (bucket.buckets.empty() && items.size() <= keys && out.size() <= page_bytes_ / 4) return out;
        return bucket_header(add(bucket, keys), bucket.sequence);
    }

    uint32_t page_bytes_;
    std::string bytes_;
};

inline std::string database(const Bucket &root, size_t keys = 50, uint32_t page_bytes = 4096) {
    File file(page_bytes);
    const uint64_t page = file.add(root, keys);
    return file.done(page, 1, root.sequence);
}

} // namespace shale::probe::bolt_writer
