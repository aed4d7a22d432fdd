// SPDX-License-Identifier: Apache-2.0
// One layer blob through the pipeline: read + digest [+ copy] > decompress > {diff id, tar + extract}, each its own
// thread with bounded queues of fixed buffers (a few MiB per layer in flight, whatever the archive says).
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>

#include "archive/decompress.h"
#include "archive/extract.h"
#include "archive/tree.h"
#include "base/digest.h"

namespace shale::archive {

struct UnpackJob {
    int blob_fd = -1;
    uint64_t offset = 0; ///< where the blob lies in blob_fd (pread; the descriptor may be shared)
    uint64_t size = 0;
    std::optional<Digest> digest;  ///< wanted digest of the blob's bytes
    std::optional<Digest> diff_id; ///< wanted digest of the tar
    int copy_fd = -1;              ///< when >= 0: the blob's bytes are written here too (the store's blob)
    Tree *dest = nullptr;          ///< the upper-form tree goes here; null: only check digests (and copy)
    ExtractOptions extract;
    /// Called now and then from a pipeline thread with compressed bytes done so far.
    std::function<void(uint64_t)> progress;
    const std::atomic<bool> *cancel = nullptr; ///< set by the caller to stop: Canceled
};

struct UnpackResult {
    Digest digest, diff_id;
    Compression compression = Compression::none;
    uint64_t tar_bytes = 0;
    ExtractReport extract;
};

/// A digest that differs is DataLoss naming both; nothing counts then, the caller discards tree and copy.
/// The first error of any stage wins and all stages have ended when this returns.
Result<UnpackResult> unpack_layer(const UnpackJob &job);

} // namespace shale::archive
