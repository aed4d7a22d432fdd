// SPDX-License-Identifier: Apache-2.0
#include "archive/decompress.h"

#include <fmt/format.h>
#include <isa-l/igzip_lib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include <algorithm>
#include <array>
#include <limits>
#include <vector>

namespace shale::archive {
namespace {

constexpr size_t out_chunk = size_t{128} << 10U;

uint32_t bounded(size_t size) {
    return static_cast<uint32_t>(std::min<size_t>(size, std::numeric_limits<int32_t>::max()));
}

/// The C interfaces take plain pointers to bytes that they only read.
uint8_t *input_pointer(std::span<const std::byte> in) {
    return const_cast<uint8_t *>(reinterpret_cast<const uint8_t *>(in.data()));
}

class PlainDecoder final : public Decoder {
public:
    Result<Step> step(std::span<const std::byte> in, std::span<std::byte> out) override {
        const size_t count = std::min(in.size(), out.size());
        std::copy_n(in.begin(), count, out.begin());
        return Step{count, count};
    }
    Status finish() override { return {}; }
};

class GzipDecoder final : public Decoder {
public:
    GzipDecoder() { start_member(); }

    Result<Step> step(std::span<const std::byte> in, std::span<std::byte> out) override {
        Step done;
        // Members follow one another in one input; nothing is read into ISA-L's bit buffer past a trailer.
        while (done.produced < out.size() && (done.consumed < in.size() || in_member_)) {
            if (!in_member_ && state_.block_state != ISAL_BLOCK_NEW_HDR) start_member();
            const auto source = in.subspan(done.consumed);
            const auto target = out.subspan(done.produced);
            state_.next_in = input_pointer(source);
            state_.avail_in = bounded(source.size());
            state_.next_out = reinterpret_cast<uint8_t *>(target.data());
            state_.avail_out = bounded(target.size());
            const uint32_t avail_in = state_.avail_in;
            const uint32_t avail_out = state_.avail_out;
            const int code = isal_inflate(&state_);
            const size_t consumed = avail_in - state_.avail_in;
            const size_t produced = avail_out - state_.avail_out;
            done.consumed += consumed;
            done.produced += produced;
            total_in_ += consumed;
            if (code < 0) return error(code);
            if (consumed > 0) in_member_ = true;
            if (state_.block_state == ISAL_BLOCK_FINISH) {
                in_member_ = false;
                ++members_;
            } else if (consumed == 0 && produced == 0) {
                break;
            }
        }
        return done;
    }

    Status finish() override {
        if (in_member_ || members_ == 0)
            return fail(Errc::DataLoss, fmt::format("gzip: truncated after {} bytes", total_in_));
        return {};
    }

private:
    void start_member() {
        isal_inflate_init(&state_);
        state_.crc_flag = ISAL_GZIP;
    }
    std::unexpected<Error> error(int code) const {
        const bool at_start = members_ > 0 && (code == ISAL_INVALID_WRAPPER || code == ISAL_UNSUPPORTED_METHOD);
        const char *what = "corrupt data";
        if (at_start)
            what = "trailing garbage after the last member";
        else if (code == ISAL_INCORRECT_CHECKSUM)
            what = "CRC or length does not match";
        else if (code == ISAL_INVALID_WRAPPER)
            what = "invalid header";
        else if (code == ISAL_UNSUPPORTED_METHOD)
            what = "unknown compression method";
        else if (code == ISAL_INVALID_LOOKBACK)
            what = "corrupt data (distance before the start)";
        return fail(Errc::DataLoss, fmt::format("gzip: {} (near byte {})", what, total_in_));
    }

    inflate_state state_{};
    uint64_t total_in_ = 0;
    uint64_t members_ = 0;
    bool in_member_ = false;
};

class ZstdDecoder final : public Decoder {
public:
    explicit ZstdDecoder(unsigned max_window_log) : context_(ZSTD_createDCtx()), max_window_log_(max_window_log) {}
    Status init() {
        if (!context_) return fail(Errc::ResourceExhausted, "zstd: no memory for a decoder");
        const size_t code = ZSTD_DCtx_setParameter(context_.get(), ZSTD_d_windowLogMax,
                                                   static_cast<int>(std::min(max_window_log_, 31U)));
        if (ZSTD_isError(code) != 0)
            return fail(Errc::InvalidArgument,
                        fmt::format("zstd: window limit 2^{}: {}", max_window_log_, ZSTD_getErrorName(code)));
        return {};
    }

    Result<Step> step(std::span<const std::byte> in, std::span<std::byte> out) override {
        ZSTD_inBuffer source{in.data(), in.size(), 0};
        ZSTD_outBuffer target{out.data(), out.size(), 0};
        while (target.pos < target.size && (source.pos < source.size || !between_frames_)) {
            const size_t before_in = source.pos;
            const size_t before_out = target.pos;
            const size_t code = ZSTD_decompressStream(context_.get(), &target, &source);
            total_in_ += source.pos - before_in;
            if (ZSTD_isError(code) != 0) return error(code);
            between_frames_ = code == 0;
            if (between_frames_) ++frames_;
            if (source.pos == before_in && target.pos == before_out) break;
        }
        return Step{source.pos, target.pos};
    }

    Status finish() override {
        if (!between_frames_ || frames_ == 0)
            return fail(Errc::DataLoss, fmt::format("zstd: truncated after {} bytes", total_in_));
        return {};
    }

private:
    std::unexpected<Error> error(size_t code) const {
        const auto number = ZSTD_getErrorCode(code);
        if (number == ZSTD_error_frameParameter_windowTooLarge)
            return fail(Errc::ResourceExhausted,
                        fmt::format("zstd: the frame wants a window over the limit of 2^{} bytes", max_window_log_));
        if (number == ZSTD_error_memory_allocation)
            return fail(Errc::ResourceExhausted, "zstd: no memory for a window");
        if (number == ZSTD_error_prefix_unknown && frames_ > 0)
            return fail(Errc::DataLoss, fmt::format("zstd: trailing garbage near byte {}", total_in_));
        return fail(Errc::DataLoss, fmt::format("zstd: {} (near byte {})", ZSTD_getErrorName(code), total_in_));
    }

    struct Free {
        void operator()(ZSTD_DCtx *context) const noexcept { ZSTD_freeDCtx(context); }
    };
    std::unique_ptr<ZSTD_DCtx, Free> context_;
    unsigned max_window_log_;
    uint64_t total_in_ = 0;
    uint64_t frames_ = 0;
    bool between_frames_ = true;
};

using ByteSink = std::move_only_function<Status(std::span<const std::byte>)>;

class PlainEncoder final : public Encoder {
public:
    explicit PlainEncoder(ByteSink sink) : sink_(std::move(sink)) {}
    Status write(std::span<const std::byte> in) override { return in.empty() ? Status{} : sink_(in); }
    Status finish() override { return {}; }

private:
    ByteSink sink_;
};

class GzipEncoder final : public Encoder {
public:
    explicit GzipEncoder(ByteSink sink) : sink_(std::move(sink)), level_(ISAL_DEF_LVL1_DEFAULT), out_(out_chunk) {
        isal_deflate_init(&stream_);
        stream_.level = 1;
        stream_.level_buf = level_.data();
        stream_.level_buf_size = static_cast<uint32_t>(level_.size());
        stream_.gzip_flag = IGZIP_GZIP; // fixed header: no name, mtime 0
        stream_.flush = NO_FLUSH;
    }
    Status write(std::span<const std::byte> in) override {
        while (!in.empty()) {
            const auto piece = in.first(bounded(in.size()));
            TRY(run(piece, false));
            in = in.subspan(piece.size());
        }
        return {};
    }
    Status finish() override { return run({}, true); }

private:
    Status run(std::span<const std::byte> in, bool last) {
        stream_.next_in = input_pointer(in);
        stream_.avail_in = static_cast<uint32_t>(in.size());
        stream_.end_of_stream = last ? 1 : 0;
        do {
            stream_.next_out = out_.data();
            stream_.avail_out = static_cast<uint32_t>(out_.size());
            if (int code = isal_deflate(&stream_); code != COMP_OK)
                return fail(Errc::Internal, fmt::format("gzip: encoder failed with code {}", code));
            const size_t count = out_.size() - stream_.avail_out;
            if (count > 0) TRY(sink_(std::as_bytes(std::span(out_)).first(count)));
        } while (stream_.avail_out == 0 || stream_.avail_in > 0 ||
                 (last && stream_.internal_state.state != ZSTATE_END));
        return {};
    }

    ByteSink sink_;
    std::vector<uint8_t> level_, out_;
    isal_zstream stream_{};
};

class ZstdEncoder final : public Encoder {
public:
    explicit ZstdEncoder(ByteSink sink) : sink_(std::move(sink)), context_(ZSTD_createCCtx()), out_(out_chunk) {}
    Status init() {
        if (!context_) return fail(Errc::ResourceExhausted, "zstd: no memory for an encoder");
        (void)ZSTD_CCtx_setParameter(context_.get(), ZSTD_c_compressionLevel, 3);
        (void)ZSTD_CCtx_setParameter(context_.get(), ZSTD_c_checksumFlag, 1);
        return {};
    }
    Status write(std::span<const std::byte> in) override { return run(in, ZSTD_e_continue); }
    Status finish() override { return run({}, ZSTD_e_end); }

private:
    Status run(std::span<const std::byte> in, ZSTD_EndDirective directive) {
        ZSTD_inBuffer source{in.data(), in.size(), 0};
        for (;;) {
            ZSTD_outBuffer target{out_.data(), out_.size(), 0};
            const size_t left = ZSTD_compressStream2(context_.get(), &target, &source, directive);
            if (ZSTD_isError(left) != 0)
                return fail(Errc::Internal, fmt::format("zstd: encoder: {}", ZSTD_getErrorName(left)));
            if (target.pos > 0) TRY(sink_(std::span(out_).first(target.pos)));
            const bool done = directive == ZSTD_e_end ? left == 0 : source.pos == source.size;
            if (done) return {};
        }
    }

    struct Free {
        void operator()(ZSTD_CCtx *context) const noexcept { ZSTD_freeCCtx(context); }
    };
    ByteSink sink_;
    std::unique_ptr<ZSTD_CCtx, Free> context_;
    std::vector<std::byte> out_;
};

} // namespace

std::string_view compression_name(Compression compression) noexcept {
    switch (compression) {
    case Compression::none:
        return "none";
    case Compression::gzip:
        return "gzip";
    case Compression::zstd:
        return "zstd";
    }
    return "unknown";
}

Result<Compression> detect_compression(std::span<const std::byte> head) {
    const std::string_view text(reinterpret_cast<const char *>(head.data()), head.size());
    if (text.starts_with("\x1f\x8b")) return Compression::gzip;
    if (text.starts_with("\x28\xb5\x2f\xfd")) return Compression::zstd;
    if (text.size() >= 4 && (static_cast<unsigned char>(text[0]) & 0xf0U) == 0x50 &&
        text.substr(1, 3) == "\x2a\x4d\x18")
        return Compression::zstd;
    constexpr std::array<std::pair<std::string_view, const char *>, 3> refused{
        std::pair{std::string_view("\xfd"
                                   "7zXZ\0",
                                   6),
                  "xz"},
        std::pair{std::string_view("BZh"), "bzip2"},
        std::pair{std::string_view("\x04\x22\x4d\x18"), "lz4"},
    };
    for (const auto &[magic, name] : refused) {
        // "BZh" alone may begin a file name in a plain tar; bzip2 goes on with a level digit and the block magic.
        if (!text.starts_with(magic)) continue;
        if (magic == "BZh" && text.size() >= 10 && text.substr(4, 6) != "\x31\x41\x59\x26\x53\x59" &&
            text.substr(4, 6) != "\x17\x72\x45\x38\x50\x90")
            continue;
        return fail(Errc::Unimplemented, fmt::format("{} compression is not supported: use gzip or zstd", name));
    }
    return Compression::none;
}

Result<std::unique_ptr<Decoder>> make_decoder(Compression compression, unsigned max_window_log) {
    switch (compression) {
    case Compression::none:
        return std::make_unique<PlainDecoder>();
    case Compression::gzip:
        return std::make_unique<GzipDecoder>();
    case Compression::zstd: {
        auto decoder = std::make_unique<ZstdDecoder>(max_window_log);
        TRY(decoder->init());
        return decoder;
    }
    }
    return fail(Errc::Internal, "unknown compression");
}

Result<std::unique_ptr<Encoder>> make_encoder(Compression compression,
                                              std::move_only_function<Status(std::span<const std::byte>)> sink) {
    switch (compression) {
    case Compression::none:
        return std::make_unique<PlainEncoder>(std::move(sink));
    case Compression::gzip:
        return std::make_unique<GzipEncoder>(std::move(sink));
    case Compression::zstd: {
        auto encoder = std::make_unique<ZstdEncoder>(std::move(sink));
        TRY(encoder->init());
        return encoder;
    }
    }
    return fail(Errc::Internal, "unknown compression");
}

} // namespace shale::archive
