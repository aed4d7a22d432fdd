// SPDX-License-Identifier: Apache-2.0
#include "archive/unpack.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "base/queue.h"
#include "sys/fs.h"

namespace shale::archive {
namespace {

// In flight at most: 4 x 256 KiB of blob and 16 x 256 KiB of tar.
constexpr size_t buffer_size = size_t{256} << 10U;
constexpr size_t blob_buffers = 4;
constexpr size_t tar_buffers = 16;
/// Blobs up to this are done on the calling thread: starting threads would cost more than they save.
constexpr uint64_t inline_size = uint64_t{64} << 10U;

struct Buffer {
    std::unique_ptr<std::byte[]> bytes = std::make_unique_for_overwrite<std::byte[]>(buffer_size);
    size_t size = 0;

    [[nodiscard]] std::span<std::byte> room() { return {bytes.get(), buffer_size}; }
    [[nodiscard]] std::span<const std::byte> data() const { return {bytes.get(), size}; }
};
using SharedBuffer = std::shared_ptr<Buffer>;

/// A fixed number of buffers, made when first wanted; one comes back when its last user lets go of it.
class Pool {
public:
    explicit Pool(size_t count) : free_(count) {
        for (size_t i = 0; i < count; ++i)
            (void)free_.push(nullptr);
    }
    /// Waits for a free buffer; null once aborted. The pool must outlive its buffers.
    SharedBuffer take() {
        auto buffer = free_.pop();
        if (!buffer) return nullptr;
        if (!*buffer) *buffer = std::make_unique<Buffer>();
        (*buffer)->size = 0;
        return {buffer->release(), [this](Buffer *used) { (void)free_.push(std::unique_ptr<Buffer>(used)); }};
    }
    void abort() { free_.abort(); }

private:
    BoundedQueue<std::unique_ptr<Buffer>> free_;
};

/// Reads the blob in order: digest, copy, progress.
class BlobReader {
public:
    explicit BlobReader(const UnpackJob &job) : job_(job) {}
    /// Up to `out.size()` bytes; 0 at the end of the blob.
    Result<size_t> read(std::span<std::byte> out) {
        if (job_.cancel != nullptr && job_.cancel->load(std::memory_order_relaxed))
            return fail(Errc::Canceled, "unpacking was canceled");
        const auto wanted = static_cast<size_t>(std::min<uint64_t>(out.size(), job_.size - done_));
        if (wanted == 0) return size_t{0};
        const size_t got = TRY(sys::pread_some(job_.blob_fd, out.first(wanted), job_.offset + done_));
        if (got == 0) return fail(Errc::DataLoss, fmt::format("the blob ends after {} of {} bytes", done_, job_.size));
        hash_.update(out.first(got));
        if (job_.copy_fd >= 0) TRY(sys::write_all(job_.copy_fd, out.first(got)));
        done_ += got;
        if (job_.copy_fd >= 0 && done_ - started_ >= writeback_bytes) {
            sys::start_writeback(job_.copy_fd, started_, done_ - started_);
            started_ = done_;
        }
        if (job_.progress) job_.progress(done_);
        return got;
    }
    Digest finish() { return hash_.finish(); }

private:
    const UnpackJob &job_;
    /// The copy goes to disk while the rest is read, not all in the sync at the end.
    static constexpr uint64_t writeback_bytes = uint64_t{8} << 20U;
    Sha256 hash_;
    uint64_t done_ = 0, started_ = 0;
};

Result<Compression> detect(const UnpackJob &job) {
    std::array<std::byte, 16> head{};
    size_t filled = 0;
    while (filled < std::min<uint64_t>(head.size(), job.size)) {
        const auto room = std::span(head).first(static_cast<size_t>(std::min<uint64_t>(head.size(), job.size)));
        const size_t got = TRY(sys::pread_some(job.blob_fd, room.subspan(filled), job.offset + filled));
        if (got == 0) break; // the reader will say it
        filled += got;
    }
    return detect_compression(std::span(head).first(filled));
}

/// The consumer's end: extracts, or just reads on to the end.
Status consume(const UnpackJob &job, UnpackResult &result, BlockSource source) {
    TarReader tar(std::move(source), job.extract.limits);
    if (job.dest != nullptr) result.extract = TRY(extract_tar(tar, *job.dest, job.extract, job.cancel));
    TRY(tar.drain());
    return {};
}

Status run_inline(const UnpackJob &job, UnpackResult &result) {
    BlobReader blob(job);
    Sha256 tar_hash;
    auto decoder = TRY(make_decoder(result.compression));
    Buffer in;
    Buffer out;
    std::span<const std::byte> left;
    bool ended = false;
    uint64_t tar_bytes = 0;
    const auto source = [&]() -> Result<std::span<const std::byte>> {
        for (;;) {
            const auto step = TRY(decoder->step(left, out.room()));
            left = left.subspan(step.consumed);
            if (step.produced > 0) {
                const auto data = out.room().first(step.produced);
                tar_hash.update(data);
                tar_bytes += data.size();
                return data;
            }
            if (!left.empty() && step.consumed == 0) return fail(Errc::Internal, "the decoder stands still");
            if (!left.empty()) continue;
            if (ended) return std::span<const std::byte>{};
            in.size = TRY(blob.read(in.room()));
            left = in.data();
            if (in.size == 0) {
                ended = true;
                TRY(decoder->finish());
            }
        }
    };
    TRY(consume(job, result, source));
    result.digest = blob.finish();
    result.diff_id = tar_hash.finish();
    result.tar_bytes = tar_bytes;
    return {};
}

class Pipeline {
public:
    Pipeline(const UnpackJob &job, UnpackResult &result)
        : job_(job), result_(result), plain_(result.compression == Compression::none), blob_pool_(blob_buffers),
          tar_pool_(tar_buffers), to_decode_(blob_buffers), to_hash_(tar_buffers), to_extract_(tar_buffers) {}

    Status run() {
        std::vector<std::jthread> threads;
        try {
            threads.emplace_back([this] { stage(&Pipeline::read); });
            if (!plain_) threads.emplace_back([this] { stage(&Pipeline::decode); });
            if (!plain_) threads.emplace_back([this] { stage(&Pipeline::hash); });
            stage(&Pipeline::extract);
        } catch (const std::system_error &error) {
            give_up(Error(Errc::ResourceExhausted, fmt::format("cannot start a thread: {}", error.what())));
        }
        threads.clear(); // joins
        if (error_) return std::unexpected(std::move(*error_));
        if (plain_) result_.diff_id = result_.digest;
        return {};
    }

private:
    void stage(Status (Pipeline::*work)()) {
        // An exception (memory) must not leave the other stages waiting for this one.
        try {
            if (auto done = (this->*work)(); !done) give_up(std::move(done).error());
        } catch (const std::exception &error) {
            give_up(Error(Errc::ResourceExhausted, fmt::format("unpacking stopped: {}", error.what())));
        }
    }

    /// The first error counts; everybody else wakes up and ends.
    void give_up(Error error) {
        {
            std::lock_guard lock(mutex_);
            if (!error_) error_ = std::move(error);
        }
        to_decode_.abort();
        to_hash_.abort();
        to_extract_.abort();
        blob_pool_.abort();
        tar_pool_.abort();
    }
    /// For a stage that was woken by give_up(): its error comes after the one that counts.
    static std::unexpected<Error> stopped() { return fail(Errc::Canceled, "stopped"); }

    Status read() {
        BlobReader blob(job_);
        for (;;) {
            auto buffer = plain_ ? tar_pool_.take() : blob_pool_.take();
            if (!buffer) return stopped();
            buffer->size = TRY(blob.read(buffer->room()));
            if (buffer->size == 0) break;
            if (plain_) result_.tar_bytes += buffer->size;
            auto &queue = plain_ ? to_extract_ : to_decode_;
            if (!queue.push(std::move(buffer))) return stopped();
        }
        result_.digest = blob.finish();
        (plain_ ? to_extract_ : to_decode_).close();
        return {};
    }

    Status decode() {
        auto decoder = TRY(make_decoder(result_.compression));
        SharedBuffer out;
        const auto hand_on = [&]() -> bool {
            result_.tar_bytes += out->size;
            const bool taken = to_hash_.push(out) && to_extract_.push(out);
            out.reset();
            return taken;
        };
        while (auto in = to_decode_.pop()) {
            for (auto left = (*in)->data();;) {
                if (!out) out = tar_pool_.take();
                if (!out) return stopped();
                const auto room = out->room().subspan(out->size);
                const auto step = TRY(decoder->step(left, room));
                left = left.subspan(step.consumed);
                out->size += step.produced;
                const bool full = step.produced == room.size();
                if (full && !hand_on()) return stopped();
                if (left.empty() && !full) break; // with a full buffer there may be more inside the decoder
                if (step.consumed == 0 && step.produced == 0) return fail(Errc::Internal, "the decoder stands still");
            }
        }
        {
            std::lock_guard lock(mutex_);
            if (error_) return stopped();
        }
        TRY(decoder->finish());
        if (out && out->size > 0 && !hand_on()) return stopped();
        to_hash_.close();
        to_extract_.close();
        return {};
    }

    Status hash() {
        Sha256 hash;
        while (auto buffer = to_hash_.pop())
            hash.update((*buffer)->data());
        result_.diff_id = hash.finish();
        return {};
    }

    Status extract() {
        SharedBuffer current;
        TRY(consume(job_, result_, [&]() -> Result<std::span<const std::byte>> {
            current.reset(); // back to the pool before waiting
            if (job_.cancel != nullptr && job_.cancel->load(std::memory_order_relaxed))
                return fail(Errc::Canceled, "unpacking was canceled");
            auto next = to_extract_.pop();
            if (next) {
                current = std::move(*next);
                return current->data();
            }
            std::lock_guard lock(mutex_);
            if (error_) return stopped();
            return std::span<const std::byte>{};
        }));
        return {};
    }

    const UnpackJob &job_;
    UnpackResult &result_;
    const bool plain_;
    std::mutex mutex_;
    std::optional<Error> error_;
    // Pools before queues: a queue that goes gives its buffers back.
    Pool blob_pool_, tar_pool_;
    BoundedQueue<SharedBuffer> to_decode_, to_hash_, to_extract_;
};

Status check_digest(const char *what, const std::optional<Digest> &wanted, const Digest &found) {
    if (!wanted || *wanted == found) return {};
    return fail(Errc::DataLoss, fmt::format("{} is {}, expected {}", what, found.text(), wanted->text()));
}

} // namespace

Result<UnpackResult> unpack_layer(const UnpackJob &job) {
    UnpackResult result;
    result.compression = TRY(detect(job));
    if (job.size <= inline_size)
        TRY(run_inline(job, result));
    else
        TRY(Pipeline(job, result).run());
    TRY(check_digest("digest of the blob", job.digest, result.digest));
    TRY(check_digest("digest of the uncompressed layer (diff id)", job.diff_id, result.diff_id));
    return result;
}

} // namespace shale::archive
