// SPDX-License-Identifier: Apache-2.0
// What is copied as bytes (blobs that no layer was unpacked from, manifests, configs), and the stream between a driver
// that reads changes and one that takes them.
#include <fmt/format.h>

#include <thread>
#include <unordered_set>

#include "base/queue.h"
#include "store/migration.h"
#include "store/records.h"
#include "sys/fs.h"

namespace shale::store {
namespace {

constexpr size_t piece_bytes = size_t{1} << 20U;
constexpr size_t pieces_ahead = 8;

/// Copies and proves; a file that is not what its name says is DataLoss.
Status copy_blob(NewSide &side, int from, const Digest &digest) {
    std::string tmp_name;
    const UniqueFd to = TRY(side.new_blob(tmp_name));
    ScopeGuard drop([&] { side.drop_blob(tmp_name); });
    Sha256 hash;
    std::vector<std::byte> buffer(piece_bytes);
    for (;;) {
        const size_t got = TRY(sys::read_some(from, buffer));
        if (got == 0) break;
        hash.update(std::span(buffer).first(got));
        TRY(sys::write_all(to.get(), std::span(buffer).first(got)));
    }
    if (hash.finish() != digest) return fail(Errc::DataLoss, "it has other content than its digest says");
    TRY(side.publish_blob(tmp_name, digest));
    drop.release();
    return {};
}

} // namespace

Status Migration::copy_blobs() {
    std::vector<Digest> wanted;
    std::unordered_set<std::string> names;
    {
        auto rows = TRY(store_.records_->prepare("SELECT digest FROM blobs ORDER BY digest"));
        while (TRY(rows.step())) {
            wanted.push_back(rows.digest(0));
            names.insert(wanted.back().hex());
        }
    }
    std::vector<Done> done;
    for (const Digest &digest : wanted) {
        if (canceled()) return fail(Errc::Canceled, "canceled; the same command goes on where this one stopped");
        const std::string item = "blob:" + digest.text();
        if (is_done(item)) continue;
        const auto file = sys::open_at(store_.blobs_fd_.get(), digest.hex().c_str(), O_RDONLY);
        Status copied = file ? Status() : Status(std::unexpected(file.error()));
        if (file && !TRY(side_->link_blob(store_.blobs_fd_.get(), digest.hex())))
            copied = copy_blob(*side_, file->get(), digest);
        if (!copied && (copied.error().code() == Errc::NotFound || copied.error().code() == Errc::DataLoss)) {
            // Lost before the migration: the new side has the same gap, and its check says the same.
            report_.notes.push_back(fmt::format("blob {}: {}", digest.text(), copied.error().text()));
            continue;
        }
        TRY(in_context(std::move(copied), [&] { return "blob " + digest.text(); }));
        done.push_back({item, {}});
        ++report_.blobs;
    }
    if (!done.empty()) TRY(record(done, {}));
    for (const auto &name : TRY(side_->list_blobs())) {
        if (names.contains(name)) continue;
        TRY(forget("blob:sha256:" + name));
        TRY(side_->remove_blob(name));
        ++report_.dropped;
    }
    return {};
}

struct DiffStream::Impl {
    BoundedQueue<std::vector<std::byte>> queue{pieces_ahead};
    std::vector<std::byte> filling, reading;
    Sha256 hash;
    std::optional<Result<drivers::Driver::DiffReport>> result;
    std::jthread thread;

    Status take(std::span<const std::byte> bytes) {
        hash.update(bytes);
        filling.insert(filling.end(), bytes.begin(), bytes.end());
        return filling.size() >= piece_bytes ? flush() : Status();
    }
    Status flush() {
        if (filling.empty()) return {};
        if (!queue.push(std::exchange(filling, {}))) return fail(Errc::Canceled, "the copy was given up");
        return {};
    }
    void run(const Read &read) {
        result = read([this](std::span<const std::byte> bytes) { return take(bytes); });
        if (*result)
            if (auto done = flush(); !done) result = std::unexpected(std::move(done).error());
        if (*result)
            queue.close();
        else
            queue.abort();
    }
};

DiffStream::DiffStream(Read read) : impl_(std::make_unique<Impl>()) {
    impl_->thread = std::jthread([impl = impl_.get(), read = std::move(read)] { impl->run(read); });
}

DiffStream::~DiffStream() {
    impl_->queue.abort();
}

Result<archive::ExtractReport> DiffStream::extract_to(archive::Tree &tree, const archive::ExtractOptions &options,
                                                      const std::atomic<bool> *cancel) {
    archive::TarReader tar(
        [this]() -> Result<std::span<const std::byte>> {
            auto piece = impl_->queue.pop();
            if (!piece) return std::span<const std::byte>();
            impl_->reading = std::move(*piece);
            return std::span<const std::byte>(impl_->reading);
        },
        options.limits);
    auto extracted = archive::extract_tar(tar, tree, options, cancel);
    if (extracted)
        if (auto drained = tar.drain(); !drained) extracted = std::unexpected(std::move(drained).error());
    if (!extracted) impl_->queue.abort();
    impl_->thread.join();
    // A reader that failed left half an archive, whose end is not the cause.
    if (!*impl_->result && (extracted || impl_->result->error().code() != Errc::Canceled))
        return std::unexpected(std::move(*impl_->result).error());
    if (!extracted) return extracted;
    diff_id_ = impl_->hash.finish();
    pack_ = std::move((*impl_->result)->pack);
    return extracted;
}

} // namespace shale::store
