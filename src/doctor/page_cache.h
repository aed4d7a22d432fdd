// SPDX-License-Identifier: Apache-2.0
// How much of the page cache is whose: by layer, image and container. Layers below an overlay share their pages among
// all containers, whoever reads; trees that are copies or clones do not.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "probe/facts.h"
#include "probe/host.h"

namespace shale::doctor {

struct CachedThing {
    enum class Kind : uint8_t { layer, image, container } kind = Kind::layer;
    std::string store, name;              ///< "docker overlay2 store at ...", "debian:12"
    std::string id;                       ///< of the layer, image or container
    uint64_t resident_bytes = 0;          ///< of its files; a layer that several images have counts for each
    uint64_t bytes = 0;                   ///< that its files take on disk; 0: was not counted
    std::optional<uint64_t> cgroup_bytes; ///< container: the file cache that its cgroup was charged with (memory.stat)
};

struct CacheOptions {
    unsigned threads = 1;
    std::function<void(uint64_t inodes)> on_progress;
};
/// Opens every file of every layer on disk: the largest first within a kind.
std::vector<CachedThing> page_cache_of(const probe::Host &host, const probe::Facts &facts, const CacheOptions &options,
                                       std::vector<probe::Problem> &problems);

/// What is to be evicted; exactly one is not empty.
struct EvictTarget {
    std::string layer, image, cgroup;
};
struct Evicted {
    uint64_t before_bytes = 0, after_bytes = 0;
    std::string how; ///< "posix_fadvise on 3 layers", "memory.reclaim"
};
/// The smallest action that does it: the pages of the layers' files, or the memory of one cgroup (memory.reclaim, Linux
/// 5.19; memory.force_empty with cgroup v1). Clean pages that nobody maps go; they are read again when they are needed.
/// NotFound: no such layer, image or cgroup. `dry_run`: only counts.
Result<Evicted> evict(const probe::Host &host, const probe::Facts &facts, const EvictTarget &target, bool dry_run,
                      const CacheOptions &options);

} // namespace shale::doctor
