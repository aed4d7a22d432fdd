// SPDX-License-Identifier: Apache-2.0
// Work that finds more work (directories that hold directories), done by several threads.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstddef>
#include <iterator>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace shale {

/// The last one in is the first one out, so that few of a tree's directories are open at a time. Work is done when none
/// waits and nobody does any.
template <class T> class WorkStack {
public:
    /// Before run().
    void push(T item) { waiting_.push_back(std::move(item)); }

    /// Calls `worker` on this thread and on threads - 1 others, fewer where the system gives no more of them; each
    /// takes until there is no more. `worker` must not throw.
    template <class Worker> void run(unsigned threads, Worker &&worker) {
        working_ = std::max(1U, threads);
        std::vector<std::jthread> others;
        for (unsigned i = 1; i < threads; ++i) {
            try {
                others.emplace_back([&worker] { worker(); });
            } catch (const std::system_error &) { // pids.max, RLIMIT_NPROC: those that are there do it
                const std::lock_guard lock(mutex_);
                working_ -= threads - i;
                wake_.notify_all();
                break;
            }
        }
        worker();
    }

    /// What the last one led to (`found`, which is empty then) waits from now on; one that waits is taken. Waits for
    /// others to find some. False: all is done.
    bool take(T &out, std::vector<T> &found) {
        std::unique_lock lock(mutex_);
        waiting_.insert(waiting_.end(), std::make_move_iterator(found.begin()), std::make_move_iterator(found.end()));
        found.clear();
        --working_;
        if (waiting_.size() > 1 || (waiting_.empty() && working_ == 0)) wake_.notify_all();
        wake_.wait(lock, [&] { return !waiting_.empty() || working_ == 0; });
        if (waiting_.empty()) return false;
        ++working_;
        out = std::move(waiting_.back());
        waiting_.pop_back();
        return true;
    }

private:
    std::mutex mutex_;
    std::condition_variable wake_;
    std::vector<T> waiting_;
    size_t working_ = 0; ///< threads that may still find some
};

} // namespace shale
