// SPDX-License-Identifier: Apache-2.0
#include "oci/stream.h"

#include <array>

#include <fmt/format.h>

#include "base/units.h"
#include "sys/fs.h"

namespace shale::oci {
namespace {

constexpr size_t block_bytes = size_t{1} << 20U;

/// Reads until `out` is full or the stream ends: pipes give small pieces.
Result<size_t> fill(int fd, std::span<std::byte> out) {
    size_t have = 0;
    while (have < out.size()) {
        const size_t got = TRY(sys::read_some(fd, out.subspan(have)));
        if (got == 0) break;
        have += got;
    }
    return have;
}

/// The source's own directory entry never exists: nothing is left behind by a crash.
Result<UniqueFd> unnamed_file(const std::string &directory) {
    auto file = sys::open_at(AT_FDCWD, directory.c_str(), O_TMPFILE | O_RDWR, 0600);
    if (file) return file;
    if (const int error = file.error().sys_errno(); error != EOPNOTSUPP && error != EISDIR) return file;
    UniqueFd dir = TRY(sys::open_dir(AT_FDCWD, directory.c_str()));
    for (unsigned attempt = 0; attempt < 100; ++attempt) {
        const std::string name = fmt::format(".spool-{}-{}", ::getpid(), attempt);
        auto named = sys::open_at(dir.get(), name.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600);
        if (!named && named.error().sys_errno() == EEXIST) continue;
        if (!named) return named;
        TRY(sys::unlink_at(dir.get(), name.c_str()));
        return named;
    }
    return fail(Errc::AlreadyExists, fmt::format("{}: no free name for a spool file", directory));
}

} // namespace

Status read_view(const BlobView &view, const Blocks &sink) {
    std::vector<std::byte> buffer(
        static_cast<size_t>(std::min<uint64_t>(block_bytes, std::max<uint64_t>(view.size, 1))));
    for (uint64_t done = 0; done < view.size;) {
        const auto want = static_cast<size_t>(std::min<uint64_t>(buffer.size(), view.size - done));
        const size_t got = TRY(sys::pread_some(view.file->get(), std::span(buffer).first(want), view.offset + done));
        if (got == 0)
            return fail(Errc::DataLoss, fmt::format("the file ends after {} of {} bytes of a blob", done, view.size));
        TRY(sink(std::span<const std::byte>(buffer).first(got)));
        done += got;
    }
    return {};
}

Result<std::string> read_document(const BlobView &view, size_t limit, std::string_view what) {
    if (view.size > limit)
        return fail(Errc::ResourceExhausted, fmt::format("{}: {} bytes, more than {}", what, view.size, limit));
    std::string out;
    out.reserve(static_cast<size_t>(view.size));
    TRY(read_view(view, [&](std::span<const std::byte> block) -> Status {
        out.append(reinterpret_cast<const char *>(block.data()), block.size());
        return {};
    }));
    return out;
}

Result<archive::Compression> view_compression(const BlobView &view) {
    std::array<std::byte, 512> head{};
    const auto want = static_cast<size_t>(std::min<uint64_t>(head.size(), view.size));
    size_t have = 0;
    while (have < want) {
        const size_t got =
            TRY(sys::pread_some(view.file->get(), std::span(head).subspan(have, want - have), view.offset + have));
        if (got == 0) break;
        have += got;
    }
    return archive::detect_compression(std::span<const std::byte>(head).first(have));
}

Status decode_blocks(const archive::BlockSource &source, archive::Compression compression, const Blocks &sink) {
    if (compression == archive::Compression::none) {
        while (true) {
            const auto block = TRY(source());
            if (block.empty()) return {};
            TRY(sink(block));
        }
    }
    auto decoder = TRY(archive::make_decoder(compression));
    std::vector<std::byte> out(block_bytes);
    while (true) {
        std::span<const std::byte> in = TRY(source());
        if (in.empty()) break;
        // A decoder may hold back output when `out` was full: it is asked again until it neither takes nor gives.
        while (true) {
            const auto step = TRY(decoder->step(in, out));
            if (step.produced > 0) TRY(sink(std::span<const std::byte>(out).first(step.produced)));
            in = in.subspan(step.consumed);
            if (in.empty() && step.produced < out.size()) break;
            if (step.consumed == 0 && step.produced == 0) {
                if (in.empty()) break;
                return fail(Errc::Internal, "the decoder makes no progress");
            }
        }
    }
    return decoder->finish();
}

Status decode_view(const BlobView &view, archive::Compression compression, const Blocks &sink) {
    std::vector<std::byte> buffer(size_t{256} << 10U);
    uint64_t done = 0;
    return decode_blocks(
        [&]() -> Result<std::span<const std::byte>> {
            const auto want = static_cast<size_t>(std::min<uint64_t>(buffer.size(), view.size - done));
            if (want == 0) return std::span<const std::byte>();
            const size_t got =
                TRY(sys::pread_some(view.file->get(), std::span(buffer).first(want), view.offset + done));
            if (got == 0)
                return fail(Errc::DataLoss,
                            fmt::format("the file ends after {} of {} bytes of a blob", done, view.size));
            done += got;
            return std::span<const std::byte>(buffer).first(got);
        },
        compression, sink);
}

Result<BlobView> seekable(std::shared_ptr<UniqueFd> file, const SourceOptions &options) {
    const struct stat info = TRY(sys::stat_at(file->get(), ""));
    const bool regular = S_ISREG(info.st_mode);
    if (regular) {
        BlobView whole{file, 0, static_cast<uint64_t>(info.st_size)};
        if (TRY(view_compression(whole)) == archive::Compression::none) return whole;
    } else if (!S_ISFIFO(info.st_mode) && !S_ISSOCK(info.st_mode) && !S_ISCHR(info.st_mode)) {
        return fail(Errc::InvalidArgument, "neither a file, a directory nor a pipe");
    }
    // The first block is read as a stream, since a pipe cannot go back.
    std::vector<std::byte> buffer(block_bytes);
    size_t have = TRY(fill(file->get(), buffer));
    const auto compression = TRY(archive::detect_compression(std::span<const std::byte>(buffer).first(have)));

    const std::string directory = options.spool_dir.empty() ? std::string("/var/tmp") : options.spool_dir;
    auto spool = std::make_shared<UniqueFd>(
        TRY(in_context(unnamed_file(directory), [&] { return fmt::format("spool file in {}", directory); })));
    uint64_t written = 0;
    bool first = true;
    const auto source = [&]() -> Result<std::span<const std::byte>> {
        if (!first) have = TRY(fill(file->get(), buffer));
        first = false;
        return std::span<const std::byte>(buffer).first(have);
    };
    TRY(in_context(decode_blocks(source, compression,
                                 [&](std::span<const std::byte> block) -> Status {
                                     if (block.size() > options.max_spool_bytes - written)
                                         return fail(Errc::ResourceExhausted,
                                                     fmt::format("more than {} of archive",
                                                                 format_bytes(options.max_spool_bytes)));
                                     written += block.size();
                                     return sys::write_all(spool->get(), block);
                                 }),
                   [&] { return fmt::format("spooling to {}", directory); }));
    return BlobView{std::move(spool), 0, written};
}

} // namespace shale::oci
