// SPDX-License-Identifier: Apache-2.0
// Offsets and sizes in the file are checked before they are used: a page against the file and against what refers to
// it, the elements of a page against the page and the keys above it. Each page belongs to one place that refers to it,
// for all walks together; so pages cannot form a cycle, and what all walks hand out is together no larger than the
// file.
#include "probe/bolt.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <limits>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "sys/fs.h"

namespace shale::probe {
namespace {

// bbolt, page.go, db.go (type meta) and bucket.go: the structures lie in the file as they do in the memory of a Go
// program, so in the byte order of the machine. They have no padding, on 32 bits neither.
constexpr uint32_t magic_number = 0xED0CDAED;
constexpr uint32_t format_version = 2;
constexpr uint16_t branch_flag = 0x01, leaf_flag = 0x02; // of a page
constexpr uint32_t bucket_flag = 0x01;                   // of a leaf's element
constexpr uint64_t first_page = 2;                       // behind the meta pages

struct Meta {
    uint32_t magic, version, page_size, flags;
    uint64_t root, sequence; ///< of the root bucket
    uint64_t freelist, page_count, transaction, checksum;
};
struct PageHeader {
    uint64_t id;
    uint16_t flags, count;
    uint32_t overflow; ///< pages that belong to it, behind it
};
struct BranchElement {
    uint32_t position, key_size; ///< position: from the element on
    uint64_t child;
};
struct LeafElement {
    uint32_t flags, position, key_size, value_size;
};
struct BucketHeader {
    uint64_t root, sequence; ///< root 0: its only page follows
};
constexpr size_t element_size = sizeof(LeafElement);
static_assert(sizeof(Meta) == 64 && sizeof(PageHeader) == 16 && sizeof(BucketHeader) == 16);
static_assert(sizeof(BranchElement) == element_size && element_size == 16);

/// The sizes that bbolt itself tries when the first meta page is bad (db.go, getPageSizeFromSecondMeta).
constexpr uint32_t smallest_page = 1024, largest_page = uint32_t{16} << 20U;
constexpr unsigned deepest = 64; ///< of pages in a bucket, and of buckets; a real one of 1 GiB has some 5
constexpr int copies = 5;
constexpr auto first_pause = std::chrono::milliseconds(10);

template <class T> T load(std::string_view bytes, uint64_t offset) {
    T out;
    std::memcpy(&out, bytes.data() + offset, sizeof out);
    return out;
}

/// A key in a message.
std::string shown(std::string_view key) {
    constexpr size_t longest = 80;
    return fmt::format("{:?}{}", key.substr(0, longest), key.size() > longest ? "..." : "");
}

// ------------------------------------------------------------------------------------------------------- meta pages

/// FNV-1a, 64 bits, of all in front of the checksum (db.go, meta.sum64).
uint64_t checksum_of(const Meta &meta) {
    const auto bytes = std::bit_cast<std::array<uint8_t, sizeof(Meta)>>(meta);
    uint64_t sum = 0xcbf29ce484222325;
    for (const uint8_t byte : std::span(bytes).first(offsetof(Meta, checksum)))
        sum = (sum ^ byte) * 0x100000001b3;
    return sum;
}

/// As Meta.Validate of bbolt 1.4; earlier ones take a checksum of 0 for none.
Status check_meta(const Meta &meta) {
    if (meta.magic == std::byteswap(magic_number))
        return fail(Errc::Unimplemented, "written on a machine of the other byte order");
    if (meta.magic != magic_number)
        return fail(Errc::DataLoss,
                    fmt::format("magic number {:#010x} in place of {:#010x}", meta.magic, magic_number));
    if (const uint64_t sum = checksum_of(meta); meta.checksum != sum)
        return fail(Errc::DataLoss, fmt::format("checksum {:#018x}, its bytes give {:#018x}", meta.checksum, sum));
    if (meta.version != format_version)
        return fail(Errc::Unimplemented,
                    fmt::format("format version {}, only {} is read", meta.version, format_version));
    if (!std::has_single_bit(meta.page_size) || meta.page_size < smallest_page || meta.page_size > largest_page)
        return fail(Errc::DataLoss, fmt::format("pages of {} bytes", meta.page_size));
    return {};
}

/// Fills as much of `out` as there is.
using ReadAt = std::function<Result<size_t>(std::span<std::byte> out, uint64_t offset)>;

/// As it was read: valid or not.
struct MetaPage {
    uint64_t offset = 0; ///< of `bytes` in the file
    std::array<std::byte, sizeof(Meta)> bytes{};

    [[nodiscard]] Meta meta() const { return std::bit_cast<Meta>(bytes); }
    bool operator==(const MetaPage &) const = default;
};
struct MetaPages {
    MetaPage newest, other;
    bool operator==(const MetaPages &) const = default;
};

Result<MetaPage> read_meta_page(const ReadAt &read, uint64_t page_offset) {
    MetaPage out;
    out.offset = page_offset + sizeof(PageHeader);
    for (size_t filled = 0; filled < out.bytes.size();) {
        const size_t got = TRY(read(std::span(out.bytes).subspan(filled), out.offset + filled));
        if (got == 0) break; // what is missing stays zero, and is not valid
        filled += got;
    }
    return out;
}

/// The second one, when the first does not tell where it is. nullopt: there is none.
Result<std::optional<MetaPage>> find_second_meta_page(const ReadAt &read) {
    for (uint32_t size = smallest_page; size <= largest_page; size *= 2) {
        const MetaPage page = TRY(read_meta_page(read, size));
        const Meta meta = page.meta();
        if (meta.page_size == size && check_meta(meta)) return page;
    }
    return std::nullopt;
}

/// DataLoss: neither is valid. Unimplemented.
Result<MetaPages> read_meta_pages(const ReadAt &read) {
    MetaPages out;
    out.newest = TRY(read_meta_page(read, 0));
    const Meta first = out.newest.meta();
    if (auto good = check_meta(first); !good) {
        const auto second = TRY(find_second_meta_page(read));
        out.other = std::exchange(out.newest, second.value_or(MetaPage{}));
        if (second) return out;
        return std::unexpected(std::move(good).error().add("no meta page is valid; that of page 0"));
    }
    out.other = TRY(read_meta_page(read, first.page_size));
    const Meta second = out.other.meta();
    const bool good = second.page_size == first.page_size && check_meta(second);
    if (good && second.transaction > first.transaction) std::swap(out.newest, out.other);
    return out;
}

// ------------------------------------------------------------------------------------------------------------ pages

struct Element {
    std::string_view key, value; ///< of a branch: no value
    uint64_t child = 0;          ///< of a branch: page id
    uint64_t offset = 0;         ///< in its page; of what says `child`
    bool is_bucket = false;
};

/// The keys that may be below a branch's element: from <= key < to.
struct Range {
    std::optional<std::string_view> from, to;
};

/// A page with those that it overflows to, or the page inside an inline bucket.
struct Page {
    uint64_t id = 0; ///< inline: of the page that it is on
    std::string_view bytes;
    bool leaf = false;
    size_t count = 0;

    static uint64_t offset(size_t i) { return sizeof(PageHeader) + i * element_size; }

    struct Extent {
        uint64_t begin, key_end, end; ///< in `bytes`
    };
    /// `i` < count, and the elements are inside the page.
    [[nodiscard]] Extent extent(size_t i) const {
        const uint64_t at = offset(i);
        if (leaf) {
            const auto raw = load<LeafElement>(bytes, at);
            const uint64_t begin = at + raw.position, key_end = begin + raw.key_size;
            return {begin, key_end, key_end + raw.value_size};
        }
        const auto raw = load<BranchElement>(bytes, at);
        const uint64_t begin = at + raw.position, end = begin + raw.key_size;
        return {begin, end, end};
    }
    /// Of a page that has been checked, as all below.
    [[nodiscard]] std::string_view key(size_t i) const {
        const Extent it = extent(i);
        return bytes.substr(it.begin, it.key_end - it.begin);
    }
    [[nodiscard]] Element element(size_t i) const {
        const Extent it = extent(i);
        Element out{.key = key(i), .value = bytes.substr(it.key_end, it.end - it.key_end), .offset = offset(i)};
        if (leaf)
            out.is_bucket = (load<LeafElement>(bytes, out.offset).flags & bucket_flag) != 0;
        else
            out.child = load<BranchElement>(bytes, out.offset).child;
        return out;
    }
    /// The last element whose key is not above `wanted`, else the first: where cursor.go, search goes on too.
    [[nodiscard]] size_t find(std::string_view wanted) const {
        size_t low = 0, high = count;
        while (low < high) {
            const size_t middle = low + (high - low) / 2;
            if (key(middle) <= wanted)
                low = middle + 1;
            else
                high = middle;
        }
        return low == 0 ? 0 : low - 1;
    }
    /// Of element `i` of a branch with the range `all`. Below the first one there may be keys smaller than its own:
    /// that is where bbolt looks for them.
    [[nodiscard]] Range below(size_t i, const Range &all) const {
        return {i == 0 ? all.from : key(i), i + 1 == count ? all.to : key(i + 1)};
    }
};

} // namespace

struct BoltImage {
    std::string name; ///< in errors
    std::string data;
    uint32_t page_size = 0;
    uint64_t page_count = 0; ///< of the database; `data` may have fewer
    uint64_t transaction = 0;
    std::vector<uint64_t> referrers; ///< offset in `data` of what refers to a page; 0: nothing that was read yet
    BoltBucket root;

    static Result<std::unique_ptr<BoltImage>> make(std::string name, std::string data, const MetaPage &from);

    [[nodiscard]] std::unexpected<Error> damaged(uint64_t page, std::string_view what) const {
        return fail(Errc::DataLoss, fmt::format("{}: page {}: {}", name, page, what));
    }
    [[nodiscard]] uint64_t offset_of(std::string_view part) const {
        return static_cast<uint64_t>(part.data() - data.data());
    }

    Result<Page> page(uint64_t id, uint64_t referrer);
    Status claim(uint64_t id, uint64_t length, uint64_t referrer);
    Result<Page> child(const Page &page, size_t i);
    [[nodiscard]] Result<Page> inline_page(std::string_view bytes) const;
    Result<Page> root_of(const BoltBucket &bucket);
    [[nodiscard]] Status check(const Page &page, const Range &range) const;

    Result<std::optional<Element>> find(const BoltBucket &bucket, std::string_view key);
    using Visit = std::function<Status(const Element &)>;
    Status walk(const Page &page, const Range &range, unsigned depth, const Visit &visit);
    Result<BoltBucket> nested(const Element &element, const BoltBucket &in);
};

Result<std::unique_ptr<BoltImage>> BoltImage::make(std::string name, std::string data, const MetaPage &from) {
    const Meta meta = from.meta();
    auto out = std::make_unique<BoltImage>();
    out->name = std::move(name);
    out->data = std::move(data);
    out->page_size = meta.page_size;
    out->page_count = meta.page_count;
    out->transaction = meta.transaction;
    out->referrers.resize(std::min<uint64_t>(out->data.size() / meta.page_size, meta.page_count));
    out->root.image_ = out.get();
    out->root.root_ = meta.root;
    out->root.referrer_ = from.offset;
    out->root.sequence_ = meta.sequence;
    return out;
}

Result<Page> BoltImage::page(uint64_t id, uint64_t referrer) {
    if (id < first_page || id >= page_count)
        return damaged(id, fmt::format("byte {} refers to it, but it is none of a bucket; the database has {} pages",
                                       referrer, page_count));
    const uint64_t there = referrers.size();
    if (id >= there) return damaged(id, fmt::format("behind the end of the file, which has {} pages", there));
    const auto from = std::string_view(data).substr(id * page_size);
    const auto header = load<PageHeader>(from, 0);
    if (header.id != id) return damaged(id, fmt::format("it says that it is page {}", header.id));
    if (header.flags != branch_flag && header.flags != leaf_flag)
        return damaged(id, fmt::format("neither a branch nor a leaf (flags {:#x})", header.flags));
    const uint64_t length = uint64_t{header.overflow} + 1;
    if (length > there - id)
        return damaged(id, fmt::format("{} pages long, but the file ends after {} pages", length, there));
    TRY(claim(id, length, referrer));
    return Page{id, from.substr(0, length * page_size), header.flags == leaf_flag, header.count};
}

Status BoltImage::claim(uint64_t id, uint64_t length, uint64_t referrer) {
    if (referrers[id] == referrer) return {}; // with all of its length
    const auto pages = std::span(referrers).subspan(id, length);
    for (const uint64_t &known : pages)
        if (known != 0)
            return damaged(id + static_cast<uint64_t>(&known - pages.data()),
                           fmt::format("used twice, as bytes {} and {} have it", known, referrer));
    std::ranges::fill(pages, referrer);
    return {};
}

Result<Page> BoltImage::child(const Page &parent, size_t i) {
    const Element element = parent.element(i);
    return page(element.child, offset_of(parent.bytes) + element.offset);
}

Result<Page> BoltImage::inline_page(std::string_view bytes) const {
    const uint64_t id = offset_of(bytes) / page_size;
    if (bytes.size() < sizeof(PageHeader)) return damaged(id, "an inline bucket is cut short");
    const auto header = load<PageHeader>(bytes, 0);
    if (header.flags != leaf_flag)
        return damaged(id, fmt::format("an inline bucket that is no leaf (flags {:#x})", header.flags));
    return Page{id, bytes, true, header.count};
}

Result<Page> BoltImage::root_of(const BoltBucket &bucket) {
    return bucket.inline_page_ ? inline_page(*bucket.inline_page_) : page(bucket.root_, bucket.referrer_);
}

/// Elements lie behind each other, none over another (node.go, write), and their keys ascend: else a search would
/// not find some of them, and tell nothing.
Status BoltImage::check(const Page &page, const Range &range) const {
    uint64_t free_from = Page::offset(page.count);
    if (free_from > page.bytes.size())
        return damaged(page.id, fmt::format("has no room for its {} elements", page.count));
    if (page.count == 0 && !page.leaf) return damaged(page.id, "a branch without elements");
    std::string_view last;
    for (size_t i = 0; i < page.count; ++i) {
        const Page::Extent extent = page.extent(i);
        if (extent.begin < free_from || extent.end > page.bytes.size())
            return damaged(page.id, fmt::format("element {} (bytes {} to {} of {}) is not in its place", i,
                                                extent.begin, extent.end, page.bytes.size()));
        const std::string_view key = page.key(i);
        // The empty key is no key in bbolt (bucket.go, Put), so it can stand for "none yet" here.
        if (key <= last)
            return damaged(page.id, fmt::format("the key {} of element {} is out of order", shown(key), i));
        if ((page.leaf || i > 0) && range.from && key < *range.from)
            return damaged(page.id, fmt::format("the key {} belongs on a page before it", shown(key)));
        if (range.to && key >= *range.to)
            return damaged(page.id, fmt::format("the key {} belongs on a page behind it", shown(key)));
        free_from = extent.end;
        last = key;
    }
    return {};
}

Result<std::optional<Element>> BoltImage::find(const BoltBucket &bucket, std::string_view key) {
    Page page = TRY(root_of(bucket));
    Range range;
    for (unsigned depth = 0; depth < deepest; ++depth) {
        TRY(check(page, range));
        if (page.count == 0) return std::nullopt;
        const size_t at = page.find(key);
        if (page.leaf) return page.key(at) == key ? std::optional(page.element(at)) : std::nullopt;
        range = page.below(at, range);
        page = TRY(child(page, at));
    }
    return damaged(page.id, fmt::format("more than {} pages above it", deepest));
}

Status BoltImage::walk(const Page &page, const Range &range, unsigned depth, const Visit &visit) {
    if (depth == deepest) return damaged(page.id, fmt::format("more than {} pages above it", deepest));
    TRY(check(page, range));
    for (size_t i = 0; i < page.count; ++i) {
        if (page.leaf)
            TRY(visit(page.element(i)));
        else
            TRY(walk(TRY(child(page, i)), page.below(i, range), depth + 1, visit));
    }
    return {};
}

Result<BoltBucket> BoltImage::nested(const Element &element, const BoltBucket &in) {
    const uint64_t offset = offset_of(element.value), on_page = offset / page_size;
    if (in.depth_ + 1 >= deepest) return damaged(on_page, fmt::format("more than {} buckets in each other", deepest));
    if (element.value.size() < sizeof(BucketHeader))
        return damaged(on_page, fmt::format("the bucket {} is cut short", shown(element.key)));
    const auto header = load<BucketHeader>(element.value, 0);
    BoltBucket out;
    out.image_ = this;
    out.root_ = header.root;
    if (header.root == 0) out.inline_page_ = element.value.substr(sizeof(BucketHeader));
    out.referrer_ = offset;
    out.sequence_ = header.sequence;
    out.depth_ = in.depth_ + 1;
    return out;
}

// ---------------------------------------------------------------------------------------------------------- buckets

Result<std::optional<std::string_view>> BoltBucket::get(std::string_view key) const {
    const auto found = TRY(image_->find(*this, key));
    if (!found || found->is_bucket) return std::nullopt;
    return found->value;
}

Result<std::optional<BoltBucket>> BoltBucket::bucket(std::string_view name) const {
    const auto found = TRY(image_->find(*this, name));
    if (!found || !found->is_bucket) return std::nullopt;
    return TRY(image_->nested(*found, *this));
}

Result<std::optional<BoltBucket>> BoltBucket::bucket_at(std::initializer_list<std::string_view> names) const {
    BoltBucket at = *this;
    for (const std::string_view name : names) {
        const auto next = TRY(at.bucket(name));
        if (!next) return std::nullopt;
        at = *next;
    }
    return at;
}

Status BoltBucket::for_each(const Visit &visit) const {
    return image_->walk(TRY(image_->root_of(*this)), {}, 0, [&](const Element &element) {
        return visit(element.key, element.is_bucket ? std::nullopt : std::optional(element.value));
    });
}

Status BoltBucket::for_each_bucket(const VisitBucket &visit) const {
    return image_->walk(TRY(image_->root_of(*this)), {}, 0, [&](const Element &element) -> Status {
        if (!element.is_bucket) return {};
        return visit(element.key, TRY(image_->nested(element, *this)));
    });
}

// ------------------------------------------------------------------------------------------------------------- file

namespace {

Result<uint64_t> size_of(int fd) {
    const auto status = TRY(sys::stat_at(fd, ""));
    if (!S_ISREG(status.st_mode)) return fail(Errc::InvalidArgument, "not a regular file");
    return static_cast<uint64_t>(status.st_size);
}

/// What `meta` uses of the file.
Result<std::string> copy_pages(int fd, const Meta &meta, size_t limit) {
    const uint64_t file_bytes =
        TRY(size_of(fd)); // asked after `meta` was read: bbolt grows the file first (db.go, grow)
    const uint64_t most = std::numeric_limits<uint64_t>::max() / meta.page_size;
    const uint64_t wanted = std::min(file_bytes, std::min(meta.page_count, most) * meta.page_size);
    if (wanted > limit)
        return fail(Errc::ResourceExhausted, fmt::format("has {} bytes; at most {} are read", wanted, limit));
    std::string out(wanted, '\0');
    size_t filled = 0;
    while (filled < out.size()) {
        const size_t got = TRY(sys::pread_some(fd, std::as_writable_bytes(std::span(out)).subspan(filled), filled));
        if (got == 0) break; // it was cut meanwhile; pages behind the end are told when one is wanted
        filled += got;
    }
    out.resize(filled);
    return out;
}

/// nullptr: a transaction was committed meanwhile.
Result<std::unique_ptr<BoltImage>> copy_once(int fd, const std::string &name, size_t limit) {
    if (TRY(size_of(fd)) == 0) return fail(Errc::DataLoss, "an empty file");
    const ReadAt read = [fd](std::span<std::byte> into, uint64_t offset) { return sys::pread_some(fd, into, offset); };
    const MetaPages before = TRY(read_meta_pages(read));
    std::string data = TRY(copy_pages(fd, before.newest.meta(), limit));
    auto after = read_meta_pages(read);
    if (!after && after.error().sys_errno() != 0) return std::unexpected(std::move(after).error());
    if (!after || *after != before) return nullptr;
    return BoltImage::make(name, std::move(data), before.newest);
}

} // namespace

Result<BoltFile> BoltFile::open(const Host &host, const std::string &path, size_t limit) {
    const UniqueFd fd = TRY(host.open_path(path, O_RDONLY));
    std::string name = fmt::format("bolt database {:?}", path);
    for (int left = copies; left > 0; --left) {
        auto image = in_context(copy_once(fd.get(), name, limit), [&] { return name; });
        if (image && *image) return BoltFile(std::move(*image));
        // A file without a valid meta page may be one that is being made (db.go, init).
        const bool being_made = !image && image.error().code() == Errc::DataLoss && image.error().sys_errno() == 0;
        if (!image && (left == 1 || !being_made)) return std::unexpected(std::move(image).error());
        if (left > 1) std::this_thread::sleep_for(first_pause * (1 << (copies - left)));
    }
    return fail(Errc::Aborted, fmt::format("{}: is being written all the time: transactions were committed during each "
                                           "of {} copies; try again, or when its daemon has less to do",
                                           name, copies));
}

Result<BoltFile> BoltFile::from_bytes(std::string bytes, std::string name) {
    const ReadAt read = [&](std::span<std::byte> out, uint64_t offset) -> Result<size_t> {
        const auto from = std::string_view(bytes).substr(std::min<uint64_t>(offset, bytes.size()), out.size());
        std::ranges::copy(std::as_bytes(std::span(from)), out.begin());
        return from.size();
    };
    const MetaPages metas = TRY(in_context(read_meta_pages(read), [&] { return name; }));
    return BoltFile(TRY(BoltImage::make(std::move(name), std::move(bytes), metas.newest)));
}

BoltFile::BoltFile(std::unique_ptr<BoltImage> image) noexcept : image_(std::move(image)) {}
BoltFile::BoltFile(BoltFile &&) noexcept = default;
BoltFile &BoltFile::operator=(BoltFile &&) noexcept = default;
BoltFile::~BoltFile() = default;

BoltBucket BoltFile::root() const {
    return image_->root;
}
uint64_t BoltFile::transaction() const noexcept {
    return image_->transaction;
}
uint32_t BoltFile::page_bytes() const noexcept {
    return image_->page_size;
}

// ---------------------------------------------------------------------------------------------------- Go's encodings

Result<uint64_t> take_uvarint(std::string_view &rest) {
    uint64_t out = 0;
    for (size_t i = 0; i < rest.size(); ++i) {
        const auto byte = static_cast<uint8_t>(rest[i]);
        if (i == 9 && byte > 1) return fail(Errc::DataLoss, "varint: larger than 64 bits");
        out |= uint64_t{byte & 0x7fU} << (7 * i);
        if (byte < 0x80) {
            rest.remove_prefix(i + 1);
            return out;
        }
    }
    return fail(Errc::DataLoss, fmt::format("varint: ends after {} bytes", rest.size()));
}

Result<int64_t> take_varint(std::string_view &rest) {
    const uint64_t raw = TRY(take_uvarint(rest));
    return static_cast<int64_t>((raw >> 1U) ^ (0 - (raw & 1U)));
}

Result<uint64_t> go_time_s(std::string_view value) {
    constexpr size_t size_v1 = 15, size_v2 = 16;           // version, seconds, nanoseconds, zone
    constexpr int64_t epoch_s = 62'135'596'800;            // since the year 1 (time.go, unixToInternal)
    const int version = value.empty() ? 0 : value.front(); // time.go, UnmarshalBinary
    if (!(version == 1 && value.size() == size_v1) && !(version == 2 && value.size() == size_v2))
        return fail(Errc::DataLoss, fmt::format("time: {} bytes of version {}", value.size(), version));
    uint64_t raw = 0;
    for (const char byte : value.substr(1, sizeof raw))
        raw = raw << 8U | static_cast<uint8_t>(byte);
    const auto since_year_1 = static_cast<int64_t>(raw);
    return since_year_1 < epoch_s ? 0 : static_cast<uint64_t>(since_year_1 - epoch_s);
}

} // namespace shale::probe
