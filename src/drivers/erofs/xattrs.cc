// SPDX-License-Identifier: Apache-2.0
// Attributes: the first inode that has a pair keeps it inline; from the second one on the pair is in the area that all
// share. A pair that only one inode has is so read with the inode, and a common one is there twice at most.
#include <array>
#include <cerrno>
#include <cstring>

#include <fmt/format.h>

#include "drivers/erofs/image.h"

namespace shale::drivers::erofs {
namespace {

struct Prefix {
    std::string_view text;
    uint8_t number; ///< EROFS_XATTR_INDEX_*
    bool whole;     ///< the key is the prefix
};
constexpr std::array prefixes{
    Prefix{"user.", 1, false},
    Prefix{"system.posix_acl_access", 2, true},
    Prefix{"system.posix_acl_default", 3, true},
    Prefix{"trusted.", 4, false},
    Prefix{"security.", 6, false},
};

constexpr size_t name_max = 255, value_max = 65'535;   // XATTR_NAME_MAX; a 16-bit length
constexpr size_t shared_max = 255, units_max = 65'534; // an 8-bit and a 16-bit count

/// The kernel parses the value whenever permissions are asked for, and a bad one makes the object useless
/// (include/uapi/linux/posix_acl_xattr.h: version 2, entries of 8 bytes).
bool is_acl(std::string_view value) {
    if (value.size() < 4 || (value.size() - 4) % 8 != 0 || std::memcmp(value.data(), "\x02\0\0\0", 4) != 0)
        return false;
    for (size_t at = 4; at < value.size(); at += 8) {
        uint16_t tag = 0, rights = 0;
        std::memcpy(&tag, value.data() + at, sizeof tag);
        std::memcpy(&rights, value.data() + at + 2, sizeof rights);
        const bool known = tag == 0x01 || tag == 0x02 || tag == 0x04 || tag == 0x08 || tag == 0x10 || tag == 0x20;
        if (!known || rights > 7) return false;
    }
    return true;
}

constexpr size_t padded(size_t size) {
    return (size + 3) / 4 * 4;
}

size_t size_of(const XattrPool::Item &item) {
    return padded(sizeof(XattrEntry) + item.name.size() + item.value.size());
}

void put_entry(const XattrPool::Item &item, std::vector<std::byte> &out) {
    XattrEntry entry;
    entry.name_length = static_cast<uint8_t>(item.name.size());
    entry.prefix = item.prefix;
    entry.value_size = static_cast<uint16_t>(item.value.size());
    const size_t end = out.size() + size_of(item);
    for (const auto part : {std::as_bytes(std::span(&entry, 1)), std::as_bytes(std::span(item.name)),
                            std::as_bytes(std::span(item.value))})
        out.insert(out.end(), part.begin(), part.end());
    out.resize(end);
}

} // namespace

Result<uint32_t> XattrPool::intern(std::string_view key, std::string_view value) {
    if (const auto found = known_.find({key, value}); found != known_.end()) return found->second;
    const auto refuse = [&](int error) { return fail_errno(error, fmt::format("set attribute {}", key)); };
    const Prefix *prefix = nullptr;
    for (const auto &one : prefixes)
        if (one.whole ? key == one.text : key.starts_with(one.text)) prefix = &one;
    if (prefix == nullptr) return refuse(EOPNOTSUPP);
    if (key.size() > name_max) return refuse(ERANGE);
    if (!prefix->whole && key.size() == prefix->text.size()) return refuse(EINVAL);
    if (prefix->whole && !is_acl(value)) return refuse(EINVAL);
    if (value.size() > value_max) return refuse(ENOSPC);
    bytes_ += key.size() + value.size() + sizeof(Item) + 64;
    if (bytes_ > max_bytes)
        return fail(Errc::ResourceExhausted,
                    fmt::format("the layer has more than {} bytes of different attributes", max_bytes));
    auto item = std::make_unique<Item>();
    item->key = key;
    item->value = value;
    item->prefix = prefix->number;
    item->name = std::string_view(item->key).substr(prefix->text.size());
    const auto number = static_cast<uint32_t>(items_.size());
    known_.emplace(std::pair<std::string_view, std::string_view>(item->key, item->value), number);
    items_.push_back(std::move(item));
    return number;
}

void XattrPool::share(Item &item) {
    if (item.shared_at != no_place) return;
    item.shared_at = static_cast<uint32_t>(shared_.size());
    put_entry(item, shared_);
}

Result<std::vector<std::byte>> XattrPool::body(std::span<const uint32_t> numbers, bool all_shared) {
    std::vector<std::byte> out;
    if (numbers.empty()) return out;
    std::vector<uint32_t> shared;
    std::vector<std::byte> entries;
    for (const uint32_t number : numbers) {
        Item &item = *items_[number];
        const bool again = ++item.users > 1;
        const bool full = (entries.size() + size_of(item)) / 4 + shared_max > units_max;
        if ((again || all_shared || full) && shared.size() < shared_max) {
            share(item);
            shared.push_back(item.shared_at / 4);
        } else if (full || all_shared) {
            return fail_errno(ENOSPC, "attributes: more than an EROFS inode holds");
        } else {
            put_entry(item, entries);
        }
    }
    XattrHeader header;
    header.shared_count = static_cast<uint8_t>(shared.size());
    for (const auto part :
         {std::as_bytes(std::span(&header, 1)), std::as_bytes(std::span(shared)), std::span<const std::byte>(entries)})
        out.insert(out.end(), part.begin(), part.end());
    return out;
}

} // namespace shale::drivers::erofs
