// SPDX-License-Identifier: Apache-2.0
// What a store that is served does behind its clients' backs, on two threads: committed snapshots are synced; what was
// removed is deleted, and layers are settled (Store::settle) when nothing has changed for a while. All of it may be cut
// short at any time, by being killed too.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <unordered_set>
#include <vector>

#include "base/error.h"
#include "base/ids.h"

namespace shale::store {

class Store;

/// Of a committed snapshot, in its row; numbers as there.
enum class SyncState : uint8_t {
    waiting = 0,
    done = 1,
    failed = 2 ///< the kernel could not write some of it, or of a layer that was synced with it
};

struct UpkeepCounts {
    uint64_t cleanings = 0, failures = 0; ///< a failure is a cleaning that ended with an error
    uint64_t removed_entries = 0;         ///< files and directories (or whole layers) that left the trash
    uint64_t settled = 0;                 ///< layers
    uint64_t synced = 0;                  ///< layers
    uint64_t sync_failures = 0;           ///< times that layers could not be synced
    std::string last_failure;             ///< of a cleaning or a sync, the newest; empty: none yet
    std::chrono::nanoseconds cleaning{};  ///< time that it took
};

class Upkeep {
public:
    /// `store` outlives it. What a process that is gone left unsynced or unsettled is taken over.
    explicit Upkeep(Store &store);
    ~Upkeep();
    Upkeep(const Upkeep &) = delete;
    Upkeep &operator=(const Upkeep &) = delete;

    /// A committed layer, whose row says synced = 0. Its data is synced when no image is being unpacked, which it would
    /// slow down, but in half a minute at the latest: about then the kernel writes it by itself
    /// (Documentation/admin-guide/sysctl/vm.rst, dirty_expire_centisecs).
    void sync_later(LayerId layer);
    /// What waits is synced, the trash is emptied and layers are settled from now on, and this waits for the last two
    /// as long as `patience`; what takes longer goes on behind. An error of theirs is returned when it came in time.
    Status clean(std::chrono::milliseconds patience);
    /// A client has changed something: what comes by itself waits.
    void touch();
    UpkeepCounts counts();

private:
    void sync_all(const std::stop_token &stop);
    void wait_for_its_time(std::unique_lock<std::mutex> &lock, const std::stop_token &stop);
    struct SyncReport {
        uint64_t synced = 0;
        std::vector<LayerId> again; ///< to be tried again
        std::string why;            ///< not all were synced; empty: all, or they are gone
    };
    SyncReport sync(std::span<const LayerId> layers);
    Result<uint64_t> note(std::span<const LayerId> layers);
    void keep(const std::stop_token &stop);
    Status clean_now(UpkeepCounts &out);

    Store &store_;
    std::mutex mutex_;
    std::condition_variable_any sync_wake_, keep_wake_, cleaned_wake_;
    std::atomic<bool> cancel_{false};
    std::unordered_set<LayerId> lost_; ///< the syncer's own: not recorded as failed yet
    // All guarded by mutex_.
    std::vector<LayerId> unsynced_, again_; ///< to be synced; the same, but not before retry_at_
    std::chrono::steady_clock::time_point retry_at_;
    std::chrono::steady_clock::time_point first_, last_; ///< when unsynced_ got its first one, and its last one
    bool sync_now_ = false;
    uint64_t wanted_ = 0, done_ = 0; ///< cleanings
    Status cleaned_;                 ///< how the last one ended
    bool changed_ = true;            ///< since the last cleaning that came by itself
    std::chrono::steady_clock::time_point touched_;
    UpkeepCounts counts_;
    std::jthread syncer_, keeper_; ///< last: they use all of the above
};

} // namespace shale::store
