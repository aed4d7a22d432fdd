// SPDX-License-Identifier: Apache-2.0
// Bytes of located blobs as streams, inside this room.
#pragma once

#include <functional>
#include <string>

#include "archive/decompress.h"
#include "archive/tar.h"
#include "oci/image.h"

namespace shale::oci {

using Blocks = std::function<Status(std::span<const std::byte>)>;

/// All of `view`, in order, in pieces of up to 1 MiB. A file that became shorter is DataLoss.
Status read_view(const BlobView &view, const Blocks &sink);
/// Small documents: all bytes; more than `limit` is ResourceExhausted.
Result<std::string> read_document(const BlobView &view, size_t limit, std::string_view what);
/// By the first bytes of the view.
Result<archive::Compression> view_compression(const BlobView &view);
/// Decoded bytes of the view go to `sink`.
Status decode_view(const BlobView &view, archive::Compression compression, const Blocks &sink);
/// Decoded bytes of a stream; `source` gives an empty span at the end.
Status decode_blocks(const archive::BlockSource &source, archive::Compression compression, const Blocks &sink);

/// An open descriptor as a seekable file: itself when it is an uncompressed regular file; else its decoded bytes,
/// spooled to an unnamed file in options.spool_dir and bounded by options.max_spool_bytes.
Result<BlobView> seekable(std::shared_ptr<UniqueFd> file, const SourceOptions &options);

} // namespace shale::oci
