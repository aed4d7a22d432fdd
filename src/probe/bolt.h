// SPDX-License-Identifier: Apache-2.0
// A reader of bbolt databases (etcd-io/bbolt, file format 2), as containerd's meta.db, the metadata.db of its
// snapshotters, BuildKit's cache.db and metadata_v2.db, moby's local-kv.db and podman 4's bolt_state.db are. What of
// the format is read: docs/formats/bolt.md.
//
// A daemon that has such a file open for writing holds flock(LOCK_EX) on it until it ends. No lock is taken here: the
// file is copied into memory, and a copy counts when both meta pages are byte for byte the same before and after it.
// That is enough, because in bbolt
//  - transaction N+1 writes its pages, then its meta page over that of N-1 (tx.go, Commit; meta.Write), one transaction
//    at a time. All by pwrite(2), so that a reader of the page cache sees them in this order, whatever is synced;
//  - N+1 writes only to pages that are free in N or behind its end: a page of N that N+1 gives up is pending, and
//  becomes
//    free for a transaction that begins after N+1 was committed (freelist.go, free and release).
// So no page of N changes before N+1 is committed, and N+1 is not committed while neither meta page has changed. Once
// it is, N+2 may write over pages of N. It is not enough to look at the newest valid meta page: one that is just being
// written has a wrong checksum, and then an old one would pass for the newest, before and after.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/error.h"
#include "probe/host.h"

namespace shale::probe {

struct BoltImage; // the copy in memory, bolt.cc

/// A bucket: keys in the order of their bytes, each with a value or a nested bucket. Stands, with all that it returns,
/// as long as its BoltFile. Errors of all calls: DataLoss with the number of the page that is damaged or missing.
class BoltBucket {
public:
    /// nullopt: there is no such key, or it names a nested bucket.
    [[nodiscard]] Result<std::optional<std::string_view>> get(std::string_view key) const;
    /// nullopt: there is no such key, or it has a value.
    [[nodiscard]] Result<std::optional<BoltBucket>> bucket(std::string_view name) const;
    /// A step per name: `bucket_at({"v1", "k8s.io", "images"})`; nullopt when one is missing.
    [[nodiscard]] Result<std::optional<BoltBucket>> bucket_at(std::initializer_list<std::string_view> names) const;

    /// nullopt as value: a nested bucket. An error that `visit` returns ends the walk and is returned. What was visited
    /// before a damaged page is good.
    using Visit = std::function<Status(std::string_view key, std::optional<std::string_view> value)>;
    Status for_each(const Visit &visit) const;
    /// The nested buckets only.
    using VisitBucket = std::function<Status(std::string_view name, const BoltBucket &bucket)>;
    Status for_each_bucket(const VisitBucket &visit) const;

    /// The counter of Bucket.NextSequence: the last number that was given out.
    [[nodiscard]] uint64_t sequence() const noexcept { return sequence_; }

private:
    friend struct BoltImage;
    friend class BoltFile;
    BoltBucket() = default;

    BoltImage *image_ = nullptr;
    uint64_t root_ = 0;                           ///< page id
    std::optional<std::string_view> inline_page_; ///< instead of `root_`
    uint64_t referrer_ = 0;                       ///< where in the file it stands that `root_` is its root
    uint64_t sequence_ = 0;
    unsigned depth_ = 0; ///< of nesting
};

/// A database in memory. Reading it keeps notes (which page belongs where): one thread at a time.
class BoltFile {
public:
    static constexpr size_t default_limit = size_t{1} << 30U;

    /// Copies what the newest transaction uses of the file. Up to 5 copies are made, with a pause of 10 ms, 20 ms, ...
    /// between them. Aborted: each was overtaken by a writer. DataLoss: neither meta page is good. ResourceExhausted:
    /// more than `limit` bytes. Unimplemented: another version of the format. InvalidArgument: no regular file. Else
    /// what Host::open_path says.
    static Result<BoltFile> open(const Host &host, const std::string &path, size_t limit = default_limit);
    /// The same of a file that was read before. Errors name it `name`.
    static Result<BoltFile> from_bytes(std::string bytes, std::string name = "bolt database");

    BoltFile(BoltFile &&) noexcept;
    BoltFile &operator=(BoltFile &&) noexcept;
    BoltFile(const BoltFile &) = delete;
    BoltFile &operator=(const BoltFile &) = delete;
    ~BoltFile();

    /// The bucket of the buckets at the top.
    [[nodiscard]] BoltBucket root() const;
    /// Of the transaction that is read; it grows by one with each that is committed.
    [[nodiscard]] uint64_t transaction() const noexcept;
    [[nodiscard]] uint32_t page_bytes() const noexcept;

private:
    explicit BoltFile(std::unique_ptr<BoltImage> image) noexcept;
    std::unique_ptr<BoltImage> image_;
};

// What Go programs keep in values and keys. DataLoss: cut short, or not of this form.

/// encoding/binary, PutUvarint: takes it off the front of `rest`.
Result<uint64_t> take_uvarint(std::string_view &rest);
/// encoding/binary, PutVarint (zigzag).
Result<int64_t> take_varint(std::string_view &rest);
/// time.Time.MarshalBinary, versions 1 and 2: seconds since the epoch, 0 for all before it (Go's zero time is in the
/// year 1).
Result<uint64_t> go_time_s(std::string_view value);

} // namespace shale::probe
